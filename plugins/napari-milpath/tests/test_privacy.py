"""No name from a slide's file or path is in what the viewer displays or writes.

The slide is that of milpath's own privacy test: it has a name in every place that can hold one.
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
from napari_milpath.exporting import FORMATS, plan_export
from napari_milpath.inspection import Inspection
from napari_milpath.layers import pyramid_of
from napari_milpath.reader import read
from napari_milpath.scores import describe_prediction
from napari_milpath.selection import PatchSelection, read_thumbnails
from napari_milpath.tissue import annotation_of, find_tissue, tissue_layer


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A slide with names in it, in a folder with a name, and its prediction with the id `s0`."""
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
def accesses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Accesses to the label and macro images."""
    accessed: list[str] = []

    class Watched(openslide.OpenSlide):
        associated_images = property(lambda self: accessed.append("images"))  # type: ignore[assignment]

    monkeypatch.setattr(openslide, "OpenSlide", Watched)
    return accessed


@pytest.fixture
def viewer(files: tuple[Path, Path], accesses: list[str]) -> Iterator[ViewerModel]:
    made = ViewerModel()
    for data in read([str(each) for each in files]):
        made.add_layer(Layer.create(*data))
    yield made
    pyramid = pyramid_of(made.layers[0])
    assert pyramid is not None
    pyramid.close()


def test_writes_no_name_to_any_file(
    viewer: ViewerModel, tmp_path: Path, accesses: list[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    inspection = Inspection(viewer)
    for suffix in FORMATS:
        plan_export(inspection, out / f"a{suffix}")()
    selection = PatchSelection(inspection)
    selection.step(1)
    selection.mark("relevant")
    selection.save_marks(out / "marks.csv")
    pyramid = inspection.pyramid
    assert pyramid is not None
    annotation = Layer.create(*tissue_layer(find_tissue(pyramid.slide), (1.0, 1.0)))
    write_annotation(out / "tissue.geojson", annotation_of(annotation))
    assert len(list(out.iterdir())) == len(FORMATS) + 2
    assert names_in(out) == {}
    assert not any(shows_label(each) for path in out.iterdir() for each in pictures_in(path))
    assert accesses == []


def test_no_name_is_in_a_layer_or_in_a_displayed_text(viewer: ViewerModel) -> None:
    inspection = Inspection(viewer)
    source = inspection.source
    assert source is not None
    texts = [describe_prediction(source), inspection.describe_patch(3), viewer.title, viewer.status]
    texts += [str(text) for text in (viewer.canvas.overlays.text.text, inspection.sources)]
    for layer in viewer.layers:
        texts += [layer.name, repr(layer.metadata), repr(layer.as_layer_data_tuple())]
    assert find_names("\n".join(map(str, texts)).encode()) == set()


def test_displays_neither_label_nor_macro_image(viewer: ViewerModel, accesses: list[str]) -> None:
    pyramid = pyramid_of(viewer.layers[0])
    assert pyramid is not None
    shown = [np.asarray(level) for level in pyramid.levels]
    prediction: Prediction = viewer.layers[1].metadata["milpath"]
    rows = np.arange(20)
    pictures = read_thumbnails(pyramid.slide, prediction.grid, rows)
    shown += [each for _, each in pictures if each is not None]
    assert len(shown) > 20
    assert not any(map(shows_label, shown))
    assert accesses == []


@pytest.mark.parametrize("damage", [lambda data: data[:3000], lambda _: b"<html>404</html>"])
def test_raises_without_the_folder_of_a_slide_that_cannot_be_opened(
    files: tuple[Path, Path], damage: Callable[[bytes], bytes]
) -> None:
    files[0].write_bytes(damage(files[0].read_bytes()))
    with pytest.raises(MilpathError, match=r"^a\.svs: ") as caught:
        read(str(files[0]))
    assert find_names(str(caught.value).encode()) == set()
