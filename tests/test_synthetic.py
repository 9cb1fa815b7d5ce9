"""The drawn slides are what they claim: real pyramids, true masks, cells of real size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from milpath.errors import OutputError
from milpath.synthetic import SyntheticSlide, draw_slide


def read_rgb(drawn: SyntheticSlide) -> NDArray[np.uint8]:
    """Return level 0 as RGB [row, col, channel]."""
    with openslide.OpenSlide(drawn.path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, drawn.dimensions).convert("RGB"))


def optical_density(drawn: SyntheticSlide) -> NDArray[np.float64]:
    """Return the mean optical density of each level-0 pixel [row, col]."""
    return -np.log(read_rgb(drawn).clip(1) / 255.0).mean(axis=2)


def on_pixels(drawn: SyntheticSlide, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a truth mask enlarged to level-0 pixels [row, col]."""
    width, height = drawn.dimensions
    return mask.repeat(drawn.cell_l0, axis=0).repeat(drawn.cell_l0, axis=1)[:height, :width]


@pytest.fixture(scope="module")
def positive(tmp_path_factory: pytest.TempPathFactory) -> SyntheticSlide:
    """Return a positive slide without artefacts."""
    path = tmp_path_factory.mktemp("drawn") / "positive.tif"
    return draw_slide(path, seed=3, tumour=True, size_px=(1024, 1024), artefacts=False)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    drawn = [
        draw_slide(tmp_path / name, seed=5, tumour=True, size_px=(600, 512))
        for name in ("a.tif", "b.tif")
    ]
    assert drawn[0].path.read_bytes() == drawn[1].path.read_bytes()
    assert (drawn[0].tumour == drawn[1].tumour).all()


def test_another_seed_gives_another_picture(tmp_path: Path) -> None:
    first, second = (
        read_rgb(draw_slide(tmp_path / f"{seed}.tif", seed=seed, tumour=True, size_px=(512, 512)))
        for seed in (1, 2)
    )
    assert np.abs(first.astype(int) - second).mean() > 5


def test_a_seed_with_and_without_tumour_gives_twins(tmp_path: Path) -> None:
    sick, well = (
        draw_slide(tmp_path / f"{tumour}.tif", seed=4, tumour=tumour, size_px=(512, 512))
        for tumour in (True, False)
    )
    glass = ~on_pixels(sick, sick.tissue)
    assert (sick.tissue == well.tissue).all()
    assert np.abs(read_rgb(sick)[glass].astype(int) - read_rgb(well)[glass]).mean() < 1


def test_openslide_reads_levels_with_a_fractional_downsample_and_the_exact_mpp(
    tmp_path: Path,
) -> None:
    path = tmp_path / "größe.tif"
    drawn = draw_slide(path, seed=1, tumour=True, size_px=(1030, 1500), mpp=0.4961)
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == drawn.dimensions == (1030, 1500)
        assert slide.level_dimensions[:2] == ((1030, 1500), (258, 375))
        assert slide.level_downsamples[1] % 1 != 0
        assert slide.level_downsamples[1] == pytest.approx(4, rel=5e-3)
        for key in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y):
            assert float(slide.properties[key]) == pytest.approx(0.4961, rel=1e-6)


def test_a_reduced_level_shows_what_level_0_shows(positive: SyntheticSlide) -> None:
    with openslide.OpenSlide(positive.path) as slide:
        small = np.asarray(slide.read_region((0, 0), 1, slide.level_dimensions[1]).convert("RGB"))
    blocks = read_rgb(positive).reshape(256, 4, 256, 4, 3).mean(axis=(1, 3))
    assert np.abs(blocks - small).mean() < 4
    assert np.abs((blocks - small).mean(axis=(0, 1))).max() < 0.5


def test_colours_survive_the_file(positive: SyntheticSlide) -> None:
    red, green, blue = read_rgb(positive)[on_pixels(positive, positive.tissue)].mean(axis=0)
    assert green < blue < 240
    assert green < red < 240


def test_without_mpp_tags_openslide_knows_no_mpp(tmp_path: Path) -> None:
    path = tmp_path / "untagged.tif"
    drawn = draw_slide(path, seed=1, tumour=False, size_px=(512, 512), mpp_tags=False)
    with openslide.OpenSlide(path) as slide:
        assert openslide.PROPERTY_NAME_MPP_X not in slide.properties
    assert drawn.mpp == 1.0


@pytest.mark.parametrize("seed", range(8))
def test_a_tumour_lies_inside_the_tissue_and_has_its_share(tmp_path: Path, seed: int) -> None:
    drawn = draw_slide(tmp_path / "slide.tif", seed=seed, tumour=True, size_px=(512, 512))
    assert not (drawn.tumour & ~drawn.tissue).any()
    assert 0.08 < drawn.tumour.sum() / drawn.tissue.sum() < 0.32
    assert 0.15 < drawn.tissue.mean() < 0.75


def test_the_tumour_share_can_be_chosen(tmp_path: Path) -> None:
    small, large = (
        draw_slide(
            tmp_path / f"{share}.tif",
            seed=2,
            tumour=True,
            size_px=(1024, 1024),
            tumour_share=(share, share),
        )
        for share in (0.03, 0.5)
    )
    assert small.tumour.sum() / small.tissue.sum() == pytest.approx(0.03, abs=0.01)
    assert large.tumour.sum() / large.tissue.sum() == pytest.approx(0.5, abs=0.03)


def test_a_negative_slide_has_tissue_and_no_tumour(tmp_path: Path) -> None:
    drawn = draw_slide(tmp_path / "slide.tif", seed=3, tumour=False, size_px=(512, 512))
    assert drawn.tissue.any()
    assert not drawn.tumour.any()


