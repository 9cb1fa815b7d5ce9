"""The pixels of a slide that its stain normaliser is fitted to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from milpath.errors import SlideReadError
from milpath.patches.grid import PatchGrid
from milpath.patches.reader import read_patch
from milpath.slides.slide import Slide

_PATCHES = 32  # spread evenly over the grid
_PIXELS = 1 << 16  # of all of them together


def read_stain_sample(slide: Slide, grid: PatchGrid) -> NDArray[np.uint8]:
    """Read pixels (n, 3) of up to 32 patches that are evenly spread over a grid.

    Unreadable patches are left out.

    Patches and not the thumbnail, whose pixels mix nuclei with what surrounds them: stains and
    their strength would be those of a mixture.

    Parameters
    ----------
    slide : to read
    grid : at least one patch

    Raises
    ------
    SlideReadError : none of these patches can be read
    """
    rows = np.unique(np.linspace(0, len(grid) - 1, _PATCHES).round().astype(np.int64))
    found, errors = [], []
    # an odd step does not follow the columns of a patch
    step = max(1, len(rows) * grid.patch_px**2 // _PIXELS) | 1
    for row in rows.tolist():
        patch = read_patch(slide, grid, row)
        if isinstance(patch, SlideReadError):
            errors.append(patch)
        else:
            found.append(patch.reshape(-1, 3)[::step])
    if not found:
        raise errors[0]
    return np.concatenate(found)
