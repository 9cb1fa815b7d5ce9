"""`milpath heatmap`."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milpath.errors import UsageError
from milpath.figures.score import Scale, Score

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milpath.formats.prediction import Prediction
    from milpath.slides.slide import Slide


def heatmap(
    prediction: Annotated[
        Path,
        typer.Argument(
            help="Prediction file made by milpath classify.",
            metavar="PREDICTION",
            show_default=False,
        ),
    ],
    slide: Annotated[
        Path, typer.Option(help="Slide that the prediction was made from.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.", show_default=False)],
    score: Annotated[
        Score,
        typer.Option(help="Attention, or each patch's contribution to the logit of a class."),
    ] = Score.attention,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class", help="Class whose contributions are drawn.", show_default="predicted class"
        ),
    ] = None,
    scale: Annotated[
        Scale,
        typer.Option(
            help="raw: value stored in the prediction. relative: value times the number of "
            "patches, so that attention 1 is the slide's mean. percentile: rank within the "
            "slide, 0 to 100."
        ),
    ] = Scale.relative,
) -> None:
    """Render a prediction's attention, or its contributions to a class, over its slide."""
    from milpath.formats.prediction import read_prediction

    if class_name is not None and score is not Score.contribution:
        raise UsageError("--class: attention has no class; also give --score contribution")
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: the picture is a PNG; expected a name that ends in .png")
    found = read_prediction(prediction)
    label = write_picture(found, slide, out, score, scale, class_name)
    print(f"{out}: {label}")


def write_picture(
    prediction: Prediction,
    slide: Path,
    out: Path,
    score: Score,
    scale: Scale,
    class_name: str | None,
) -> str:
    """Write the picture of a prediction over its slide; return the label of its colours.

    Raises
    ------
    UsageError : the prediction was made from a different slide
    """
    from milpath.figures.heatmap import render_heatmap
    from milpath.figures.overlay import overlay_title, write_overlay

    with open_slide_of(prediction, slide) as opened:
        rendered = render_heatmap(prediction, score, scale, class_name)
        write_overlay(out, opened, rendered, overlay_title(prediction))
    return rendered.label


@contextmanager
def open_slide_of(prediction: Prediction, path: Path) -> Iterator[Slide]:
    """Open the slide of a prediction, and say so if only its name and size tell that it is.

    Raises
    ------
    UsageError : the prediction was made from a different slide
    """
    from milpath.formats.prediction import check_same_slide, describe_unchecked
    from milpath.slides.slide import Slide

    record = prediction.slide
    slide_id = record.slide_id if record.identified else None  # of the file: it is all there is
    with Slide(path, slide_id, record.mpp_x) as opened:
        check_same_slide(prediction, opened, opened.name, "give the matching slide with --slide")
        if not record.identified:
            found = describe_unchecked(prediction, opened.mpp_of_file)
            print(f"{record.slide_id}: {found}", file=sys.stderr)
        yield opened
