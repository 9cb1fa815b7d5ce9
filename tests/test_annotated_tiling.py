"""Annotated tissue is tiled the same in any process, and a bag depends on its annotation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from milpath.cohort.cohort import SlideEntry, attach_annotations
from milpath.errors import AnnotationError, UsageError
from milpath.formats.bag import Bag
from milpath.params import GridParams, TileParams
from milpath.runs import Outcome
from milpath.slides.annotation import Polygon, write_annotation
from milpath.synthetic import SyntheticSlide, draw_slide
from milpath.tile import tile_slide

SMALL = TileParams(grid=GridParams(mpp=2.0, patch_px=64))
OPTIONS = ("--mpp", "1", "--patch-size", "64")
SIZE = 640


def annotation(path: Path, low: float, high: float, hole: bool = False) -> Path:
    """The region between two columns, with a hole in the middle on request."""
    ring = np.array([[low, 0.0], [high, 0.0], [high, 1500.0], [low, 1500.0]])
    holes = ((ring + ring.mean(axis=0)) / 2,) if hole else ()
    write_annotation(path, [Polygon(ring, holes)])
    return path


# -- properties ----------------------------------------------------------------------------------


def test_patches_lie_in_the_annotation_and_in_none_of_its_holes(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    file = annotation(tmp_path / "o.geojson", 0, 1030, hole=True)
    done = tile_slide(SlideEntry(drawn.path, "s", annotation=file), tmp_path, SMALL)
    assert done.message == f"{done.facts.patches} patches, all in its annotation"
    assert done.facts.annotated
    with Bag(tmp_path / "s.h5") as bag:
        centres = bag.grid.coords + bag.grid.patch_size_l0 / 2
        away = np.abs(centres - (515, 750)) / (1030, 1500)
        assert len(bag) > 50
        assert (away.max(axis=1) > 0.2).all()


def test_a_bag_is_kept_only_for_the_same_annotation(drawn: SyntheticSlide, tmp_path: Path) -> None:
    left = annotation(tmp_path / "left.geojson", 0, 500)
    same = annotation(tmp_path / "same.geojson", 0, 500)
    right = annotation(tmp_path / "right.geojson", 500, 1030)
    expected = [
        (None, ""),
        (left, ", re-tiled: "),
        (same, "44 patches, already done with the same parameters"),
        (right, ", re-tiled: "),
        (None, ", re-tiled: "),
    ]
    for file, words in expected:
        entry = SlideEntry(drawn.path, "s", annotation=file)
        planned = tile_slide(entry, tmp_path / "out", SMALL, dry_run=True)
        done = tile_slide(entry, tmp_path / "out", SMALL)
        assert (done.status == "skipped") == (planned.status == "skipped") == (file is same)
        assert words in done.message
        reason = done.message.partition(", re-tiled: ")[2]
        assert (f"re-tiled: {reason}, " if reason else words) in planned.message


# -- examples: a folder of annotations -----------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides, and annotations of two of them."""
    made = tmp_path_factory.mktemp("study")
    (made / "slides").mkdir()
    (made / "CanaryAnnotations").mkdir()
    for number in range(3):
        path = made / "slides" / f"s{number}.tif"
        draw_slide(path, seed=number, tumour=False, size_px=(SIZE, SIZE))
    for number in range(2):
        annotation(made / "CanaryAnnotations" / f"s{number}.geojson", 0, 200 + 100 * number)
    return made


