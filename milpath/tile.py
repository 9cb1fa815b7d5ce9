"""Tiling: cut a slide into a bag of patches, and draw a picture of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from milpath.cohort.cohort import SlideEntry
from milpath.errors import AnnotationError, SlideReadError, StoredFileError
from milpath.figures.canvas import encode_png
from milpath.figures.qc import draw_qc
from milpath.formats.bag import Bag, BagHeader, bag_fingerprint, encode_patch, write_bag
from milpath.formats.existing import Existing
from milpath.formats.geometry import compare_annotations, compare_slides
from milpath.formats.layout import bag_path, qc_path
from milpath.params import MAX_UNREADABLE, MPP_WARN_DIFFERENCE, TileParams, compare_params
from milpath.patches.grid import PatchGrid, plan_grid
from milpath.patches.reader import stream_patches
from milpath.runs import Facts, Outcome, describe_redo, planned_outcome, skipped_outcome
from milpath.slides.slide import MppSource, Slide, SlideFacts
from milpath.slides.thumbnail import Thumbnail, read_thumbnail
from milpath.slides.tissue import TissueMask, segment_tissue
from milpath.store import discard, publish_bytes

if TYPE_CHECKING:
    from milpath.slides.annotation import Annotation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Tissue and patch grid of a slide, before any patch is read."""

    thumbnail: Thumbnail
    tissue: TissueMask
    grid: PatchGrid

    @property
    def pen_mm2(self) -> float:
        """Area that was left out as marker pen."""
        return float(self.tissue.pen.sum()) * self.thumbnail.mpp**2 / 1e6


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
        from milpath.slides.annotation import rasterize_annotation  # half a second of SciPy

        try:
            tissue = rasterize_annotation(thumbnail, tissue, annotation)
        except AnnotationError as error:
            raise AnnotationError(f"{slide.name}: {error}") from None
    for note in annotation.notes if annotation is not None else ():
        log.warning("%s: its annotation: %s", slide.slide_id, note)
    for warning in _warnings(slide, thumbnail, tissue, annotated=annotation is not None):
        log.warning("%s: %s", slide.slide_id, warning)
    return Plan(thumbnail, tissue, plan_grid(slide, tissue, params.grid))


def _warnings(
    slide: Slide, thumbnail: Thumbnail, tissue: TissueMask, *, annotated: bool
) -> Iterator[str]:
    """Find what is suspicious about a slide, but does not prevent tiling."""
    yield from slide.mpp_notes
    own, used = slide.mpp_of_file[0], slide.mpp_mean
    if own is not None and abs(own / used - 1) > MPP_WARN_DIFFERENCE:
        yield (
            f"its file has {own:.4g} µm per pixel, the {slide.mpp_source} has {used:.4g}, which is "
            "used"
        )
    if tissue.has_colour_cast:
        yield (
            f"its background has the colour {tissue.background_rgb}, unlikely for brightfield: the "
            "file's colours are probably wrong (YCbCr labelled RGB?), which a model would see"
        )
    if tissue.is_mostly_pen and not annotated:
        yield (
            "more of it was taken for marker pen than for tissue; if that is a stain, tile with "
            "--keep-pen, or draw the tissue and give it with --tissue-annotations"
        )
    if tissue.is_grey:
        yield (
            "it has no colour: marker pen cannot be distinguished from tissue, and models trained "
            "on stained slides are not valid for it"
        )
    if thumbnail.unreadable.any():
        yield f"{thumbnail.unreadable.mean():.2%} of its area cannot be read"


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
    OutputError : `out` cannot be written
    """
    with entry.open() as slide:
        annotation = entry.read_annotation(slide.bounds_l0)
        drawn = annotation.fingerprint if annotation else None
        found = find_bag(out, slide.facts, params, drawn)
        if found.value is not None:
            message = f"{found.value.patches} patches, already done with the same parameters"
            return skipped_outcome(entry, message, found.value, dry_run=dry_run)
        if dry_run:
            slide.level_for(params.grid.mpp)
            return planned_outcome(entry, "tiled", found)
        plan = plan_slide(slide, params, annotation)
        header = _write_results(slide, plan, out, params, drawn, threads)
        facts = _collect_facts(slide.facts, plan.grid, header, len(plan.grid) - header.unreadable)
    message = ", ".join(filter(None, [_describe(facts), describe_redo("tiled", found)]))
    return Outcome(entry.slide_id, header.status, message, facts)


def _write_results(
    slide: Slide, plan: Plan, out: Path, params: TileParams, annotation: str | None, threads: int
) -> BagHeader:
    path, qc = bag_path(out, slide.slide_id), qc_path(out, slide.slide_id)
    discard(qc)  # an older picture would show that all is done
    encode = partial(encode_patch, params=params.pixels)
    patches = stream_patches(slide, plan.grid, encode, threads)
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
            pen_mm2=round(plan.pen_mm2, 4) if annotation is None else 0.0,
            grey=plan.tissue.is_grey,
        )
    publish_bytes(qc, picture.result())
    return header


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
            old = bag.slide
    except StoredFileError:
        return Existing.stale("the bag was damaged, or made by another version of milpath")
    if header.fingerprint != bag_fingerprint(slide, params, annotation):
        changes = _differences(old, slide, header.params, params)
        changes += compare_annotations(header.annotation, annotation)
        return Existing.stale(", ".join(changes) or "made by another version of milpath")
    if header.unreadable:  # the slide may have been copied again, as the message advises
        return Existing.stale(f"{header.unreadable} patches could not be read the last time")
    if not qc_path(out, slide.slide_id).exists():
        return Existing.stale("its picture is missing")
    return Existing.current(facts)


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
    )


def _differences(old: SlideFacts, new: SlideFacts, was: TileParams, now: TileParams) -> list[str]:
    # the same value of mpp from another source is no difference
    slide = compare_slides(replace(old, mpp_source=new.mpp_source), new)
    changes = compare_params(was, now)
    return [*slide, *(f"{name} changed from {one} to {two}" for name, one, two in changes)]


def _describe(facts: TileFacts) -> str:
    none = "too little tissue in its annotation" if facts.annotated else "no tissue found"
    parts = [f"{facts.patches} patches" if facts.patches else f"{none}: a bag of 0 patches"]
    if facts.annotated and facts.patches:
        parts.append("all in its annotation")
    if facts.unreadable:
        parts.append(f"{facts.unreadable} unreadable patches left out")
    if facts.background == "dark":
        parts.append("dark background, treated as fluorescence")
    if facts.pen_mm2:
        parts.append(f"{facts.pen_mm2:.2g} mm² of marker pen excluded")
    if facts.grey:
        parts.append("no colour" if facts.annotated else "no colour, all that is dark is tissue")
    return ", ".join(parts)
