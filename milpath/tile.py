"""Tiling: cut a slide into a bag of patches, and draw a picture of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from milpath.cohort.cohort import SlideEntry
from milpath.errors import (
    AnnotationError,
    SlideReadError,
    StoredFileError,
    UnsupportedSlideError,
    UsageError,
)
from milpath.figures.canvas import encode_png
from milpath.figures.qc import draw_qc
from milpath.formats.bag import (
    Bag,
    BagHeader,
    Encoded,
    Origin,
    encode_patch,
    estimate_bytes,
    write_bag,
)
from milpath.formats.existing import Existing
from milpath.formats.layout import bag_path, qc_path
from milpath.params import (
    LEVEL_TOLERANCE,
    MAX_UNREADABLE,
    MPP_WARN_DIFFERENCE,
    CodecParams,
    StainParams,
    TileParams,
)
from milpath.patches.artefacts import ArtefactFilter, Scores, find_clean, measure_blur
from milpath.patches.grid import PatchGrid, box_mean, plan_grid
from milpath.patches.reader import stream_patches
from milpath.patches.stain import WHITE, Normaliser, fit_normaliser
from milpath.patches.stainsample import read_stain_sample
from milpath.runs import Facts, Outcome, describe_redo, planned_outcome, skipped_outcome
from milpath.slides.facts import MppSource, SlideFacts
from milpath.slides.slide import Slide
from milpath.slides.thumbnail import Thumbnail, read_thumbnail
from milpath.slides.tissue import TissueMask, segment_tissue
from milpath.store import discard, publish_bytes

if TYPE_CHECKING:
    from milpath.slides.annotation import Annotation

log = logging.getLogger(__name__)

_MAX_CLEAR = 0.01  # share of a plain TIFF that may be transparent unsaid


@dataclass(frozen=True)
class Plan:
    """Tissue and patch grid of a slide, before any patch is read."""

    thumbnail: Thumbnail
    tissue: TissueMask
    grid: PatchGrid
    fold: Scores
    """Fraction of each patch that is folded tissue, (N,)."""
    pen: Scores
    """Fraction of each patch that is marker pen, (N,)."""
    left_out: int
    """Patches left out because of either."""

    @property
    def pen_mm2(self) -> float:
        """Area that was left out as marker pen."""
        return round(float(self.tissue.pen.sum()) * self.thumbnail.mpp**2 / 1e6, 4)


@dataclass(frozen=True)
class TileFacts(Facts):
    """Facts about a bag."""

    patches: int
    unreadable: int
    """Patches left out because the slide's file is damaged there."""
    patch_mpp: float
    mpp_source: MppSource
    background: Literal["bright", "dark"]
    annotated: bool
    """Whether the tissue is an annotation's."""
    bag: str
    """File name."""
    pen_mm2: float = 0.0
    """Area that was left out as marker pen."""
    grey: bool = False
    """Whether the slide has no colour."""
    left_out: int = 0
    """Patches left out as artefacts."""
    stain: str = "none"
    """How the stain was normalised."""


@dataclass(frozen=True)
class PlanFacts(Facts):
    """Facts about a bag that would be made."""

    patches: int
    """Number of patches; some may turn out to be unreadable."""
    bytes: int
    """Size of the bag, roughly."""

    def describe(self) -> str:
        """Say both in a phrase."""
        return f"{self.patches} patches, about {describe_bytes(self.bytes)}"


def describe_bytes(size: int) -> str:
    """Say a size in the largest unit of which there is one, such as "3.1 MB"."""
    unit = max((unit for unit in _BYTES if size >= unit), default=1)
    return f"{size / unit:.3g} {_BYTES.get(unit, 'bytes')}"


_BYTES = {1000: "KB", 10**6: "MB", 10**9: "GB", 10**12: "TB"}


