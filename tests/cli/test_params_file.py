"""Parameters from a file: what is read, what options override, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from milpath.cli import tile, train
from milpath.cli.params_file import merge_params
from milpath.errors import UsageError
from milpath.params import TileParams, TrainParams
from milpath.synthetic import draw_slide


def milpath(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "milpath", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def read(folder: Path, name: str, text: str, **options: object) -> TileParams:
    (folder / name).write_text(text, encoding="utf-8")
    given = {key.replace("__", "."): value for key, value in options.items()}
    return merge_params(TileParams, "tile", folder / name, given)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"grid": {"mpp": 1}, "tissue": {"max_hole_um2": 5}}'),
        ("b.json", '{"tile": {"grid": {"mpp": 1}, "tissue": {"max_hole_um2": 5}}, "train": {}}'),
        ("c.yaml", "grid: {mpp: 1}\ntissue:\n  max_hole_um2: 5\n"),
        ("d.YML", "tile:\n  grid: {mpp: 1e0}\n  tissue: {max_hole_um2: 5}\n"),
        ("e.toml", "[tile.grid]\nmpp = 1\n[tile.tissue]\nmax_hole_um2 = 5\n"),
        ("f.toml", "\ufeffgrid.mpp = 1.0\r\ntissue.max_hole_um2 = 5\r\n"),
    ],
)
def test_a_file_sets_parameters_with_and_without_an_option(
    name: str, text: str, tmp_path: Path
) -> None:
    params = read(tmp_path, name, text)
    expected = TileParams().model_dump()
    expected["grid"]["mpp"], expected["tissue"]["max_hole_um2"] = 1.0, 5.0
    assert params.model_dump() == expected


def test_an_option_overrides_the_file(tmp_path: Path) -> None:
    params = read(tmp_path, "a.json", '{"grid": {"mpp": 1, "patch_px": 64}}', grid__mpp=2.0)
    assert (params.grid.mpp, params.grid.patch_px) == (2.0, 64)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"grid": {"mmp": 1}}', "'grid.mmp' is not a parameter; did you mean grid.mpp?"),
        ("a.json", '{"patch_px": 64}', "did you mean grid.patch_px"),
        ("a.json", '{"tile": {"grid": {"patch_size": 64}}}', "did you mean grid.patch_px"),
        ("a.json", '{"tile": {}, "grid": {}}', "did you mean tile.grid"),
        ("a.json", '{"\\u001b[31m": 1}', "'\\x1b[31m' is not a parameter"),
        ("a.yaml", "1: 2", "'1' is not a parameter"),
        ("a.json", '{"train": {"epochs": 3}}', "has no parameters of tile"),
        ("a.json", '{"tile": 3}', "tile must be a group of named values"),
        ("a.toml", "grid = 3", "grid must be a group of named values"),
        ("a.json", '{"grid": {"mpp": [1]}}', "grid.mpp must be a single value"),
        ("a.json", '{"grid": {"mpp": true}}', "grid.mpp must not be true or false"),
        ("a.json", '{"grid": {"mpp": 99}}', "grid.mpp must be at most 20, got 99"),
        ("a.json", '{"grid": {"mpp": NaN}}', "grid.mpp must be a finite number"),
        ("a.json", '{"pixels": {"codec": "gif"}}', "pixels.codec must be one of jpeg, raw"),
        ("a.json", '{"grid": {"overlap_px": 255}}', "leaves no stride"),
        ("a.json", "[]", "has no parameters"),
        ("a.yaml", "", "has no parameters"),
        ("a.json", '{\n"a":', r"is not valid JSON (line 2)"),
        ("a.toml", "a\n", "is not valid TOML (line 1)"),
        ("a.toml", "x = 2020-13-45", "is not valid TOML"),
        ("a.yaml", "a: 1\nb: *x", "is not valid YAML (line 2)"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "is not valid YAML (line 1)"),
        ("a.yaml", "? [a]\n: 1", "is not valid YAML"),
        ("a.json", "[" * 100_000, "is not valid JSON"),
        ("a.json", " " * (1 << 20) + "{}", "larger than 1 MB"),
        ("a.txt", "{}", "unknown file type; expected .json, .yaml or .toml"),
    ],
    ids=lambda text: text[:40],
)
def test_a_file_that_is_not_valid_raises_one_line(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as error:
        read(tmp_path, name, text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_yaml_whose_aliases_multiply_raises_quickly(tmp_path: Path) -> None:
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    text = "\n".join(["a0: &a0 [x]", *lines, "grid: {mpp: *a29}"])
    with pytest.raises(UsageError, match="'a0' is not a parameter"):
        read(tmp_path, "a.yaml", text)
    with pytest.raises(UsageError, match="must be a single value"):
        read(tmp_path, "b.yaml", "grid: {mpp: &a [*a, *a]}")


def test_a_missing_file_and_text_in_another_encoding_raise(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read \(No such file"):
        merge_params(TileParams, "tile", tmp_path / "a.json", {})
    (tmp_path / "b.json").write_bytes(b'{"\xff": 1}')
    with pytest.raises(UsageError, match="is not UTF-8"):
        merge_params(TileParams, "tile", tmp_path / "b.json", {})


def test_output_redirected_on_windows_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"grid": {"mpp": 1}}', encoding="utf-16")
    assert merge_params(TileParams, "tile", tmp_path / "a.json", {}).grid.mpp == 1


def test_a_value_of_an_option_is_named_by_its_option(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--patch-size must be at least 16, got 8$"):
        read(tmp_path, "a.json", "{}", grid__patch_px=8)


@pytest.mark.parametrize(
    ("module", "kind"), [(tile, TileParams), (train, TrainParams)], ids=["tile", "train"]
)
def test_every_option_sets_a_parameter_that_exists(
    module: object, kind: type[TileParams] | type[TrainParams]
) -> None:
    for name in module._NAMES.values():  # type: ignore[attr-defined]
        values: object = -99
        for part in reversed(name.split(".")):
            values = {part: values}
        with pytest.raises(ValidationError) as error:
            kind.model_validate(values)
        assert "extra_forbidden" not in {each["type"] for each in error.value.errors()}


def test_the_parameters_that_info_prints_repeat_a_run(tmp_path: Path) -> None:
    slide, out = tmp_path / "s0.tif", tmp_path / "bags"
    draw_slide(slide, seed=0, tumour=False, size_px=(512, 512))
    (tmp_path / "a.yaml").write_text("tissue: {min_area_um2: 5000}\ngrid: {mpp: 2}")
    options = ["--params", tmp_path / "a.yaml", "--mpp", "1", "--patch-size", "64", "--keep-pen"]
    assert milpath("tile", slide, "--out", out, *options).returncode == 0
    printed = milpath("info", out / "s0.h5", "--params").stdout
    (tmp_path / "b.json").write_text(printed)
    again = milpath("tile", slide, "--out", out, "--params", tmp_path / "b.json")
    assert "already done with the same parameters" in again.stdout
    other = milpath("tile", slide, "--out", out, "--params", tmp_path / "b.json", "--mpp", "2")
    assert "re-tiled: grid.mpp changed from 1.0 to 2.0" in other.stdout
    assert json.loads(printed)["tile"]["tissue"]["exclude_pen"] is False
    assert milpath("info", slide, "--params").returncode == 2
