"""Features of LazySlide's zarr are read if the packages are installed, and refused in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milpath.errors import StoredFileError
from milpath.formats.foreign.values import FeatureHints, SlideFeatures
from milpath.formats.foreign.zarr import ZarrLayout
from tests.support.foreign_tensors import (
    draw_features,
    write_lazyslide,
    write_tiles,
    write_zarr_array,
)


def read(folder: Path, encoder: str | None = None) -> SlideFeatures:
    (path,) = ZarrLayout().find(folder).values()
    return ZarrLayout().open(path, FeatureHints(encoder=encoder))


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_what_is_written_is_read_in_its_order(
    tmp_path: Path, version: int, stated: bool, count: int
) -> None:
    pytest.importorskip("zarr")
    pytest.importorskip("pyarrow")
    drawn = draw_features(count)
    path = write_lazyslide(tmp_path, "S-1.a", drawn, version)
    write_tiles(path, drawn, np.random.default_rng(1).permutation(count), stated)
    made = read(tmp_path)
    np.testing.assert_array_equal(made.features, drawn.features)
    np.testing.assert_array_equal(made.coords_l0, drawn.coords)
    assert made.slide_id == "S-1.a"
    assert made.patch_size_l0 == 512
    facts = made.facts
    assert (facts.encoder, facts.patch_px, facts.mpp, facts.dim) == ("net", 256, 0.5, 4)


def test_one_of_several_encoders_must_be_named(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    drawn, other = draw_features(), draw_features(dim=3)
    path = write_lazyslide(tmp_path, "a", drawn)
    write_zarr_array(path / "tables" / "other_tiles" / "X", other.features)
    with pytest.raises(StoredFileError, match="name the encoder; it has features of: net, other"):
        read(tmp_path)
    with pytest.raises(StoredFileError, match="encoder 'third', expected one; it has features of:"):
        read(tmp_path, "third")
    np.testing.assert_array_equal(read(tmp_path, "other").features, other.features)


def test_without_tiles_there_are_no_coordinates(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    write_lazyslide(tmp_path, "a", draw_features())
    assert read(tmp_path).coords_l0 is None


@pytest.mark.parametrize("package", ["zarr", "pyarrow"])
def test_a_package_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    if package == "pyarrow":
        pytest.importorskip("zarr")
    path = write_lazyslide(tmp_path, "a", draw_features())
    (path / "shapes" / "tiles").mkdir(parents=True)
    (path / "shapes" / "tiles" / "shapes.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StoredFileError, match=f"without the package {package}; pip install"):
        read(tmp_path)


def edit(**values: Any) -> Callable[[Path], object]:
    def change(array: Path) -> None:
        meta = json.loads((array / "zarr.json").read_text())
        (array / "zarr.json").write_text(json.dumps(meta | values))

    return change


def edit_old(**values: Any) -> Callable[[Path], object]:
    def change(array: Path) -> None:
        (array / "zarr.json").unlink()
        meta = {"shape": [7, 4], "chunks": [7, 4], "dtype": "<f4", "filters": None}
        meta |= {"compressor": None, "fill_value": 0, "order": "C", "zarr_format": 2}
        (array / ".zarray").write_text(json.dumps(meta | values))

    return change


def grid(*chunk: int) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}


SHARDS = {"name": "sharding_indexed", "configuration": {"codecs": [], "index_codecs": []}}
NESTED = {
    "name": "sharding_indexed",
    "configuration": {"codecs": [SHARDS], "index_codecs": []},
}
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "objects": (edit_old(dtype="|O", filters=[{"id": "pickle"}]), "no zarr array of plain numbers"),
    "pickle": (edit_old(filters=[{"id": "pickle"}]), "no zarr array of plain numbers"),
    "compressor": (edit_old(compressor={"id": "pickle"}), "no zarr array of plain numbers"),
    "codec": (edit(codecs=[{"name": "numcodecs.pickle"}]), "no zarr array of plain numbers"),
    "inner shards": (edit(codecs=[NESTED]), "no zarr array of plain numbers"),
    "texts": (edit(data_type="string"), "no zarr array of plain numbers"),
    "type": (edit(data_type={"name": "struct"}), "no zarr array of plain numbers"),
    "no shape": (edit(shape=None), "no zarr array of plain numbers"),
    "negative": (edit(shape=[-1, 4]), "no zarr array of plain numbers"),
    "axes": (edit(shape=[7, 4, 1]), "no zarr array of plain numbers"),
    "no chunk": (edit(chunk_grid=grid(0, 4)), "no zarr array of plain numbers"),
    "huge": (edit(shape=[1 << 39, 4]), "declares 8796093022208 bytes, its chunks hold 112"),
    "missing": (edit(chunk_grid=grid(2, 4)), "1 of 4 chunks are there"),
    "no array": (lambda array: (array / "zarr.json").unlink(), "cannot be read as JSON"),
    "text": (lambda array: (array / "zarr.json").write_text("{"), "cannot be read as JSON"),
    "list": (lambda array: (array / "zarr.json").write_text("[]"), "cannot be read as JSON"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_array_that_is_not_of_plain_numbers_is_refused_before_zarr_opens_it(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, fact = FAULTS[fault]
    path = write_lazyslide(tmp_path, "a", draw_features())
    change(path / "tables" / "net_tiles" / "X")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(StoredFileError, match=fact) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_chunk_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    path = write_lazyslide(tmp_path, "a", draw_features())
    chunk = path / "tables" / "net_tiles" / "X" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-4])
    with pytest.raises(StoredFileError, match="X: cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize("fault", ["absent tile", "same tile", "no parquet", "polygon"])
def test_tiles_that_do_not_match_the_features_are_refused(tmp_path: Path, fault: str) -> None:
    pytest.importorskip("zarr")
    pytest.importorskip("pyarrow")
    drawn = draw_features()
    path = write_lazyslide(tmp_path, "a", drawn)
    order = np.arange(7)
    write_tiles(path, drawn, order[:-1] if fault == "absent tile" else order, fault != "polygon")
    parquet = path / "shapes" / "tiles" / "shapes.parquet"
    ids = path / "tables" / "net_tiles" / "obs" / "tile_id" / "c" / "0"
    if fault == "same tile":
        ids.unlink()
    if fault == "no parquet":
        parquet.write_bytes(parquet.read_bytes()[:-9])
    if fault == "polygon":
        from pyarrow import parquet as library

        table = library.read_table(parquet)
        shapes = [shape[:-8] for shape in table["geometry"].to_pylist()]
        at = table.schema.get_field_index("geometry")
        library.write_table(table.set_column(at, "geometry", [shapes]), parquet)
    with pytest.raises(StoredFileError, match=r"does not hold|cannot be read|not rectangles"):
        read(tmp_path)


def test_a_folder_without_tables_is_not_of_this_layout(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    assert ZarrLayout().find(tmp_path) == {}
    assert ZarrLayout().find(tmp_path / "absent") == {}
