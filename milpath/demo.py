"""The end-to-end demo: synthetic slides, a model, heatmaps, and a comparison with the truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import mark_boundaries
from skimage.transform import resize

from milpath.cohort.cohort import SlideEntry, read_cohort
from milpath.errors import MilpathError, UsageError
from milpath.figures.canvas import draw_scale_bar, open_canvas, place_picture, write_png
from milpath.figures.heatmap import render_heatmap
from milpath.figures.html import Section, write_page
from milpath.figures.overlay import blend, draw_colour_bar
from milpath.formats.layout import prediction_path, predictions_table_path
from milpath.formats.prediction import Prediction, read_prediction
from milpath.formats.scores import format_probability
from milpath.metrics import auc
from milpath.params import GridParams, TileParams, TrainParams
from milpath.predictions_table import write_predictions_table
from milpath.runs import Facts, Outcome, run_job
from milpath.slides.thumbnail import fit_thumbnail
from milpath.store import publish_csv, publish_text
from milpath.synthetic import SyntheticSlide, draw_slide
from milpath.tile import tile_slide

if TYPE_CHECKING:
    from milpath.nn.train import TrainReport

MPP = 1.0
PATCH_UM = 64
"""Side of a patch, whatever its resolution."""

MARK = "demo.txt"
"""Marks the folder of a demo."""

CLASSES = ("normal", "tumour")

SHOWN = 3
"""Slides of each class on the page."""
PICTURE_PX = 512
LEGEND = (
    "Left: the slide. Middle: the contour of the planted tumour, if there is one. Right: the "
    "model's attention, relative to its mean over the slide."
)

Advance = Callable[[str], None]


@dataclass(frozen=True)
class DemoSize:
    """Number and size of a demo's slides, and how long it trains.

    Attributes
    ----------
    side_px : side of a slide at `MPP`
    patch_px : side of a patch of `PATCH_UM`
    """

    training_slides: int
    unseen_slides: int
    side_px: int
    patch_px: int
    epochs: int

    @property
    def tile(self) -> TileParams:
        """Parameters of tiling."""
        return TileParams(grid=GridParams(mpp=PATCH_UM / self.patch_px, patch_px=self.patch_px))

    @property
    def steps(self) -> int:
        """Calls of `advance` at most."""
        return 2 * (self.training_slides + self.unseen_slides) + self.epochs


FULL = DemoSize(training_slides=48, unseen_slides=20, side_px=2048, patch_px=64, epochs=24)
QUICK = DemoSize(training_slides=40, unseen_slides=12, side_px=1024, patch_px=32, epochs=20)


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured, on slides that training never saw."""

    unseen_slides: int
    auc: float
    accuracy: float
    attention_auc: float
    """Of attention against the planted tumour, mean over the unseen slides that have one."""
    contribution_auc: float
    """The same of the contributions to the class tumour."""
    seconds: float


@dataclass(frozen=True)
class Tested:
    """A test slide: its entry, its prediction, and its truth."""

    entry: SlideEntry
    prediction: Prediction
    truth: SyntheticSlide

    @property
    def planted(self) -> bool:
        """Whether it has a tumour."""
        return self.entry.label == CLASSES[1]


