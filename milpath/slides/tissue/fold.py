"""Folds: tissue that lies on itself and absorbs twice as much."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from milpath.slides.tissue.masks import Mask, count_cells, open_square
from milpath.slides.tissue.stain import Field

_SMOOTH_UM = 12.0  # sigma; single nuclei are not folds
_WIDTH_UM = 32.0  # a fold is wider than this
_LAYERS = 2.0  # of the tissue's typical optical density
_MIN_OD = 0.2  # pale tissue that is twice as dense is no fold


def find_folds(darkness: Field, tissue: Mask, mpp: float) -> Mask:
    """Find folded tissue: twice as dense as the slide's tissue typically is, (rows, cols).

    Dense tissue, such as a lymph follicle in fat, is taken for a fold too.

    Parameters
    ----------
    darkness : mean optical density, (rows, cols); smoothed in place
    tissue : where it is tissue
    mpp : µm per cell
    """
    if not tissue.any():
        return tissue.copy()
    smooth = ndimage.gaussian_filter(darkness, _SMOOTH_UM / mpp, truncate=2.0, output=darkness)
    limit = max(_LAYERS * float(np.median(smooth[tissue])), _MIN_OD)
    return open_square(tissue & (smooth > limit), count_cells(_WIDTH_UM, mpp))
