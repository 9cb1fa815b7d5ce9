"""No output contains personal data of a slide, a cohort file, a user or a machine.

Every place that can hold a name holds one; every command is run; every byte of its output is
searched. The plugin's tests search the plugin's exports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from support.canaries import (
    INSIDE,
    Pixels,
    canary,
    copy_damaged,
    copy_dicom,
    find_names,
    jpeg_segments,
    names_in,
    patches_in,
    pictures_in,
    png_chunks,
    rows_of,
    shows_label,
    write_svs,
)

from milpath.cohort.cohort import SlideEntry
from milpath.patches.tiff import open_tiff_level
from milpath.runs import Outcome
from milpath.runs.outcome import attempt_slide
from milpath.slides.redaction import redact_path
from milpath.slides.slide import Slide
from milpath.synthetic import draw_slide

# runs all commands in one process, with names for user and machine, and records each access to
# label, macro and thumbnail images
CHILD = """
import contextlib, json, os, platform, socket, sys
import openslide
from openslide import lowlevel
from milpath.cli import main

accessed = []
class Watched(openslide.OpenSlide):
    associated_images = property(lambda self: accessed.append("images"))
    color_profile = property(lambda self: accessed.append("profile"))
openslide.OpenSlide = Watched
for name in ("read_associated_image", "get_associated_image_names"):
    setattr(lowlevel, name, lambda *_, name=name: accessed.append(name))
socket.gethostname = socket.getfqdn = platform.node = lambda *_: "canaryhost"

codes = []
if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        lines = json.load(file)
    for line in lines:
        sys.argv = ["milpath", *line]
        try:
            main()
            codes.append(0)
        except SystemExit as end:
            codes.append(end.code or 0)
    with open(os.environ["ANSWER"], "w") as file:
        json.dump({"codes": codes, "accessed": accessed}, file)
