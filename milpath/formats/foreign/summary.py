"""What a folder of feature files says of its features, by a sample of its slides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from milpath.errors import StoredFileError
from milpath.formats.foreign import FeatureFolder
from milpath.formats.foreign.values import FeatureHints, SlideFeatures

SAMPLED_SLIDES = 12
IN_FILES = "in the files"
WITH_SLIDE = "from the files and the slide's µm per pixel"
_TRIED_MPP = 0.5


@dataclass(frozen=True)
class FolderSummary:
    """What is known of the features of a folder.

    Parameters
    ----------
    folder : what was summarized
    facts : value of each fact in most of the slides of the sample, by its name; None where neither
        the files nor the user say it
    differ : facts of the slides for which they are not those, by the id of the slide
    failed : why a slide cannot be opened, by its id
    sampled : ids of the slides of the sample
    """

    folder: FeatureFolder
    facts: Mapping[str, Any]
    differ: Mapping[str, Mapping[str, Any]]
    failed: Mapping[str, str]
    sampled: tuple[str, ...]


def summarize_features(folder: FeatureFolder, hints: FeatureHints) -> FolderSummary:
    """Open slides that are spread evenly over a folder, and compare what their files say.

    Raises
    ------
    StoredFileError : none of them can be opened
    """
    ids = list(folder.files)
    count = min(SAMPLED_SLIDES, len(ids))
    sampled = tuple(ids[at * len(ids) // count] for at in range(count))
    found: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for slide_id in sampled:
        try:
            found[slide_id] = _read_facts(folder, slide_id, hints)
        except StoredFileError as error:
            failed[slide_id] = str(error)
    if not found:
        raise StoredFileError(failed[sampled[0]])
    facts = {
        name: _most(each[name] for each in found.values()) for name in next(iter(found.values()))
    }
    differ = {
        slide_id: {name: value for name, value in each.items() if value != facts[name]}
        for slide_id, each in found.items()
    }
    differ = {slide_id: each for slide_id, each in differ.items() if each}
    return FolderSummary(folder, facts, differ, failed, sampled)


def _most(values: Iterable[Hashable]) -> Hashable:
    """Return the value that most slides have."""
    ((value, _),) = Counter(values).most_common(1)
    return value


def _read_facts(folder: FeatureFolder, slide_id: str, hints: FeatureHints) -> dict[str, Any]:
    with folder.open(slide_id, hints) as slide:
        found = _state(slide)
        coords, size = slide.coords_l0 is not None, slide.patch_size_l0 is not None
    later = coords, size
    if not (coords and size):
        with folder.open(slide_id, replace(hints, slide_mpp=_TRIED_MPP)) as slide:
            later = slide.coords_l0 is not None, slide.patch_size_l0 is not None
    found["coordinates"] = _say(coords, later[0])
    found["patch at level 0"] = _say(size, later[1])
    return found


def _say(now: bool, later: bool) -> str | None:
    return IN_FILES if now else WITH_SLIDE if later else None


def _state(slide: SlideFeatures) -> dict[str, Any]:
    facts = slide.facts
    return {
        "tool": facts.tool,
        "encoder": facts.encoder,
        "variant": facts.variant,
        "revision": facts.revision,
        "digest": facts.digest,
        "features": facts.dim,
        "precision": str(slide.features.dtype),
        "patch in pixels": facts.patch_px,
        "µm per pixel": None if facts.mpp is None else float(f"{facts.mpp:.4g}"),
        "checksums": "verified as they are read" if slide.verified else None,
    }
