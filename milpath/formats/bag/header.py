"""BagHeader: what a bag says of itself beside its slide and its grid."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import h5py
from pydantic import TypeAdapter

from milpath.errors import StoredFileError
from milpath.params import ArtefactParams, TileParams
from milpath.patches.stain import read_normaliser
from milpath.slides.facts import SlideFacts
from milpath.store import fingerprint
from milpath.store.datasets import StoredH5

BagStatus = Literal["ok", "no_tissue"]


@dataclass(frozen=True)
class BagHeader:
    """Attributes of a bag.

    Attributes
    ----------
    status : "ok", or "no_tissue" if it has no patches
    background : of the slide
    unreadable : number of patches left out because the slide's file is damaged there
    fingerprint : see `bag_fingerprint`
    params : parameters the bag was made with
    annotation : fingerprint of the tissue annotation; None if the tissue was detected
    pen_mm2 : area that was left out as marker pen
    grey : whether the slide has no colour
    left_out : number of patches left out as artefacts
    stain : what normalised the stain, as `milpath.patches.stain.write_normaliser` writes it; None
        if the patches are as scanned
    """

    status: BagStatus
    background: Literal["bright", "dark"]
    unreadable: int
    fingerprint: str
    params: TileParams
    annotation: str | None = None
    pen_mm2: float = 0.0
    grey: bool = False
    left_out: int = 0
    stain: str | None = None


_OPTIONAL = ("annotation", "pen_mm2", "grey", "left_out", "stain")
"""Fields that files of earlier versions may lack."""

_HEADER = TypeAdapter(BagHeader)


def write_header(h5: h5py.File, header: BagHeader) -> None:
    """Write a header as attributes of a file."""
    for field in fields(header):
        value = getattr(header, field.name)
        if value is not None:
            h5.attrs[field.name] = value.model_dump_json() if field.name == "params" else value


def read_header(h5: StoredH5[Any], patches: int) -> BagHeader:
    """Read the header of a file with a number of patches.

    Raises
    ------
    StoredFileError : an attribute is missing or not possible
    """
    needed = [field.name for field in fields(BagHeader) if field.name not in _OPTIONAL]
    values = {name: h5.require_attr(name) for name in needed}
    try:
        values["params"] = TileParams.model_validate_json(values["params"])
        given = {name: h5.attr(name) for name in _OPTIONAL}
        values |= {name: value for name, value in given.items() if value is not None}
        header = _HEADER.validate_python(values)
        if header.stain is not None:
            read_normaliser(header.stain)
    except ValueError:
        raise StoredFileError(
            f"{h5.name}: its parameters are not those of this milpath version; tile it again"
        ) from None
    if (header.status == "ok") != (patches > 0):
        raise h5.refuse(f"attribute 'status' is {header.status!r} with {patches} patches")
    return header


def bag_fingerprint(slide: SlideFacts, params: TileParams, annotation: str | None = None) -> str:
    """Return a fingerprint of the slide, its resolution, its annotation and all parameters."""
    more = [] if annotation is None else [annotation]
    if slide.content_hash is not None:
        more.append(f"contents {slide.content_hash}")
    # without limits, the fingerprint of bags made before there were any
    unlimited = {"artefacts"} if params.artefacts == ArtefactParams() else None
    values = params.model_dump(exclude=unlimited)
    source = (slide.quickhash, slide.mpp_x, slide.mpp_y, values, *more)
    return fingerprint("bag", *source)
