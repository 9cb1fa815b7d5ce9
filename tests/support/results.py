"""Compare results whose numbers may differ by rounding."""

from __future__ import annotations

from pathlib import Path

import pytest

from milpath.formats.prediction import read_prediction


def require_equal_predictions(one: Path, two: Path) -> None:
    """Check that the predictions in a folder are also in another, equal within 1e-6.

    The network's sums depend on its number of threads in their last bits.
    """
    for path in sorted(one.glob("*.prediction.h5")):
        left, right = read_prediction(path), read_prediction(two / path.name)
        assert (left.slide, left.model) == (right.slide, right.model)
        assert (left.predicted, left.status) == (right.predicted, right.status)
        assert (left.grid.coords == right.grid.coords).all()
        for name in ("probs", "member_attention", "member_contributions", "member_bias"):
            assert getattr(left, name) == pytest.approx(getattr(right, name), abs=1e-6)