def test_a_slide_without_tissue_is_bright_everywhere(tmp_path: Path) -> None:
    drawn = draw_slide(
        tmp_path / "bare.tif",
        seed=3,
        tumour=False,
        size_px=(512, 512),
        tissue=False,
        artefacts=False,
    )
    assert not drawn.tissue.any()
    assert read_rgb(drawn).min() > 210


def test_tissue_is_where_the_picture_is_stained(positive: SyntheticSlide) -> None:
    tissue = on_pixels(positive, positive.tissue)
    stained, truth = (
        field.reshape(64, 16, 64, 16).mean(axis=(1, 3)) > least
        for field, least in ((optical_density(positive), 0.12), (tissue, 0.5))
    )
    assert (stained & truth).sum() / (stained | truth).sum() > 0.85


def test_a_fraction_on_truth_cells_is_the_mean_of_the_mask(positive: SyntheticSlide) -> None:
    cell = positive.cell_l0
    rows, cols = np.mgrid[0:60:4, 0:60:4].reshape(2, -1)
    coords = np.stack([cols, rows], axis=1).astype(np.int64) * cell
    for mask, fraction in (
        (positive.tumour, positive.tumour_fraction(coords, 4 * cell)),
        (positive.tissue, positive.tissue_fraction(coords, 4 * cell)),
    ):
        means = [mask[r : r + 4, c : c + 4].mean() for r, c in zip(rows, cols, strict=True)]
        assert fraction == pytest.approx(means)
        assert {0.0, 1.0} <= set(fraction.tolist())


def test_a_fraction_off_the_truth_cells_is_weighted_by_area() -> None:
    tumour = np.array([[True, False], [False, False]])
    drawn = SyntheticSlide(Path("none.tif"), 1.0, (20, 20), np.ones_like(tumour), tumour, 10)
    coords = np.array([[0, 0], [5, 0], [5, 5], [10, 10], [-5, 0], [100, 100]])
    assert drawn.tumour_fraction(coords, 10) == pytest.approx([1, 0.5, 0.25, 0, 0.5, 0])
    assert drawn.tumour_fraction(coords[:2], 4) == pytest.approx([1, 1])
    assert drawn.tissue_fraction(coords[3:], 20) == pytest.approx([0.25, 0.75, 0])
    assert drawn.tumour_fraction(np.empty((0, 2), np.int64), 10).shape == (0,)


def test_tumour_is_denser_than_the_rest_of_the_tissue(positive: SyntheticSlide) -> None:
    density = optical_density(positive)
    tumour = on_pixels(positive, positive.tumour)
    rest = on_pixels(positive, positive.tissue) & ~tumour
    assert density[tumour].mean() > 1.2 * density[rest].mean()


def test_tumour_nuclei_are_larger_than_normal_nuclei(positive: SyntheticSlide) -> None:
    # Redness falls with haematoxylin, and eosin hardly takes red.
    dark = read_rgb(positive)[..., 0] < 150
    nuclei, count = ndimage.label(dark)
    areas = ndimage.sum_labels(dark, nuclei, np.arange(1, count + 1))
    tumour = on_pixels(positive, positive.tumour)
    share = ndimage.mean(tumour, nuclei, np.arange(1, count + 1))
    inside, outside = areas[share > 0.5], areas[share <= 0.5]
    assert np.median(outside) < 45  # 7.5 µm across
    assert np.median(inside[inside > 12]) > 1.7 * np.median(outside)


def test_nuclei_are_twice_as_wide_in_pixels_at_half_the_mpp(tmp_path: Path) -> None:
    areas = []
    for mpp, side in ((1.0, 768), (0.5, 1536)):
        drawn = draw_slide(
            tmp_path / f"{mpp}.tif",
            seed=6,
            tumour=False,
            size_px=(side, side),
            mpp=mpp,
            artefacts=False,
        )
        nuclei, _ = ndimage.label(read_rgb(drawn)[..., 0] < 150)
        sizes = np.bincount(nuclei.ravel())[1:]
        areas.append(float(np.median(sizes[sizes > 8 / mpp**2])))
    assert areas[1] / areas[0] == pytest.approx(4, rel=0.35)


def test_artefacts_change_the_picture_and_not_the_truth(tmp_path: Path) -> None:
    clean, spoilt = (
        draw_slide(tmp_path / f"{on}.tif", seed=8, tumour=True, size_px=(512, 512), artefacts=on)
        for on in (False, True)
    )
    assert (clean.tumour == spoilt.tumour).all()
    changed = np.abs(read_rgb(clean).astype(int) - read_rgb(spoilt)).max(axis=2) > 40
    assert 0 < changed.mean() < 0.3


def test_a_written_slide_leaves_no_temporary_file(tmp_path: Path) -> None:
    draw_slide(tmp_path / "slide.tif", seed=1, tumour=True, size_px=(300, 256))
    assert [p.name for p in tmp_path.iterdir()] == ["slide.tif"]


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match="disk full"):
        draw_slide(tmp_path / "slide.tif", seed=1, tumour=True, size_px=(300, 256))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mpp": 9.0}, "mpp: expected 0.1 to 4.0"),
        ({"size_px": (128, 512)}, "at least 256 x 256"),
        ({"tissue": False}, "tumour=True needs tissue=True"),
        ({"tumour_share": (0.3, 1.2)}, "tumour_share: expected"),
    ],
)
def test_an_impossible_slide_raises(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw_slide(tmp_path / "slide.tif", seed=1, tumour=True, **changes)  # type: ignore[arg-type]
