"""BagHeader: what a bag says of itself beside its slide and its grid."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import h5py
from pydantic import TypeAdapter

from milpath.errors import StoredFileError
from milpath.formats.geometry import compare_annotations, compare_slides
from milpath.params import ArtefactParams, TileParams, compare_params
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


@dataclass(frozen=True)
class Origin:
    """What decides where the patches of a slide lie, and what they show.

    Attributes
    ----------
    slide : its record
    params : how it is tiled
    annotation : fingerprint of its tissue annotation; None if the tissue is detected
    fingerprint : of these, see `bag_fingerprint`
    """

    slide: SlideFacts
    params: TileParams
    annotation: str | None
    fingerprint: str

    @classmethod
    def of_slide(
        cls, slide: SlideFacts, params: TileParams, annotation: str | None = None
    ) -> Origin:
        """Of a slide that is to be tiled."""
        return cls(slide, params, annotation, bag_fingerprint(slide, params, annotation))

    @classmethod
    def of_stored(cls, slide: SlideFacts, header: BagHeader) -> Origin:
        """Of a slide that was tiled, by what a file says of it."""
        return cls(slide, header.params, header.annotation, header.fingerprint)

    def describe_change(self, new: Origin) -> str:
        """Say what differs in another origin, in short phrases."""
        # the same value of mpp from another source is no difference
        old_slide = replace(self.slide, mpp_source=new.slide.mpp_source)
        found = compare_slides(old_slide, new.slide)
        changes = compare_params(self.params, new.params)
        found += [f"{name} changed from {one} to {two}" for name, one, two in changes]
        found += compare_annotations(self.annotation, new.annotation)
        return ", ".join(found) or "made by another version of milpath"
