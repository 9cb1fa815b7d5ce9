"""Folders as they are found: links, odd names, DICOM without suffix, folders that are locked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.drawing import noise, write_levels

from milpath.cohort import search
from milpath.cohort.cohort import SlideEntry, gather_slides
from milpath.errors import UnsupportedSlideError, UsageError
from milpath.runs import run_job
from milpath.runs.runlog import open_runlog
from milpath.slides.names import is_file_name


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def ids(found: list[SlideEntry]) -> list[str]:
    return [entry.slide_id for entry in found if entry.fault is None]


def faults(found: list[SlideEntry]) -> list[str]:
    return [entry.fault for entry in found if entry.fault is not None]


# -- the same name twice ---------------------------------------------------------------------------


def test_the_same_name_in_two_folders_shows_the_paths_and_the_option(tmp_path: Path) -> None:
    touch(tmp_path, "p1/x.tif", "p2/deep/x.tif")
    one, two = tmp_path / "p1" / "x.tif", tmp_path / "p2" / "deep" / "x.tif"
    with pytest.raises(UsageError, match="--ids-from-path") as caught:
        gather_slides([tmp_path])
    assert f"{one} and {two} have the same slide id 'x'" in str(caught.value)
    assert ids(gather_slides([tmp_path], ids_from_path=True)) == ["p1__x", "p2__deep__x"]


def test_what_no_path_tells_apart_still_raises(tmp_path: Path) -> None:
    touch(tmp_path, "p/x.tif", "p/x.svs")
    with pytest.raises(UsageError, match=r"'p__x'; give each its own .* or rename one"):
        gather_slides([tmp_path], ids_from_path=True)


def test_ids_of_files_are_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given in (Path("p/x.tif"), tmp_path / "p" / "x.tif"):
        assert ids(gather_slides([given], ids_from_path=True)) == ["p__x"]


# -- odd names -------------------------------------------------------------------------------------

ODD = [
    "case 1: left.tif", "a\x1b[2J.tif", "a\nb.svs", "-rf.tif", "q?.svs", "con.tif",
    "a\u202egpj.tif", "x" * 210 + ".tif", "tail .tif", "a\\b.tif", "\udcff.tif",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_one_odd_name_fails_alone(name: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "slides", tmp_path / "out"
    touch(folder, name, "good.tif")
    found = gather_slides([folder])
    outcomes = {one.slide_id: one for one in run_job(open_entry, found)}
    assert outcomes.pop("good").status == "failed"  # empty: it was tried
    (failed,) = outcomes.values()
    assert failed.status == "failed"
    assert is_file_name(failed.slide_id)
    assert failed.message.isprintable()
    assert "its name cannot name its results" in failed.message
    with open_runlog(out, "tile", {}, 2) as log:
        log.note(failed, found[0])
    assert found == gather_slides([folder])
    assert len(gather_slides([folder], ids_from_path=True)) == 2
    assert not faults(gather_slides([folder], ids_from_path=True))


def open_entry(entry: SlideEntry) -> Any:
    """Open a slide; a job that other processes can import."""
    with entry.open():
        raise AssertionError("an empty file opens")


@pytest.mark.slow
def test_one_odd_name_fails_alone_in_processes(tmp_path: Path) -> None:
    touch(tmp_path, *ODD, "good.tif")
    outcomes = list(run_job(open_entry, gather_slides([tmp_path]), 2))
    assert len({one.slide_id for one in outcomes}) == len(ODD) + 1
    assert {one.status for one in outcomes} == {"failed"}
    assert sum("cannot name its results" in one.message for one in outcomes) == len(ODD)


def test_an_odd_name_that_is_given_fails_as_in_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a:b.tif")
    (entry,) = gather_slides([tmp_path / "a:b.tif"])
    with pytest.raises(UnsupportedSlideError, match="it contains :"):
        entry.open()


@contextmanager
def locked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make a folder unreadable, also to root."""
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(search.os, "scandir", refuse)
        yield


def test_a_folder_that_cannot_be_read_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "good.tif", "sub/a.tif", "other/sub/b.tif")
    with locked(tmp_path / "sub", monkeypatch):
        found = gather_slides([tmp_path])
    assert ids(found) == ["good", "b"]
    (fault,) = faults(found)
    assert fault.startswith("sub: this folder cannot be read (Permission denied)")
    with locked(tmp_path, monkeypatch), pytest.raises(UsageError, match="cannot be read"):
        gather_slides([tmp_path])


# -- links -----------------------------------------------------------------------------------------


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "far/sub/x.tif", "far/y.svs", "here/a.tif")
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "far")
    (tmp_path / "here" / "z.tif").symlink_to(tmp_path / "far" / "y.svs")
    found = gather_slides([tmp_path / "here"])
    assert sorted(ids(found)) == ["a", "x", "y", "z"]
    assert ids(gather_slides([tmp_path / "here"], ids_from_path=True))[1:3] == [
        "linked__sub__x",
        "linked__y",
    ]


