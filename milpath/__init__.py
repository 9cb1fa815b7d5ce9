"""Learn from one label per slide, and show where the evidence lies.

What the commands do, from Python; nothing is imported before its first use::

    import milpath

    model = milpath.load_model(Path("model"))
    with milpath.Slide("slide.svs") as slide:
        prediction = milpath.predict_slide(model, slide)
        heatmap = milpath.render_heatmap(prediction)

Positions ending in ``_l0`` are (x, y) in level-0 pixels of the whole slide, lengths ending in
``_um`` are in µm; arrays are [row, col].
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from milpath.version import __version__

if TYPE_CHECKING:
    from milpath.cohort.cohort import SlideEntry, read_cohort
    from milpath.errors import MilpathError
    from milpath.figures.heatmap import render_heatmap
    from milpath.figures.overlay import render_overlay
    from milpath.formats.bag import Bag
    from milpath.formats.foreign import detect_features
    from milpath.formats.foreign.values import FeatureHints
    from milpath.formats.prediction import read_prediction, write_prediction
    from milpath.nn.embed import embed_patches
    from milpath.nn.embed_slide import SlideEmbedder
    from milpath.nn.encoder_choice import EncoderRequest, choose_encoder
    from milpath.nn.predict import load_model, predict_bag, predict_slide
    from milpath.nn.predict_features import load_features_model, predict_features
    from milpath.nn.train import train_cohort
    from milpath.params import GridParams, TileParams, TissueParams, TrainParams
    from milpath.patches.grid import plan_grid
    from milpath.patches.reader import stream_patches
    from milpath.slides.slide import Slide
    from milpath.slides.thumbnail import read_thumbnail
    from milpath.slides.tissue import segment_tissue
    from milpath.tile import tile_slide


_MODULES = {
    "Bag": "formats.bag",
    "EncoderRequest": "nn.encoder_choice",
    "FeatureHints": "formats.foreign.values",
    "GridParams": "params",
    "MilpathError": "errors",
    "Slide": "slides.slide",
    "SlideEmbedder": "nn.embed_slide",
    "SlideEntry": "cohort.cohort",
    "TileParams": "params",
    "TissueParams": "params",
    "TrainParams": "params",
    "choose_encoder": "nn.encoder_choice",
    "detect_features": "formats.foreign",
    "embed_patches": "nn.embed",
    "load_features_model": "nn.predict_features",
    "load_model": "nn.predict",
    "plan_grid": "patches.grid",
    "predict_bag": "nn.predict",
    "predict_features": "nn.predict_features",
    "predict_slide": "nn.predict",
    "read_cohort": "cohort.cohort",
    "read_prediction": "formats.prediction",
    "read_thumbnail": "slides.thumbnail",
    "render_heatmap": "figures.heatmap",
    "render_overlay": "figures.overlay",
    "segment_tissue": "slides.tissue",
    "stream_patches": "patches.reader",
    "tile_slide": "tile",
    "train_cohort": "nn.train",
    "write_prediction": "formats.prediction",
}

__all__ = [
    "Bag",
    "EncoderRequest",
    "FeatureHints",
    "GridParams",
    "MilpathError",
    "Slide",
    "SlideEmbedder",
    "SlideEntry",
    "TileParams",
    "TissueParams",
    "TrainParams",
    "__version__",
    "choose_encoder",
    "detect_features",
    "embed_patches",
    "load_features_model",
    "load_model",
    "plan_grid",
    "predict_bag",
    "predict_features",
    "predict_slide",
    "read_cohort",
    "read_prediction",
    "read_thumbnail",
    "render_heatmap",
    "render_overlay",
    "segment_tissue",
    "stream_patches",
    "tile_slide",
    "train_cohort",
    "write_prediction",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'milpath' has no attribute {name!r}")
    return getattr(import_module(f"milpath.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
