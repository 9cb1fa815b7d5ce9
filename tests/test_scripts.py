"""Every script explains itself, and what the benchmarks compute is right on small inputs."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.drawing import noise, write_levels

from milpath.errors import MilpathError
from milpath.params import GridParams, TileParams
from milpath.slides.slide import Slide
from milpath.synthetic import SyntheticSlide
from milpath.tile import plan_slide

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
OF_THE_VIEWER = {"bench_viewer.py", "screenshot.py"}
"""They import napari, which needs a process of its own."""
WITHOUT_MAIN = {"bench_tools.py", "made_data.py", "repeated_cv.py", "support_path.py"}
WITHOUT_HELP = {"script_tile.py"}
WITH_HELP = sorted(
    path.name
    for path in SCRIPTS.glob("*.py")
    if path.name not in OF_THE_VIEWER | WITHOUT_MAIN | WITHOUT_HELP
)
QUICK_FAULTS = {"kills": 6, "points": 4, "races": 3, "taken": 1}

Load = Callable[..., Any]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Load a script by its name, as `python scripts/NAME` would, under any `__name__`."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def run(name: str, *words: str, as_main: bool = False) -> Any:
        monkeypatch.setattr(sys, "argv", [name, *words])
        run_name = "__main__" if as_main else name.removesuffix(".py")
        return SimpleNamespace(**runpy.run_path(str(SCRIPTS / name), run_name=run_name))

    yield run
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(SCRIPTS)):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_HELP)
def test_a_script_prints_its_help(
    name: str, load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        load(name, "--help", as_main=True)
    assert end.value.code == 0
    assert "--help" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OF_THE_VIEWER))
def test_a_script_of_the_viewer_prints_its_help(name: str) -> None:
    words = [sys.executable, str(SCRIPTS / name), "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout


# -- bench_tools.py --------------------------------------------------------------------------------


def test_work_is_interleaved_and_the_first_round_is_not_counted(load: Load) -> None:
    tools = load("bench_tools.py")
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    spent = tools.interleave(runs, 3)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert all(len(one.seconds) == len(one.cpu) == 3 for one in spent.values())


def test_ratios_are_medians_over_pairs_and_rates_are_per_second(load: Load) -> None:
    tools = load("bench_tools.py")
    slow, fast = tools.Spent([2, 9, 4], [1, 1, 1]), tools.Spent([1, 3, 1], [1, 1, 1])
    assert tools.paired_ratio(slow, fast) == 3
    assert slow.rates(8) == {"per_s": 2, "least": 0.9, "most": 4, "cpu_ms": 125}


def test_a_large_slide_opens_with_its_levels_and_resolution(load: Load, tmp_path: Path) -> None:
    path = load("bench_tools.py").draw_large(tmp_path / "large.tif", 2048, 4096)
    with Slide(path) as slide:
        assert slide.dimensions == (2048, 4096)
        assert slide.mpp == (0.25, 0.25)
        assert np.allclose(slide.level_downsamples, [1, 4, 16, 64])


# -- the benchmarks of tiling and of bags ----------------------------------------------------------


def test_tiles_are_decoded_once_and_pixels_are_those_of_openslide(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = load("bench_tile.py")
    levels = [noise(1024, 1024)]
    path = write_levels(tmp_path / "a.tif", levels, compression="jpeg", subsampling=(2, 2))
    with Slide(path) as slide:
        grid = plan_slide(slide, TileParams(grid=GridParams(mpp=1.0, patch_px=64))).grid
        assert len(grid) > 20
        assert bench.compare_pixels(slide, grid) == {"largest_difference": 0}
        assert bench.count_decodes(slide, grid)["decodes_a_tile"] <= 1.05
    assert [json.loads(line)["figure"] for line in capsys.readouterr().out.splitlines()] == [
        *("pixels", "decodes a tile"),
    ]


def test_the_baseline_script_cuts_as_many_patches_as_it_finds(
    load: Load, drawn: SyntheticSlide, tmp_path: Path
) -> None:
    script = load("script_tile.py")
    coords, side = script.find_patches(drawn.path)
    assert side == 128  # 256 px of 0.5 µm on a slide of 1 µm
    assert script.cut(drawn.path, coords[:3], side, tmp_path / "a.h5") == 3


def test_codecs_of_a_bag_return_the_patch_exactly_or_nearly(load: Load) -> None:
    patch = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)[..., None].repeat(3, 2)
    for name, (encode, decode) in load("bench_bag.py").codecs().items():
        found = decode(encode(np.ascontiguousarray(patch))).reshape(patch.shape)
        limit = 4 if name.startswith("jpeg") else 0
        assert np.abs(found.astype(int) - patch).max() <= limit, name


def test_reading_features_of_every_layout_is_measured(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = load("bench_features.py")
    found = bench.read_layouts(tmp_path, rows=300, dim=16, repeats=1)
    assert set(found) == {f"{name}_to_milpath" for name in ("trident", "clam", "stamp")}
    assert json.loads(capsys.readouterr().out)["rows"] == 300
    bench.draw(tmp_path / "many", 5, 40, 8)
    ratios = bench.read_epoch(tmp_path / "many", 1)
    assert set(ratios) == {
        f"bytes_to_{read}_{cache}"
        for read in ("sample", "all")
        for cache in ("cached", "not_cached")
    }


@pytest.mark.slow
def test_pooling_by_batches_gives_the_result_of_numpy(load: Load) -> None:
    ratios = load("bench_classify.py").compare_pooling(rows=1000, repeats=1)
    assert ratios["pooling_difference"] < 1e-5


# -- bench_scale.py --------------------------------------------------------------------------------


def test_extrapolation_separates_the_cost_of_a_slide_from_that_of_a_patch(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = load("bench_scale.py")

    def run(slides: int, patches: int) -> Any:
        seconds = 3 + 0.5 * slides + 0.01 * patches
        return bench.Run(seconds, 2 * seconds, 0.0, patches, 100 * slides + 10 * patches)

    sizes = {side: run(1, side) for side in (10, 100, 1000)}
    counts = {count: run(count, 20 * count) for count in (1, 10, 100)}
    bench.extrapolate(sizes, counts, patches=1000)
    line = json.loads(capsys.readouterr().out)
    assert line["ms_a_slide"] == pytest.approx(500)
    assert line["ms_a_patch"] == pytest.approx(10)
    assert line["hours_by_one_worker"] == pytest.approx(10_000 * 10.5 / 3600, rel=1e-3)
    assert line["disk_gb"] == pytest.approx(10_000 * 10_100 / 1e9, rel=1e-3)


def test_the_middle_run_is_that_of_the_median_time(load: Load) -> None:
    bench = load("bench_scale.py")
    runs = [bench.Run(seconds, 0, 0, 0, 0) for seconds in (5, 1, 3)]
    assert bench.middle(runs).seconds == 3
    assert bench.middle(runs[:2]).seconds == 1


# -- fuzzing and faults ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fuzz_h5.py", "fuzz_manifest.py"])
def test_every_initial_input_of_a_fuzzer_is_accepted_or_refused_in_one_line(
    name: str, load: Load, tmp_path: Path
) -> None:
    target, corpus = load(name).load()
    endings = set()
    for data in corpus:
        said = ""
        try:
            target(data, tmp_path)
        except MilpathError as error:
            said = str(error)
        assert "\n" not in said
        endings.add(bool(said))
    assert False in endings  # some are accepted


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_every_file_is_complete_after_kills_full_disks_races_and_a_removed_folder() -> None:
    words = [sys.executable, str(SCRIPTS / "bench_faults.py"), "--quick"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    counts = {name: sum(one.get(name, 0) for one in figures) for name in QUICK_FAULTS}
    assert counts == QUICK_FAULTS
    assert figures[-1]["figure"] == "all"
    assert not any(one["faults"] for one in figures)


# -- run_nightly.py --------------------------------------------------------------------------------


def test_the_nightly_run_lists_its_jobs_and_passes_on_lines_and_failures(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    nightly = load("run_nightly.py", "--list")
    nightly.main()
    assert set(capsys.readouterr().out.split()) == {*nightly.JOBS, *nightly.OTHERS}
    assert all((SCRIPTS / job.script).is_file() for job in nightly.JOBS.values())
    code = "print('{\"a\": 1}'); print('text'); print('[2]'); raise SystemExit(3)"
    lines = list(nightly.run_lines([sys.executable, "-S", "-c", code]))
    assert lines[0] == {"a": 1}
    assert [line.get("exit_code") for line in lines] == [None, 3]


def test_the_benchmark_of_stains_shifts_tissue_but_not_white_and_cuts_what_it_normalised(
    load: Load,
) -> None:
    script = load("bench_stain.py")
    white = np.full((4, 4, 3), 255, np.uint8)
    assert np.array_equal(script.shift_scanner(white), white)
    rng = np.random.default_rng(0)
    amounts = rng.gamma(2, 0.4, (120, 120, 2)) * rng.dirichlet([0.5, 0.5], (120, 120))
    rgb = (255 * np.exp(-amounts @ np.array([[0.65, 0.7, 0.29], [0.07, 0.99, 0.11]]))).astype("u1")
    assert np.abs(script.shift_scanner(rgb).astype(int) - rgb).mean() > 5
    places = [(20.0, 30.0, True), (40.0, 9.0, False)]
    empty = script.ColonImage(white, 0, white, np.zeros(1, bool), places)
    image = script.ColonImage(rgb, 1, rgb, np.zeros(2, bool), places)
    assert script.keep_possible([empty, image]) == [image]
    bags = {arm: script.prepare_bags([image], arm, shifted=True)[0] for arm in script.ARMS}
    assert {(bag.label, bag.instances.shape) for bag in bags.values()} == {(1, (2, 27, 27, 3))}
    assert len({bag.instances.tobytes() for bag in bags.values()}) == 3
