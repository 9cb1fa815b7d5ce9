"""Table: a cohort file, read as people and spreadsheets write it."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from milpath.cohort.cells import (
    case_key,
    label_key,
    name_column,
    read_number,
    read_split,
    read_value,
    show_apart,
)
from milpath.cohort.entry import SlideEntry
from milpath.cohort.ids import id_from_path
from milpath.errors import UsageError
from milpath.params import MPP_RANGE
from milpath.slides.names import folded, is_file_name, is_printable, printable

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 26
MAX_SLIDES = 100_000
"""Limits of a cohort file; more is a mistake, or an attack."""

_MAX_PATH = 4096
_DELIMITERS = ",;\t"
_COLUMNS = ("slide", "slide_id", "label", "case", "mpp", "split", "site")
_MAX_COLUMNS = 1000
_MAX_NAMED = 20
"""Columns that are named in a message."""


@dataclass(frozen=True)
class _Row:
    """A row of the file that is not empty."""

    line: int
    cells: list[str]


@dataclass(frozen=True)
class _Columns:
    """The columns of the file.

    Attributes
    ----------
    header : their names in the file
    names : their names in milpath, in the same order
    """

    header: list[str]
    names: list[str]

    def of(self, name: str) -> list[int]:
        """Return the numbers of the columns of a name; of several, its own spelling first."""
        found = [number for number, given in enumerate(self.names) if given == name]
        return sorted(found, key=lambda number: self.header[number].casefold() != name)

    def get(self, row: _Row, name: str) -> str | None:
        """Return the first value that a row has in the columns of a name."""
        values = (read_value(row.cells[number]) for number in self.of(name))
        return next((value for value in values if value is not None), None)

    def fits(self, row: _Row) -> bool:
        """Return whether a row has as many cells; Excel adds empty ones, or leaves them out."""
        needed = max(number + 1 for number, cell in enumerate(self.header) if cell)
        extra = any(cell.strip() for cell in row.cells[len(self.header) :])
        return len(row.cells) >= needed and not extra


@dataclass(frozen=True)
class _Line:
    """An entry, and the line it was read from."""

    number: int
    entry: SlideEntry


def read_table(path: Path, *, ids_from_path: bool = False) -> list[SlideEntry]:
    """Read the rows of a cohort file; see `milpath.cohort.cohort.read_cohort`."""
    header, *rows = list(_read_rows(path)) or [_Row(1, [])]
    columns = _find_columns(path.name, header)
    lines = [
        _Line(row.line, _read_row(path, row, columns, ids_from_path=ids_from_path)) for row in rows
    ]
    if not lines:
        raise UsageError(f"{path.name}: contains no slides, only a first line")
    _check_unique_ids(path.name, lines)
    _check_spelling(path.name, lines, "case", case_key)
    _check_spelling(path.name, lines, "label", label_key)
    _check_split_leakage(path.name, lines)
    _report_columns(path.name, columns, rows)
    return [line.entry for line in lines]


# -- rows and columns ----------------------------------------------------------------------------


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


def _read_rows(path: Path) -> Iterator[_Row]:
    """Yield the rows that are not empty, the header first; Excel leaves rows of delimiters."""
    text = _read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_find_delimiter(text), strict=True)
    try:
        for cells in reader:
            said = re.fullmatch(r"sep=.?", cells[0].strip()) if cells else None  # Excel's own line
            if any(cell.strip() for cell in cells) and not (said and reader.line_num == 1):
                yield _Row(reader.line_num, cells)
    except csv.Error as error:
        raise UsageError(f"{path.name}, line {reader.line_num}: not CSV ({error})") from None


def _find_delimiter(text: str) -> str:
    """Return the delimiter of the first line that is not empty, or that Excel's "sep=" gives."""
    lines = io.StringIO(text, newline=None)
    first = next((line for line in lines if line.strip(' ,;\t\r\n"')), "")[:_MAX_PATH]
    if said := re.match(r'"?sep=([,;\t])', first):
        return said[1]
    return max(_DELIMITERS, key=lambda mark: _rate_delimiter(first, mark))


