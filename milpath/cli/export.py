"""`milpath export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milpath.cli.heatmap import Scale, Score, paint_over
from milpath.errors import UsageError

if TYPE_CHECKING:
    from milpath.formats.prediction import Prediction


class Format(StrEnum):
    """For which programs."""

    geojson = "geojson"
    ome_tiff = "ome-tiff"
    png = "png"
    csv = "csv"


def export(
    prediction: Annotated[
        Path, typer.Argument(help="A prediction file.", metavar="PREDICTION", show_default=False)
    ],
    to: Annotated[
        Format,
        typer.Option(
            help="geojson: QuPath tiles with measurements. ome-tiff: the raster, a pixel a cell, "
            "as numbers. csv: a row a patch. png: a picture for people.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The file to write.", show_default=False)
    ],
    slide: Annotated[
        Path | None, typer.Option(help="The slide it was made of; for png.", show_default=False)
    ] = None,
    score: Annotated[
        Score, typer.Option(help="What is drawn, and what counts as strong.")
    ] = Score.attention,
    class_name: Annotated[
        str | None,
        typer.Option("--class", help="Whose contributions.", show_default="the predicted class"),
    ] = None,
    scale: Annotated[
        Scale, typer.Option(help="In which numbers; see milpath heatmap.")
    ] = Scale.relative,
    coloured: Annotated[
        bool, typer.Option("--coloured", help="ome-tiff: the colours instead of the numbers.")
    ] = False,
    top: Annotated[
        int | None,
        typer.Option(
            min=1, help="geojson, csv: only so many of the strongest patches.", show_default="all"
        ),
    ] = None,
) -> None:
    """Write a prediction for QuPath, for image programs, for a spreadsheet, or for people.

    GeoJSON and CSV hold every score whatever --score is. Positions are level-0 pixels.
    """
    if class_name is not None and score is not Score.contribution:
        raise UsageError("--class: attention is of no class; give --score contribution too")
    if (slide is not None) != (to is Format.png):
        raise UsageError("--slide: needed with --to png, and with nothing else")
    if coloured and to is not Format.ome_tiff:
        raise UsageError("--coloured: only an ome-tiff has a choice of numbers or colours")
    if top is not None and to not in (Format.geojson, Format.csv):
        raise UsageError("--top: only geojson and csv hold single patches")
    from milpath.formats.prediction import read_prediction

    found = read_prediction(prediction)
    if slide is not None:
        print(f"{out}: {paint_over(found, slide, out, score, scale, class_name)}")
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
        raise UsageError(f"--out {out}: give a name that ends in .ome.tif, by which it is known")
    heatmap = render_heatmap(prediction, score.value, scale.value, class_name)
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

    rows = pick_strongest(score_patches(prediction, score.value, "raw", class_name), top)
    (write_geojson if to is Format.geojson else write_patches)(out, prediction, rows)
    return len(rows)
