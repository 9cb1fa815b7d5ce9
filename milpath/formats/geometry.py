"""The frame that bags and predictions share: which slide, and where on it the patches lie."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from typing import Annotated

import h5py
import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    ValidationError,
)

from milpath.patches.grid import PatchGrid
from milpath.slides.names import is_file_name, is_printable
from milpath.slides.slide import MppSource, SlideFacts
from milpath.store import SafeH5

MAX_CELLS = 1 << 20
MAX_CELLS_PER_PATCH = 1 << 12
"""Of the raster that patches lie on: it may be sparse, but a few patches never make it huge."""


def write_geometry(h5: h5py.File, slide: SlideFacts, grid: PatchGrid) -> None:
    """Write `/coords` and the attributes that say where on which slide they lie."""
    for name, value in asdict(slide).items():
        if value is not None:
            h5.attrs[name] = value
    for name in _GRID_ATTRS:
        h5.attrs[name] = getattr(grid, name)
    h5.attrs["origin_x_l0"], h5.attrs["origin_y_l0"] = grid.origin_l0
    coords = h5.create_dataset("coords", data=grid.coords.astype(np.int64).reshape(-1, 2))
    overlap = round((grid.patch_size_l0 - grid.stride_l0) / grid.patch_size_l0 * grid.patch_px)
    trident = {
        "patch_size": grid.patch_px,
        "patch_size_level0": grid.patch_size_l0,
        "level0_magnification": round(slide.objective or 10 / slide.mpp_x),
        "target_magnification": round(10 / grid.patch_mpp),
        "overlap": overlap,
        "name": slide.slide_id,
        "level0_width": slide.width_l0,
        "level0_height": slide.height_l0,
    }
    for name, value in trident.items():
        coords.attrs[name] = value


def read_geometry(h5: SafeH5) -> tuple[SlideFacts, PatchGrid]:
    """What `write_geometry` wrote.

    Raises
    ------
    StoredFileError : something is missing or absurd, or coordinates lie off the grid or the slide,
        or so far apart that no memory holds a picture of them
    """
    try:
        attrs = _GeometryAttrs(**{name: h5.attr(name) for name in _GeometryAttrs.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        raise h5.refuse(f"attribute {str(first['loc'][0])!r}: {first['msg']}") from None
    coords = h5.read("coords", "int64", (None, 2))
    origin = (attrs.origin_x_l0, attrs.origin_y_l0)
    size = np.array([attrs.width_l0, attrs.height_l0])
    if (coords < 0).any() or (coords > size - attrs.patch_size_l0).any():
        raise h5.refuse("'coords' lie outside the slide")
    if ((coords - origin) % attrs.stride_l0).any():
        raise h5.refuse("'coords' lie off the grid")
    span = np.ptp(coords, axis=0) // attrs.stride_l0 + 1 if len(coords) else np.ones(2)
    if math.prod(span.tolist()) > MAX_CELLS + MAX_CELLS_PER_PATCH * len(coords):
        raise h5.refuse(f"'coords' lie {span[0]} x {span[1]} strides apart")
    slide = SlideFacts(**{field.name: getattr(attrs, field.name) for field in fields(SlideFacts)})
    values = {name: getattr(attrs, name) for name in _GRID_ATTRS}
    return slide, PatchGrid(coords=coords, origin_l0=origin, **values)


def compare_slides(old: SlideFacts, new: SlideFacts) -> list[str]:
    """What has changed about a slide since something was made of it, a phrase each."""
    if old.quickhash != new.quickhash:
        return ["the slide is another one"]
    return [
        f"its {field.name} was {getattr(old, field.name)}, is {getattr(new, field.name)}"
        for field in fields(SlideFacts)
        if getattr(old, field.name) != getattr(new, field.name)
    ]


def compare_annotations(old: str | None, new: str | None) -> list[str]:
    """As `compare_slides`, of its annotations' fingerprints, None where its tissue was found."""
    if old == new:
        return []
    if old is None:
        return ["its tissue was found on the slide, is an annotation's"]
    if new is None:
        return ["its tissue was an annotation's, is found on the slide"]
    return ["the tissue's annotation is another one"]


def _file_name(text: str) -> str:
    if not is_file_name(text):
        raise ValueError("cannot be a file name")
    return text


def _printable(text: str) -> str:
    if not is_printable(text):
        raise ValueError("holds control characters, or is too long")
    return text


_Length = Annotated[int, Field(ge=1, lt=1 << 31)]
_Text = Annotated[str, AfterValidator(_printable)]


class _GeometryAttrs(BaseModel):
    """What the attributes of a frame must be, whoever wrote them."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    slide_id: Annotated[str, AfterValidator(_file_name)]
    vendor: _Text
    width_l0: _Length
    height_l0: _Length
    mpp_x: PositiveFloat
    mpp_y: PositiveFloat
    mpp_source: MppSource
    objective: float | None
    quickhash: _Text
    patch_px: Annotated[int, Field(ge=1, le=4096)]
    patch_size_l0: _Length
    stride_l0: _Length
    patch_mpp: PositiveFloat
    level: NonNegativeInt
    origin_x_l0: NonNegativeInt
    origin_y_l0: NonNegativeInt


_GRID_ATTRS = ("patch_px", "patch_size_l0", "stride_l0", "patch_mpp", "level")