def _rate_delimiter(line: str, mark: str) -> tuple[bool, int]:
    """Return whether a delimiter makes a column slide of the first line, and its number there."""
    try:
        cells = next(csv.reader([line], delimiter=mark), [])
    except csv.Error:
        return False, line.count(mark)
    return any(name_column(cell) == "slide" for cell in cells), line.count(mark)


def _find_columns(source: str, header: _Row) -> _Columns:
    """Find the columns by the header; raise without a column slide, or with one twice."""
    cells = [cell.strip() for cell in header.cells[:_MAX_COLUMNS]]
    names = [name_column(cell) for cell in cells]
    if "slide" not in names:
        found = ascii(", ".join(filter(None, cells))[:100])[1:-1] or "nothing"
        raise UsageError(f"{source}: needs a column 'slide' in its first line, found {found}")
    if len(header.cells) > _MAX_COLUMNS:
        raise UsageError(f"{source}: more than {_MAX_COLUMNS:,} columns, not a list of slides")
    seen: set[str] = set()
    for cell, name in zip(cells, names, strict=True):
        key = cell.casefold() if name in ("case", "fold") else name
        if key and key in seen:
            raise UsageError(f"{source}: duplicated column {name[:50]!a} in its first line")
        seen.add(key)
    return _Columns(cells, names)


def _report_columns(source: str, columns: _Columns, rows: Sequence[_Row]) -> None:
    """Say which column is taken as the case under another name, and which are not used."""
    shown = [repr(printable(cell)) for cell in columns.header]
    taken = [shown[number] for number in columns.of("case")]
    if any(name.casefold() != "'case'" for name in taken):
        log.warning("%s: the case of each slide is taken from %s", source, _listed(taken))
    unused = [
        shown[number] if cell else f"number {number + 1}, which has no name"
        for number, cell in enumerate(columns.header)
        if columns.names[number] not in (*_COLUMNS, "fold") and (cell or _has_values(rows, number))
    ]
    if unused:
        log.warning("%s: not used: %s", source, _listed(unused))
    if folds := [shown[number] for number in columns.of("fold")]:
        log.warning(
            "%s: not used: %s; --folds draws folds of its own, each of whole cases, and a column "
            "'split' (train, val, test) gives one split",
            source,
            _listed(folds),
        )


def _has_values(rows: Sequence[_Row], number: int) -> bool:
    return any(number < len(row.cells) and row.cells[number].strip() for row in rows)


def _listed(columns: Sequence[str]) -> str:
    rest = len(columns) - _MAX_NAMED
    more = f" and {rest} more" if rest > 0 else ""
    word = "column" if len(columns) == 1 else "columns"
    return f"{word} {', '.join(columns[:_MAX_NAMED])}{more}"


# -- values --------------------------------------------------------------------------------------


def _read_row(path: Path, row: _Row, columns: _Columns, *, ids_from_path: bool) -> SlideEntry:
    where = f"{path.name}, line {row.line}"
    if not columns.fits(row):
        raise UsageError(
            f"{where}: wrong number of columns; expected as many as in the first line, and text "
            "or numbers that contain the delimiter in quotes"
        )
    text = {name: columns.get(row, name) for name in _COLUMNS}
    _check_text(where, text)
    _check_cases_agree(where, row, columns)
    if text["slide"] is None:
        raise UsageError(f"{where}: the slide is empty")
    mpp = None if text["mpp"] is None else _read_mpp(where, text["mpp"])
    file = _find_file(path.parent, text["slide"])
    own_id = id_from_path(file, path.parent) if ids_from_path else file.stem
    return SlideEntry(
        path=file,
        slide_id=_checked_id(where, text["slide_id"] or own_id),
        label=text["label"],
        case=text["case"],
        mpp=mpp,
        mpp_source="slide" if mpp is None else "cohort",
        split=None if text["split"] is None else _read_split(where, text["split"]),
        site=text["site"],
    )


def _check_text(where: str, text: dict[str, str | None]) -> None:
    """Raise unless values that are printed, or used as paths, are printable and short."""
    for name in ("slide", "label", "case", "site"):
        value = text[name] or ""
        parts = re.split(r"[/\\]", value) if name == "slide" else [value]
        if not all(is_printable(part) for part in parts) or len(value) > _MAX_PATH:
            raise UsageError(
                f"{where}: {name} is {value[:50]!a}, which has control characters or is too long"
            )


