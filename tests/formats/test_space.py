"""A slide's distance to the training set is that of Mahalanobis, and is stored with the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.untrusted.tamper import edited

from milpath.errors import StoredFileError
from milpath.formats.space import FeatureSpace, fit_space, load_space, save_space

Floats = NDArray[np.float64]


def draw(slides: int = 6, patches: int = 40, dim: int = 5, seed: int = 0) -> list[Floats]:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dim, dim))
    return [rng.normal(size=(patches, dim)) @ mixing + rng.normal(size=dim) for _ in range(slides)]


def twin(slides: list[Floats], some: Floats) -> Floats:
    """Lee et al. 2018, equation 2, with one class; its root, divided by the root of D."""
    every = np.concatenate(slides)
    apart = some - every.mean(axis=0)
    inverse = np.linalg.inv(np.cov(every.T, bias=True))
    return np.sqrt(np.einsum("ni,ij,nj->n", apart, inverse, apart) / every.shape[1])


def assert_equal(one: FeatureSpace, two: FeatureSpace) -> None:
    for name, value in vars(one).items():
        assert np.array_equal(value, getattr(two, name)), name


# -- laws ----------------------------------------------------------------------------------------


def test_the_distance_of_a_patch_is_that_of_an_independent_twin() -> None:
    slides = draw()
    some = np.random.default_rng(1).normal(0, 5, (20, 5))
    assert fit_space(slides).measure_patches(some) == pytest.approx(twin(slides, some))


def test_the_mean_square_distance_in_the_training_set_is_one() -> None:
    for dim in (5, 100):  # more than there are main axes
        slides = draw(dim=dim, patches=60)
        distances = fit_space(slides).measure_patches(np.concatenate(slides))
        assert np.square(distances).mean() == pytest.approx(1, rel=1e-6)


def test_moved_turned_and_scaled_features_have_the_same_distances() -> None:
    slides = draw()
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))
    others = [some @ turn * 100 + 7 for some in slides]
    for one, two in zip(slides, others, strict=True):
        measured = fit_space(others).measure_patches(two)
        assert measured == pytest.approx(fit_space(slides).measure_patches(one))


def test_no_slide_of_the_training_set_is_farther_than_one_and_the_farthest_is_at_one() -> None:
    slides = draw()
    space = fit_space(slides)
    measured = [space.measure_slide(space.measure_patches(some)) for some in slides]
    assert max(measured) == 1  # type: ignore[type-var]
    far = space.measure_slide(space.measure_patches(slides[0] + 100))
    assert far is not None
    assert far > 5
    assert space.measure_slide(np.zeros(0)) is None


@pytest.mark.parametrize("dim", [1, 3, 200])
def test_a_feature_space_is_read_back_unchanged(tmp_path: Path, dim: int) -> None:
    space = fit_space(draw(dim=dim))
    save_space(tmp_path / "s.h5", space, "model")
    assert_equal(load_space(tmp_path / "s.h5", "model", dim), space)


# -- examples and faults -------------------------------------------------------------------------


def test_constant_and_few_features_have_finite_distances() -> None:
    for slides in ([np.ones((1, 4))], [np.ones((3, 4)), np.ones((2, 4))], draw(1, 2)):
        space = fit_space(slides)
        assert np.isfinite(space.measure_patches(np.zeros((2, space.mean.size)))).all()
        assert space.limit > 0


@pytest.mark.parametrize(("name", "value"), [("limit", 0.0), ("rest", -1.0), ("rest", "much")])
def test_numbers_that_cannot_be_a_feature_space_raise(
    tmp_path: Path, name: str, value: object
) -> None:
    save_space(tmp_path / "s.h5", fit_space(draw()), "model")
    with edited(tmp_path / "s.h5") as h5:
        h5.attrs[name] = value
    with pytest.raises(StoredFileError, match=r"^s\.h5: its numbers cannot be a feature space"):
        load_space(tmp_path / "s.h5", "model", 5)


def test_a_feature_space_of_another_model_or_of_other_features_raises(tmp_path: Path) -> None:
    save_space(tmp_path / "s.h5", fit_space(draw()), "model")
    with pytest.raises(StoredFileError, match=r"^s\.h5"):
        load_space(tmp_path / "s.h5", "other", 5)
    with pytest.raises(StoredFileError, match=r"^s\.h5"):
        load_space(tmp_path / "s.h5", "model", 6)