def plan_slide(slide: Slide, params: TileParams, annotation: Annotation | None = None) -> Plan:
    """Detect the tissue, or take that of an annotation, and plan the patch grid.

    Raises as `plan_grid`, `read_thumbnail` and `rasterize_annotation` do.
    """
    slide.level_for(params.grid.mpp)  # raises for a wrong resolution before any pixel is read
    thumbnail = read_thumbnail(slide, params.tissue.thumbnail_mpp)
    unreadable = float(thumbnail.unreadable.mean())
    if unreadable > MAX_UNREADABLE:
        raise SlideReadError(
            f"{slide.name}: {unreadable:.0%} of its area cannot be read, at most "
            f"{MAX_UNREADABLE:.0%} may be; copy the slide again"
        )
    tissue = segment_tissue(thumbnail, params.tissue)
    if annotation is not None:
        # half a second of SciPy
        from milpath.slides.annotation import count_off_slide, rasterize_annotation

        try:
            tissue = rasterize_annotation(thumbnail, tissue, annotation)
        except AnnotationError as error:
            raise AnnotationError(f"{slide.name}: {error}") from None
        if off := count_off_slide(annotation, slide.dimensions):
            log.warning("%s: its annotation: regions off the slide: %d", slide.slide_id, off)
    for note in annotation.notes if annotation is not None else ():
        log.warning("%s: its annotation: %s", slide.slide_id, note)
    for warning in _warnings(
        slide, thumbnail, tissue, params.grid.mpp, annotated=annotation is not None
    ):
        log.warning("%s: %s", slide.slide_id, warning)
    grid = plan_grid(slide, tissue, params.grid)
    fold, pen = (_cover(mask, tissue, grid) for mask in (tissue.fold, tissue.pen))
    rows = find_clean(fold, pen, params.artefacts)
    left_out = len(grid) - len(rows)
    return Plan(thumbnail, tissue, grid.select(rows), fold[rows], pen[rows], left_out)


def fit_stain(slide: Slide, plan: Plan, params: TileParams) -> Normaliser | None:
    """Fit the stain normaliser of a slide; None without patches, or if none is asked for.

    Raises
    ------
    UnsupportedSlideError : the stain cannot be normalised; patches as scanned among normalised ones
        would mislead a model, so that the slide fails
    SlideReadError : the sampled patches cannot be read
    """
    method = params.stain.normalise
    if method == "none" or not len(plan.grid):
        return None
    try:
        if plan.tissue.background == "dark":
            raise UnsupportedSlideError("it has a dark background; H&E is expected")
        white = plan.tissue.background_rgb or WHITE
        return fit_normaliser(method, read_stain_sample(slide, plan.grid), white)
    except UnsupportedSlideError as error:
        raise UnsupportedSlideError(
            f"{slide.name}: its stain cannot be normalised ({error}); leave this slide out, or do "
            "without stain normalisation for all slides"
        ) from None


def _cover(mask: NDArray[np.bool_] | None, tissue: TissueMask, grid: PatchGrid) -> Scores:
    """Return the fraction of each patch that a mask covers, (N,)."""
    if mask is None:
        return np.zeros(len(grid), np.float32)
    return box_mean(mask, tissue.lattice, grid.coords, grid.patch_size_l0).astype(np.float32)


def _warnings(
    slide: Slide, thumbnail: Thumbnail, tissue: TissueMask, mpp: float, *, annotated: bool
) -> Iterator[str]:
    """Find what is suspicious about a slide, but does not prevent tiling."""
    yield from slide.mpp_notes
    own, used = slide.mpp_of_file[0], slide.mpp_mean
    if own is not None and abs(own / used - 1) > MPP_WARN_DIFFERENCE:
        yield (
            f"its file has {own:.4g} µm per pixel, the {slide.mpp_source} has {used:.4g}, which is "
            "used"
        )
    if used > mpp * LEVEL_TOLERANCE:
        yield (
            f"scanned at {used:.4g} µm per pixel, coarser than the {mpp:g} of its patches: "
            f"they are enlarged {used / mpp:.3g} times, which adds no detail"
        )
    if slide.clear_share > _MAX_CLEAR:
        yield (
            f"{slide.clear_share:.0%} of it is transparent and taken as empty; if its fourth "
            "sample is no alpha channel, save it again without that sample"
        )
    yield from _doubts_of_colour(tissue)
    if tissue.is_mostly_pen and not annotated:
        yield (
            "more of it was taken for marker pen than for tissue; if that is a stain, tile with "
            "--keep-pen, or draw the tissue and give it with --tissue-annotations"
        )
    if thumbnail.unreadable.any():
        yield f"{thumbnail.unreadable.mean():.2%} of its area cannot be read"


