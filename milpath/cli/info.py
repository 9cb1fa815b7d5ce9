"""`milpath info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from milpath.cli.console import JsonOption
from milpath.errors import ResolutionError, StoredFileError


def info(
    file: Annotated[
        Path,
        typer.Argument(
            help="A slide, bag, prediction or model folder.", show_default=False, metavar="FILE"
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Say what a slide, bag, prediction or model holds, in words."""
    facts = describe(file)
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {_words(value)}")


def describe(path: Path) -> dict[str, Any]:
    """The facts of any file milpath knows, by name.

    Raises
    ------
    StoredFileError, UnsupportedSlideError : it is none of them
    """
    if (path / "model.json").is_file():
        return _describe_model(path)
    if path.is_dir():
        raise StoredFileError(f"{path}: a folder without a model.json; name a file in it")
    if path.suffix == ".h5":
        return _describe_prediction(path) if ".prediction" in path.suffixes else _describe_bag(path)
    return _describe_slide(path)


def _describe_slide(path: Path) -> dict[str, Any]:
    from milpath.slides.slide import Slide

    with Slide(path) as slide:
        width, height = slide.dimensions
        try:
            mpp: Any = list(slide.mpp)
            mm: Any = [width * mpp[0] / 1000, height * mpp[1] / 1000]
        except ResolutionError:
            mpp, mm = "not given, or absurd: use --slide-mpp", None
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
            "scanned part": None if (w, h) == (width, height) else [x, y, w, h],
            "quickhash": slide.quickhash,
        }


def _describe_bag(path: Path) -> dict[str, Any]:
    from milpath.formats.bag import Bag

    with Bag(path) as bag:
        return {
            "what": "bag",
            "slide": bag.slide.slide_id,
            "status": bag.header.status,
            "patches": len(bag),
            "unreadable patches": bag.header.unreadable,
            **_frame(bag.slide, bag.grid),
            "pixels": bag.header.params.pixels.model_dump(),
            "features": f"{bag.feature_dim} by {bag.encoder[0]}" if bag.encoder else None,
            "background": bag.header.background,
            "tissue": _whose(bag.header.annotation),
            "fingerprint": bag.header.fingerprint,
        }


def _describe_prediction(path: Path) -> dict[str, Any]:
    from milpath.formats.prediction import read_prediction

    found = read_prediction(path)
    judged = found.status == "ok"
    return {
        "what": "prediction",
        "slide": found.slide.slide_id,
        "status": found.status,
        "predicted": found.predicted,
        "probabilities": dict(zip(found.class_names, found.probs.tolist(), strict=True))
        if judged
        else None,
        "members": len(found.member_bias),
        "spread over members": float(found.spread.max()) if judged else None,
        "patches": len(found.grid),
        "patches the attention rests on": round(found.effective_patches, 1),
        **_frame(found.slide, found.grid),
        "tissue": _whose(found.annotation),
        "model": found.model,
    }


def _whose(annotation: str | None) -> str:
    return "found on the slide" if annotation is None else "of an annotation"


def _frame(slide: Any, grid: Any) -> dict[str, Any]:
    return {
        "patch in pixels": grid.patch_px,
        "patch in µm": round(grid.patch_px * grid.patch_mpp, 3),
        "µm per pixel": round(grid.patch_mpp, 6),
        "patch and stride at level 0": [grid.patch_size_l0, grid.stride_l0],
        "slide's µm per pixel": f"{slide.mpp_x:g} x {slide.mpp_y:g}, from the {slide.mpp_source}",
        "slide in pixels": [slide.width_l0, slide.height_l0],
    }


def _describe_model(path: Path) -> dict[str, Any]:
    from milpath.formats.model_spec import Metrics, read_bundle_spec, read_record

    spec = read_bundle_spec(path)
    metrics = path / "metrics.json"
    judged = read_record(Metrics, metrics) if metrics.is_file() else None
    if judged is not None and judged.model != spec.fingerprint:
        judged = None  # of a model that was to replace this one when its training was killed
    return {
        "what": "model",
        "classes": list(spec.class_names),
        "members": spec.members,
        "trained from": spec.mode,
        "encoder": f"{spec.encoder.name} ({spec.encoder.weights}), {spec.encoder.dim} numbers",
        "attention": "gated" if spec.head.gated else "plain",
        "takes patches of": f"{spec.encoder.patch_px} px at {spec.tile.grid.mpp:g} µm per pixel",
        "takes slides with": f"{spec.background} background",
        "held-out figures": {name: each.value for name, each in judged.metrics.items()}
        if judged
        else None,
        "milpath version": spec.milpath_version,
        "fingerprint": spec.fingerprint,
    }


def _words(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items())
    if isinstance(value, list):
        first = value[0] if value else None
        between = "  " if isinstance(first, list) else ", " if isinstance(first, str) else " x "
        return between.join(_words(each) for each in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
