"""Tiling: a slide becomes a bag and a picture of what was cut."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from milpath.cohort.cohort import SlideEntry
from milpath.errors import AnnotationError, SlideReadError, StoredFileError
from milpath.figures.canvas import encode_png
from milpath.figures.qc import draw_qc
from milpath.formats.bag import Bag, BagHeader, bag_fingerprint, encode_patch, write_bag
from milpath.formats.geometry import compare_annotations, compare_slides
from milpath.params import MAX_UNREADABLE, MPP_WARN_DIFFERENCE, TileParams, compare_params
from milpath.patches.grid import PatchGrid, plan_grid
from milpath.patches.reader import stream_patches
from milpath.runs import Outcome, plan_outcome
from milpath.slides.slide import Slide, SlideFacts
from milpath.slides.thumbnail import Thumbnail, read_thumbnail
from milpath.slides.tissue import TissueMask, segment_tissue
from milpath.store import discard, publish_bytes

if TYPE_CHECKING:
    from milpath.slides.annotation import Annotation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What will be cut from a slide, and why."""

    thumbnail: Thumbnail
    tissue: TissueMask
    grid: PatchGrid


def plan_slide(slide: Slide, params: TileParams, annotation: Annotation | None = None) -> Plan:
    """Find the tissue, or take that of an annotation, and lay the grid.

    Raises as `plan_grid`, `read_thumbnail` and `rasterize_annotation` do.
    """
    slide.level_for(params.grid.mpp)  # an unfit resolution is refused before any pixel is read
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
            tissue = rasterize_annotation(thumbnail, tissue, annotation.polygons)
        except AnnotationError as error:
            raise AnnotationError(f"{slide.name}: {error}") from None
    for doubt in _warnings(slide, thumbnail, tissue):
        log.warning("%s: %s", slide.slide_id, doubt)
    return Plan(thumbnail, tissue, plan_grid(slide, tissue, params.grid))


def _warnings(slide: Slide, thumbnail: Thumbnail, tissue: TissueMask) -> Iterator[str]:
    """What a user should hear of a slide that is tiled all the same."""
    own, used = slide.mpp_of_file[0], slide.mpp_mean
    if own is not None and abs(own / used - 1) > MPP_WARN_DIFFERENCE:
        yield (
            f"says {own:.4g} µm per pixel of itself, the {slide.mpp_source} says {used:.4g}, "
            "which is used"
        )
    if tissue.has_colour_cast:
        yield (
            f"its background has the colour {tissue.background_rgb}, unlikely for brightfield: the "
            "file's colours are probably wrong (YCbCr labelled RGB?), and a model will see wrong "
            "colours"
        )
    if thumbnail.unreadable.any():
        yield f"{thumbnail.unreadable.mean():.2%} of its area cannot be read"


def bag_path(folder: Path, slide_id: str) -> Path:
    """Where the bag of a slide lies in a folder of bags."""
    return folder / f"{slide_id}.h5"


def tile_slide(entry: SlideEntry, out: Path, params: TileParams, threads: int = 1) -> Outcome:
    """Write `out/<slide_id>.h5` and `out/qc/<slide_id>.png`, unless they are there already.

    A bag made with the same parameters from the same slide, and within the same annotation if it
    has one, is kept; any other is made again.

    Raises
    ------
    SlideError : the slide cannot be tiled
    OutputError : `out` cannot be written
    """
    path, qc = bag_path(out, entry.slide_id), _qc_path(out, entry.slide_id)
    with entry.open() as slide:
        facts = slide.facts
        annotation = entry.read_annotation()
        drawn = annotation.fingerprint if annotation else None
        found = find_bag(out, facts, params, drawn)
        if isinstance(found, Outcome):
            return found
        plan = plan_slide(slide, params, annotation)
        discard(qc)  # an older one would say that all is done
        encode = partial(encode_patch, params=params.pixels)
        patches = stream_patches(slide, plan.grid, encode, threads)
        with ThreadPoolExecutor(1) as pool:  # while patches are read
            picture = pool.submit(_draw_png, plan, entry.slide_id)
            background = plan.tissue.background
            header = write_bag(path, facts, plan.grid, background, patches, params, drawn)
        publish_bytes(qc, picture.result())
    count = len(plan.grid) - header.unreadable
    return Outcome(
        entry.slide_id,
        header.status,
        _sentence(count, header, found),
        {
            "patches": count,
            "unreadable": header.unreadable,
            "patch_mpp": plan.grid.patch_mpp,
            "mpp_source": facts.mpp_source,
            "background": header.background,
            "annotated": drawn is not None,
            "bag": path.name,
        },
    )


def _draw_png(plan: Plan, slide_id: str) -> bytes:
    return encode_png(draw_qc(plan.thumbnail, plan.tissue, plan.grid, slide_id))


def preview_bag(entry: SlideEntry, out: Path, params: TileParams) -> Outcome:
    """What `tile_slide` would do with a slide, as far as can be said without finding its tissue.

    Raises as `Slide`, `Slide.level_for` and `SlideEntry.read_annotation` do; writes nothing.
    """
    with entry.open() as slide:
        drawn = annotation.fingerprint if (annotation := entry.read_annotation()) else None
        found = find_bag(out, slide.facts, params, drawn)
        slide.level_for(params.grid.mpp)
    return plan_outcome(entry, found)


def find_bag(
    out: Path, slide: SlideFacts, params: TileParams, annotation: str | None = None
) -> Outcome | str | None:
    """The outcome of a bag that is already right, why one is not, or None where there is none."""
    path = bag_path(out, slide.slide_id)
    if not path.exists():
        return None
    try:
        with Bag(path) as bag:
            header, count, old = bag.header, len(bag), bag.slide
    except StoredFileError:
        return "the bag there was damaged, or of another milpath"
    if header.fingerprint != bag_fingerprint(slide, params, annotation):
        drawn = compare_annotations(header.annotation, annotation)
        return ", ".join([*_differences(old, slide, header.params, params), *drawn]) or _OTHER
    if header.unreadable:  # the slide may have been mended, as its user was told to
        return f"{header.unreadable} of its patches could not be read the last time"
    if not _qc_path(out, slide.slide_id).exists():
        return "its picture was missing"
    return Outcome(
        slide.slide_id,
        "skipped",
        f"{count} patches, done before with the same parameters",
        {"patches": count, "unreadable": header.unreadable, "bag": path.name},
    )


_OTHER = "another milpath made it"


def _differences(old: SlideFacts, new: SlideFacts, was: TileParams, now: TileParams) -> list[str]:
    slide = compare_slides(replace(old, mpp_source=new.mpp_source), new)  # by value, not by source
    params = [f"{name} was {one}, is {two}" for name, one, two in compare_params(was, now)]
    return [*slide, *params]


def _qc_path(out: Path, slide_id: str) -> Path:
    return out / "qc" / f"{slide_id}.png"


def _sentence(count: int, header: BagHeader, stale: str | None) -> str:
    none = "no tissue found" if header.annotation is None else "too little in its annotation"
    parts = [f"{count} patches" if count else f"{none}: a bag of 0 patches"]
    if header.annotation is not None and count:
        parts.append("all in its annotation")
    if header.unreadable:
        parts.append(f"{header.unreadable} unreadable left out")
    if header.background == "dark":
        parts.append("dark background, taken for fluorescence")
    if stale:
        parts.append(f"made anew: {stale}")
    return ", ".join(parts)
