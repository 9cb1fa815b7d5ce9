"""Geometry of bags and predictions: which slide, and where on it the patches lie."""

from __future__ import annotations

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
from milpath.patches.grid import PatchGrid, count_cells, max_cells
from milpath.slides.facts import SlideFacts
from milpath.slides.names import folded, is_file_name, is_printable
from milpath.store.datasets import StoredH5

_MAX_L0 = 1 << 31  # level-0 pixels: above the size of every slide


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
    shared = grid.patch_size_l0 - grid.stride_l0 if grid.places == "grid" else 0
    overlap = round(shared / grid.patch_size_l0 * grid.patch_px)
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
            raise h5.refuse("'coords' are not zeros, though their places are unknown")
        return
    if find_outside(grid, slide.known_size or (_MAX_L0, _MAX_L0)) is not None:
        raise h5.refuse("'coords' lie outside the slide")
    if grid.places == "grid" and ((coords - grid.origin_l0) % grid.stride_l0).any():
        raise h5.refuse("'coords' lie off the grid")
    extent = np.ptp(coords, axis=0) + grid.stride_l0 if len(coords) else np.ones(2, np.int64)
    if count_cells(extent, grid.stride_l0) > max_cells(len(coords)):
        span = extent // grid.stride_l0
        raise h5.refuse(f"'coords' lie {span[0]} x {span[1]} strides apart")


def find_outside(grid: PatchGrid, size_l0: tuple[int, int]) -> int | None:
    """Return the row of a patch that begins outside a slide of (width, height), if any.

    The patches of other tools may reach over the slide's right and lower edge.
    """
    outside = ((grid.coords < 0) | (grid.coords >= size_l0)).any(axis=1)
    return int(outside.argmax()) if outside.any() else None


class Known(Protocol):
    """A slide, or its record: what tells it from others."""

    @property
    def slide_id(self) -> str:
        """Its name."""

    @property
    def quickhash(self) -> str:
        """OpenSlide's hash; empty if the slide was not opened."""

    @property
    def content_hash(self) -> str | None:
        """milpath's hash of the files; None in files of earlier versions."""

    @property
    def known_size(self) -> tuple[int, int] | None:
        """(width, height) of level 0, pixels; None if it is not known."""


def is_same_slide(old: Known, new: Known) -> bool:
    """Return whether two slides or records are of the same slide; see `find_difference`."""
    return find_difference(old, new) is None


def find_difference(old: Known, new: Known) -> str | None:
    """Say in which way two slides or records are of different slides; None if they are not.

    All hashes that both have must be equal. If one was never opened, so that it has none, its name
    must be the same, and its size where that is known.
    """
    if old.quickhash and new.quickhash:
        known = old.content_hash is not None and new.content_hash is not None
        same = not known or old.content_hash == new.content_hash
        return None if same and old.quickhash == new.quickhash else "their contents differ"
    if folded(old.slide_id) != folded(new.slide_id):
        return "their names differ, and nothing else tells which slide its features are of"
    sizes = old.known_size, new.known_size
    if None not in sizes and sizes[0] != sizes[1]:
        one, two = ("{} x {} px".format(*size) for size in sizes if size)
        return f"their sizes differ: {one} and {two}"
    return None


def compare_slides(old: SlideFacts, new: SlideFacts) -> list[str]:
    """Describe each change of a slide since a file was made from it, one phrase each."""
    if old.identified != new.identified:
        return [f"the slide was {'not ' * new.identified}opened then"]
    earlier = old.content_hash is None or (old.corner is None and new.corner not in (None, (0, 0)))
    if earlier and old.identified and old.quickhash == new.quickhash:
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
    int: Annotated[int, Field(ge=1, lt=_MAX_L0)],
    float: PositiveFloat,
}
"""Values that fields of `SlideFacts` and `PatchGrid` may have in a file, by their type."""
_BY_NAME: dict[str, Any] = {
    "slide_id": Annotated[str, AfterValidator(_check_file_name)],
    "content_hash": Annotated[str, AfterValidator(_check_printable)] | None,
    "patch_px": Annotated[int, Field(ge=1, le=4096)],
    "bounds_x_l0": Annotated[int, Field(ge=0, lt=_MAX_L0)] | None,
    "bounds_y_l0": Annotated[int, Field(ge=0, lt=_MAX_L0)] | None,
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