def tile(folder: Path, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    given = ["slides", "--tissue-annotations", "CanaryAnnotations", "--out", out, *OPTIONS, *words]
    command = [sys.executable, "-m", "milpath", "tile", *map(str, given)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def bags(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.h5")}


MISSING = "failed: s2: has no tissue annotation; expected s2.geojson in the folder of annotations"


def test_each_slide_has_its_own_annotation_and_one_without_fails_in_one_line(
    folder: Path, tmp_path: Path
) -> None:
    planned = tile(folder, tmp_path / "a", "--dry-run")
    assert planned.stdout.count("would be tiled") == 2
    assert MISSING in planned.stderr
    assert not list(tmp_path.iterdir())
    run = tile(folder, tmp_path / "a", "--workers", "1")
    assert run.returncode == planned.returncode == 3
    assert run.stdout.count(", all in its annotation") == 2
    assert MISSING in run.stderr
    assert set(bags(tmp_path / "a")) == {"s0.h5", "s1.h5"}
    for number in range(2):
        with Bag(tmp_path / "a" / f"s{number}.h5") as bag:
            assert (bag.grid.coords[:, 0] + bag.grid.patch_size_l0 * 0.25).max() <= 301
    (runlog,) = (tmp_path / "a" / "runlog").iterdir()
    lines = [json.loads(line) for line in runlog.read_text().splitlines()]
    assert lines[0]["params"]["annotated"] is True
    assert MISSING.removeprefix("failed: ") in [line.get("message") for line in lines]
    for path in (tmp_path / "a").rglob("*"):
        assert path.is_dir() or b"Canary" not in path.read_bytes()


@pytest.mark.slow
def test_workers_and_shards_write_the_same_bytes_of_annotated_bags(
    folder: Path, tmp_path: Path
) -> None:
    tile(folder, tmp_path / "a", "--workers", "2")
    for shard in ("1/2", "2/2"):
        last = tile(folder, tmp_path / "b", "--shard", shard, "--workers", "1")
    assert last.stderr.endswith("1 done\n")
    assert bags(tmp_path / "a") == bags(tmp_path / "b")


# -- faults ----------------------------------------------------------------------------------------


def test_a_file_annotates_one_slide_and_a_folder_several(tmp_path: Path) -> None:
    two = [SlideEntry(tmp_path / f"{name}.svs", name) for name in "ab"]
    file = annotation(tmp_path / "c.geojson", 0, 9)
    assert [each.annotation for each in attach_annotations(two[:1], file)] == [file]
    with pytest.raises(UsageError, match="is for one slide, not for 2; give a folder"):
        attach_annotations(two, file)
    with pytest.raises(
        UsageError, match=r"no annotation for any of the slides; expected a\.geojson b\.geoj"
    ):
        attach_annotations(two, tmp_path)
    with pytest.raises(UsageError, match=r"none\.geojson: cannot be read"):
        attach_annotations(two[:1], tmp_path / "none.geojson")
    (tmp_path / "a.geojson").write_text("{}")
    with pytest.raises(UsageError, match=r"a\.geojson: not an annotation"):
        attach_annotations(two[:1], tmp_path / "a.geojson")
    with pytest.raises(AnnotationError, match="a: its annotation: not an annotation"):
        attach_annotations(two, tmp_path)[0].read_annotation()


def test_an_annotation_outside_its_slide_raises_and_writes_nothing(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    file = annotation(tmp_path / "o.geojson", 5000, 6000)
    entry = SlideEntry(drawn.path, "s", annotation=file)
    with pytest.raises(AnnotationError, match=r"^s: the annotation does not overlap the slide"):
        tile_slide(entry, tmp_path / "out", SMALL)
    assert not list((tmp_path / "out").glob("*"))


def test_regions_off_the_slide_are_said_beside_one_on_it(
    drawn: SyntheticSlide, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    boxes = [(0, 1030), (5000, 6000), (-90, -9), (900, 9000)]
    rings = [np.array([[a, 0.0], [b, 0.0], [b, 1500.0], [a, 1500.0]]) for a, b in boxes]
    write_annotation(tmp_path / "o.geojson", [Polygon(ring) for ring in rings])
    tile_slide(SlideEntry(drawn.path, "s", annotation=tmp_path / "o.geojson"), tmp_path, SMALL)
    assert "s: its annotation: regions off the slide: 2" in caplog.messages


def test_an_annotation_smaller_than_a_patch_gives_a_bag_of_no_rows(
    drawn: SyntheticSlide, tmp_path: Path
) -> None:
    entry = SlideEntry(drawn.path, "s", annotation=annotation(tmp_path / "o.geojson", 500, 516))
    done: Outcome = tile_slide(entry, tmp_path / "out", SMALL)
    assert done.status == "no_tissue"
    assert done.message == "too little tissue in its annotation: a bag of 0 patches"
