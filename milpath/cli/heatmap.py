"""`milpath heatmap`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milpath.errors import UsageError

if TYPE_CHECKING:
    from milpath.formats.prediction import Prediction


class Score(StrEnum):
    """What is painted."""

    attention = "attention"
    contribution = "contribution"


class Scale(StrEnum):
    """In which numbers."""

    raw = "raw"
    percentile = "percentile"
    relative = "relative"


def heatmap(
    prediction: Annotated[
        Path, typer.Argument(help="A prediction file.", metavar="PREDICTION", show_default=False)
    ],
    slide: Annotated[Path, typer.Option(help="The slide it was made of.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.", show_default=False)],
    score: Annotated[
        Score,
        typer.Option(help="attention, or each patch's contribution to the logit of a class."),
    ] = Score.attention,
    class_name: Annotated[
        str | None,
        typer.Option("--class", help="Whose contributions.", show_default="the predicted class"),
    ] = None,
    scale: Annotated[
        Scale,
        typer.Option(
            help="raw numbers; percentile within the slide; or relative, times the number of "
            "patches: 1 is then uniform attention."
        ),
    ] = Scale.relative,
) -> None:
    """Paint a prediction's own attention, or its evidence for a class, onto its slide."""
    from milpath.formats.prediction import read_prediction

    if class_name is not None and score is not Score.contribution:
        raise UsageError("--class: attention is of no class; give --score contribution too")
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: the picture is a PNG; give a name that ends in .png")
    found = read_prediction(prediction)
    label = paint_over(found, slide, out, score, scale, class_name)
    print(f"{out}: {label}")


def paint_over(
    prediction: Prediction, slide: Path, out: Path, score: Score, scale: Scale, name: str | None
) -> str:
    """Write the picture of a prediction over its slide; what its colours mean.

    Raises
    ------
    UsageError : the slide is another one
    """
    from milpath.figures.heatmap import render_heatmap
    from milpath.figures.overlay import overlay_title, write_overlay
    from milpath.formats.geometry import is_same_slide
    from milpath.slides.slide import Slide

    with Slide(slide, prediction.slide.slide_id, prediction.slide.mpp_x) as opened:
        if not is_same_slide(prediction.slide, opened.facts):
            raise UsageError(
                f"the prediction of {prediction.slide.slide_id} was made of another slide than "
                "the one given (their contents differ); name the right one with --slide"
            )
        made = render_heatmap(prediction, score.value, scale.value, name)
        write_overlay(out, opened, made, overlay_title(prediction))
    return made.label
