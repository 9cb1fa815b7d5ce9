"""Tiling writes a bag and a picture per slide, once, or nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import openslide
import pytest
from numpy.typing import NDArray
from support.drawing import damage_tile, write_levels
from support.untrusted.tamper import edited

from milpath.cohort.cohort import SlideEntry
from milpath.errors import (
    MilpathError,
    OutputError,
    ResolutionError,
    SlideReadError,
    StoredFileError,
    UsageError,
)
from milpath.formats.bag import Bag
from milpath.formats.layout import bag_path
from milpath.params import ArtefactParams, CodecParams, GridParams, TileParams
from milpath.runs import Outcome
from milpath.slides.slide import Slide
from milpath.synthetic import SyntheticSlide, draw_slide
from milpath.tile import PlanFacts, describe_bytes, plan_slide, tile_slide

COORDS = CodecParams(codec="none")
SMALL = TileParams(grid=GridParams(mpp=2.0, patch_px=64))


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def tile(path: Path, out: Path, params: TileParams = SMALL, threads: int = 1) -> Outcome:
    return tile_slide(SlideEntry(path, "s"), out, params, threads)


# -- properties ----------------------------------------------------------------------------------


def test_tiling_writes_a_bag_and_a_picture(drawn: SyntheticSlide, tmp_path: Path) -> None:
    done = tile(drawn.path, tmp_path)
    assert files_in(tmp_path) == {"s.h5", "qc/s.png"}
    assert (tmp_path / "qc" / "s.png").read_bytes().startswith(b"\x89PNG")
    with Bag(tmp_path / "s.h5") as bag:
        assert len(bag) == done.facts.patches > 20
        assert bag.slide.slide_id == "s"
        assert bag.header.params == SMALL
    assert (done.status, done.facts.mpp_source) == ("ok", "slide")
    assert done.message == f"{done.facts.patches} patches"


def test_coordinates_only_are_those_of_the_bag_with_pixels_and_read_none(
    drawn: SyntheticSlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile(drawn.path, tmp_path / "all")

    def fail(*_: object) -> None:
        raise AssertionError("patches were read")

    monkeypatch.setattr("milpath.tile.stream_patches", fail)
    tile(drawn.path, tmp_path / "few", SMALL.model_copy(update={"pixels": COORDS}))
    small, large = (bag_path(tmp_path / name, "s") for name in ("few", "all"))
    assert small.stat().st_size < 20_000 < large.stat().st_size
    with Bag(small) as few, Bag(large) as every:
        assert np.array_equal(few.grid.coords, every.grid.coords)
        one, two = few.read_artefacts(), every.read_artefacts()
        assert one is not None
        assert two is not None
        assert one.blur is None
        assert two.blur is not None
        assert np.array_equal(one.pen, two.pen)
        assert np.array_equal(one.fold, two.fold)
        with pytest.raises(
            StoredFileError, match=r"^s\.h5: holds no pixels .* tile the slide again"
        ):
            few.read_patches(np.arange(1))


def test_a_limit_of_blur_needs_pixels(tmp_path: Path) -> None:
    params = TileParams(pixels=COORDS, artefacts=ArtefactParams(max_blur=0.5))
    with pytest.raises(UsageError, match="blur is measured on pixels"):
        tile_slide(SlideEntry(tmp_path / "s.tif", "s"), tmp_path, params)


def test_a_dry_run_says_how_many_patches_and_about_how_many_bytes_would_come(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    entry = SlideEntry(drawn.path, "s")
    for codec in ("jpeg", "raw", "none"):
        params = SMALL.model_copy(update={"pixels": CodecParams(codec=codec)})
        planned = tile_slide(entry, tmp_path / codec, params, dry_run=True)
        done = tile_slide(entry, tmp_path / codec, params)
        assert isinstance(planned.facts, PlanFacts)
        assert planned.facts.patches == done.facts.patches
        size = bag_path(tmp_path / codec, "s").stat().st_size
        assert size / 2 - (1 << 20) < planned.facts.bytes < 2 * size  # raw ones grow by a MiB
        assert planned.message == f"would be tiled: {planned.facts.describe()}"


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (1234, "1.23 KB"), (5 * 10**9, "5 GB")],
)
def test_sizes_are_said_in_the_largest_unit(size: int, said: str) -> None:
    assert describe_bytes(size) == said


def test_any_number_of_threads_writes_the_same_bytes(drawn: SyntheticSlide, tmp_path: Path) -> None:
    made = []
    for name, threads in (("a", 1), ("b", 1), ("c", 2)):
        tile(drawn.path, tmp_path / name, threads=threads)
        made.append(
            [(tmp_path / name / each).read_bytes() for each in sorted(files_in(tmp_path / name))]
        )
    assert made[0] == made[1] == made[2]


def test_a_second_run_skips_the_slide(drawn: SyntheticSlide, tmp_path: Path) -> None:
    first = tile(drawn.path, tmp_path)
    before = (tmp_path / "s.h5").stat()
    second = tile(drawn.path, tmp_path)
    assert second.status == "skipped"
    assert "already done with the same parameters" in second.message
    assert second.facts == first.facts
    assert (tmp_path / "s.h5").stat().st_mtime_ns == before.st_mtime_ns


def test_changed_parameters_re_tile_the_slide_and_the_message_names_them(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    tile(drawn.path, tmp_path)
    other = TileParams(grid=GridParams(mpp=4.0, patch_px=64))
    again = tile(drawn.path, tmp_path, other)
    assert again.status == "ok"
    assert again.message.endswith(", re-tiled: grid.mpp changed from 2.0 to 4.0")
    with Bag(tmp_path / "s.h5") as bag:
        assert bag.header.params == other


def test_a_different_slide_with_the_same_name_is_re_tiled(tmp_path: Path) -> None:
    size = (512, 512)
    for seed in (1, 2):
        path = draw_slide(tmp_path / f"{seed}.tif", seed=seed, tumour=False, size_px=size).path
        made = tile(path, tmp_path / "out")
        assert made.status == "ok"
    assert ", re-tiled: the " in made.message


def test_a_damaged_bag_or_a_missing_picture_is_replaced(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    tile(drawn.path, tmp_path)
    good = (tmp_path / "s.h5").read_bytes()
    (tmp_path / "s.h5").write_bytes(good[:-100])
    assert tile(drawn.path, tmp_path).status == "ok"
    assert (tmp_path / "s.h5").read_bytes() == good
    (tmp_path / "qc" / "s.png").unlink()
    assert tile(drawn.path, tmp_path).status == "ok"
    assert files_in(tmp_path) == {"s.h5", "qc/s.png"}


# -- examples --------------------------------------------------------------------------------------


def test_a_blank_slide_is_a_bag_of_no_rows(tmp_path: Path) -> None:
    path = draw_slide(
        tmp_path / "b.tif",
        seed=1,
        tumour=False,
        tissue=False,
        artefacts=False,
        size_px=(600, 600),
    ).path
    done = tile(path, tmp_path / "out")
    assert (done.status, done.facts.patches) == ("no_tissue", 0)
    assert "no tissue found" in done.message
    with Bag(tmp_path / "out" / "s.h5") as bag:
        assert len(bag) == 0
    assert tile(path, tmp_path / "out").status == "skipped"


def test_no_metadata_text_of_the_slide_is_written_into_a_bag(
    tmp_path: Path, drawn: SyntheticSlide, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise AssertionError("the label was opened")

    with openslide.OpenSlide(drawn.path) as slide:
        rgb = np.asarray(slide.read_region((200, 300), 0, (640, 640)).convert("RGB"))
    words = "Aperio Image Library\n|AppMag = 10|MPP = 1.0|Filename = DOEJANE|User = DOEJANE"
    path = write_levels(tmp_path / "p.svs", [rgb], None, words)
    monkeypatch.setattr(openslide.OpenSlide, "associated_images", property(fail))
    assert tile(path, tmp_path / "out").facts.patches > 0
    with h5py.File(tmp_path / "out" / "s.h5") as h5:
        assert h5.attrs["vendor"] == "aperio"
    for name in files_in(tmp_path / "out"):
        assert b"DOEJANE" not in (tmp_path / "out" / name).read_bytes()


def test_a_plan_reads_only_the_level_that_its_thumbnail_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = np.full((4096, 4096, 3), 235, np.uint8)
    stain = np.random.default_rng(0).normal((180, 90, 150), 12, (125, 125, 3)).clip(0, 255)
    rgb[1000:3000, 1000:3000] = stain.repeat(16, axis=0).repeat(16, axis=1)
    levels = [rgb[::step, ::step] for step in (1, 4, 16)]
    read = Slide.read_level
    pixels: list[int] = []

    def counted(
        slide: Slide, place: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        assert level == 2
        pixels.append(size[0] * size[1])
        return read(slide, place, level, size)

    monkeypatch.setattr(Slide, "read_level", counted)
    with Slide(write_levels(tmp_path / "s.tif", levels)) as slide:
        plan = plan_slide(slide, TileParams())
    assert len(plan.grid) > 20
    assert sum(pixels) < 1.1 * 256 * 256


# -- faults ----------------------------------------------------------------------------------------


@pytest.fixture
def damaged(drawn: SyntheticSlide, tmp_path: Path) -> Path:
    """The synthetic slide, with an unreadable tile in its tissue at full size."""
    path = Path(shutil.copy(drawn.path, tmp_path / "damaged.tif"))
    damage_tile(path, 2 * 5 + 2)  # of 5 x 6
    return path


def test_a_failed_slide_leaves_no_file(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(SlideReadError, match="patches are unreadable; expected at most 1%"):
        tile(damaged, tmp_path / "out", TileParams(grid=GridParams(mpp=1.0, patch_px=64)))
    assert files_in(tmp_path / "out") == set()


def test_damage_outside_of_all_patches_is_ignored(damaged: Path, tmp_path: Path) -> None:
    assert (
        tile(
            damaged, tmp_path / "out", TileParams(grid=GridParams(mpp=4.0, patch_px=64))
        ).facts.patches
        > 0
    )


@pytest.fixture
def hidden(drawn: SyntheticSlide, tmp_path: Path) -> Path:
    """The synthetic slide, with 512 x 512 px unreadable at levels 0 and 1."""
    path = Path(shutil.copy(drawn.path, tmp_path / "hidden.tif"))
    damage_tile(path, 0, level=1)
    damage_tile(path, 0, 1, 5, 6)
    return path


def test_damage_that_hides_tissue_fails_the_slide(hidden: Path, tmp_path: Path) -> None:
    with pytest.raises(SlideReadError, match=r"^s: \d\d% of its area cannot be"):
        tile(hidden, tmp_path / "out", TileParams(grid=GridParams(mpp=1.0, patch_px=64)))
    assert files_in(tmp_path / "out") == set()


def test_a_little_damage_is_logged(
    hidden: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tile", "patches.reader"):
        monkeypatch.setattr(f"milpath.{module}.MAX_UNREADABLE", 0.8)
    tile(hidden, tmp_path / "out", TileParams(grid=GridParams(mpp=1.0, patch_px=64)))
    assert "% of its area cannot be read" in caplog.text


@pytest.mark.parametrize(("mpp", "said"), [(0.96, "enlarged 1.04 times"), (1.0, ""), (1.1, "")])
def test_patches_finer_than_the_scan_are_said_to_be_enlarged(
    drawn: SyntheticSlide, caplog: pytest.LogCaptureFixture, mpp: float, said: str
) -> None:
    with Slide(drawn.path) as slide:  # 1 µm per pixel
        plan_slide(slide, TileParams(grid=GridParams(mpp=mpp, patch_px=64)))
    assert said in caplog.text
    assert ("enlarged" in caplog.text) == bool(said)


def test_a_bag_with_unreadable_patches_is_replaced_since_the_slide_may_have_been_repaired(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    tile(drawn.path, tmp_path)
    with edited(tmp_path / "s.h5") as h5:
        h5.attrs["unreadable"] = 1
    assert tile(drawn.path, tmp_path).status == "ok"
    assert tile(drawn.path, tmp_path).status == "skipped"


def test_a_failed_slide_keeps_the_older_bag(drawn: SyntheticSlide, tmp_path: Path) -> None:
    path = Path(shutil.copy(drawn.path, tmp_path / "d.tif"))
    tile(path, tmp_path / "out")
    before = (tmp_path / "out" / "s.h5").read_bytes()
    with pytest.raises(ResolutionError, match="coarser"):
        tile(path, tmp_path / "out", TileParams())
    assert (tmp_path / "out" / "s.h5").read_bytes() == before


def test_a_wrong_resolution_raises_before_a_pixel_is_read(
    drawn: SyntheticSlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("pixels were read")

    monkeypatch.setattr("milpath.slides.slide.Slide.read_region", fail)
    with pytest.raises(ResolutionError, match=r"coarser than the requested 0\.5"):
        tile(drawn.path, tmp_path, TileParams())


def test_a_folder_that_cannot_be_written_raises_an_output_error(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match=r"^s\.(h5|png): cannot be"):
        tile(drawn.path, tmp_path / "out")


# -- real slides -----------------------------------------------------------------------------------


def real(shared_data: Path, name: str, out: Path, mpp: float = 0.5, **given: float) -> Outcome:
    path = shared_data / name
    source = "option" if given else "slide"
    entry = SlideEntry(path, path.stem, mpp=given.get("slide_mpp"), mpp_source=source)  # type: ignore[arg-type]
    return tile_slide(entry, out, TileParams(grid=GridParams(mpp=mpp)), threads=2)


@pytest.mark.slow
def test_a_real_biopsy_is_tiled_at_its_exact_size(shared_data: Path, tmp_path: Path) -> None:
    done = real(shared_data, "slides/lscc_HE3.svs", tmp_path)
    assert 250 <= done.facts.patches <= 310
    with Bag(bag_path(tmp_path, "lscc_HE3")) as bag:
        side_um = bag.grid.patch_size_l0 * bag.slide.mpp_x
        assert side_um == pytest.approx(128, rel=0.002)
        corners = {(int(x), int(y)) for x, y in bag.grid.coords // 1000}
    assert (10, 8) in corners  # the dark core
    assert corners & {(5, 3), (2, 11), (3, 5)}  # pale fragments
    assert (8, 2) not in corners  # background


def test_svs_and_dicom_of_one_tissue_give_the_same_patches(
    shared_data: Path, tmp_path: Path
) -> None:
    real(shared_data, "slides/CMU-1-Small-Region.svs", tmp_path)
    real(shared_data, "slides/dicom_cmu_multilevel/level-0-frames-0-30.dcm", tmp_path)
    with (
        Bag(bag_path(tmp_path, "CMU-1-Small-Region")) as svs,
        Bag(bag_path(tmp_path, "level-0-frames-0-30")) as dicom,
    ):
        assert svs.grid.coords.tolist() == dicom.grid.coords.tolist()
        assert len(svs) > 20
        rows = np.arange(len(svs))
        # the DICOM's colours are YCbCr that call themselves RGB: its red channel is the luma
        luma = svs.read_patches(rows) @ np.array([0.299, 0.587, 0.114])
        assert np.abs(luma - dicom.read_patches(rows)[..., 0]).mean() < 6


def test_a_slide_without_resolution_raises_unless_one_is_given(
    shared_data: Path, tmp_path: Path
) -> None:
    name = "slides/TCGA-CR-7395-01A-01-TS1.svs"
    with pytest.raises(ResolutionError, match=r"--slide-mpp, or in an mpp column"):
        real(shared_data, name, tmp_path)
    assert files_in(tmp_path) == set()
    done = real(shared_data, name, tmp_path, slide_mpp=0.25)
    assert done.facts.mpp_source == "option"
    with Bag(bag_path(tmp_path, "TCGA-CR-7395-01A-01-TS1")) as bag:
        assert (bag.slide.mpp_x, bag.slide.mpp_source) == (0.25, "option")
        assert bag.grid.patch_size_l0 == 512


def test_fluorescence_is_recognized_by_its_dark_background(
    shared_data: Path, tmp_path: Path
) -> None:
    done = real(shared_data, "slides/hamamatsu_DAPI.ndpi", tmp_path)
    assert done.facts.background == "dark"
    assert "fluorescence" in done.message


def test_a_marker_ring_gives_almost_no_patches(shared_data: Path, tmp_path: Path) -> None:
    done = real(shared_data, "slides/csf_penring.tif", tmp_path, mpp=2)
    assert done.facts.patches <= 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("small_😐.svs", "smaller than one patch"),
        ("boxes.tiff", "353|352"),
        ("tiny_2x1.tiff", "1000 x 1000 µm"),
        ("mirax_partial/Mirax2-Fluorescence-2.mrxs", "cannot be read at level"),
    ],
)
def test_odd_slides_fail_with_one_clear_line(
    shared_data: Path, tmp_path: Path, name: str, text: str
) -> None:
    with pytest.raises(MilpathError, match=text) as caught:
        real(shared_data, f"slides/{name}", tmp_path)
    assert "\n" not in str(caught.value)
    assert files_in(tmp_path) == set()


BROKEN = (
    *("unreadable.svs", "unopenable.tiff", "bitrot_TCGA.svs", "truncated_CMU.svs"),
    *("random_ascii.svs", "html_error_page.svs", "lfs_pointer.svs", "empty.svs"),
    *("kidney-48-5.tif", "grey10kx5k_striped.tif", "zero_gi.tif", "not_a_slide.dcm"),
)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_fails_with_one_line_and_leaves_nothing(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(MilpathError, match=f"^{name}: [^\n]+$") as caught:
        real(shared_data, f"broken/{name}", tmp_path)
    assert str(shared_data) not in str(caught.value)
    assert files_in(tmp_path) == set()


def test_a_damaged_slide_with_its_resolution_given_still_fails_clearly(
    shared_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(SlideReadError, match="patches are unreadable; expected at most 1%"):
        real(shared_data, "broken/bitrot_TCGA.svs", tmp_path, mpp=0.25, slide_mpp=0.25)
    assert files_in(tmp_path) == set()
