"""`milpath export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milpath.cli.heatmap import write_picture
from milpath.errors import UsageError
from milpath.figures.score import Scale, Score

if TYPE_CHECKING:
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
            help="Slide that the prediction was made from; required for --to png.",
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
) -> None:
    """Export a prediction for QuPath, image viewers or spreadsheets, or as a picture.

    GeoJSON and CSV contain all scores, whatever --score is. Positions are level-0 pixels.
    """
    if class_name is not None and score is not Score.contribution:
        raise UsageError("--class: attention has no class; also give --score contribution")
    if (slide is not None) != (to is Format.png):
        raise UsageError("--slide: required with --to png, and only there")
    if coloured and to is not Format.ome_tiff:
        raise UsageError("--coloured: only available with --to ome-tiff")
    if top is not None and to not in (Format.geojson, Format.csv):
        raise UsageError("--top: only available with --to geojson or csv")
    from milpath.formats.prediction import read_prediction

    found = read_prediction(prediction)
    if slide is not None:
        print(f"{out}: {write_picture(found, slide, out, score, scale, class_name)}")
    elif to is Format.ome_tiff:
        print(f"{out}: {_write_raster(found, out, score, scale, class_name, coloured)}")
    else:
        print(f"{out}: {_write_patches(found, to, out, score, class_name, top):,} patches")


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


def _write_patches(
    prediction: Prediction,
    to: Format,
    out: Path,
    score: Score,
    class_name: str | None,
    top: int | None,
) -> int:
    from milpath.export import pick_strongest, write_geojson, write_patches
    from milpath.figures.heatmap import score_patches

    rows = pick_strongest(score_patches(prediction, score, Scale.raw, class_name), top)
    (write_geojson if to is Format.geojson else write_patches)(out, prediction, rows)
    return len(rows)
