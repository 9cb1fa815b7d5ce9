"""BagHeader: what a bag says of itself beside its slide and its grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter

from milpath.params import ArtefactParams, TileParams
from milpath.slides.facts import SlideFacts
from milpath.store import fingerprint

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


OPTIONAL = ("annotation", "pen_mm2", "grey", "left_out")
"""Fields that bags of earlier versions may lack."""

HEADER = TypeAdapter(BagHeader)
"""Validates a header that was read."""


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
