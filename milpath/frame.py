"""The frame that bags and predictions share: which slide, and where on it the patches lie."""

from __future__ import annotations

from dataclasses import asdict, fields

import h5py
import numpy as np

from milpath.grid import PatchGrid
from milpath.slide import SlideFacts
from milpath.store import SafeH5


def write_frame(h5: h5py.File, slide: SlideFacts, grid: PatchGrid) -> None:
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


def read_frame(h5: SafeH5) -> tuple[SlideFacts, PatchGrid]:
    """What `write_frame` wrote.

    Raises
    ------
    StoredFileError : something is missing, or coordinates lie outside the slide
    """
    names = [field.name for field in fields(SlideFacts)]
    slide = SlideFacts(**{n: h5.attr(n) if n == "objective" else h5.need(n) for n in names})
    values = {name: h5.need(name) for name in _GRID_ATTRS}
    coords = h5.read("coords", "int64", (None, 2))
    grid = PatchGrid(
        coords=coords,
        origin_l0=(h5.need("origin_x_l0"), h5.need("origin_y_l0")),
        **values,
    )
    size = np.array([slide.width_l0, slide.height_l0])
    if len(coords) and ((coords < 0).any() or (coords + grid.patch_size_l0 > size).any()):
        raise h5.refuse("'coords' lie outside the slide")
    return slide, grid


_GRID_ATTRS = ("patch_px", "patch_size_l0", "stride_l0", "patch_mpp", "level")