def require_demo_folder(out: Path) -> None:
    """Raise `UsageError` unless a folder is new, empty, or of an earlier demo."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is not a folder; give another --out")
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise UsageError(f"{out}: is neither empty nor of an earlier demo; give another --out")


def run_demo(
    out: Path, seed: int, advance: Advance, workers: int, size: DemoSize = FULL
) -> DemoResult:
    """Make slides, tile, train, classify, measure, and write `out/index.html`.

    Parameters
    ----------
    out : folder for everything, empty or of an earlier demo
    seed : of slides and training
    advance : called with a line after every step, at most `size.steps` times
    workers : processes that draw and tile
    size : number and size of the slides, and epochs

    Raises
    ------
    UsageError : the folder holds something else
    MilpathError : a step failed on some slide
    """
    # not at the top: the processes that draw and tile import this module, but need no network
    from milpath.nn.classify import Classifier
    from milpath.nn.predict import load_model
    from milpath.nn.train import train_cohort

    start = time.perf_counter()
    require_demo_folder(out)
    publish_text(out / MARK, "Made by milpath demo, which may replace all of it.\n")
    training = _plan(out / "slides" / "training", size.training_slides, first=0)
    unseen = _plan(out / "slides" / "unseen", size.unseen_slides, first=len(training))
    made = _run(
        partial(_draw, seed=seed, side_px=size.side_px),
        [*training, *unseen],
        workers,
        advance,
        "made",
    )
    truth = {one.slide_id: one.facts.slide for one in made if isinstance(one.facts, _Truth)}
    cohort_csv = out / "cohort.csv"
    publish_csv(
        cohort_csv,
        ["slide", "label"],
        [[str(entry.path.relative_to(out)), entry.label] for entry in training],
    )
    cohort = read_cohort(cohort_csv)
    tiling = partial(tile_slide, out=out / "bags", params=size.tile)
    _run(tiling, cohort.entries, workers, advance, "tiled")
    report = train_cohort(
        cohort,
        out / "bags",
        out / "model",
        TrainParams(epochs=size.epochs, patience=10, test_fraction=0.1, seed=seed),
        lambda member, epoch, losses: advance(f"validation loss {losses['val_loss']:.3f}"),
    )
    results = out / "results"
    classify = Classifier(load_model(out / "model"), results, workers)
    outcomes = _run(classify, unseen, 1, advance, "classified")
    write_predictions_table(predictions_table_path(results), outcomes, CLASSES)
    found = [read_prediction(prediction_path(results, entry.slide_id)) for entry in unseen]
    tested = [
        Tested(entry, one, truth[entry.slide_id]) for entry, one in zip(unseen, found, strict=True)
    ]
    result = _measure(tested, time.perf_counter() - start)
    _write_page(out, result, report, tested, len(training))
    return result


def _plan(folder: Path, count: int, first: int) -> list[SlideEntry]:
    """List slides to be made, normal and tumour alternating."""
    return [
        SlideEntry(folder / f"slide-{number:03d}.tif", f"slide-{number:03d}", CLASSES[number % 2])
        for number in range(first, first + count)
    ]


@dataclass(frozen=True)
class _Truth(Facts):
    slide: SyntheticSlide


def _draw(entry: SlideEntry, seed: int, side_px: int) -> Outcome:
    number = int(entry.slide_id.removeprefix("slide-"))
    entry.path.parent.mkdir(parents=True, exist_ok=True)
    truth = draw_slide(
        entry.path,
        seed=seed * 1000 + number,
        tumour=entry.label == CLASSES[1],
        size_px=(side_px, side_px),
        mpp=MPP,
    )
    return Outcome(entry.slide_id, "ok", "made", _Truth(truth))


def _run(
    job: Callable[[SlideEntry], Outcome],
    entries: Sequence[SlideEntry],
    workers: int,
    advance: Advance,
    done: str,
) -> list[Outcome]:
    """Run a job on all slides; raise `MilpathError` if one fails."""
    outcomes = []
    for outcome in run_job(job, entries, workers):
        if outcome.status == "failed":
            raise MilpathError(outcome.message)
        advance(f"{outcome.slide_id} {done}")
        outcomes.append(outcome)
    return outcomes


def _measure(tested: Sequence[Tested], seconds: float) -> DemoResult:
    labels = np.array([int(one.planted) for one in tested])
    probs = np.stack([one.prediction.probs for one in tested])
    planted = [one for one in tested if one.planted]
    attention = [_finds_tumour(one, one.prediction.attention) for one in planted]
    evidence = [_finds_tumour(one, one.prediction.contributions[:, 1]) for one in planted]
    return DemoResult(
        unseen_slides=len(tested),
        auc=auc(labels, probs) or 0.0,
        accuracy=float((probs.argmax(axis=1) == labels).mean()),
        attention_auc=float(np.mean(attention)),
        contribution_auc=float(np.mean(evidence)),
        seconds=round(seconds, 1),
    )


def _finds_tumour(one: Tested, scores: NDArray[np.float64]) -> float:
    """Compute the AUC of patch scores against the truth, without patches at a tumour's rim.

    A patch counts as tumour if more than half of it is, and as normal if none of it is.
    """
    grid = one.prediction.grid
    share = one.truth.tumour_fraction(grid.coords, grid.patch_size_l0)
    clear = (share > 0.5) | (share == 0)
    tumour = (share[clear] > 0.5).astype(np.int64)
    chosen = scores[clear]
    return auc(tumour, np.stack([-chosen, chosen], axis=1)) or 0.0


def _write_page(
    out: Path, result: DemoResult, report: TrainReport, tested: Sequence[Tested], training: int
) -> None:
    rows: list[tuple[object, ...]] = [("on slides the model has not seen", "figure")]
    rows += [
        ("AUC of the slide's class", f"{result.auc:.3f}"),
        ("accuracy", f"{result.accuracy:.3f}"),
        ("attention finds planted tumour patches, AUC", f"{result.attention_auc:.3f}"),
        ("contributions to tumour find them, AUC", f"{result.contribution_auc:.3f}"),
    ]
    pictures = [(_compare(out, one), _finding(one)) for one in tested[: 2 * SHOWN]]
    sections = [
        Section(
            "Does it work?",
            [
                f"The model was trained on {training} synthetic slides with one label each, and "
                f"tested on {len(tested)} others. It was never given the position of a tumour."
            ],
            rows,
        ),
        Section("Attention and planted tumour", [LEGEND], figures=pictures),
        Section(
            "Training",
            [
                f"The best epoch is chosen by the loss on validation slides; model/metrics.json "
                f"is on {len(report.evaluation.slides)} other slides, held out of both."
            ],
            figures=[(out / "model" / "training.png", "Loss and accuracy by epoch.")],
        ),
    ]
    lead = f"Synthesised, tiled, trained, classified and measured in {result.seconds:.0f} s."
    write_page(out / "index.html", "milpath demo", sections, lead)


def _finding(one: Tested) -> str:
    if not one.planted:
        return "No tumour was planted here."
    found = _finds_tumour(one, one.prediction.attention)
    return f"Attention separates its tumour patches from the others with an AUC of {found:.3f}."


def _caption(one: Tested) -> str:
    found = one.prediction
    return (
        f"{one.entry.slide_id}: is {one.entry.label}, classified as {found.predicted} "
        f"(probability {format_probability(float(found.probs.max()))})"
    )


def _compare(out: Path, one: Tested) -> Path:
    """The slide, the contour of the planted tumour, and the attention, side by side."""
    path = out / "pictures" / f"{one.entry.slide_id}.png"
    with one.entry.open() as slide:
        thumbnail = fit_thumbnail(slide, PICTURE_PX)
    rows, cols = thumbnail.rgb.shape[:2]
    tumour = resize(one.truth.tumour.astype(np.uint8), (rows, cols), order=0, preserve_range=True)
    truth = mark_boundaries(thumbnail.rgb, tumour.astype(np.int64), (0, 0.6, 0.2), mode="thick")
    heatmap = render_heatmap(one.prediction)
    canvas = open_canvas((cols, rows), 3, _caption(one))
    place_picture(canvas, 0, thumbnail.rgb)
    place_picture(canvas, 1, (truth * 255).astype(np.uint8))
    place_picture(canvas, 2, blend(heatmap, thumbnail))
    draw_scale_bar(canvas, thumbnail.mpp)
    draw_colour_bar(canvas, heatmap)
    write_png(path, canvas.image)
    return path