def _doubts_of_colour(tissue: TissueMask) -> Iterator[str]:
    if tissue.has_colour_cast:
        yield (
            f"its background has the colour {tissue.background_rgb}, unlikely for brightfield: the "
            "file's colours are probably wrong (YCbCr labelled RGB?), which a model would see"
        )
    if tissue.is_underexposed:
        yield (
            f"its background is dark, {tissue.background_rgb}: underexposed, or samples that do "
            "not use their whole range; a model would see stain that is not there"
        )
    if tissue.is_grey:
        yield (
            "it has no colour: marker pen cannot be distinguished from tissue, and models trained "
            "on stained slides are not valid for it"
        )


def require_pixels(params: TileParams) -> None:
    """Raise `UsageError` where a bag is to hold no pixels, but parameters are about them."""
    if params.pixels.codec != "none":
        return
    if params.artefacts.max_blur is not None:
        raise UsageError("blur is measured on pixels, and none are read; leave out max_blur")
    if params.stain != StainParams():
        raise UsageError(
            "stain normalisation changes pixels, and none are stored; leave out stain.normalise"
        )


def tile_slide(
    entry: SlideEntry, out: Path, params: TileParams, threads: int = 1, *, dry_run: bool = False
) -> Outcome:
    """Write `out/<slide_id>.h5` and `out/qc/<slide_id>.png`, unless they are there already.

    A bag is kept if it was made with the same parameters from the same slide and annotation.

    Parameters
    ----------
    entry : the slide
    out : folder of the bags
    params : all that decides what the bag contains
    threads : that read patches
    dry_run : say what would be done, and write nothing

    Raises
    ------
    SlideError : the slide cannot be tiled
    UsageError : a limit of blur, or stain normalisation, for a bag without pixels
    OutputError : `out` cannot be written
    """
    require_pixels(params)
    with entry.open() as slide:
        annotation = entry.read_annotation(slide.bounds_l0)
        drawn = annotation.fingerprint if annotation else None
        found = find_bag(out, slide.facts, params, drawn)
        if found.value is not None:
            message = f"{found.value.patches} patches, already done with the same parameters"
            return skipped_outcome(entry, message, found.value, dry_run=dry_run)
        plan = plan_slide(slide, params, annotation)
        if dry_run:
            patches = len(plan.grid)
            planned = PlanFacts(patches, estimate_bytes(patches, params))
            return planned_outcome(entry, "tiled", found, planned.describe(), planned)
        header = _write_results(slide, plan, out, params, drawn, threads)
        patches = len(plan.grid) + plan.left_out - header.unreadable - header.left_out
        facts = _collect_facts(slide.facts, plan.grid, header, patches)
    said = [describe_header(header, patches), describe_redo("tiled", found)]
    message = ", ".join(filter(None, said))
    return Outcome(entry.slide_id, header.status, message, facts)


def _write_results(
    slide: Slide, plan: Plan, out: Path, params: TileParams, annotation: str | None, threads: int
) -> BagHeader:
    path, qc = bag_path(out, slide.slide_id), qc_path(out, slide.slide_id)
    discard(qc)  # an older picture would show that all is done
    stain = fit_stain(slide, plan, params)
    artefacts = ArtefactFilter(params.artefacts, plan.fold, plan.pen)
    patches = artefacts.keep(_make_patches(slide, plan.grid, params.pixels, threads, stain))
    with ThreadPoolExecutor(1) as pool:  # draws while patches are read
        picture = pool.submit(_draw_png, plan, slide.slide_id)
        background = plan.tissue.background
        header = write_bag(
            path,
            slide.facts,
            plan.grid,
            background,
            patches,
            params,
            annotation,
            artefacts=artefacts,
            left_out=plan.left_out,
            pen_mm2=plan.pen_mm2 if annotation is None else 0.0,
            grey=plan.tissue.is_grey,
            stain=stain,
        )
    if artefacts.left_out:
        plan = replace(plan, grid=plan.grid.select(artefacts.rows))
        publish_bytes(qc, _draw_png(plan, slide.slide_id))
    else:
        publish_bytes(qc, picture.result())
    return header


