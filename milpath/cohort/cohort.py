"""Cohort: the slides of a study, with their labels and cases."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from milpath.cohort.cells import is_doubtful_label
from milpath.cohort.entry import ANNOTATION_SUFFIX, SlideEntry, annotation_path
from milpath.cohort.ids import id_from_path
from milpath.cohort.search import SLIDE_SUFFIXES, name_entry, search_folder
from milpath.cohort.table import MAX_LISTED, read_table
from milpath.errors import AnnotationError, UsageError
from milpath.params import MPP_RANGE
from milpath.slides.frame import Frame
from milpath.slides.names import folded, printable
from milpath.slides.redaction import name_slide

__all__ = [
    "ANNOTATION_SUFFIX",
    "SLIDE_SUFFIXES",
    "SPLITS",
    "Cohort",
    "SlideEntry",
    "annotation_path",
    "attach_annotations",
    "gather_slides",
    "read_cohort",
]

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Cohort:
    """The rows of a cohort CSV, in order."""

    name: str
    entries: tuple[SlideEntry, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels, sorted; numbers by value."""
        labels = {entry.label for entry in self.entries if entry.label is not None}
        return tuple(sorted(labels, key=_natural))

    def require_classes(self) -> None:
        """Raise `UsageError` unless there are two classes or more."""
        names = self.class_names
        if len(names) < 2:
            raise UsageError(
                f"{self.name}: a model needs at least two classes; the column 'label' has "
                f"{', '.join(names) or 'none'}"
            )

    def report_cases(self) -> None:
        """Log which slides have no case, since slides of one patient may then be in two sets."""
        missing = [entry.slide_id for entry in self.entries if entry.case is None]
        if len(missing) == len(self.entries):
            log.warning(
                "%s: no case is given: each slide counts as a case of its own; if a patient has "
                "several slides, add a column 'case'",
                self.name,
            )
        elif missing:
            log.warning(
                "%s: %s no case, and each counts as a case of its own: %s",
                self.name,
                count_slides(missing),
                list_slides(missing),
            )

    def report_labels(self) -> None:
        """Log which classes are named as if the label were missing."""
        doubtful = [name for name in self.class_names if is_doubtful_label(name)]
        if doubtful:
            log.warning(
                "%s: taken as %s: %s; if a slide so marked has no label, leave its cell empty",
                self.name,
                "a class" if len(doubtful) == 1 else "classes",
                ", ".join(repr(printable(name)) for name in doubtful),
            )

    def cases(self) -> list[str]:
        """Return the case of each entry; a slide without one is a case of its own."""
        return [entry.case or entry.slide_id for entry in self.entries]


def count_slides(slides: Sequence[str]) -> str:
    """Say how many slides have something, to be continued: "1 slide has", "3 slides have"."""
    return "1 slide has" if len(slides) == 1 else f"{len(slides):,} slides have"


def list_slides(slides: Sequence[str]) -> str:
    """List slides, up to `MAX_LISTED`."""
    rest = len(slides) - MAX_LISTED
    return ", ".join(slides[:MAX_LISTED]) + (f" and {rest:,} more" if rest > 0 else "")


# -- reading -------------------------------------------------------------------------------------


def read_cohort(path: Path, *, ids_from_path: bool = False) -> Cohort:
    """Read a cohort CSV: a column `slide`, and optionally slide_id, label, case, mpp, split, site.

    Capitals and spaces in these names do not matter. Other names of a case, such as patient_id,
    are taken as `case`; columns that are not used are logged. Paths are relative to the CSV's
    folder. The delimiter may be a comma, a semicolon or a tab. NA, nan, None and the like are
    missing values.

    Parameters
    ----------
    path : the file
    ids_from_path : whether a slide without a slide_id has one from its path, not from its name

    Raises
    ------
    UsageError : not a valid cohort file; the message names the line
    """
    return Cohort(path.stem, tuple(read_table(path, ids_from_path=ids_from_path)))