def _check_cases_agree(where: str, row: _Row, columns: _Columns) -> None:
    """Raise where two columns of one row name different cases."""
    found = [
        (name, value)
        for number, name in ((number, columns.header[number]) for number in columns.of("case"))
        if (value := read_value(row.cells[number])) is not None
    ]
    for name, value in found[1:]:
        first, other = found[0]
        if case_key(value) != case_key(other):
            raise UsageError(
                f"{where}: {first[:50]!a} is {other[:50]!a} but {name[:50]!a} is {value[:50]!a}; "
                "expected one case per slide: keep the column that says which slides are of one "
                "patient, and remove or rename the other"
            )


def _find_file(folder: Path, text: str) -> Path:
    """Return the path of a slide; `slides\\a.svs` is a Windows path unless there is such a file."""
    if "\\" in text and not _exists(folder / text):
        return folder / PureWindowsPath(text).as_posix()
    return folder / text


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _read_mpp(where: str, text: str) -> float:
    low, high = MPP_RANGE
    mpp = read_number(text)
    if mpp is None or not low <= mpp <= high:
        raise UsageError(
            f"{where}: mpp is {text[:50]!r}, expected a number from {low:g} to {high:g}"
        )
    return mpp


def _read_split(where: str, text: str) -> str:
    split = read_split(text)
    if split is None:
        raise UsageError(f"{where}: split is {text[:50]!r}, expected train, val or test")
    return split


def _checked_id(where: str, slide_id: str) -> str:
    """Return a slide id if it is a valid file name on every system."""
    if not is_file_name(slide_id):
        raise UsageError(
            f"{where}: slide id {slide_id[:100]!r} is not a valid file name; give another one "
            "in the column slide_id"
        )
    return slide_id


# -- checks of the whole -------------------------------------------------------------------------


def _check_unique_ids(source: str, lines: Sequence[_Line]) -> None:
    """Raise where two slides would write the same file on some file system."""
    seen: dict[str, _Line] = {}
    for line in lines:
        other = seen.setdefault(folded(line.entry.slide_id), line)
        if other is not line:
            raise UsageError(
                f"{source}: lines {other.number} and {line.number} have the same slide id "
                f"{line.entry.slide_id!r}; give each its own in a slide_id column"
            )


def _check_spelling(
    source: str, lines: Sequence[_Line], name: str, key: Callable[[str], str]
) -> None:
    """Raise for `p1` and `P1`, or `1` and `1.0`: they are one, typed twice."""
    seen: dict[str, tuple[int, str]] = {}
    firsts: dict[str, int] = {}
    for line in lines:
        value: str | None = getattr(line.entry, name)
        if value is not None:
            firsts.setdefault(value, line.number)
    for value, at in firsts.items():
        number, other = seen.setdefault(key(value), (at, value))
        if other != value:
            raise UsageError(
                f"{source}: {name}s {show_apart(other, value)} differ only in spelling "
                f"(lines {number} and {at}); use one of them everywhere"
            )


def _check_split_leakage(source: str, lines: Sequence[_Line]) -> None:
    """Raise where a given split has slides of one case in two sets."""
    given = [line for line in lines if line.entry.split is not None]
    if given and len(given) < len(lines):
        missing = [line for line in lines if line.entry.split is None]
        names = ", ".join(repr(line.entry.slide_id) for line in missing[:MAX_LISTED])
        raise UsageError(
            f"{source}: split is given for some slides but not {names} "
            f"(line {missing[0].number}{' and others' if len(missing) > 1 else ''})"
        )
    sets: dict[str, _Line] = {}
    for line in given:
        case = line.entry.case or line.entry.slide_id
        other = sets.setdefault(case, line)
        if other.entry.split != line.entry.split:
            both = " and ".join(sorted((str(other.entry.split), str(line.entry.split))))
            raise UsageError(
                f"{source}: case {case!r} is in {both}; all slides of a case must be in one set "
                f"(lines {other.number} and {line.number})"
            )


MAX_LISTED = 1000
"""Slides that are named in one message."""
