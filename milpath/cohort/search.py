"""Search: the slides in a folder and all folders below it, also linked ones."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from milpath.cohort.entry import SlideEntry
from milpath.cohort.ids import id_from_path, safe_id
from milpath.errors import MilpathError, UsageError
from milpath.slides.names import describe_name, is_file_name, printable
from milpath.slides.slide import Slide

log = logging.getLogger(__name__)

SLIDE_SUFFIXES = frozenset(
    {".svs", ".ndpi", ".mrxs", ".tif", ".tiff", ".scn", ".bif", ".svslide", ".vms", ".vmu"}
    | {".czi", ".dcm"}
)
_DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic"})
_DICOM_MAGIC = (128, b"DICM")
"""Where a DICOM file says that it is one."""
_MAX_NAMED = 20
"""Files that are named in a message."""


@dataclass
class _Found:
    """What is in a folder and below it."""

    files: list[Path] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    """Folders, and why."""
    dead_links: list[Path] = field(default_factory=list)


def search_folder(root: Path, *, ids_from_path: bool = False) -> list[SlideEntry]:
    """List the slides in a folder and below it.

    Links to folders and files are followed; each folder is searched once, by its own path rather
    than by a link. DICOM files are recognized by their contents where they have no suffix, and
    those of one slide are one entry. What cannot be processed is an entry with a fault.

    Parameters
    ----------
    root : the folder
    ids_from_path : whether `sub/x.tif` has the id `sub__x`, not `x`

    Raises
    ------
    UsageError : the folder cannot be read
    """
    found = _walk(root)
    for folder, reason in found.unreadable:
        if folder == root:
            raise UsageError(
                f"{printable(str(root))}: this folder cannot be read ({reason}); check the path "
                "and its permissions"
            )
    naming = _Naming(root, ids_from_path)
    slides, dicom = _sort_files(found)
    entries = [naming.slide(file) for file in slides]
    for folder, files in dicom.items():
        entries += _dicom_series(naming, folder, files)
    entries += [naming.dead_link(link) for link in found.dead_links if _is_slide(link)]
    entries += [naming.unreadable(folder, reason) for folder, reason in found.unreadable]
    left_out = [link for link in found.dead_links if not _is_slide(link)]
    if left_out:
        names = ", ".join(printable(str(link.relative_to(root))) for link in left_out[:_MAX_NAMED])
        more = f" and {len(left_out) - _MAX_NAMED} more" if len(left_out) > _MAX_NAMED else ""
        log.warning(
            "%s: left out, links to nothing that can be read: %s%s",
            printable(str(root)),
            names,
            more,
        )
    return entries


# -- files ---------------------------------------------------------------------------------------


def _walk(root: Path) -> _Found:
    """Search a folder and all below; links last, so that a folder is found by its own path."""
    found = _Found()
    seen: set[str] = set()
    folders, linked = deque([root]), deque[Path]()
    while folders or linked:
        folder = (folders or linked).popleft()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as listed:
                members = sorted(listed, key=lambda member: member.name)
        except OSError as error:
            found.unreadable.append((folder, error.strerror or type(error).__name__))
            continue
        for member in members:
            path = folder / member.name
            kind = _kind(member)
            if kind == "folder":
                (linked if member.is_symlink() else folders).append(path)
            elif member.name[0] != ".":
                {"file": found.files, "dead link": found.dead_links}.get(kind, []).append(path)
    found.files.sort()
    return found


def _kind(member: os.DirEntry[str]) -> str:
    try:
        if member.is_dir():
            return "folder"
        if member.is_file():
            return "file"
    except OSError:  # a link to itself, or to a place that cannot be read
        pass
    return "dead link" if member.is_symlink() else "other"


def _is_slide(file: Path) -> bool:
    return file.suffix.lower() in SLIDE_SUFFIXES


def _sort_files(found: _Found) -> tuple[list[Path], dict[Path, list[Path]]]:
    """Return the slides of one file each, and the DICOM files of each folder."""
    slides: list[Path] = []
    dicom: dict[Path, list[Path]] = defaultdict(list)
    for file in found.files:
        if file.suffix.lower() in _DICOM_SUFFIXES:
            dicom[file.parent].append(file)
        elif _is_slide(file):
            slides.append(_with_companions(file))
        elif not _has_suffix(file) and file.name.upper() != "DICOMDIR" and _is_dicom(file):
            dicom[file.parent].append(file)
    return slides, dicom


def _with_companions(file: Path) -> Path:
    """Return a file, or that which it links to if only that one has its folder of tiles."""
    if file.suffix.lower() == ".mrxs" and file.is_symlink() and not file.with_suffix("").is_dir():
        return file.resolve()
    return file


def _has_suffix(file: Path) -> bool:
    """Return whether a name has a suffix; the last number of a DICOM UID is none."""
    return re.fullmatch(r"(\.\d+)?", file.suffix) is None


def _is_dicom(file: Path) -> bool:
    offset, magic = _DICOM_MAGIC
    try:
        with file.open("rb") as data:
            return data.read(offset + len(magic))[offset:] == magic
    except OSError as error:
        log.warning("%s: cannot be read (%s), left out", printable(file.name), error.strerror)
        return False


def _dicom_series(naming: _Naming, folder: Path, files: Sequence[Path]) -> list[SlideEntry]:
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
        return [naming.series(folder, file)]
    return [naming.slide(file) for file in first.values()]


# -- entries -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Naming:
    """How the slides below a folder are named."""

    root: Path
    ids_from_path: bool

    def slide(self, file: Path) -> SlideEntry:
        """Return the entry of a file, named after it."""
        return name_entry(
            file,
            self._id_from_path(file, suffix=_has_suffix(file))
            if self.ids_from_path
            else (file.stem if _has_suffix(file) else file.name),
            file.name,
        )

    def series(self, folder: Path, file: Path) -> SlideEntry:
        """Return the entry of a folder's only DICOM slide, named after the folder."""
        name = folder.resolve().name if folder == self.root else folder.name
        slide_id = self._id_from_path(folder, suffix=False) if self.ids_from_path else name
        return name_entry(file, slide_id, name)

    def dead_link(self, link: Path) -> SlideEntry:
        """Return the entry of a link that leads nowhere."""
        fault = (
            f"{printable(link.name)}: a link to a file that is missing or cannot be read; "
            "copy the slide itself, or correct the link"
        )
        return SlideEntry(link, self._safe_id(link, link.stem), fault=fault)

    def unreadable(self, folder: Path, reason: str) -> SlideEntry:
        """Return the entry that stands for a folder below the root that cannot be searched."""
        fault = (
            f"{printable(folder.name)}: this folder cannot be read ({reason}), its slides are left "
            "out; check its permissions"
        )
        return SlideEntry(folder, self._safe_id(folder, folder.name), fault=fault)

    def _id_from_path(self, path: Path, *, suffix: bool) -> str:
        return id_from_path(path, self.root, suffix=suffix)

    def _safe_id(self, path: Path, name: str) -> str:
        return safe_id(name, str(path.absolute()))


def name_entry(file: Path, slide_id: str, name: str) -> SlideEntry:
    """Return the entry of a slide, with a fault if its id is not a valid file name.

    Parameters
    ----------
    file, slide_id : the slide's
    name : of the file or folder that the id was made from
    """
    if is_file_name(slide_id):
        return SlideEntry(file, slide_id)
    fault = (
        f"{printable(name)}: its name cannot name its results ({describe_name(slide_id)}); "
        "rename it, or give --ids-from-path"
    )
    return SlideEntry(file, safe_id(slide_id, str(file.absolute())), fault=fault)
