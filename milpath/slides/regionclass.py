"""RegionClass: the class that QuPath gives a region of a GeoJSON file, and what it means."""

from __future__ import annotations

import json
import re
from typing import Any

_NOT_TISSUE = frozenset(
    {"ignore", "ignored", "exclude", "excluded", "background", "whitespace"}
    | {"artefact", "artefacts", "artifact", "artifacts", "pen", "penmark", "penmarks"}
    | {"hole", "holes", "nottissue", "notissue", "blur", "blurred", "outoffocus"}
)
"""Classes that are cut out also without the asterisk, without capitals, spaces and marks."""

_NAMES = ("pathClass", "class", "label")
"""Properties in which programs other than QuPath write a region's class."""

_DETECTIONS = frozenset({"detection", "cell", "tile"})


def read_class(properties: dict[str, Any]) -> str:
    """Return the class of a region, as QuPath writes it: `Tumor: Positive`; empty without one.

    GDAL writes the classification as JSON text; QuPath writes a derived class as a list of names.
    A region without a class has the name that a person gave it, if that says it is no tissue.
    """
    for name in ("classification", *_NAMES):
        if found := _read_name(properties.get(name)):
            return found
    own = properties.get("name")
    return own.strip() if isinstance(own, str) and is_cut(own) else ""


def _read_name(found: Any) -> str:
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            return str(found).strip()
    if not isinstance(found, dict):
        return ""
    names = found.get("names")
    if isinstance(names, list) and names:
        return ": ".join(name.strip() for name in names if isinstance(name, str))
    name = found.get("name")
    return name.strip() if isinstance(name, str) else ""


def is_cut(name: str) -> bool:
    """Return whether regions of a class are to be left out, or one that it is derived from.

    They are those that end in `*`, except QuPath's Region*, which marks what is of interest, and
    those that can only mean this.
    """
    parts = [part.strip() for part in name.split(":")]
    return any(
        (part.endswith("*") and part.casefold() != "region*")
        or re.sub(r"[\W_]", "", part.casefold()) in _NOT_TISSUE
        for part in parts
    )


def is_detection(feature: dict[str, Any]) -> bool:
    """Return whether a feature was found by QuPath (a cell, a tile), not drawn by a person."""
    given = feature.get("properties")
    properties = given if isinstance(given, dict) else {}
    kinds = [properties.get(name) for name in ("objectType", "object_type")]
    kinds.append(feature.get("id"))  # PathCellObject, in files of earlier versions
    texts = [kind.casefold() for kind in kinds if isinstance(kind, str)]
    return any(re.sub(r"^path|object$", "", text) in _DETECTIONS for text in texts)