def test_links_in_circles_end_and_each_folder_is_searched_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.tif", "a/b/y.tif")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "0").symlink_to(tmp_path / "a" / "b")  # sorts before b itself
    (tmp_path / "a" / "self").symlink_to("self")
    found = gather_slides([tmp_path / "a"])
    assert [entry.path for entry in found] == [tmp_path / "a/b/y.tif", tmp_path / "a/x.tif"]


def test_links_to_nothing_fail_or_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "good.tif")
    (tmp_path / "gone.svs").symlink_to("nothing.svs")
    (tmp_path / "batch-7").symlink_to("/nothing/at/all")
    found = gather_slides([tmp_path])
    assert ids(found) == ["good"]
    assert "gone.svs: a link to a file that is missing" in faults(found)[0]
    assert "left out, links to nothing that can be read: batch-7" in caplog.text


def test_one_slide_by_two_paths_is_one_slide(tmp_path: Path) -> None:
    touch(tmp_path, "far/x.tif")
    (tmp_path / "near").symlink_to("far")
    assert len(gather_slides([tmp_path / "far", tmp_path / "near"])) == 1
    assert len(gather_slides([tmp_path / "far", tmp_path / "near" / "x.tif"])) == 1


def test_a_link_to_a_mirax_slide_is_followed_to_its_tiles(tmp_path: Path) -> None:
    touch(tmp_path, "far/x.mrxs", "far/x/Index.dat", "here/own/Index.dat")
    (tmp_path / "here" / "y.mrxs").symlink_to(tmp_path / "far" / "x.mrxs")
    (tmp_path / "here" / "own.mrxs").symlink_to(tmp_path / "far" / "x.mrxs")
    found = {entry.slide_id: entry.path for entry in gather_slides([tmp_path / "here"])}
    assert found == {"x": tmp_path / "far/x.mrxs", "own": tmp_path / "here/own.mrxs"}


# -- DICOM -----------------------------------------------------------------------------------------


def dicom(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(bytes(128) + b"DICM" + name.encode())


@pytest.fixture
def series(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every DICOM file opens; those in one folder are of one series, unless their name says s2."""

    @contextmanager
    def fake(file: Path) -> Iterator[Any]:
        yield SimpleNamespace(quickhash=f"{file.parent}{'s2' in file.name}")

    monkeypatch.setattr(search, "Slide", fake)


@pytest.mark.usefixtures("series")
@pytest.mark.parametrize(
    "files",
    [("IM0000", "IM0001"), ("1.2.840.1", "1.2.840.2"), ("A.dcm", "IM2", "b.DCM"), ("x.dicom",)],
)
def test_dicom_files_without_suffix_are_found_by_content(
    files: tuple[str, ...], tmp_path: Path
) -> None:
    dicom(tmp_path / "in" / "case7", *files, "DICOMDIR")
    touch(tmp_path, "in/case7/README", "in/case7/VERSION", "in/1.5", "in/notes.txt")
    (entry,) = gather_slides([tmp_path / "in"])
    assert (entry.slide_id, entry.path.name) == ("case7", files[0])


@pytest.mark.usefixtures("series")
def test_two_series_in_a_folder_are_named_by_their_files(tmp_path: Path) -> None:
    dicom(tmp_path / "in", "1.2.840.1", "1.2.840.2", "1.2.840.s2.3", "1.2.840.s2.4")
    assert ids(gather_slides([tmp_path / "in"])) == ["1.2.840.1", "1.2.840.s2.3"]


@pytest.mark.usefixtures("series")
def test_folders_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    for case in "ab":
        dicom(tmp_path / case / "DICOM", "IM0", "IM1")
    with pytest.raises(UsageError, match=r"a/DICOM/IM0 and .*b/DICOM/IM0 have the same"):
        gather_slides([tmp_path])
    found = gather_slides([tmp_path], ids_from_path=True)
    assert ids(found) == ["a__DICOM", "b__DICOM"]
    assert ids(gather_slides([tmp_path / "a" / "DICOM"], ids_from_path=True)) == ["DICOM"]


def test_a_dicom_slide_is_the_same_with_and_without_suffix(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "slides" / "dicom_cmu_multilevel"
    (tmp_path / "pacs").mkdir()
    for number, file in enumerate(sorted(source.iterdir())):
        shutil.copy(file, tmp_path / "pacs" / f"IM{number:06}")
    (entry,), (expected,) = gather_slides([tmp_path]), gather_slides([source])
    with entry.open() as slide, expected.open() as other:
        assert slide.quickhash == other.quickhash
        assert slide.level_dimensions == other.level_dimensions


def test_a_slide_of_another_kind_without_suffix_is_none(tmp_path: Path) -> None:
    write_levels(tmp_path / "a.tif", [noise(64, 64)]).rename(tmp_path / "a")
    with pytest.raises(UsageError, match="no slide in this folder"):
        gather_slides([tmp_path])