"""

SIZE = (512, 512)


@dataclass(frozen=True)
class Run:
    """All commands and their output."""

    folder: Path
    slides: tuple[Path, ...]
    commands: tuple[tuple[str, ...], ...]
    codes: tuple[int, ...]
    accessed: tuple[str, ...]
    output: bytes


def run_commands(folder: Path, commands: Sequence[Sequence[str | Path]]) -> dict[str, Any]:
    (folder / "child.py").write_text(CHILD)
    (folder / "commands.json").write_text(json.dumps([list(map(str, line)) for line in commands]))
    names = {name: f"canary{name.lower()}" for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME")}
    child = subprocess.run(
        [sys.executable, folder / "child.py", folder / "commands.json"],
        capture_output=True, check=False,
        env={**os.environ, **names, "ANSWER": str(folder / "answer.json"), "COLUMNS": "200"},
    )  # fmt: skip
    assert (folder / "answer.json").exists(), child.stderr.decode()
    answer = json.loads((folder / "answer.json").read_text())
    return {**answer, "output": child.stdout + child.stderr}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("private")
    slides = draw_named_slides(folder / f"{canary('Folder')} ü")
    cohort = write_cohort(folder / "cohort.csv", slides)
    commands = list_commands(folder, cohort, slides[0])
    out = folder / "out"
    out.mkdir()
    answer = run_commands(folder, commands)
    return Run(
        out,
        slides,
        tuple(tuple(map(str, line)) for line in commands),
        tuple(answer["codes"]),
        tuple(answer["accessed"]),
        answer["output"],
    )


def draw_named_slides(folder: Path) -> tuple[Path, ...]:
    """Six slides with names in all places, one cut short, one that is no slide, one damaged."""
    folder.mkdir()
    made = []
    for number in range(6):
        plain = folder / "plain.tif"
        draw_slide(plain, seed=number, tumour=bool(number % 2), size_px=SIZE, artefacts=False)
        rgb = tifffile.imread(plain, key=0)
        made.append(write_svs(folder / f"{canary('File')} {number}.svs", rgb))
        plain.unlink()
    (folder / "plain.svs").hardlink_to(made[0])
    cut = copy_damaged(made[0], folder / f"{canary('File')} cut.svs", 0.5)
    none = folder / f"{canary('File')} none.svs"
    none.write_bytes(b"<html>404</html>")
    rotten = folder / f"{canary('File')} rotten.svs"
    rotten.write_bytes(made[1].read_bytes())
    with tifffile.TiffFile(rotten) as tiff:
        spans = [
            (offset, count)
            for page in tiff.pages
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)  # type: ignore[union-attr]
        ]
    with rotten.open("r+b") as file:
        for offset, count in spans:
            file.seek(offset + count // 2)
            file.write(b"\xff" * (count // 2))
    return (*made, cut, none, rotten, folder / f"{canary('File')} lost.svs")


def write_cohort(path: Path, slides: Sequence[Path]) -> Path:
    """Write ids, labels and cases without names; other columns and all paths hold names."""
    header = ["slide", "slide_id", "label", "case", "split", "site", "mpp", canary("Column")]
    rows = []
    for number, slide in enumerate(slides):
        label = ("normal", "tumour")[number % 2]
        split = ("train", "val", "test")[number // 2 % 3]
        mpp = "1.1" if number == 1 else ""  # differs from the slide's own: a warning
        row = [slide, f"s{number}", label, f"c{number}", split, canary("Site"), mpp]
        rows.append([*row, canary("Patient")])
    path.write_text(rows_of(header, rows), encoding="utf-8")
    good = [row for row in rows if int(str(row[1])[1:]) < 6]
    (path.parent / "good.csv").write_text(rows_of(header, good), encoding="utf-8")
    twice = [[row[0], "s0", *row[2:]] for row in good]
    (path.parent / "twice.csv").write_text(rows_of(header, twice), encoding="utf-8")
    return path


def list_commands(folder: Path, cohort: Path, slide: Path) -> list[list[str | Path]]:
    out, good = folder / "out", folder / "good.csv"
    tile = ["--mpp", "1", "--patch-size", "32"]
    found, another = (
        out / "results" / "s0.prediction.h5",
        slide.with_name(f"{canary('File')} 1.svs"),
    )
    export = ["export", found, "--to"]
    features = ["--features", out / "features"]
    bags, model = ["--bags", out / "bags"], ["--model", out / "model"]
    return [
        ["tile", cohort, "--out", out / "bags", *tile, "--workers", "1"],
        ["tile", cohort, "--out", out / "more", *tile, "--workers", "2", "--json"],
        ["tile", good, "--out", out / "bags", *tile, "--workers", "1", "--json"],
        ["tile", cohort, "--out", out / "none", "--mpp", "0.25", "--workers", "1"],
        ["tile", folder / "twice.csv", "--out", out / "none"],
        ["train", good, *bags, "--out", out / "model", "--epochs", "1"],
        ["train", cohort, *bags, "--out", out / "none"],
        ["embed", out / "bags", "--encoder", out / "model", "--out", out / "features"],
        ["embed", out / "bags", "--encoder", out / "model", "--out", out / "features", "--json"],
        ["train", good, *features, "--out", out / "model-2", "--epochs", "1"],
        ["classify", *features, "--model", out / "model-2", "--out", out / "r2", "--slides", good],
        ["export-features", out / "features", "--layout", "clam", "--out", out / "clam"],
        ["info", out / "features"],
        ["classify", cohort, *model, "--out", out / "results", "--verbose"],
        ["classify", cohort, *model, "--out", out / "results", "--json"],
        ["heatmap", found, "--slide", slide, "--out", out / "a.png"],
        ["heatmap", found, "--slide", slide, "--out", out / "b.png", "--score", "contribution"],
        ["heatmap", found, "--slide", another, "--out", out / "c.png"],
        *([*export, form, "--out", out / f"a.{form}"] for form in ("csv", "geojson")),
        [*export, "png", "--slide", slide, "--out", out / "d.png"],
        [*export, "ome-tiff", "--out", out / "a.ome.tif"],
        [*export, "ome-tiff", "--out", out / "b.ome.tif", "--coloured"],
        *(
            ["info", file, *form]
            for file in (out / "bags" / "s0.h5", found, out / "model", slide.with_name("plain.svs"))
            for form in ((), ("--json",))
        ),
        ["tile", cohort, "--out", out / "bags", *tile, "--dry-run"],
        ["classify", cohort, *model, "--out", out / "results", "--dry-run", "--json"],
        ["check", out, "--reseal"],
        ["report", out / "bags", "--json"],
        ["report", out / "results", "--table", out / "report.csv"],
    ]  # fmt: skip


@pytest.mark.slow
def test_the_slides_hold_names_in_all_places(run: Run) -> None:
    slide = run.slides[0]
    assert len(INSIDE) >= 12
    assert find_names(slide.read_bytes()) >= {canary(place).lower() for place in INSIDE}
    with openslide.OpenSlide(slide) as opened:
        names = find_names("\n".join(opened.properties.values()).encode())
        assert len(names) >= 15
        assert shows_label(pixels(opened.associated_images["label"]))
        assert set(opened.associated_images) == {"label", "macro", "thumbnail"}
        assert not shows_label(pixels(opened.read_region((0, 0), 0, SIZE)))


def pixels(image: Any) -> Pixels:
    return np.asarray(image.convert("RGB"))


@pytest.mark.slow
def test_every_command_ends_with_the_expected_exit_code(run: Run) -> None:
    expected = {"tile": [3, 3, 0, 4, 2, 3], "train": [0, 2, 0], "embed": [0, 0]}
    expected |= {"classify": [0, 3, 3, 3], "report": [0, 0]}
    expected |= {
        "heatmap": [0, 0, 2],
        "export": [0] * 5,
        "info": [0] * 9,
        "check": [0],
        "export-features": [0],
    }
    found: dict[str, list[int]] = {}
    for command, code in zip(run.commands, run.codes, strict=True):
        found.setdefault(command[0], []).append(code)
    assert found == expected, run.output.decode()
    kinds = {path.suffix for path in run.folder.rglob("*") if path.is_file()}
    assert kinds >= {".h5", ".png", ".csv", ".json", ".geojson", ".tif"}


@pytest.mark.slow
def test_no_file_contains_a_name(run: Run) -> None:
    assert names_in(run.folder) == {}


@pytest.mark.slow
def test_neither_the_terminal_nor_the_log_contains_a_name(run: Run) -> None:
    # of a column that is not used the heading is said, and nothing in it
    assert find_names(run.output) == {canary("Column").lower()}
    assert b"s7: not a slide" in run.output  # the slide's id is printed
    assert b"s1: its file has 1 " in run.output


@pytest.mark.slow
def test_no_picture_contains_pixels_of_label_or_macro(run: Run) -> None:
    found = [picture for path in run.folder.rglob("*") for picture in pictures_in(path)]
    assert len(found) > 100
    assert not any(map(shows_label, found))


@pytest.mark.slow
def test_label_and_macro_images_are_never_accessed(run: Run) -> None:
    assert run.accessed == ()


@pytest.mark.slow
def test_pictures_contain_pixels_and_nothing_else(run: Run) -> None:
    for path in run.folder.rglob("*.png"):
        kinds = {kind for kind, _ in png_chunks(path.read_bytes())}
        assert kinds <= {b"IHDR", b"IDAT", b"IEND"}, path.name
    jpegs = [jpeg for path in (run.folder / "bags").glob("*.h5") for jpeg in patches_in(path)]
    kinds = {kind for jpeg in jpegs for kind in jpeg_segments(jpeg)}
    assert kinds <= {0xE0, 0xEE, 0xDB, 0xC0, 0xC4, 0xDD}  # JFIF, Adobe, tables, frame, restart


def test_no_output_contains_the_patient_of_a_dicom_slide(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "slides" / "dicom_cmu_multilevel"
    if not source.is_dir():
        pytest.skip("MILPATH_TEST_DATA holds no slides/dicom_cmu_multilevel")
    planted = copy_dicom(source, tmp_path / canary("Folder") / "case-1")
    file = tmp_path / canary("Folder") / "case-1" / f"{canary('File')}level-0-frames-0-30.dcm"
    with openslide.OpenSlide(file) as opened:
        names = find_names("\n".join(opened.properties.values()).encode())
    assert names >= {name.lower() for name in planted.values()}
    out = tmp_path / "out"
    folder = tmp_path / canary("Folder")
    answer = run_commands(
        tmp_path, [["tile", folder, "--out", out, "--mpp", "2", "--patch-size", "64", "-w", "1"]]
    )
    assert answer["codes"] == [0]
    assert (out / "case-1.h5").exists()
    assert names_in(out) == {}
    assert find_names(answer["output"]) == set()
    assert answer["accessed"] == []


@pytest.mark.parametrize("given", ["s1", "Jane Doe"])
def test_messages_name_a_slide_by_its_given_id(tmp_path: Path, given: str) -> None:
    path = tmp_path / "Roe" / "Jane Doe.svs"
    message = (
        f"Reading {path}: bad tile in {path.parent}/Roe 2.dat, see '{path.with_suffix('')}/a.ini'"
    )
    redacted = redact_path(message, path, given)
    assert str(tmp_path) not in redacted
    assert "Roe" not in redacted
    assert ("Jane Doe.svs" in redacted) == (given == "Jane Doe")
    assert redacted.startswith("Reading ")


@pytest.mark.slow
def test_slide_facts_contain_no_name(run: Run) -> None:
    with Slide(run.slides[0], "s0") as slide:
        assert find_names(str(slide.facts).encode()) == set()
        assert slide.facts.vendor == "aperio"
        assert slide.name == "s0"


def test_an_unexpected_error_names_only_the_slide_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / canary("Folder") / f"{canary('File')}.svs"

    def job(entry: SlideEntry) -> Outcome:
        try:
            entry.path.stat()
        except OSError as error:
            raise RuntimeError(f"no {entry.path}") from error
        raise AssertionError

    outcome = attempt_slide(job, SlideEntry(path, "s1"))
    assert outcome.message == "s1: unexpected RuntimeError: no s1"
    assert find_names(caplog.text.encode()) == set()
    assert "in job" in caplog.text  # the traceback is logged
    assert "FileNotFoundError" in caplog.text


@pytest.mark.slow
def test_log_messages_of_other_libraries_about_a_file_are_dropped(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened_names: list[str] = []

    class LoggingTiffFile(tifffile.TiffFile):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            tifffile.logger().error(f"{self!r} is odd")
            opened_names.append(self.filename)

    monkeypatch.setattr("milpath.patches.tiff.TiffFile", LoggingTiffFile)
    with Slide(run.slides[0], "s0") as slide:
        native = open_tiff_level(slide, 0)
    assert native is not None
    native.close()
    assert opened_names == [run.slides[0].name]
    assert find_names(caplog.text.encode()) == set()
