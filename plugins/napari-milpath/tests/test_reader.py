"""Slides and predictions become layers; other files raise one-line errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import lattice, predict
from npe2 import PluginManifest
from npe2.manifest.utils import import_python_name
from PIL import Image
from support.drawing import noise, write_levels

from milpath.errors import MilpathError, StoredFileError, UnsupportedSlideError, UsageError
from milpath.formats.prediction import Prediction, write_prediction
from napari_milpath.layers import KEY
from napari_milpath.reader import get_reader, read, read_files


def test_the_manifest_names_existing_functions() -> None:
    manifest = PluginManifest.from_distribution("napari-milpath")
    for command in manifest.contributions.commands or []:
        assert callable(import_python_name(str(command.python_name)))


def test_a_slide_and_its_prediction_become_two_layers(
    slide_file: Path, tmp_path: Path, predict_slide: Callable[..., Prediction]
) -> None:
    file = tmp_path / "s.prediction.h5"
    write_prediction(file, predict_slide())
    both = [str(file), str(slide_file)]
    reader = get_reader(both)
    assert reader is not None
    (levels, slide, _), (values, heat, _) = reader(both)
    assert slide["name"] == "noise-ü"
    assert levels[0].shape == (1100, 1500, 3)
    assert values.shape == (10, 13)
    assert heat["name"] == "noise-ü attention"
    slide["metadata"][KEY].close()


def test_raises_for_a_prediction_of_a_different_slide_unless_forced(
    slide_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "other.prediction.h5"
    write_prediction(file, predict(lattice(3, 3)))
    with pytest.raises(UsageError, match=r"a different slide than noise-ü\.tif .* --force$"):
        read([str(slide_file), str(file)])
    assert len(read(str(file))) == 1
    forced = read_files([slide_file, file], force=True)
    assert len(forced) == 2
    forced[0][1]["metadata"][KEY].close()


def test_raises_for_a_prediction_without_tissue(tmp_path: Path) -> None:
    file = tmp_path / "empty.prediction.h5"
    write_prediction(file, predict(lattice(3, 3).select(np.zeros(0, np.int64))))
    with pytest.raises(UsageError, match="no tissue was found"):
        read(str(file))


def test_ignores_a_plain_image(tmp_path: Path) -> None:
    Image.fromarray(noise(20, 20)).save(tmp_path / "plain.tif")
    assert get_reader(str(tmp_path / "plain.tif")) is None


@pytest.mark.parametrize(
    ("name", "kind"), [("a.svs", UnsupportedSlideError), ("a.prediction.h5", StoredFileError)]
)
@pytest.mark.parametrize("data", [b"", b"no slide at all", b"<html>404</html>"])
def test_raises_one_line_for_a_wrong_file(
    tmp_path: Path, name: str, kind: type[MilpathError], data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    reader = get_reader(str(tmp_path / name))
    assert reader is not None
    with pytest.raises(kind) as caught:
        reader(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_warns_of_a_slide_without_a_resolution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr("napari_milpath.reader.show_warning", warnings.append)
    path = write_levels(tmp_path / "s.tif", [noise(300, 400)], mpp=None)
    ((_, options, _),) = read(str(path))
    options["metadata"][KEY].close()
    assert len(warnings) == 1
    assert "in pixels" in warnings[0]


def test_the_plugin_never_imports_tensorflow() -> None:
    code = (
        "import importlib, pkgutil, sys, napari_milpath as p\n"
        "for m in pkgutil.iter_modules(p.__path__):\n"
        "    importlib.import_module('napari_milpath.' + m.name)\n"
        "print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "napari_milpath.pyramid" in loaded
    assert not {"tensorflow", "keras", "milpath.nn", "milpath.cli"} & loaded
