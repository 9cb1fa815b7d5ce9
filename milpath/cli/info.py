"""`milpath info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milpath.cli.console import JsonOption
from milpath.cli.features import EncoderNameOption, MppOption, PatchSizeOption, make_hints
from milpath.errors import ResolutionError, StoredFileError, UsageError

if TYPE_CHECKING:
    from milpath.formats.bag import Bag
    from milpath.formats.foreign.values import FeatureHints
    from milpath.formats.model_spec import BaselineMetrics, Metrics

_OPTIONS = {
    "encoder": "--encoder-name",
    "patch in pixels": "--patch-size",
    "µm per pixel": "--mpp",
}
"""Facts about features that train and classify need, and the option for files without them."""


def info(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            help="A slide, bag or prediction; or the folder of a model or of feature files.",
            show_default=False,
            metavar="FILE",
        ),
    ],
    params: Annotated[
        bool,
        typer.Option(
            "--params",
            help="Print the parameters of a bag or model, as a file for the option --params of "
            "tile and train.",
        ),
    ] = False,
    encoder_name: EncoderNameOption = None,
    patch_size: PatchSizeOption = None,
    mpp: MppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a slide, bag, prediction, model or folder of features contains.

    With --params, print the parameters that it was made with.
    """
    hints = make_hints(encoder_name, patch_size, mpp)
    is_features = file.is_dir() and not (file / "model.json").is_file()
    if not is_features and (encoder_name, patch_size, mpp) != (None, None, None):
        raise UsageError(
            f"{file}: --encoder-name, --patch-size and --mpp are for folders of feature files; "
            "leave them out"
        )
    if params:
        print(json.dumps(collect_params(file), indent=2, ensure_ascii=False))
        return
    facts = _describe_features(file, hints) if is_features else describe(file)
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {_words(value)}")


def describe(path: Path) -> dict[str, Any]:
    """Return the facts about a slide, bag, prediction or model, by name.

    Raises
    ------
    StoredFileError, UnsupportedSlideError : not such a file
    """
    if path.is_dir():
        return _describe_model(path)
    if path.suffix == ".h5":
        return _describe_h5(path)
    return _describe_slide(path)


def _describe_h5(path: Path) -> dict[str, Any]:
    from milpath.store.foreign import open_foreign_h5

    if _is_prediction(path):
        return _describe_prediction(path)
    with open_foreign_h5(path) as h5:
        kind = h5.attr("milpath_kind")
    if kind is None:
        raise StoredFileError(
            f"{path.name}: not a file of milpath; if it holds features, give its folder: milpath "
            f"info {path.parent}"
        )
    return _describe_feature_file(path) if kind == "features" else _describe_bag(path)


def _describe_feature_file(path: Path) -> dict[str, Any]:
    from milpath.formats.foreign.milpath import MilpathLayout
    from milpath.formats.foreign.values import FeatureHints

    with MilpathLayout().open(path, FeatureHints()) as found:
        assert found.made is not None  # of milpath
        made = found.made
        return {
            "what": "features",
            "slide": found.slide_id,
            "patches": len(found),
            "features": found.facts.dim,
            "precision": str(found.features.dtype),
            "encoder": made.encoder.name,
            "weights": made.encoder.weights or None,
            "digest": made.encoder.digest,
            **_describe_geometry(made.slide, made.grid),
            "background": made.header.background,
            "tissue": _tissue_source(made.header.annotation),
            "checksums": "verified as they are read" if found.verified else "none",
        }


def collect_params(path: Path) -> dict[str, Any]:
    """Return the parameters of a bag or model, grouped by the command that takes them.

    Raises
    ------
    UsageError : a prediction or a slide, which store no parameters
    StoredFileError : not a file of milpath
    """
    if (path / "model.json").is_file():
        return _collect_model_params(path)
    if path.suffix == ".h5" and not _is_prediction(path):
        from milpath.formats.bag import Bag

        with Bag(path) as bag:
            return {"tile": bag.header.params.model_dump(mode="json")}
    if path.suffix == ".h5":
        from milpath.formats.prediction import read_prediction

        model = read_prediction(path).model
        raise UsageError(
            f"{path}: the parameters of a prediction are those of its model, which has the "
            f"fingerprint {model}; run milpath info MODEL --params"
        )
    raise UsageError(f"{path}: has no parameters; expected a bag or a model folder")


def _collect_model_params(path: Path) -> dict[str, Any]:
    from pydantic import ValidationError

    from milpath.formats.model_spec import read_bundle_spec
    from milpath.params import TrainParams, describe_violation

    spec = read_bundle_spec(path)
    found = {"tile": spec.tile.model_dump(mode="json")}
    try:
        if "params" in spec.training:
            params = TrainParams.model_validate(spec.training["params"])
            found["train"] = params.model_dump(mode="json")
    except ValidationError as error:
        name, rule = describe_violation(error)
        raise StoredFileError(
            f"{path}: its training parameters are not of this milpath ({name} {rule})"
        ) from None
    return found


def _is_prediction(path: Path) -> bool:
    return ".prediction" in path.suffixes


def _describe_features(path: Path, hints: FeatureHints) -> dict[str, Any]:
    from milpath.formats.foreign import detect_features
    from milpath.formats.foreign.summary import summarize_features

    folder = detect_features(path)
    found = summarize_features(folder, hints)
    return {
        "what": "folder of features",
        "layout": folder.layout.name,
        "slides": len(folder.files),
        "slides looked at": len(found.sampled),
        **found.facts,
        "not in the files": {
            name: f"give {option}" for name, option in _OPTIONS.items() if found.facts[name] is None
        },
        "slides that differ": found.differ,
        "slides that cannot be read": found.failed,
    }


