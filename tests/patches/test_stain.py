"""Stain normalisation brings slides to one reference, and leaves background as it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import nnls
from support.drawing import Pixels, write_levels
from support.untrusted.tamper import edited
from typer.testing import CliRunner, Result

from milpath.cli import app
from milpath.cohort.cohort import SlideEntry
from milpath.errors import SlideReadError, StoredFileError, UnsupportedSlideError, UsageError
from milpath.formats.bag import Bag, bag_fingerprint
from milpath.params import CodecParams, StainParams, TileParams
from milpath.patches import stainsample
from milpath.patches.stain import (
    REFERENCE_MAXIMA,
    REFERENCE_MEAN,
    REFERENCE_SD,
    REFERENCE_STAINS,
    MacenkoNormaliser,
    Method,
    ReinhardNormaliser,
    fit_normaliser,
    read_normaliser,
    write_normaliser,
)
from milpath.patches.stainsample import read_stain_sample
from milpath.slides.slide import Slide
from milpath.synthetic import SyntheticSlide
from milpath.tile import plan_slide, require_pixels, tile_slide

H, E = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)
DAB, RED = (0.27, 0.57, 0.78), (0.1, 0.73, 0.67)
METHODS: tuple[Method, ...] = ("macenko", "reinhard")
both = pytest.mark.parametrize("method", METHODS)
whites = pytest.mark.parametrize("white", [(255, 255, 255), (241, 238, 244)])


def draw(
    stains: Sequence[Sequence[float]] = (H, E),
    amounts: Sequence[float] = (1.4, 1.0),
    white: Sequence[int] = (255, 255, 255),
    noise: float = 2.0,
    count: int = 20_000,
    seed: int = 0,
) -> Pixels:
    """Draw pixels (count, 3): a fifth background, most of the others mainly of one stain."""
    rng = np.random.default_rng(seed)
    vectors = np.array([np.array(each) / np.linalg.norm(each) for each in stains])
    shares = rng.dirichlet([0.5] * len(vectors), count)
    amount = rng.gamma(2, 0.4, (count, 1)) * shares * np.array(amounts)
    amount[: count // 5] = 0
    light = np.array(white) * np.exp(-amount @ vectors) + rng.normal(0, noise, (count, 3))
    return np.clip(light.round(), 0, 255).astype(np.uint8)


def apart(one: Pixels, two: Pixels) -> NDArray[np.int16]:
    difference: NDArray[np.int16] = np.abs(one.astype(np.int16) - two)
    return difference


def every_colour(step: int = 5) -> Pixels:
    levels = np.arange(0, 256, step, dtype=np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels), axis=-1)


# -- laws ------------------------------------------------------------------------------------------


@whites
@both
@pytest.mark.parametrize("amounts", [(0.5, 0.4), (1.4, 1.0), (3.0, 2.0)])
def test_a_second_pass_changes_at_most_2_grey_levels(
    method: Method, amounts: tuple[float, float], white: tuple[int, int, int]
) -> None:
    pixels = draw(amounts=amounts, white=white)
    once = fit_normaliser(method, pixels, white).apply(pixels)
    twice = fit_normaliser(method, once, white).apply(once)
    assert apart(once, twice).max() <= 2
    assert apart(once, pixels).mean() > 2


@whites
@both
def test_background_stays_as_it_is(method: Method, white: tuple[int, int, int]) -> None:
    normaliser = fit_normaliser(method, draw(white=white), white)
    near = np.array(white) - np.arange(12)[:, None]
    bright = np.array([white, (255, 255, 255)])
    for pixels in (near.astype(np.uint8), bright.astype(np.uint8)):
        assert np.array_equal(normaliser.apply(pixels), pixels)


@pytest.mark.parametrize(
    ("method", "stains", "amounts", "factor"),
    [
        ("macenko", (H, E), (0.8, 1.5), 3.0),
        ("macenko", ((0.5, 0.8, 0.4), (0.2, 0.9, 0.3)), (2.0, 0.7), 3.0),
        ("reinhard", (H, E), (2.1, 1.5), 3.0),
        ("reinhard", (H, E), (0.8, 1.5), 1.15),  # it knows no stains that change one by one
        ("reinhard", ((0.5, 0.8, 0.4), (0.2, 0.9, 0.3)), (2.0, 0.7), 1.5),
    ],
)
def test_a_recoloured_slide_comes_nearer_to_the_original_by_a_factor(
    method: Method, stains: Any, amounts: tuple[float, float], factor: float
) -> None:
    original, recoloured = draw(noise=1), draw(stains, amounts, noise=1)
    before = apart(original, recoloured).mean()
    one, two = (fit_normaliser(method, each).apply(each) for each in (original, recoloured))
    assert before > 4
    assert apart(one, two).mean() < before / factor


@both
def test_the_result_depends_neither_on_the_run_nor_on_the_shape_or_place_of_a_pixel(
    method: Method,
) -> None:
    pixels = draw()
    normaliser = fit_normaliser(method, pixels)
    assert fit_normaliser(method, pixels.copy()) == normaliser
    shown = normaliser.apply(pixels)
    order = np.random.default_rng(1).permutation(len(pixels))
    assert np.array_equal(normaliser.apply(pixels[order]), shown[order])
    image = pixels.reshape(100, 200, 3)
    assert np.array_equal(normaliser.apply(image), shown.reshape(image.shape))
    assert np.array_equal(
        normaliser.apply(image.swapaxes(0, 1)).swapaxes(0, 1)[7], shown[1400:1600]
    )
    assert normaliser.apply(pixels[:0]).shape == (0, 3)
    assert np.array_equal(normaliser.apply(pixels[5]), shown[5])


@both
def test_the_input_is_not_changed(method: Method) -> None:
    pixels = draw()
    before = pixels.copy()
    fit_normaliser(method, pixels).apply(pixels)
    assert np.array_equal(pixels, before)


@both
def test_a_normaliser_is_the_same_after_writing_and_reading(method: Method) -> None:
    normaliser = fit_normaliser(method, draw())
    assert read_normaliser(write_normaliser(normaliser)) == normaliser


# -- values ----------------------------------------------------------------------------------------


def twin_macenko(normaliser: MacenkoNormaliser, pixels: Pixels) -> NDArray[np.float64]:
    """Macenko et al. 2009, pixel by pixel, in the terms of the paper."""
    white = np.array(normaliser.white) + 1.0
    found = np.empty(pixels.shape)
    for row, pixel in enumerate(pixels):
        density = np.log(white / (pixel + 1.0))
        amounts = (
            nnls(np.array(normaliser.stains).T, density)[0] / normaliser.maxima * REFERENCE_MAXIMA
        )
        shown = amounts @ np.array(REFERENCE_STAINS)
        shown *= min(1, 3.2 / max(shown.max(), 1e-9))
        found[row] = white * np.exp(-shown) - 1 if density.mean() > 0.07 else pixel
    return found


def twin_reinhard(normaliser: ReinhardNormaliser, pixels: Pixels) -> NDArray[np.float64]:
    """Reinhard et al. 2001, equations 4 to 11, and what keeps background and tissue apart."""
    to_lms = np.array(
        [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]
    )
    scale = np.array([1 / np.sqrt(3), 1 / np.sqrt(6), 1 / np.sqrt(2)])
    white = np.log(to_lms @ normaliser.white + 1).mean()
    found = np.empty(pixels.shape)
    for row, pixel in enumerate(pixels.astype(float)):
        long, medium, short = np.log(to_lms @ pixel + 1)
        density = white - (long + medium + short) / 3
        lab = scale * [long + medium + short, long + medium - 2 * short, long - medium]
        lab = (lab - normaliser.mean) / normaliser.sd * REFERENCE_SD + REFERENCE_MEAN
        lab[0] = min(lab[0], (3 * white - 3 * 0.07 - 0.03) * scale[0])
        one, two, three = lab * scale
        cones = np.exp([one + two + three, one + two - three, one - 2 * two]) - 1
        shown = np.linalg.solve(to_lms, cones).clip(0, 255)
        found[row] = pixel + np.clip((density - 0.07) / 0.08, 0, 1) * (shown - pixel)
    return found


@whites
def test_macenko_is_that_of_an_independent_twin(white: tuple[int, int, int]) -> None:
    normaliser = fit_normaliser("macenko", draw(white=white), white)
    assert isinstance(normaliser, MacenkoNormaliser)
    colours = every_colour(15).reshape(-1, 3)
    assert np.abs(normaliser.apply(colours) - twin_macenko(normaliser, colours)).max() < 0.51


@whites
def test_reinhard_is_that_of_an_independent_twin(white: tuple[int, int, int]) -> None:
    fitted = fit_normaliser("reinhard", draw(white=white), white)
    even = ReinhardNormaliser(white, (8.2, -0.25, 0.035), (0.25, 0.08, 0.015))
    colours = every_colour(15).reshape(-1, 3)
    for normaliser in (fitted, even):
        assert isinstance(normaliser, ReinhardNormaliser)
        assert np.abs(normaliser.apply(colours) - twin_reinhard(normaliser, colours)).max() < 0.51


def test_macenko_finds_the_stains_of_a_slide_and_their_strength() -> None:
    pixels = draw(noise=0.5, count=60_000)
    found = fit_normaliser("macenko", pixels)
    assert isinstance(found, MacenkoNormaliser)
    for stain, true in zip(found.stains, (H, E), strict=True):
        cosine = np.dot(stain, true) / np.linalg.norm(stain) / np.linalg.norm(true)
        assert np.degrees(np.arccos(cosine)) < 3
    stronger = fit_normaliser("macenko", draw(amounts=(2.8, 1.0), noise=0.5, count=60_000))
    assert isinstance(stronger, MacenkoNormaliser)
    assert stronger.maxima[0] / found.maxima[0] == pytest.approx(2, rel=0.1)
    assert stronger.maxima[1] / found.maxima[1] == pytest.approx(1, rel=0.1)


def test_a_slide_of_the_references_stains_has_them_after_macenko() -> None:
    pixels = draw(white=(250, 250, 250))
    shown = fit_normaliser("macenko", pixels, (250, 250, 250)).apply(pixels)
    again = fit_normaliser("macenko", shown, (250, 250, 250))
    assert isinstance(again, MacenkoNormaliser)
    assert np.allclose(again.stains, REFERENCE_STAINS, atol=0.02)
    assert np.allclose(again.maxima, REFERENCE_MAXIMA, rtol=0.02)


def test_tissue_has_the_mean_and_the_spread_of_the_reference_after_reinhard() -> None:
    pixels = draw()
    again = fit_normaliser("reinhard", fit_normaliser("reinhard", pixels).apply(pixels))
    assert isinstance(again, ReinhardNormaliser)
    assert np.allclose(again.mean, REFERENCE_MEAN, atol=0.005)
    assert np.allclose(again.sd, REFERENCE_SD, rtol=0.01)


# -- faults ----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (draw(count=20_000)[:4100], "only .* of 4100 sampled pixels are stained"),
        (draw()[:0], "only 0 of 0 sampled pixels"),
        (np.full((5000, 3), 255, np.uint8), "only 0 of 5000"),
        (np.zeros((5000, 3), np.uint8), "no colour"),
        (draw([(1, 1, 1)], [1.4]), "no colour"),
        (draw([(1, 1.05, 1.1)], [1.4]), "no colour"),
        (draw([H], [1.4]), "one stain only"),
        (draw([E], [1.4]), "one stain only"),
        (np.full((5000, 3), (200, 90, 150), np.uint8), "one stain only"),
        (draw([H, DAB]), "more blue than green"),
        (draw([(0.05, 0.1, 0.9), H]), "more blue than green"),
    ],
)
def test_what_is_no_slide_of_two_stains_is_refused(
    method: Method, pixels: Pixels, reason: str
) -> None:
    with pytest.raises(UnsupportedSlideError, match=reason):
        fit_normaliser(method, pixels)


def test_pixels_of_another_type_or_shape_are_an_error() -> None:
    normaliser = fit_normaliser("macenko", draw())
    for wrong in (np.zeros((5, 3)), np.zeros((5, 3), np.uint16)):
        with pytest.raises(TypeError, match="expected uint8"):
            normaliser.apply(wrong)  # type: ignore[arg-type]
    for shape in ((5, 4), (3, 5), ()):
        with pytest.raises(ValueError, match=r"expected \(\.\.\., 3\)"):
            normaliser.apply(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match=r"expected \(n, 3\)"):
        fit_normaliser("macenko", np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(ValueError, match="expected one of macenko, reinhard"):
        fit_normaliser("vahadane", draw())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", "{}", "7", '{"method": "macenko"}', '{"method": "vahadane", "white": [1, 1, 1]}']
)
def test_what_is_no_normaliser_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        read_normaliser(text)


# -- slides ----------------------------------------------------------------------------------------


def params_of(method: str, codec: str = "raw") -> TileParams:
    return TileParams.model_validate(
        {
            "grid": {"mpp": 1.0, "patch_px": 64},
            "pixels": {"codec": codec},
            "stain": {"normalise": method},
        }
    )


def tile(path: Path, out: Path, method: str, threads: int = 1) -> Bag:
    tile_slide(SlideEntry(path, "s"), out, params_of(method), threads)
    return Bag(out / "s.h5")


def read_all(bag: Bag) -> Pixels:
    return bag.read_patches(np.arange(len(bag)))


@both
def test_a_bag_holds_normalised_patches_and_what_normalised_them(
    method: Method, drawn: SyntheticSlide, tmp_path: Path
) -> None:
    with tile(drawn.path, tmp_path / "plain", "none") as bag:
        plain, before = read_all(bag), bag.read_artefacts()
        assert bag.header.stain is None
    with tile(drawn.path, tmp_path / "one", method) as bag:
        shown, after = read_all(bag), bag.read_artefacts()
        assert bag.header.stain is not None
        assert np.array_equal(shown, read_normaliser(bag.header.stain).apply(plain))
        assert before is not None
        assert after is not None
        assert after.blur is not None
        assert before.blur is not None
        assert np.array_equal(before.blur, after.blur)
    assert apart(shown, plain).mean() > 2
    with tile(drawn.path, tmp_path / "two", method, threads=3) as bag:
        assert np.array_equal(read_all(bag), shown)
    assert (tmp_path / "one" / "s.h5").read_bytes() == (tmp_path / "two" / "s.h5").read_bytes()


@both
def test_a_slide_that_was_normalised_stays_as_it_is(
    method: Method, drawn: SyntheticSlide, tmp_path: Path
) -> None:
    with tile(drawn.path, tmp_path / "one", method) as bag:
        once, places = read_all(bag), bag.grid.coords
        assert bag.header.stain is not None
        normaliser = read_normaliser(bag.header.stain)
    with Image.open(drawn.path) as image:
        pixels = np.asarray(image.convert("RGB"))
    path = write_levels(tmp_path / "again.tif", [normaliser.apply(pixels)], mpp=(1.0, 1.0))
    with tile(path, tmp_path / "two", method) as bag:
        known = {place: row for row, place in enumerate(map(tuple, places.tolist()))}
        rows = [known.get((x, y)) for x, y in bag.grid.coords.tolist()]
        pairs = [(row, other) for row, other in enumerate(rows) if other is not None]
        assert len(pairs) > 20
        twice = bag.read_patches(np.array([row for row, _ in pairs]))
    difference = apart(once[[other for _, other in pairs]], twice)
    # all but those on the edge to the background, whose colour is measured again
    assert (difference.max(axis=-1) > 2).mean() < 0.001


def test_the_stain_is_part_of_a_fingerprint_only_if_it_is_normalised(drawn: SyntheticSlide) -> None:
    with Slide(drawn.path) as slide:
        found = {m: bag_fingerprint(slide.facts, params_of(m)) for m in ("none", *METHODS)}
    assert len(set(found.values())) == 3
    assert "stain" not in params_of("none").model_dump()
    assert "stain" not in params_of("none").model_dump_json()
    for method in METHODS:
        params = params_of(method)
        assert TileParams.model_validate_json(params.model_dump_json()) == params


def test_a_re_tiled_slide_says_that_the_stain_changed(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    tile(drawn.path, tmp_path, "none").close()
    done = tile_slide(SlideEntry(drawn.path, "s"), tmp_path, params_of("macenko"))
    assert "stain normalised (macenko)" in done.message
    assert "stain.normalise changed from none to macenko" in done.message


def test_bags_without_pixels_cannot_be_normalised() -> None:
    params = TileParams(pixels=CodecParams(codec="none"), stain=StainParams(normalise="macenko"))
    with pytest.raises(UsageError, match=r"leave out stain\.normalise"):
        require_pixels(params)


@both
def test_a_slide_of_one_stain_fails_with_the_reason(method: Method, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    light = np.ones((600, 600, 1)) * 245.0
    amount = np.zeros((600, 600, 1))
    amount[100:500, 100:500] = rng.gamma(2, 0.5, (400, 400, 1))
    pixels = (light * np.exp(-amount * np.array(H))).astype(np.uint8)
    path = write_levels(tmp_path / "one.tif", [pixels], mpp=(1.0, 1.0))
    with pytest.raises(
        UnsupportedSlideError, match=r"s: its stain .*one stain only.*for all slides"
    ):
        tile(path, tmp_path / "bags", method)
    assert not (tmp_path / "bags" / "s.h5").exists()


def test_a_slide_without_tissue_is_done_without_a_normaliser(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(239, 243, (600, 600, 3)).astype(np.uint8)
    path = write_levels(tmp_path / "empty.tif", [pixels], mpp=(1.0, 1.0))
    with tile(path, tmp_path / "bags", "macenko") as bag:
        assert (bag.header.status, bag.header.stain) == ("no_tissue", None)


def test_a_damaged_normaliser_in_a_bag_is_refused(drawn: SyntheticSlide, tmp_path: Path) -> None:
    tile(drawn.path, tmp_path, "macenko").close()
    with edited(tmp_path / "s.h5") as h5:
        h5.attrs["stain"] = "{}"
    with pytest.raises(StoredFileError, match="tile it again"):
        Bag(tmp_path / "s.h5")


# -- sample ----------------------------------------------------------------------------------------


def test_the_sample_is_spread_over_the_grid_and_leaves_out_what_is_unreadable(
    drawn: SyntheticSlide, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def read_some(slide: Slide, grid: Any, row: int) -> Pixels | SlideReadError:
        read.append(row)
        pixels = np.full((64, 64, 3), len(read), np.uint8)
        return SlideReadError("damaged") if len(read) % 2 else pixels

    monkeypatch.setattr(stainsample, "read_patch", read_some)
    with Slide(drawn.path) as slide:
        grid = plan_slide(slide, params_of("macenko")).grid
        sample = read_stain_sample(slide, grid)
        assert (read[0], read[-1], len(read)) == (0, len(grid) - 1, 32)
        assert set(np.unique(sample)) == set(range(2, 33, 2))
        assert 1000 < len(sample) <= 1 << 16
        with pytest.raises(SlideReadError, match="damaged"):
            read_stain_sample(slide, replace(grid, coords=grid.coords[:1]))


# -- command line ----------------------------------------------------------------------------------


def milpath(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_option_and_the_file_of_parameters_normalise_and_info_prints_the_fit(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    file = tmp_path / "params.json"
    file.write_text('{"tile": {"stain": {"normalise": "reinhard"}}}')
    base = ("tile", drawn.path, "--mpp", 1, "--patch-size", 64, "--workers", 1, "--out")
    for folder, words in (("a", ("--stain-normalise", "reinhard")), ("b", ("--params", file))):
        assert milpath(*base, tmp_path / folder, *words).exit_code == 0
        bag = next((tmp_path / folder).glob("*.h5"))
        found = json.loads(milpath("info", bag, "--json").stdout)
        assert found["stain"]["normalised"]["method"] == "reinhard"
    again = json.loads(milpath("info", bag, "--params", "--json").stdout)
    assert again["tile"]["stain"] == {"normalise": "reinhard"}


def test_an_unknown_method_is_one_line_that_names_the_option(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    done = milpath("tile", drawn.path, "--out", tmp_path, "--stain-normalise", "vahadane")
    expected = "--stain-normalise must be one of none, macenko, reinhard, got vahadane"
    assert isinstance(done.exception, UsageError)
    assert str(done.exception) == expected
