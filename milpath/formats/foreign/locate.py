"""Where the patches of features lie on their slide, as far as files and slide say it."""

from __future__ import annotations

import logging
from pathlib import Path

from milpath.errors import StoredFileError
from milpath.formats.foreign.values import SlideFeatures
from milpath.formats.geometry import is_same_slide
from milpath.patches.grid import PatchGrid, free_grid, unplaced_grid
from milpath.slides.facts import SlideFacts, unknown_slide

log = logging.getLogger(__name__)

_MAX_APART = 0.1  # relative difference of µm per pixel, beyond which features are refused
_SAID_APART = 0.02  # beyond which it is said


def locate_features(
    path: Path, features: SlideFeatures, slide: SlideFacts | None
) -> tuple[SlideFacts, PatchGrid]:
    """Return the record of a slide, and where on it the patches of some features lie.

    Parameters
    ----------
    path : of the features, for messages
    features : open; opened with the slide's µm per pixel, if the slide is known
    slide : record of the slide, None if it is not available

    Raises
    ------
    StoredFileError : they are not of this slide, or were made at another resolution than they say
    """
    made, facts = features.made, features.facts
    if made is not None:
        if slide is not None and not is_same_slide(made.slide, slide):
            raise StoredFileError(
                f"{path.name}: was made from another slide than {slide.slide_id}; check --slides"
            )
        return slide or made.slide, made.grid
    assert facts.patch_px is not None  # see `identify_encoder`
    assert facts.mpp is not None
    size, coords = features.patch_size_l0, features.coords_l0
    if slide is None:
        mpp = facts.mpp if size is None else facts.mpp * facts.patch_px / size
        slide = unknown_slide(features.slide_id, features.size_l0, mpp)
    else:
        _check_slide(path, features, slide)
    if coords is None or size is None:
        return slide, unplaced_grid(len(features), facts.patch_px, facts.mpp)
    return slide, free_grid(coords, facts.patch_px, round(size), facts.mpp)


def _check_slide(path: Path, features: SlideFeatures, slide: SlideFacts) -> None:
    """Raise `StoredFileError` if features cannot be of a slide, by its size and resolution."""
    width, height = slide.width_l0, slide.height_l0
    if features.size_l0 not in (None, (width, height)):
        raise StoredFileError(
            f"{path.name}: is of a slide of {features.size_l0} px, but {slide.slide_id} has "
            f"({width}, {height}); check --slides"
        )
    coords = features.coords_l0
    if coords is not None and len(coords):
        far = coords.max(axis=0)
        if coords.min() < 0 or far[0] >= width or far[1] >= height:
            raise StoredFileError(
                f"{path.name}: has patches outside {slide.slide_id} (up to {far.tolist()} of "
                f"{[width, height]} px); check --slides, or that its coordinates are of level 0"
            )
    size, facts = features.patch_size_l0, features.facts
    if size is None or facts.mpp is None or facts.patch_px is None:
        return
    found = size * (slide.mpp_x + slide.mpp_y) / 2 / facts.patch_px
    apart = abs(found / facts.mpp - 1)
    text = (
        f"{path.name}: its patches cover {found:.3f} µm per pixel on {slide.slide_id}, not "
        f"{facts.mpp:g}"
    )
    if apart > _MAX_APART:
        raise StoredFileError(f"{text}; check --mpp, and the µm per pixel of the slide")
    if apart > _SAID_APART:
        log.warning("%s", text)
