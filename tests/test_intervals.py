"""Intervals hold the true value about as often as they say, also for few cases and for 0 and 1."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from milpath.intervals import auc_interval, mean_interval, wilson_interval

SHARES = st.floats(0, 1)
COUNTS = st.integers(1, 500)


# -- laws ------------------------------------------------------------------------------------------


@given(SHARES, COUNTS)
def test_a_share_lies_in_its_interval_which_is_never_a_point(share: float, cases: int) -> None:
    low, high = wilson_interval(share, cases)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    assert high - low > 1e-4


@given(SHARES, COUNTS, COUNTS)
def test_an_area_lies_in_its_interval_which_is_never_a_point(
    area: float, positive: int, negative: int
) -> None:
    low, high = auc_interval(area, positive, negative)
    assert 0 <= low <= area <= high <= 1
    assert high - low > 1e-4


@given(SHARES, COUNTS, COUNTS)
def test_the_interval_of_a_reversed_order_is_the_mirror_image(area: float, p: int, n: int) -> None:
    low, high = auc_interval(area, p, n)
    assert auc_interval(1 - area, n, p) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@given(SHARES, COUNTS)
def test_more_cases_make_an_interval_narrower(share: float, cases: int) -> None:
    few, many = wilson_interval(share, cases), wilson_interval(share, 4 * cases)
    assert many[1] - many[0] < few[1] - few[0]


@given(st.integers(0, 40))
def test_the_interval_of_a_share_is_the_one_of_scipy(hits: int) -> None:
    expected = binomtest(hits, 40).proportion_ci(0.95, method="wilson")
    assert wilson_interval(hits / 40, 40) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_mean_of_one_figure_has_its_interval() -> None:
    for independent in (True, False):
        assert mean_interval([0.7], [(0.5, 0.8)], independent=independent) == pytest.approx(
            (0.5, 0.8)
        )


def test_the_mean_of_independent_figures_is_known_better_than_each() -> None:
    apart = mean_interval([0.7, 0.7], [(0.5, 0.9)] * 2, independent=True)
    alike = mean_interval([0.7, 0.7], [(0.5, 0.9)] * 2, independent=False)
    assert apart == pytest.approx((0.7 - 0.2 / 2**0.5, 0.7 + 0.2 / 2**0.5))
    assert alike == pytest.approx((0.5, 0.9))


# -- examples --------------------------------------------------------------------------------------


def test_all_of_four_correct_is_no_certainty() -> None:
    assert wilson_interval(1.0, 4) == pytest.approx((0.5101, 1.0), abs=1e-4)


@pytest.mark.parametrize("count", [5, 20])
@pytest.mark.parametrize("area", [0.5, 0.8, 0.95])
def test_an_interval_holds_the_true_area_about_as_often_as_it_says(count: int, area: float) -> None:
    rng = np.random.default_rng(7)
    shift = norm.ppf(area) * 2**0.5
    held = []
    for _ in range(400):
        positive, negative = rng.normal(shift, 1, count), rng.normal(0, 1, count)
        low, high = auc_interval(float((positive[:, None] > negative).mean()), count, count)
        held.append(low <= area <= high)
    assert np.mean(held) > 0.92
