"""`milpath export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milpath.cli.heatmap import open_slide_of, write_picture
from milpath.errors import UsageError
from milpath.figures.score import Scale, Score
from milpath.slides.frame import Frame, Point

if TYPE_CHECKING:
    from milpath.export import Rows
    from milpath.formats.prediction import Prediction


class Format(StrEnum):
    """File format."""

    geojson = "geojson"
    ome_tiff = "ome-tiff"
    png = "png"
    csv = "csv"


def export(
    prediction: Annotated[
        Path,
        typer.Argument(
            help="Prediction file made by milpath classify.",
            metavar="PREDICTION",
            show_default=False,
        ),
    ],
    to: Annotated[
        Format,
        typer.Option(
            help="geojson: QuPath tiles with measurements. ome-tiff: raster of values, one "
            "pixel per patch position. csv: one row per patch. png: picture of the slide "
            "and its heatmap.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.", show_default=False)],
    slide: Annotated[
        Path | None,
        typer.Option(
            help="Slide that the prediction was made from; required for --to png. geojson: needed "
            "only for predictions of earlier versions.",
            show_default=False,
        ),
    ] = None,
    score: Annotated[
        Score, typer.Option(help="Score to draw (png, ome-tiff) or to rank patches by (--top).")
    ] = Score.attention,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="Class whose contributions are drawn or ranked.",
            show_default="predicted class",
        ),
    ] = None,
    scale: Annotated[
        Scale, typer.Option(help="ome-tiff, png: scale of the score; see milpath heatmap.")
    ] = Scale.relative,
    coloured: Annotated[
        bool, typer.Option("--coloured", help="ome-tiff: write colours instead of values.")
    ] = False,
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="geojson, csv: write only this many patches, those with the highest scores.",
            show_default="all",
        ),
    ] = None,
    frame: Annotated[
        Frame,
        typer.Option(
            help="geojson: corner that coordinates count from, on slides with scanned bounds: "
            "qupath (that of the bounds, as QuPath does) or canvas (that of the whole slide, as "
            "OpenSlide does). The file records it."
        ),
    ] = Frame.qupath,
) -> None:
    """Export a prediction for QuPath, image viewers or spreadsheets, or as a picture.

    GeoJSON and CSV contain all scores, whatever --score is. Positions are level-0 pixels: those of
    GeoJSON are in the frame of --frame, all others count from the corner of the whole slide.
    """
    if class_name is not None and score is not Score.contribution:
        raise UsageError("--class: attention has no class; also give --score contribution")
    _check_slide(slide, to)
    if frame is not Frame.qupath and to is not Format.geojson:
        raise UsageError("--frame: only available with --to geojson")
    if coloured and to is not Format.ome_tiff:
        raise UsageError("--coloured: only available with --to ome-tiff")
    if top is not None and to not in (Format.geojson, Format.csv):
        raise UsageError("--top: only available with --to geojson or csv")
    from milpath.export import write_geojson, write_patches
    from milpath.formats.prediction import read_prediction

    found = read_prediction(prediction)
    if to is Format.png and slide is not None:
        print(f"{out}: {write_picture(found, slide, out, score, scale, class_name)}")
    elif to is Format.ome_tiff:
        print(f"{out}: {_write_raster(found, out, score, scale, class_name, coloured)}")
    else:
        rows = _pick_rows(found, score, class_name, top)
        if to is Format.csv:
            write_patches(out, found, rows)
        else:
            corner = None if slide is None else _find_corner(found, slide)
            write_geojson(out, found, rows, frame, corner)
        print(f"{out}: {len(rows):,} patches")


def _check_slide(slide: Path | None, to: Format) -> None:
    if slide is None and to is Format.png:
        raise UsageError("--slide: required with --to png")
    if slide is not None and to not in (Format.png, Format.geojson):
        raise UsageError("--slide: only available with --to png or geojson")


def _write_raster(
    prediction: Prediction,
    out: Path,
    score: Score,
    scale: Scale,
    class_name: str | None,
    coloured: bool,
) -> str:
    from milpath.export import write_ome_tiff
    from milpath.figures.heatmap import render_heatmap

    if not out.name.lower().endswith((".ome.tif", ".ome.tiff")):
        raise UsageError(f"--out {out}: expected a name that ends in .ome.tif or .ome.tiff")
    heatmap = render_heatmap(prediction, score, scale, class_name)
    write_ome_tiff(out, heatmap, prediction.slide, coloured=coloured)
    return heatmap.label


def _pick_rows(
    prediction: Prediction, score: Score, class_name: str | None, top: int | None
) -> Rows:
    from milpath.export import pick_strongest
    from milpath.figures.heatmap import score_patches

    return pick_strongest(score_patches(prediction, score, Scale.raw, class_name), top)


def _find_corner(prediction: Prediction, slide: Path) -> Point:
    """Return where the bounds of a prediction's slide begin; raise if it is a different slide."""
    with open_slide_of(prediction, slide) as opened:
        return opened.bounds_l0[:2]