def gather_slides(
    inputs: Iterable[Path], slide_mpp: float | None = None, *, ids_from_path: bool = False
) -> list[SlideEntry]:
    """List the slides given as files, folders (searched recursively) and cohort CSVs.

    Parameters
    ----------
    inputs : files, folders and CSVs
    slide_mpp : µm per pixel of all slides, in place of the file's and the cohort's
    ids_from_path : whether ids are made from paths: relative to the folder or CSV that was given;
        of a file that was given, relative to the current folder

    Raises
    ------
    UsageError : nothing found, or two slides with the same id
    """
    entries: dict[SlideEntry, str] = {}  # a slide may be given by its file and its folder
    for path in inputs:
        if path.suffix.lower() in {".csv", ".tsv"} and not _is_folder(path):
            for entry in _read_listed(path, ids_from_path=ids_from_path):
                entries.setdefault(entry, name_slide(entry.path, entry.slide_id))
        else:
            for entry in _find_slides(path, ids_from_path=ids_from_path):
                entries.setdefault(entry, str(entry.path))
    if slide_mpp is not None:
        low, high = MPP_RANGE
        if not low <= slide_mpp <= high:
            raise UsageError(f"--slide-mpp is {slide_mpp:g}, expected {low:g} to {high:g}")
        entries = {
            replace(entry, mpp=slide_mpp, mpp_source="option"): name
            for entry, name in entries.items()
        }
    return _unique_slides(entries, ids_from_path=ids_from_path)


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - False also where it may not be looked at


def _read_listed(path: Path, *, ids_from_path: bool) -> tuple[SlideEntry, ...]:
    cohort = read_cohort(path, ids_from_path=ids_from_path)
    missing = [entry.slide_id for entry in cohort.entries if entry.mpp is None]
    if 0 < len(missing) < len(cohort.entries):
        log.warning(
            "%s: %s no mpp there; that of the file is used: %s",
            path.name,
            count_slides(missing),
            list_slides(missing),
        )
    return cohort.entries


def _find_slides(path: Path, *, ids_from_path: bool) -> list[SlideEntry]:
    if _is_folder(path):
        found = search_folder(path, ids_from_path=ids_from_path)
        if not found:
            raise UsageError(
                f"{printable(str(path))}: no slide in this folder; expected files named "
                + " ".join(sorted(SLIDE_SUFFIXES))
                + ", or DICOM files of any name"
            )
        return found
    slide_id = id_from_path(path, Path()) if ids_from_path else path.stem
    return [name_entry(path, slide_id, path.name)]


def _unique_slides(entries: dict[SlideEntry, str], *, ids_from_path: bool) -> list[SlideEntry]:
    """Return the slides, one found by two paths once; raise where two have the same id.

    Parameters
    ----------
    entries : the slides, and how messages name them
    """
    seen: dict[str, SlideEntry] = {}
    for entry in entries:
        other = seen.setdefault(folded(entry.slide_id), entry)
        if other is entry or _is_same(entry, other):
            continue
        remedy = "give each its own in a slide_id column of a CSV, or rename one"
        if not ids_from_path:
            remedy = "give --ids-from-path, or each its own in a slide_id column of a CSV"
        raise UsageError(
            f"slides: {printable(entries[other], 300)} and {printable(entries[entry], 300)} have "
            f"the same slide id {entry.slide_id!r}; {remedy}"
        )
    return list(seen.values())


def _is_same(one: SlideEntry, two: SlideEntry) -> bool:
    """Return whether two entries are one file, found by two paths, and say the same of it."""
    same_file = os.path.realpath(one.path) == os.path.realpath(two.path)
    return same_file and replace(one, path=two.path) == two


def attach_annotations(
    entries: Sequence[SlideEntry], given: Path, frame: Frame = Frame.qupath
) -> list[SlideEntry]:
    """Return the slides with their tissue annotations.

    Parameters
    ----------
    given : an annotation file, for one slide; or a folder of `<slide_id>.geojson`, where a slide
        without one fails later, on its own
    frame : of the annotations' coordinates, unless their files record their own

    Raises
    ------
    UsageError : one annotation for several slides, no annotation, or a folder with none of them
    """
    if _is_folder(given):
        files = [annotation_path(given, entry.slide_id) for entry in entries]
        if not any(file.exists() for file in files):
            raise UsageError(
                f"{given}: has no annotation for any of the slides; expected "
                + " ".join(file.name for file in files[:3])
            )
        pairs = zip(entries, files, strict=True)
        return [replace(entry, annotation=file, frame=frame) for entry, file in pairs]
    if len(entries) > 1:
        raise UsageError(
            f"one annotation file is for one slide, not for {len(entries)}; "
            f"give a folder with <slide_id>{ANNOTATION_SUFFIX} for each"
        )
    from milpath.slides.annotation import read_annotation

    try:
        read_annotation(given)  # fails now, not after a network has been loaded
    except AnnotationError as error:
        raise UsageError(str(error)) from None
    return [replace(entry, annotation=given, frame=frame) for entry in entries]


def _natural(label: str) -> tuple[float, str]:
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return (number if math.isfinite(number) else math.inf), label