def _make_patches(
    slide: Slide, grid: PatchGrid, params: CodecParams, threads: int, stain: Normaliser | None
) -> Iterator[tuple[int, tuple[Encoded, float | None]]]:
    """Yield (row of the grid, (encoded, blur)); no pixels are read where none are kept."""

    def process(pixels: NDArray[np.uint8]) -> tuple[Encoded, float | None]:
        shown = pixels if stain is None else stain.apply(pixels)
        return encode_patch(shown, params), measure_blur(pixels)

    if params.codec == "none":
        return ((row, (b"", None)) for row in range(len(grid)))
    return stream_patches(slide, grid, process, threads)


def _draw_png(plan: Plan, slide_id: str) -> bytes:
    return encode_png(draw_qc(plan.thumbnail, plan.tissue, plan.grid, slide_id))


def find_bag(
    out: Path, slide: SlideFacts, params: TileParams, annotation: str | None = None
) -> Existing[TileFacts]:
    """Find the bag of a slide in a folder of bags.

    Parameters
    ----------
    out : folder of the bags
    slide, params : the slide, and how it is to be tiled
    annotation : fingerprint of its tissue annotation, None without one
    """
    path = bag_path(out, slide.slide_id)
    if not path.exists():
        return Existing()
    try:
        with Bag(path) as bag:
            header, facts = bag.header, _collect_facts(bag.slide, bag.grid, bag.header, len(bag))
            old = Origin.of_stored(bag.slide, header)
    except StoredFileError:
        return Existing.stale("the bag was damaged, or made by another version of milpath")
    new = Origin.of_slide(slide, params, annotation)
    if old.fingerprint != new.fingerprint:
        return Existing.stale(old.describe_change(new))
    if header.unreadable:
        return Existing.stale(describe_unreadable(header))
    if not qc_path(out, slide.slide_id).exists():
        return Existing.stale("its picture is missing")
    return Existing.current(facts)


def describe_unreadable(header: BagHeader) -> str:
    """Say why a slide is read again: it may have been copied again, as its message advised."""
    return f"{header.unreadable} patches could not be read the last time"


def _collect_facts(
    slide: SlideFacts, grid: PatchGrid, header: BagHeader, patches: int
) -> TileFacts:
    return TileFacts(
        patches=patches,
        unreadable=header.unreadable,
        patch_mpp=grid.patch_mpp,
        mpp_source=slide.mpp_source,
        background=header.background,
        annotated=header.annotation is not None,
        bag=bag_path(Path(), slide.slide_id).name,
        pen_mm2=header.pen_mm2,
        grey=header.grey,
        left_out=header.left_out,
        stain=header.params.stain.normalise,
    )


def describe_header(header: BagHeader, patches: int, noun: str = "a bag") -> str:
    """Describe in a line what tiling gave: the number of patches, and what is unusual.

    Parameters
    ----------
    header, patches : of the result
    noun : what the result is called where it has no patches
    """
    annotated = header.annotation is not None
    none = "too little tissue in its annotation" if annotated else "no tissue found"
    if header.left_out:
        none = "no patch within the limits of artefacts"
    parts = [f"{patches} patches" if patches else f"{none}: {noun} of 0 patches"]
    if annotated and patches:
        parts.append("all in its annotation")
    if header.unreadable:
        parts.append(f"{header.unreadable} unreadable patches left out")
    if header.left_out:
        parts.append(f"{header.left_out} patches left out as artefacts")
    if header.background == "dark":
        parts.append("dark background, treated as fluorescence")
    if header.pen_mm2:
        parts.append(f"{header.pen_mm2:.2g} mm² of marker pen excluded")
    return ", ".join([*parts, *_describe_colour(header)])


def _describe_colour(header: BagHeader) -> Iterator[str]:
    if header.grey:
        drawn = header.annotation is not None
        yield "no colour" if drawn else "no colour, all that is dark is tissue"
    if header.stain is not None:
        yield f"stain normalised ({header.params.stain.normalise})"
