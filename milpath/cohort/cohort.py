"""Cohort: the slides of a study, with their labels and cases."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from milpath.cohort.workitem import WorkItem
from milpath.errors import AnnotationError, MilpathError, UsageError
from milpath.params import MPP_RANGE
from milpath.slides.names import folded, is_file_name, is_printable
from milpath.slides.redaction import name_slide
from milpath.slides.slide import MppSource, Slide

if TYPE_CHECKING:
    from milpath.slides.annotation import Annotation

SLIDE_SUFFIXES = frozenset(
    {".svs", ".ndpi", ".mrxs", ".tif", ".tiff", ".scn", ".bif", ".svslide", ".vms", ".vmu"}
    | {".czi", ".dcm"}
)
ANNOTATION_SUFFIX = ".geojson"

MAX_BYTES = 1 << 26
MAX_SLIDES = 100_000
"""Limits of a cohort file; more is a mistake, or an attack."""

SPLITS = ("train", "val", "test")
_MAX_PATH = 4096
_COLUMNS = ("slide", "slide_id", "label", "case", "mpp", "split", "site")


@dataclass(frozen=True)
class SlideEntry(WorkItem):
    """A slide of a cohort, and what the cohort says about it."""

    label: str | None = None
    case: str | None = None
    mpp: float | None = None
    mpp_source: MppSource = "slide"
    split: str | None = None
    site: str | None = None
    annotation: Path | None = None
    """GeoJSON of tissue drawn by a person; without it, tissue is detected."""

    def absolute(self) -> Self:
        """Return the entry with absolute paths."""
        annotation = self.annotation and self.annotation.absolute()
        return replace(super().absolute(), annotation=annotation)

    def open(self) -> Slide:
        """Open the slide; raise as `Slide` does."""
        return Slide(self.path, self.slide_id, self.mpp, self.mpp_source)

    def read_annotation(self) -> Annotation | None:
        """Read its tissue annotation; raise `AnnotationError`, also where the file is missing."""
        if self.annotation is None:
            return None
        from milpath.slides.annotation import read_annotation  # half a second of SciPy

        if not self.annotation.exists():
            raise AnnotationError(
                f"{self.slide_id}: has no tissue annotation; expected "
                f"{annotation_path(Path(), self.slide_id)} in "
                "the folder of annotations"
            )
        return read_annotation(self.annotation, f"{self.slide_id}: its annotation")


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

    def require_labels(self) -> None:
        """Raise `UsageError` unless every slide has a label, and there are two classes or more."""
        names = self.class_names
        if len(names) < 2:
            raise UsageError(
                f"{self.name}: a model needs at least two classes; the column 'label' has "
                f"{', '.join(names) or 'none'}"
            )
        for entry in self.entries:
            if entry.label is None:
                raise UsageError(f"{self.name}: slide {entry.slide_id!r} has no label")

    def cases(self) -> list[str]:
        """Return the case of each entry; a slide without one is a case of its own."""
        return [entry.case or entry.slide_id for entry in self.entries]


# -- reading -------------------------------------------------------------------------------------


def read_cohort(path: Path) -> Cohort:
    """Read a cohort CSV: a column `slide`, and optionally slide_id, label, case, mpp, split, site.

    Paths are relative to the CSV's folder; other columns are ignored. The delimiter may be a
    comma, a semicolon or a tab.

    Raises
    ------
    UsageError : not a valid cohort file; the message names the line
    """
    text = _read_text(path)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        entries = _read_rows(path, reader)
    except csv.Error as error:
        raise UsageError(f"{path.name}, line {reader.reader.line_num}: not CSV ({error})") from None
    _check_unique_ids(path.name, entries)
    _check_case_spelling(path.name, entries)
    _check_split_leakage(path.name, entries)
    return Cohort(path.stem, tuple(entries))


def _read_rows(path: Path, reader: csv.DictReader[str]) -> list[SlideEntry]:
    columns = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = columns
    if "slide" not in columns:
        found = ascii(", ".join(columns)[:100])[1:-1] or "nothing"
        raise UsageError(f"{path.name}: needs a column 'slide' in its first line, found {found}")
    for number, name in enumerate(columns):
        if name in columns[:number]:
            raise UsageError(f"{path.name}: duplicated column {name[:50]!a} in its first line")
    entries = [_read_row(path, reader.line_num, row) for row in reader]
    if not entries:
        raise UsageError(f"{path.name}: contains no slides, only a first line")
    return entries


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path.name}: larger than {MAX_BYTES >> 20} MB, not a list of slides")
        data = path.read_bytes()
        if max(data.count(b"\n"), data.count(b"\r")) > MAX_SLIDES + 1:
            raise UsageError(f"{path.name}: more than {MAX_SLIDES:,} lines; split it")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path.name}: not UTF-8 text (byte {error.start}); save it as CSV UTF-8"
        ) from None
    except OSError as error:
        raise UsageError(f"{path.name}: cannot be read ({error.strerror})") from None


def _read_row(path: Path, number: int, row: dict[str, str | None]) -> SlideEntry:
    where = f"{path.name}, line {number}"
    if None in row or None in row.values():
        raise UsageError(f"{where}: wrong number of columns; expected as many as in the first line")
    text = {name: (row.get(name) or "").strip() or None for name in _COLUMNS}
    _check_text(where, text)
    if text["slide"] is None:
        raise UsageError(f"{where}: the slide is empty")
    split = text["split"]
    if split is not None and split not in SPLITS:
        raise UsageError(f"{where}: split is {split[:50]!r}, expected train, val or test")
    mpp = None if text["mpp"] is None else _read_mpp(where, text["mpp"])
    file = path.parent / text["slide"]
    return SlideEntry(
        path=file,
        slide_id=_checked_id(where, text["slide_id"] or file.stem),
        label=text["label"],
        case=text["case"],
        mpp=mpp,
        mpp_source="slide" if mpp is None else "cohort",
        split=split,
        site=text["site"],
    )


def _check_text(where: str, text: dict[str, str | None]) -> None:
    """Raise unless values that are printed, or used as paths, are printable and short."""
    for name in ("slide", "label", "case", "site"):
        value = text[name] or ""
        parts = value.split("/") if name == "slide" else [value]
        if not all(is_printable(part) for part in parts) or len(value) > _MAX_PATH:
            raise UsageError(
                f"{where}: {name} is {value[:50]!a}, which has control characters or is too long"
            )


def _read_mpp(where: str, text: str) -> float:
    low, high = MPP_RANGE
    try:
        mpp = float(text)
    except ValueError:
        mpp = float("nan")
    if not low <= mpp <= high:
        raise UsageError(
            f"{where}: mpp is {text[:50]!r}, expected a number from {low:g} to {high:g}"
        )
    return mpp


def _checked_id(where: str, slide_id: str) -> str:
    """Return a slide id if it is a valid file name on every system."""
    if not is_file_name(slide_id):
        raise UsageError(
            f"{where}: slide id {slide_id[:100]!r} is not a valid file name; give another one "
            "in the column slide_id"
        )
    return slide_id


def _check_unique_ids(source: str, entries: Sequence[SlideEntry]) -> None:
    """Raise where two slides would write the same file on some file system."""
    seen: dict[str, SlideEntry] = {}
    for entry in entries:
        key = folded(entry.slide_id)
        if key in seen:
            one, two = (name_slide(each.path, each.slide_id) for each in (seen[key], entry))
            raise UsageError(
                f"{source}: {one} and {two} have the same slide id {entry.slide_id!r}; "
                "give each its own in a slide_id column"
            )
        seen[key] = entry


def _check_case_spelling(source: str, entries: Sequence[SlideEntry]) -> None:
    """Raise for `p1` and `P1`: they are one patient, typed twice."""
    seen: dict[str, str] = {}
    for entry in entries:
        if entry.case is not None:
            other = seen.setdefault(folded(entry.case), entry.case)
            if other != entry.case:
                raise UsageError(
                    f"{source}: cases {other!r} and {entry.case!r} differ only in spelling; "
                    "use one of them everywhere"
                )


def _check_split_leakage(source: str, entries: Sequence[SlideEntry]) -> None:
    """Raise where a given split has slides of one case in two sets."""
    given = [entry for entry in entries if entry.split is not None]
    if given and len(given) < len(entries):
        missing = next(entry for entry in entries if entry.split is None)
        raise UsageError(f"{source}: split is given for some slides but not {missing.slide_id!r}")
    sets: dict[str, set[str]] = defaultdict(set)
    for entry in given:
        sets[entry.case or entry.slide_id].add(entry.split or "")
    for case, splits in sets.items():
        if len(splits) > 1:
            raise UsageError(
                f"{source}: case {case!r} is in {' and '.join(sorted(splits))}; "
                "all slides of a case must be in one set"
            )


def gather_slides(inputs: Iterable[Path], slide_mpp: float | None = None) -> list[SlideEntry]:
    """List the slides given as files, folders (searched recursively) and cohort CSVs.

    Parameters
    ----------
    inputs : files, folders and CSVs
    slide_mpp : µm per pixel of all slides, in place of the file's and the cohort's

    Raises
    ------
    UsageError : nothing found, or two slides with the same id
    """
    entries: list[SlideEntry] = []
    for path in inputs:
        if path.is_dir():
            found = _search_folder(path)
            if not found:
                raise UsageError(
                    f"{path}: no slide in this folder; expected files named "
                    + " ".join(sorted(SLIDE_SUFFIXES))
                )
            entries.extend(found)
        elif path.suffix.lower() in {".csv", ".tsv"}:
            entries.extend(read_cohort(path).entries)
        else:
            entries.append(SlideEntry(path, _checked_id(path.name, path.stem)))
    if slide_mpp is not None:
        low, high = MPP_RANGE
        if not low <= slide_mpp <= high:
            raise UsageError(f"--slide-mpp is {slide_mpp:g}, expected {low:g} to {high:g}")
        entries = [replace(entry, mpp=slide_mpp, mpp_source="option") for entry in entries]
    entries = list(dict.fromkeys(entries))  # a slide may be given by its file and its folder
    _check_unique_ids("slides", entries)
    return entries


def annotation_path(folder: Path, slide_id: str) -> Path:
    """Tissue annotation of a slide in a folder of annotations."""
    return folder / f"{slide_id}{ANNOTATION_SUFFIX}"


def attach_annotations(entries: Sequence[SlideEntry], given: Path) -> list[SlideEntry]:
    """Return the slides with their tissue annotations.

    Parameters
    ----------
    given : an annotation file, for one slide; or a folder of `<slide_id>.geojson`, where a slide
        without one fails later, on its own

    Raises
    ------
    UsageError : one annotation for several slides, no annotation, or a folder with none of them
    """
    if given.is_dir():
        files = [annotation_path(given, entry.slide_id) for entry in entries]
        if not any(file.exists() for file in files):
            raise UsageError(
                f"{given}: has no annotation for any of the slides; expected "
                + " ".join(file.name for file in files[:3])
            )
        return [replace(entry, annotation=file) for entry, file in zip(entries, files, strict=True)]
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
    return [replace(entry, annotation=given) for entry in entries]


def _search_folder(folder: Path) -> list[SlideEntry]:
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SLIDE_SUFFIXES and file.is_file() and file.name[0] != "."
    )
    entries = [
        SlideEntry(file, _checked_id(file.name, file.stem))
        for file in files
        if file.suffix.lower() != ".dcm"
    ]
    dicom: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        if file.suffix.lower() == ".dcm":
            dicom[file.parent].append(file)
    for parent, members in dicom.items():
        entries.extend(_dicom_series(parent, members))
    return entries


def _dicom_series(folder: Path, files: Sequence[Path]) -> list[SlideEntry]:
    """Return one entry per DICOM slide; its levels are separate files in one folder."""
    first: dict[str, Path] = {}
    for file in files:
        try:
            with Slide(file) as slide:
                first.setdefault(slide.quickhash, file)
        except MilpathError:
            first[file.name] = file  # fails again when it is processed, and is reported then
    if len(first) == 1:
        (file,) = first.values()
        name = folder.resolve().name
        return [SlideEntry(file, _checked_id(name, name))]
    return [SlideEntry(file, _checked_id(file.name, file.stem)) for file in first.values()]


def _natural(label: str) -> tuple[float, str]:
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return (number if math.isfinite(number) else math.inf), label
