"""Geometry of bags and predictions: which slide, and where on it the patches lie."""

from __future__ import annotations

import math
from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Protocol, get_type_hints

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
    create_model,
)

from milpath.params import describe_violation
from milpath.patches.grid import PatchGrid
from milpath.slides.facts import SlideFacts
from milpath.slides.names import is_file_name, is_printable
from milpath.store.datasets import StoredH5

MAX_CELLS = 1 << 20
MAX_CELLS_PER_PATCH = 1 << 12
"""Of the raster the patches lie on: it may be sparse, but few patches never need a huge one."""


def write_geometry(h5: h5py.File, slide: SlideFacts, grid: PatchGrid) -> None:
    """Write `/coords` and the attributes that say where on which slide the patches lie."""
    for name, value in asdict(slide).items():
        if value is not None:
            h5.attrs[name] = value
    for name in _GRID_ATTRS:
        if name != "places" or grid.places != "grid":
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


def read_geometry(h5: StoredH5[Any]) -> tuple[SlideFacts, PatchGrid]:
    """Read what `write_geometry` wrote.

    Raises
    ------
    StoredFileError : an attribute is missing or not possible, or coordinates are off the grid, off
        the slide, or so far apart that a raster of them does not fit in memory
    """
    try:
        given = {name: h5.attr(name) for name in _GeometryAttrs.model_fields}
        record = _GeometryAttrs(**given | {"places": given["places"] or "grid"})
    except ValidationError as error:
        name, fact = describe_violation(error)
        raise h5.refuse(f"attribute {name!r} {fact}") from None
    attrs = record.model_dump()
    origin = (attrs.pop("origin_x_l0"), attrs.pop("origin_y_l0"))
    slide = SlideFacts(**{field.name: attrs.pop(field.name) for field in fields(SlideFacts)})
    coords = h5.read("coords", "int64", (None, 2))
    grid = PatchGrid(coords=coords, origin_l0=origin, **attrs)
    _check_coords(h5, slide, grid)
    return slide, grid


def _check_coords(h5: StoredH5[Any], slide: SlideFacts, grid: PatchGrid) -> None:
    coords = grid.coords
    if grid.places == "unknown":
        if coords.any():
            raise h5.refuse("'coords' are not 0, although the places of patches are unknown")
        return
    size = np.array([slide.width_l0, slide.height_l0])
    whole = slide.identified and grid.places == "grid"  # others lay patches over the edge
    reach = grid.patch_size_l0 if whole else 1
    known = slide.identified or slide.width_l0 > 1
    if (coords < 0).any() or (known and (coords > size - reach).any()):
        raise h5.refuse("'coords' lie outside the slide")
    if grid.places == "grid" and ((coords - grid.origin_l0) % grid.stride_l0).any():
        raise h5.refuse("'coords' lie off the grid")
    span = np.ptp(coords, axis=0) // grid.stride_l0 + 1 if len(coords) else np.ones(2)
    if math.prod(span.tolist()) > MAX_CELLS + MAX_CELLS_PER_PATCH * len(coords):
        raise h5.refuse(f"'coords' lie {span[0]} x {span[1]} strides apart")


class Hashed(Protocol):
    """A slide, or its record: what identifies its contents."""

    @property
    def quickhash(self) -> str:
        """OpenSlide's hash."""

    @property
    def content_hash(self) -> str | None:
        """milpath's hash of the files; None in files of earlier versions."""


def is_same_slide(old: Hashed, new: Hashed) -> bool:
    """Return whether two slides or records are of the same slide, by all hashes that both have."""
    known = old.content_hash is not None and new.content_hash is not None
    same = not known or old.content_hash == new.content_hash
    return same and old.quickhash == new.quickhash


def compare_slides(old: SlideFacts, new: SlideFacts) -> list[str]:
    """Describe each change of a slide since a file was made from it, one phrase each."""
    if old.identified != new.identified:
        return ["its slide is at hand now" if new.identified else "its slide is not at hand now"]
    earlier = old.content_hash is None or (old.corner is None and new.corner not in (None, (0, 0)))
    if old.identified and earlier and old.quickhash == new.quickhash:
        return ["made by an earlier version of milpath"]
    if old.corner is None:  # the same as where the slide has no bounds
        old = replace(old, bounds_x_l0=new.bounds_x_l0, bounds_y_l0=new.bounds_y_l0)
    if not is_same_slide(old, new):
        return ["the file is a different slide"]
    return [
        f"its {field.name} changed from {getattr(old, field.name)} to {getattr(new, field.name)}"
        for field in fields(SlideFacts)
        if getattr(old, field.name) != getattr(new, field.name)
    ]


def compare_annotations(old: str | None, new: str | None) -> list[str]:
    """Describe a change of a slide's tissue annotation, given as fingerprints, None without one."""
    if old == new:
        return []
    if old is None:
        return ["its tissue changed from detected to annotated"]
    if new is None:
        return ["its tissue changed from annotated to detected"]
    if old.partition("+")[0] == new.partition("+")[0]:  # the same file
        return ["its tissue annotation is read in another frame"]
    return ["its tissue annotation differs"]


def _check_file_name(text: str) -> str:
    if not is_file_name(text):
        raise ValueError("cannot be a file name")
    return text


def _check_printable(text: str) -> str:
    if not is_printable(text):
        raise ValueError("holds control characters, or is too long")
    return text


_BY_TYPE: dict[Any, Any] = {
    str: Annotated[str, AfterValidator(_check_printable)],
    int: Annotated[int, Field(ge=1, lt=1 << 31)],
    float: PositiveFloat,
}
"""Values that fields of `SlideFacts` and `PatchGrid` may have in a file, by their type."""
_BY_NAME: dict[str, Any] = {
    "slide_id": Annotated[str, AfterValidator(_check_file_name)],
    "content_hash": Annotated[str, AfterValidator(_check_printable)] | None,
    "patch_px": Annotated[int, Field(ge=1, le=4096)],
    "bounds_x_l0": Annotated[int, Field(ge=0, lt=1 << 31)] | None,
    "bounds_y_l0": Annotated[int, Field(ge=0, lt=1 << 31)] | None,
    "level": NonNegativeInt,
}
"""Exceptions from `_BY_TYPE`."""


def _declare_attrs() -> type[BaseModel]:
    """Derive the model that validates attributes from the types of the fields."""
    hints = get_type_hints(SlideFacts) | get_type_hints(PatchGrid)
    del hints["coords"], hints["origin_l0"]
    limits: dict[str, Any] = {
        name: (_BY_NAME.get(name, _BY_TYPE.get(kind, kind)), ...) for name, kind in hints.items()
    }
    origin = (NonNegativeInt, ...)
    config = ConfigDict(strict=True, allow_inf_nan=False)
    return create_model(
        "GeometryAttrs", __config__=config, origin_x_l0=origin, origin_y_l0=origin, **limits
    )


_GeometryAttrs = _declare_attrs()
_GRID_ATTRS = [
    field.name for field in fields(PatchGrid) if field.name in _GeometryAttrs.model_fields
]
