"""A bag returns what was written, to milpath and to plain h5py, or raises."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from support.drawing import FACTS, grid_of, noise
from support.untrusted.tamper import edited

from milpath.errors import SlideReadError, StoredFileError
from milpath.formats.bag import (
    Bag,
    BagHeader,
    Encoded,
    bag_fingerprint,
    encode_patch,
    write_bag,
)
from milpath.params import CodecParams, GridParams, TileParams
from milpath.patches.reader import read_patch
from milpath.slides.slide import Slide
from milpath.synthetic import SyntheticSlide

RAW = TileParams(pixels=CodecParams(codec="raw"))
JPEG = TileParams()
BOTH = pytest.mark.parametrize("params", [RAW, JPEG], ids=["raw", "jpeg"])

Pixels = NDArray[np.uint8]


def pictures(count: int) -> list[tuple[int, Pixels]]:
    return [(row, noise(32, 32, seed=row)) for row in range(count)]


def encoded(patches: Iterable[tuple[int, Pixels]], params: TileParams) -> list[tuple[int, Encoded]]:
    return [(row, encode_patch(pixels, params.pixels)) for row, pixels in patches]


def make(folder: Path, count: int = 7, params: TileParams = JPEG) -> Path:
    path = folder / "süd-7.h5"
    write_bag(path, FACTS, grid_of(count), "bright", encoded(pictures(count), params), params)
    return path


def every_patch(path: Path) -> Pixels:
    with Bag(path) as bag:
        return bag.read_patches(np.arange(len(bag)))


# -- properties ------------------------------------------------------------------------------------


@BOTH
def test_header_slide_and_grid_are_read_back(tmp_path: Path, params: TileParams) -> None:
    with Bag(make(tmp_path, params=params)) as bag:
        assert bag.slide == FACTS
        for name, value in vars(grid_of(7)).items():
            assert np.array_equal(getattr(bag.grid, name), value), name
        assert bag.header == BagHeader("ok", "bright", 0, bag_fingerprint(FACTS, params), params)
        assert len(bag) == 7


def test_raw_pixels_are_read_back_unchanged(tmp_path: Path) -> None:
    expected = np.stack([pixels for _, pixels in pictures(7)])
    assert np.array_equal(every_patch(make(tmp_path, params=RAW)), expected)


def test_jpeg_pixels_of_tissue_are_read_back_above_35_db(
    drawn: SyntheticSlide, drawn_bag: Path
) -> None:
    with Slide(drawn.path) as slide, Bag(drawn_bag) as bag:
        rows = np.arange(len(bag))
        stored = bag.read_patches(rows).astype(float)
        source = np.stack([np.asarray(read_patch(slide, bag.grid, int(row))) for row in rows])
    assert 10 * np.log10(255**2 / np.square(stored - source).mean()) > 35


@BOTH
def test_rows_are_read_in_the_requested_order(tmp_path: Path, params: TileParams) -> None:
    path = make(tmp_path, params=params)
    everything = every_patch(path)
    with Bag(path) as bag:
        for rows in ([5, 0, 3], [2, 2, 1], [6], []):
            assert np.array_equal(bag.read_patches(np.array(rows, np.int64)), everything[rows])
        assert np.array_equal(np.concatenate(list(bag.iter_patches(3))), everything)


@BOTH
def test_the_same_input_gives_the_same_bytes(tmp_path: Path, params: TileParams) -> None:
    (tmp_path / "again").mkdir()
    one, two = make(tmp_path, params=params), make(tmp_path / "again", params=params)
    assert one.read_bytes() == two.read_bytes()


@BOTH
def test_the_bytes_do_not_depend_on_references_to_the_datasets(
    tmp_path: Path, params: TileParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def create_dataset(*args: Any, **options: Any) -> h5py.Dataset:
        held.append(create(*args, **options))  # like a profiler or a traceback
        return held[-1]

    plain = make(tmp_path / "plain", params=params)
    create = h5py.Group.create_dataset
    monkeypatch.setattr(h5py.Group, "create_dataset", create_dataset)
    assert make(tmp_path / "held", params=params).read_bytes() == plain.read_bytes()


def test_jpegs_are_appended_correctly_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = every_patch(make(tmp_path))
    monkeypatch.setattr("milpath.formats.bag.writing._APPEND_BYTES", 3000)
    assert np.array_equal(every_patch(make(tmp_path)), whole)


def test_fingerprints_differ_between_slides_resolutions_and_parameters() -> None:
    others = [
        bag_fingerprint(replace(FACTS, quickhash="x"), JPEG),
        bag_fingerprint(replace(FACTS, content_hash="x"), JPEG),
        bag_fingerprint(replace(FACTS, mpp_x=0.26), JPEG),
        bag_fingerprint(FACTS, RAW),
        bag_fingerprint(FACTS, TileParams(grid=GridParams(mpp=0.51))),
        bag_fingerprint(FACTS, JPEG, "an annotation"),
        bag_fingerprint(FACTS, JPEG, "another"),
        bag_fingerprint(FACTS, JPEG),
    ]
    assert len(set(others)) == len(others)
    assert bag_fingerprint(replace(FACTS, slide_id="y"), JPEG) == others[-1]


def test_the_fingerprint_of_a_bag_is_the_same_in_all_versions(tmp_path: Path) -> None:
    assert bag_fingerprint(FACTS, TileParams()) == "9aa736081ab17c884306ac3f59a57d4e"
    with h5py.File(make(tmp_path)) as h5:
        assert "annotation" not in h5.attrs


# -- examples --------------------------------------------------------------------------------------


def test_plain_h5py_reads_a_bag_in_three_lines(tmp_path: Path) -> None:
    import io

    from PIL import Image

    path = make(tmp_path)
    with h5py.File(path) as h5:
        at = h5["patch_offsets"][2:4]
        patch = np.asarray(Image.open(io.BytesIO(h5["patches"][at[0] : at[1]].tobytes())))
        assert h5["coords"][:].tolist() == grid_of(7).coords.tolist()
    assert np.array_equal(patch, every_patch(path)[2])


def test_the_coordinates_have_attributes_with_tridents_names(tmp_path: Path) -> None:
    with h5py.File(make(tmp_path)) as h5:
        attrs = dict(h5["coords"].attrs)
    assert attrs == {
        "patch_size": 32,
        "patch_size_level0": 64,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 0,
        "name": "süd-7",
        "level0_width": 4000,
        "level0_height": 3000,
    }


@BOTH
def test_a_slide_without_tissue_gives_a_bag_without_rows(
    tmp_path: Path, params: TileParams
) -> None:
    path = make(tmp_path, 0, params)
    with Bag(path) as bag:
        assert bag.header.status == "no_tissue"
        assert bag.read_patches(np.arange(0)).shape == (0, 32, 32, 3)
        assert list(bag.iter_patches(4)) == []


@BOTH
def test_unreadable_rows_are_left_out(tmp_path: Path, params: TileParams) -> None:
    path = tmp_path / "a.h5"
    readable = [each for each in pictures(7) if each[0] not in (0, 4)]
    header = write_bag(path, FACTS, grid_of(7), "bright", encoded(readable, params), params)
    assert header.unreadable == 2
    with Bag(path) as bag:
        assert np.array_equal(bag.grid.coords, grid_of(7).coords[[1, 2, 3, 5, 6]])
        assert bag.read_patches(np.arange(5)).shape == (5, 32, 32, 3)


def test_a_slide_that_raises_leaves_no_bag(tmp_path: Path) -> None:
    def failing() -> object:
        yield from encoded(pictures(3), JPEG)
        raise SlideReadError("x")

    with pytest.raises(SlideReadError):
        write_bag(tmp_path / "a.h5", FACTS, grid_of(7), "bright", failing(), JPEG)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


# -- invalid files ---------------------------------------------------------------------------------


def _set(name: str, value: object) -> Callable[[h5py.File], None]:
    def change(h5: h5py.File) -> None:
        h5.attrs[name] = value

    return change


def _put(name: str, data: NDArray[np.generic]) -> Callable[[h5py.File], None]:
    def change(h5: h5py.File) -> None:
        del h5[name]
        h5[name] = data

    return change


def _offset(place: int, value: int) -> Callable[[h5py.File], None]:
    def change(h5: h5py.File) -> None:
        h5["patch_offsets"][place] = value

    return change


def _far_apart(h5: h5py.File) -> None:
    h5.attrs["width_l0"] = h5.attrs["height_l0"] = 1 << 30
    stride, coords = h5.attrs["stride_l0"], h5["coords"]
    coords[...] = coords[0]
    coords[-1] = coords[0] + 9000 * stride


FAULTS: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "offset_back": (_offset(3, 1), "'patch_offsets' do not match"),
    "offset_first": (_offset(0, 1), "'patch_offsets' do not match"),
    "offset_last": (_offset(7, 1 << 40), "'patch_offsets' do not match"),
    "offsets_few": (_put("patch_offsets", np.arange(3)), "'patch_offsets' has shape"),
    "patches_scalar": (_put("patches", np.array(5, np.uint8)), "'patches' has shape"),
    "status": (_set("status", "no_tissue"), "'status' is 'no_tissue' with 7 patches"),
    "status_odd": (_set("status", "fine"), "tile it again"),
    "background": (_set("background", "green"), "tile it again"),
    "params": (_set("params", "{}x"), "its parameters are not those of this milpath"),
    "params_new": (_set("params", '{"shape": "round"}'), "its parameters are not those"),
    "outside": (_set("width_l0", 100), "'coords' lie outside the slide"),
    "negative": (_put("coords", np.full((7, 2), -44)), "'coords' lie outside the slide"),
    "off_grid": (_put("coords", np.full((7, 2), 21)), "'coords' lie off the grid"),
    "no_stride": (_set("stride_l0", 0), "attribute 'stride_l0'"),
    "no_side": (_set("patch_size_l0", -1), "attribute 'patch_size_l0'"),
    "mpp_text": (_set("mpp_x", "many"), "attribute 'mpp_x'"),
    "mpp_none": (_set("mpp_x", 0.0), "attribute 'mpp_x'"),
    "id_path": (_set("slide_id", "../x"), "attribute 'slide_id' cannot be a file name"),
    "vendor_escape": (_set("vendor", "\x1b[2J"), "attribute 'vendor' holds control characters"),
    "far_apart": (_far_apart, "'coords' lie 9001 x 9001 strides apart"),
    "source": (_set("mpp_source", "a guess"), "attribute 'mpp_source'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bag_with_inconsistent_contents_raises(tmp_path: Path, fault: str) -> None:
    change, text = FAULTS[fault]
    path = make(tmp_path)
    with edited(path) as h5:
        change(h5)
    with pytest.raises(StoredFileError, match=text), Bag(path):
        pass


@pytest.mark.parametrize("name", ["slide_id", "patch_px", "params", "status", "origin_x_l0"])
def test_a_bag_without_an_attribute_raises(tmp_path: Path, name: str) -> None:
    path = make(tmp_path)
    with edited(path) as h5:
        del h5.attrs[name]
    with pytest.raises(StoredFileError, match=name), Bag(path):
        pass


def test_a_damaged_patch_raises_and_the_others_are_read(tmp_path: Path) -> None:
    path = make(tmp_path)
    with edited(path) as h5:
        start, end = h5["patch_offsets"][2:4]
        h5["patches"][start:end] = 7
    with Bag(path) as bag:
        bag.read_patches(np.array([0, 1, 3]))
        with pytest.raises(StoredFileError, match="patch 2 is damaged"):
            bag.read_patches(np.array([1, 2]))


def test_a_patch_of_another_size_raises_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    patches = encoded([(0, noise(40, 32))], JPEG)
    write_bag(path, FACTS, grid_of(1), "bright", patches, JPEG)
    with Bag(path) as bag, pytest.raises(StoredFileError, match="patch 0 is damaged"):
        bag.read_patches(np.array([0]))
