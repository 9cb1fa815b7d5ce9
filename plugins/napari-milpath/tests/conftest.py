"""Fixtures of the plugin's tests: small slides, predictions of them, and the panel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from napari import Viewer
from napari.layers import Layer
from numpy.typing import NDArray
from support.drawing import FACTS, noise, write_levels
from support.viewing import make_prediction, write_large_slide

from milpath.formats.prediction import Prediction
from milpath.patches.grid import PatchGrid
from milpath.slides.slide import Slide
from napari_milpath.layers import pyramid_of
from napari_milpath.panel import Panel
from napari_milpath.pyramid import Pyramid
from napari_milpath.reader import read_slide


@pytest.fixture
def slide_file(tmp_path: Path) -> Path:
    """A slide of noise, 1500 x 1100 px at 0.5 µm, with one level of its own."""
    return write_levels(tmp_path / "noise-ü.tif", [noise(1100, 1500)])


@pytest.fixture
def pyramid(slide_file: Path) -> Iterator[Pyramid]:
    opened = Pyramid(Slide(slide_file))
    yield opened
    opened.close()


def lattice(
    cols: int, rows: int, side: int = 100, stride: int = 100, origin: tuple[int, int] = (50, 20)
) -> PatchGrid:
    """Make all patches of a lattice, in reading order."""
    places = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), axis=-1).reshape(-1, 2)
    coords = np.asarray(origin) + stride * places.astype(np.int64)
    return PatchGrid(coords, side, side, stride, origin, 0.5, 0)


def predict(
    grid: PatchGrid, attention: NDArray[np.float64] | None = None, seed: int = 0, members: int = 2
) -> Prediction:
    """Make a random prediction of the slide `FACTS`."""
    rng = np.random.default_rng(seed)
    weights = np.tile(rng.random(len(grid)) if attention is None else attention, (members, 1))
    weights = weights * rng.uniform(0.9, 1.1, weights.shape)
    weights /= weights.sum(axis=1, keepdims=True)
    evidence = rng.normal(size=(members, len(grid), 2))
    return Prediction(
        slide=FACTS,
        grid=grid,
        status="ok" if len(grid) else "no_tissue",
        class_names=("normal", "tumour"),
        member_attention=weights,
        member_contributions=weights[..., None] * evidence,
        member_bias=rng.normal(size=(members, 2)),
        model="m",
    )


@pytest.fixture
def predict_slide(slide_file: Path) -> Callable[..., Prediction]:
    """Make predictions of `slide_file`: 13 x 10 patches of 100 px."""
    with Slide(slide_file) as slide:
        facts = slide.facts

    def make(**options: object) -> Prediction:
        return replace(predict(lattice(13, 10), **options), slide=facts)  # type: ignore[arg-type]

    return make


@pytest.fixture
def open_panel(
    make_napari_viewer: Callable[..., Viewer],
) -> Iterator[Callable[[Path], Panel]]:
    """Open a window with a slide and the panel; end its job and close the slide afterwards."""
    opened: list[tuple[Panel, Pyramid]] = []

    def show(path: Path) -> Panel:
        viewer = make_napari_viewer(show=True)
        pyramid = pyramid_of(viewer.add_layer(Layer.create(*read_slide(path))))
        assert pyramid is not None
        panel = Panel(viewer)
        viewer.window.add_dock_widget(panel)
        opened.append((panel, pyramid))
        return panel

    yield show
    for panel, pyramid in opened:
        panel.classify_tab.stop()
        pyramid.close()


@pytest.fixture(scope="session")
def million() -> Prediction:
    """A prediction of a million patches."""
    return make_prediction()


@pytest.fixture(scope="session")
def large_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square slide of 65,536 px with downsamples 1, 4, 16 and 64."""
    return write_large_slide(tmp_path_factory.mktemp("large") / "large.tif")