def _describe_slide(path: Path) -> dict[str, Any]:
    from milpath.slides.slide import Slide

    with Slide(path) as slide:
        width, height = slide.dimensions
        try:
            mpp: Any = list(slide.mpp)
            mm: Any = [width * mpp[0] / 1000, height * mpp[1] / 1000]
        except ResolutionError:
            mpp, mm = "missing or implausible; give --slide-mpp", None
        x, y, w, h = slide.bounds_l0
        return {
            "what": "slide",
            "name": path.name,
            "vendor": slide.vendor,
            "size in pixels": [width, height],
            "size in mm": mm,
            "µm per pixel": mpp,
            "objective": slide.objective,
            "levels": [list(size) for size in slide.level_dimensions],
            "downsamples": list(slide.level_downsamples),
            "scanned region": None if (w, h) == (width, height) else [x, y, w, h],
            "quickhash": slide.quickhash,
        }


def _describe_artefacts(bag: Bag) -> dict[str, float] | None:
    """Return the middle and the upper end of each score; None without patches or scores."""
    import numpy as np

    scores = bag.read_artefacts()
    if scores is None or not len(scores):
        return None
    found = {}
    for name, values in scores.known.items():
        found[f"{name} median"] = round(float(np.median(values)), 3)
        found[f"{name} 95 %"] = round(float(np.percentile(values, 95)), 3)
    return found


def _describe_bag(path: Path) -> dict[str, Any]:
    from milpath.formats.bag import Bag

    with Bag(path) as bag:
        return {
            "what": "bag",
            "slide": bag.slide.slide_id,
            "status": bag.header.status,
            "patches": len(bag),
            "unreadable patches": bag.header.unreadable,
            "patches left out as artefacts": bag.header.left_out,
            "artefacts": _describe_artefacts(bag),
            **_describe_geometry(bag.slide, bag.grid),
            "pixels": bag.header.params.pixels.model_dump(),
            "background": bag.header.background,
            "stain": _describe_stain(bag.header.stain),
            "tissue": _tissue_source(bag.header.annotation),
            "fingerprint": bag.header.fingerprint,
        }


def _describe_prediction(path: Path) -> dict[str, Any]:
    from milpath.formats.prediction import read_prediction

    found = read_prediction(path)
    classified = found.status == "ok"
    return {
        "what": "prediction",
        "slide": found.slide.slide_id,
        "status": found.status,
        "predicted": found.predicted,
        "probabilities": dict(zip(found.class_names, found.probs.tolist(), strict=True))
        if classified
        else None,
        "members": len(found.member_bias),
        "spread over members": float(found.spread.max()) if classified else None,
        "patches": len(found.grid),
        "effective number of patches": round(found.effective_patches, 1),
        **_describe_geometry(found.slide, found.grid),
        "tissue": "as in the features" if found.features else _tissue_source(found.annotation),
        "stain": "as in the features"
        if found.features and found.stain is None
        else _describe_stain(found.stain),
        "made from": "pixels" if found.features is None else "features",
        "model": found.model,
    }


def _tissue_source(annotation: str | None) -> str:
    return "auto-detected" if annotation is None else "from an annotation"


def _describe_stain(stain: str | None) -> Any:
    return "as scanned" if stain is None else {"normalised": json.loads(stain)}


_PLACES = {
    "grid": "on a grid",
    "free": "anywhere, as another tool placed them",
    "unknown": "at unknown places: the files of the features hold no coordinates",
}


def _describe_geometry(slide: Any, grid: Any) -> dict[str, Any]:
    known = grid.places != "unknown"
    size = [
        grid.patch_size_l0 if known else None,
        grid.stride_l0 if grid.places == "grid" else None,
    ]
    return {
        "patch in pixels": grid.patch_px,
        "patch in µm": round(grid.patch_px * grid.patch_mpp, 3),
        "µm per pixel": round(grid.patch_mpp, 6),
        "patches lie": _PLACES[grid.places],
        "patch and stride at level 0": size,
        "slide's µm per pixel": f"{slide.mpp_x:g} x {slide.mpp_y:g}, from the {slide.mpp_source}",
        "slide in pixels": list(slide.known_size) if slide.known_size else None,
        "slide known by": "its contents" if slide.identified else "its name: it was not opened",
    }


def _describe_model(path: Path) -> dict[str, Any]:
    from milpath.formats.model_spec import Metrics, read_bundle_spec, read_record

    spec = read_bundle_spec(path)
    metrics = path / "metrics.json"
    held_out = read_record(Metrics, metrics) if metrics.is_file() else None
    if held_out is not None and held_out.model != spec.fingerprint:
        held_out = None  # of a model whose training was killed before it replaced this one
    return {
        "what": "model",
        "classes": list(spec.class_names),
        "members": spec.members,
        "trained on": spec.mode,
        "encoder": f"{spec.encoder.name} ({spec.encoder.weights}), {spec.encoder.dim} features",
        "attention": "gated" if spec.head.gated else "tanh only",
        "patches": f"{spec.encoder.patch_px} px at {spec.tile.grid.mpp:g} µm per pixel",
        "slides": f"with {spec.background} background",
        "held-out metrics": _values(held_out),
        "baseline metrics": _values(held_out and held_out.baseline),
        "milpath version": spec.milpath_version,
        "fingerprint": spec.fingerprint,
    }


def _values(held_out: Metrics | BaselineMetrics | None) -> dict[str, float | None] | None:
    if held_out is None:
        return None
    return {name: each.value for name, each in held_out.metrics.items()}


def _words(value: Any) -> str:
    if value is None or value == {}:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items())
    if isinstance(value, list):
        first = value[0] if value else None
        between = "  " if isinstance(first, list) else ", " if isinstance(first, str) else " x "
        return between.join(_words(each) for each in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
