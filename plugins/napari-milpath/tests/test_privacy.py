"""Nobody is named by what the viewer keeps or writes, whatever the slide's file says.

The slide is that of milpath's own test of privacy: a name in every place that can hold one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
from conftest import lattice, predict
from napari.components import ViewerModel
from napari.layers import Layer
from support.canaries import canary, find_names, names_in, pictures_in, shows_label, write_svs
from support.drawing import noise

from milpath.errors import MilpathError
from milpath.formats.prediction import Prediction, write_prediction
from milpath.slides.annotation import write_annotation
from milpath.slides.slide import Slide
from napari_milpath.album import Album, read_thumbnails
from napari_milpath.exporting import FORMATS, plan_export
from napari_milpath.inspection import Inspection, say_prediction
from napari_milpath.layers import pyramid_of
from napari_milpath.reader import read
from napari_milpath.tissue import find_tissue, outline_of, tissue_layer


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A slide with names in it, in a folder with a name, and its prediction under the id `s0`."""
    folder = tmp_path / canary("Folder")
    folder.mkdir()
    rgb = noise(1100, 1500) // 8 + 150
    slide = write_svs(folder / "a.svs", rgb)
    with Slide(slide, "s0") as opened:
        facts = opened.facts
    prediction = replace(predict(lattice(13, 10)), slide=facts)
    write_prediction(tmp_path / "s0.prediction.h5", prediction)
    return slide, tmp_path / "s0.prediction.h5"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked for label and macro images."""
    heard: list[str] = []

    class Watched(openslide.OpenSlide):
        associated_images = property(lambda self: heard.append("images"))  # type: ignore[assignment]

    monkeypatch.setattr(openslide, "OpenSlide", Watched)
    return heard


@pytest.fixture
def viewer(files: tuple[Path, Path], asked: list[str]) -> Iterator[ViewerModel]:
    made = ViewerModel()
    for data in read([str(each) for each in files]):
        made.add_layer(Layer.create(*data))
    yield made
    pyramid = pyramid_of(made.layers[0])
    assert pyramid is not None
    pyramid.close()


def test_no_name_is_in_any_file_that_the_viewer_writes(
    viewer: ViewerModel, tmp_path: Path, asked: list[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    inspection = Inspection(viewer)
    for suffix in FORMATS:
        plan_export(inspection, out / f"a{suffix}")()
    album = Album(inspection)
    album.step(1)
    album.mark("relevant")
    album.save_marks(out / "marks.csv")
    pyramid = inspection.pyramid
    assert pyramid is not None
    annotation = Layer.create(*tissue_layer(find_tissue(pyramid.slide), (1.0, 1.0)))
    write_annotation(out / "tissue.geojson", outline_of(annotation))
    assert len(list(out.iterdir())) == len(FORMATS) + 2
    assert names_in(out) == {}
    assert not any(shows_label(each) for path in out.iterdir() for each in pictures_in(path))
    assert asked == []


def test_no_name_is_in_a_layers_name_or_metadata_or_in_what_is_said(viewer: ViewerModel) -> None:
    inspection = Inspection(viewer)
    voice = inspection.voice
    assert voice is not None
    told = [say_prediction(voice), inspection.say_patch(3), viewer.title, viewer.status]
    told += [str(text) for text in (viewer.canvas.overlays.text.text, inspection.voices)]
    for layer in viewer.layers:
        told += [layer.name, repr(layer.metadata), repr(layer.as_layer_data_tuple())]
    assert find_names("\n".join(map(str, told)).encode()) == set()


def test_what_is_shown_of_the_slide_is_neither_label_nor_macro(
    viewer: ViewerModel, asked: list[str]
) -> None:
    pyramid = pyramid_of(viewer.layers[0])
    assert pyramid is not None
    shown = [np.asarray(level) for level in pyramid.levels]
    prediction: Prediction = viewer.layers[1].metadata["milpath"]
    rows = np.arange(20)
    pictures = read_thumbnails(pyramid.slide, prediction.grid, rows)
    shown += [each for _, each in pictures if each is not None]
    assert len(shown) > 20
    assert not any(map(shows_label, shown))
    assert asked == []


@pytest.mark.parametrize("damage", [lambda data: data[:3000], lambda _: b"<html>404</html>"])
def test_a_slide_that_cannot_be_opened_is_named_without_its_folder(
    files: tuple[Path, Path], damage: Callable[[bytes], bytes]
) -> None:
    files[0].write_bytes(damage(files[0].read_bytes()))
    with pytest.raises(MilpathError, match=r"^a\.svs: ") as caught:
        read(str(files[0]))
    assert find_names(str(caught.value).encode()) == set()
