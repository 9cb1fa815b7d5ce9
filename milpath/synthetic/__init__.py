"""Draw small, labelled, H&E-like whole slides with a planted tumour, for the demo and the tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["SyntheticSlide", "draw_slide"]

CELL_UM = 16.0
"""Side of a truth-grid cell in µm, before it is rounded to whole level-0 pixels."""

MIN_CELLS = 32
"""Truth-grid cells along the shorter side, at least: a small slide has smaller cells."""


@dataclass(frozen=True)
class SyntheticSlide:
    """A synthetic slide and its truth.

    Attributes
    ----------
    path : the pyramidal TIFF
    mpp : level-0 µm per pixel, also if the file does not state it
    dimensions : (width, height) in level-0 px
    tissue : truth mask [row, col] of square cells; lumina and fat holes count as tissue
    tumour : truth mask of the same shape, inside `tissue`; all False without a tumour
    cell_l0 : side of a cell in level-0 px; cell [0, 0] starts at level-0 (0, 0), and the last
        row and column may reach beyond the slide
    """

    path: Path
    mpp: float
    dimensions: tuple[int, int]
    tissue: NDArray[np.bool_]
    tumour: NDArray[np.bool_]
    cell_l0: int

    def tumour_fraction(self, coords: NDArray[np.int64], patch_size_l0: int) -> NDArray[np.float64]:
        """Compute the fraction of each patch that tumour covers, area-weighted, shape (N,).

        `coords` is (N, 2), level-0 (x, y) of the top-left corners; outside the slide is 0.
        """
        return self._share(self.tumour, coords, patch_size_l0)

    def tissue_fraction(self, coords: NDArray[np.int64], patch_size_l0: int) -> NDArray[np.float64]:
        """Compute the fraction of each patch that tissue covers; see `tumour_fraction`."""
        return self._share(self.tissue, coords, patch_size_l0)

    def _share(
        self, mask: NDArray[np.bool_], coords: NDArray[np.int64], patch_size_l0: int
    ) -> NDArray[np.float64]:
        from milpath.patches.grid import box_mean
        from milpath.slides.lattice import Lattice

        lattice = Lattice((0, 0), (self.cell_l0, self.cell_l0))
        return box_mean(mask, lattice, np.asarray(coords).reshape(-1, 2), patch_size_l0)


def draw_slide(  # noqa: PLR0913 (each keyword is one thing that a test needs to vary)
    path: str | Path,
    *,
    seed: int,
    tumour: bool,
    size_px: tuple[int, int] = (2048, 2048),
    mpp: float = 1.0,
    artefacts: bool = True,
    tissue: bool = True,
    tumour_share: tuple[float, float] = (0.10, 0.30),
    mpp_tags: bool = True,
) -> SyntheticSlide:
    """Write a synthetic slide, a pyramidal TIFF, and return its truth.

    The same arguments give the same bytes. With and without `tumour`, a seed gives the same tissue,
    stain and artefacts; only the tumour is added.

    Parameters
    ----------
    path : the TIFF to write; its folder must exist
    seed : of the random generator
    tumour : plant a tumour
    size_px : (width, height) in level-0 px
    mpp : level-0 µm per pixel. Cells have their real size in µm, so a smaller mpp makes them larger
        in pixels; the contour of the tissue scales with the slide instead.
    artefacts : add pen, fold, blur and bubble, each to about half of the slides
    tissue : False gives an empty slide (with artefacts, if any)
    tumour_share : range of the tumour's fraction of the tissue area
    mpp_tags : False omits the resolution from the file
    """
    from milpath.synthetic.anatomy import Frame, bare_anatomy, plan_anatomy
    from milpath.synthetic.picture import paint
    from milpath.synthetic.pyramid import write_pyramid

    if not 0.1 <= mpp <= 4.0:
        raise ValueError(
            f"mpp: expected 0.1 to 4.0 µm per pixel (so that cells are visible), got {mpp}"
        )
    if min(size_px) < 256:
        raise ValueError(f"size_px: expected at least 256 x 256 px, got {size_px}")
    if tumour and not tissue:
        raise ValueError("tumour=True needs tissue=True")
    if not 0 < tumour_share[0] <= tumour_share[1] < 1:
        raise ValueError(f"tumour_share: expected 0 < low <= high < 1, got {tumour_share}")
    cell_px = max(2, min(round(CELL_UM / mpp), min(size_px) // MIN_CELLS))
    frame = Frame(size_px[0], size_px[1], mpp, cell_px)
    # one generator per stage, so that a change in one stage does not change the others
    layout, cells, ink = np.random.default_rng(seed).spawn(3)
    anatomy = (
        plan_anatomy(layout, frame, tumour_share, planted=tumour) if tissue else bare_anatomy(frame)
    )
    rgb = paint(cells, ink, frame, anatomy, artefacts=artefacts)
    target = Path(path)
    write_pyramid(target, rgb, mpp if mpp_tags else None)
    return SyntheticSlide(
        path=target,
        mpp=mpp,
        dimensions=size_px,
        tissue=anatomy.tissue > 0,
        tumour=anatomy.tumour > 0,
        cell_l0=frame.cell_px,
    )
