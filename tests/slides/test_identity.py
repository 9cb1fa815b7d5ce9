"""A slide is known by its contents, and survives that its file is gone for a moment."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.drawing import FACTS, damage_tile, noise, write_levels

from milpath.errors import SlideReadError
from milpath.formats.geometry import compare_slides, is_same_slide
from milpath.slides.reader import OpenSlideReader
from milpath.slides.slide import Slide


def slide_facts(path: Path) -> tuple[str, str]:
    with Slide(path, "s") as slide:
        return slide.quickhash, slide.content_hash


@pytest.mark.parametrize("compression", ["zlib", "jpeg", "none"])
def test_another_level_0_under_the_same_small_level_is_another_slide(
    tmp_path: Path, compression: str
) -> None:
    small = noise(150, 150, 9)
    found = []
    for name, full in (("a", noise(600, 600)), ("b", 255 - noise(600, 600))):
        path = write_levels(
            tmp_path / f"{name}.tif",
            [full, small],
            compression=None if compression == "none" else compression,  # type: ignore[arg-type]
        )
        found.append(slide_facts(path))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]
    copied = shutil.copy(tmp_path / "a.tif", tmp_path / "elsewhere.tif")
    assert slide_facts(Path(copied)) == found[0]


def test_records_are_compared_by_all_hashes_that_both_have() -> None:
    one, two = (replace(FACTS, content_hash=each) for each in ("x", "y"))
    assert is_same_slide(one, one)
    assert not is_same_slide(one, two)
    assert is_same_slide(FACTS, one)
    assert compare_slides(one, two) == ["the file is a different slide"]
    assert compare_slides(FACTS, one) == ["made by an earlier version of milpath"]


def test_the_hash_reads_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_levels(tmp_path / "s.tif", [noise(4096, 4096)], compression="zlib")
    with Slide(path) as slide:
        page = slide._pages.find(slide.dimensions)
        assert page is not None
        assert len(page.samples) <= 64
        assert sum(length for _, length in page.samples) <= 1 << 18


def test_every_file_of_a_dicom_slide_gives_the_same_hash(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dicom"
    shutil.copytree(shared_data / "slides" / "dicom_cmu_multilevel", folder)
    files = sorted(folder.iterdir())
    hashes = {slide_facts(path)[1] for path in files}
    assert len(hashes) == 1
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.chmod(0o644)
    data = bytearray(largest.read_bytes())
    data[len(data) // 4 :: 1000] = bytes(len(data[len(data) // 4 :: 1000]))
    largest.unlink()
    largest.write_bytes(data)
    assert slide_facts(files[3])[1] not in hashes


# -- a file that is gone ---------------------------------------------------------------------------


class Share:
    """A share that is unmounted, and mounted again after some seconds of waiting; None = never."""

    def __init__(self, path: Path, back_after: float | None) -> None:
        self.path = path
        self.left = back_after
        self.waits: list[float] = []

    def unmount(self) -> None:
        self.path.rename(self.path.with_suffix(".away"))

    def mount(self) -> None:
        self.path.with_suffix(".away").rename(self.path)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        if self.left is not None:
            self.left -= seconds
            if self.left <= 0:
                self.mount()
                self.left = None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_levels(tmp_path / "s.tif", [noise(300, 300)])


def break_handle(slide: Slide) -> None:
    """Let the next read fail, as on an unmounted share."""
    reader = slide._handle.reader
    assert isinstance(reader, OpenSlideReader)
    reader._handle.close()


def test_a_file_that_comes_back_soon_is_read_as_if_nothing_had_been(path: Path) -> None:
    share = Share(path, back_after=1.0)
    with Slide(path, sleep=share.sleep) as slide:
        share.unmount()
        break_handle(slide)
        assert np.array_equal(slide.read_level((0, 0), 0, (300, 300)), noise(300, 300))
    assert share.waits == [0.5, 1.0]


def test_a_file_that_stays_away_fails_and_is_read_when_it_is_back(path: Path) -> None:
    share = Share(path, back_after=None)
    with Slide(path, sleep=share.sleep) as slide:
        share.unmount()
        break_handle(slide)
        for _ in range(3):  # only the first waits
            with pytest.raises(SlideReadError, match=r"^s\.tif: no such file"):
                slide.read_level((0, 0), 0, (300, 300))
            assert sum(share.waits) == 3.5
        with pytest.raises(SlideReadError):
            slide.reopen()
        assert slide.dimensions == (300, 300)
        share.mount()
        assert np.array_equal(slide.read_level((0, 0), 0, (300, 300)), noise(300, 300))
        with slide.reopen() as other:
            assert other.dimensions == (300, 300)


def test_another_file_in_its_place_is_not_read(path: Path, tmp_path: Path) -> None:
    with Slide(path, sleep=lambda _: None) as slide:
        break_handle(slide)
        shutil.move(write_levels(tmp_path / "other.tif", [noise(400, 300)]), path)
        with pytest.raises(SlideReadError, match="is a different file than when it was opened"):
            slide.read_level((0, 0), 0, (100, 100))


def test_damage_is_read_twice_only_a_few_times(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage_tile(path, 0)
    reads: list[int] = []
    read = OpenSlideReader.read_rgba

    def count(self: OpenSlideReader, *given: object) -> object:
        reads.append(1)
        return read(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(OpenSlideReader, "read_rgba", count)
    with Slide(path, sleep=lambda _: None) as slide:
        for _ in range(50):
            with pytest.raises(SlideReadError, match="copy the slide again"):
                slide.read_level((0, 0), 0, (10, 10))
    assert len(reads) == 50 + 16
