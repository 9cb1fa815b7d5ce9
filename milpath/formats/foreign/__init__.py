"""Folders of feature files: which layout they have, and the features of each slide.

A layout is a class in a file of its own in this package, see `Layout`, and one line in `LAYOUTS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from milpath.errors import StoredFileError, UsageError
from milpath.formats.foreign.atlaspatch import AtlasPatchLayout
from milpath.formats.foreign.clam import ClamLayout
from milpath.formats.foreign.clam_pt import ClamTensorLayout
from milpath.formats.foreign.h5 import H5Sample, describe_samples
from milpath.formats.foreign.milpath import MilpathLayout
from milpath.formats.foreign.numpy import NumpyLayout
from milpath.formats.foreign.raw2features import Raw2FeaturesLayout
from milpath.formats.foreign.slide2vec import Slide2vecLayout
from milpath.formats.foreign.slideflow import SlideflowLayout
from milpath.formats.foreign.stamp import StampLayout
from milpath.formats.foreign.torch import TorchLayout
from milpath.formats.foreign.torchmil import TorchmilLayout
from milpath.formats.foreign.trident import TridentLayout
from milpath.formats.foreign.values import FeatureHints, Layout, SlideFeatures
from milpath.formats.foreign.verified import VerifiedLayout
from milpath.formats.foreign.zarr import ZarrLayout
from milpath.slides.names import printable

LAYOUTS: tuple[Layout, ...] = (
    # of HDF5 files
    MilpathLayout(),
    AtlasPatchLayout(),
    Raw2FeaturesLayout(),
    TridentLayout(),
    StampLayout(),
    ClamLayout(),
    TorchmilLayout(),
    # of other files
    ZarrLayout(),
    ClamTensorLayout(),
    SlideflowLayout(),
    Slide2vecLayout(),
    TorchLayout(),
    NumpyLayout(),
)
"""All layouts; where two read the same files, the first one, which knows more of them, does."""

_COPIES = {("clam", "clam-pt")}
"""Layouts in which a tool writes the same features twice: the first one is read."""
_SHOWN = 5
_MAX_SUBFOLDERS = 30
_MAX_DEPTH = 2  # of TRIDENT: 20x_256px_0px_overlap/features_uni_v1


@dataclass(frozen=True)
class FeatureFolder:
    """A folder of feature files, one or more for each slide.

    Parameters
    ----------
    folder : as the user gave it
    layout : reads its files
    files : of each slide by its id, sorted by it
    """

    folder: Path
    layout: Layout
    files: dict[str, Path]

    def open(self, slide_id: str, hints: FeatureHints) -> SlideFeatures:
        """Open the features of a slide.

        Raises
        ------
        StoredFileError : it has none, or its file cannot be right
        """
        path = self.files.get(slide_id)
        if path is None:
            raise StoredFileError(
                f"{slide_id}: {self.folder} has no features of this slide; it has those of "
                f"{_count(len(self.files), 'slide')}, such as {next(iter(self.files), None)!r}"
            )
        return self.layout.open(path, hints)


def detect_features(folder: Path, *, verified_only: bool = False) -> FeatureFolder:
    """Find the layout of a folder of feature files, by their names and by a few of the files.

    Parameters
    ----------
    folder : holds a feature file per slide, or a single folder that does
    verified_only : refuse to open files that have no checksums of milpath

    Raises
    ------
    UsageError : no folder, unreadable, of no known layout, or of two layouts
    """
    _require_folder(folder)
    try:
        found = _find_layouts(folder) or _find_inside(folder)
        if not found:
            raise UsageError(_explain_unknown(folder))
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be read ({error.strerror}); expected a readable folder of feature "
            "files"
        ) from None
    except StoredFileError as error:
        raise UsageError(str(error)) from None
    first = found[0]
    for other in found[1:]:
        if not _is_same(first, other):
            raise UsageError(_explain_two(first, other))
    return replace(first, layout=VerifiedLayout(first.layout)) if verified_only else first


def _find_layouts(folder: Path) -> list[FeatureFolder]:
    """Return what each layout finds in a folder, if anything."""
    found = [FeatureFolder(folder, each, each.find(folder)) for each in LAYOUTS]
    return [each for each in found if each.files]


def _find_inside(folder: Path) -> list[FeatureFolder]:
    """Return what is found in the only folder with features, below a folder.

    Raises
    ------
    UsageError : several folders have features
    """
    inside = [*_list_inside(folder, _MAX_DEPTH)]
    if len(inside) > 1:
        names = [_name(folder, each) for each in inside]
        text = " or ".join(names[:_SHOWN]) + (" or others" if len(names) > _SHOWN else "")
        raise UsageError(
            f"{folder}: holds {len(inside)} folders with features, give one of them: {text}"
        )
    return _find_layouts(inside[0]) if inside else []


def _list_inside(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the nearest folders with features, at most so many levels below."""
    below = sorted(each for each in folder.iterdir() if each.is_dir())
    for each in [each for each in below if not each.name.startswith(".")][:_MAX_SUBFOLDERS]:
        if _find_layouts(each):
            yield each
        elif depth > 1:
            yield from _list_inside(each, depth - 1)


def _require_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    what = "is a file" if folder.exists() else "there is no such folder"
    raise UsageError(f"{folder}: {what}; expected the folder that holds a feature file per slide")


def _is_same(first: FeatureFolder, other: FeatureFolder) -> bool:
    """Whether the other layout offers nothing that the first does not: its files, or copies."""
    if set(other.files.values()) <= set(first.files.values()):
        return True
    copies = (first.layout.name, other.layout.name) in _COPIES
    return copies and other.files.keys() <= first.files.keys()


def _explain_two(first: FeatureFolder, other: FeatureFolder) -> str:
    samples = (
        f"features of {_count(len(each.files), 'slide')} in the layout {each.layout.name} (such as "
        f"{_name(each.folder, next(iter(each.files.values())))})"
        for each in (first, other)
    )
    return (
        f"{first.folder}: holds {' and '.join(samples)}; expected one layout, so give the folder "
        "of one of them or move the other files away"
    )


def _name(folder: Path, path: Path) -> str:
    inside = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
    return printable(inside)


def _explain_unknown(folder: Path) -> str:
    names = ", ".join(each.name for each in LAYOUTS)
    return f"{folder}: no known layout of features; {_describe(folder)}; layouts read are {names}"


def _describe(folder: Path) -> str:
    """Say what a folder holds: its files by their suffix."""
    entries = [each for each in folder.iterdir() if not each.name.startswith(".")]
    folders = [each for each in entries if each.is_dir()]
    kinds = Counter(each.suffix or "other" for each in entries if not each.is_dir())
    parts = [
        _count(number, f"{printable(kind)} file") for kind, number in kinds.most_common(_SHOWN)
    ]
    if folders:
        parts.append(_count(len(folders), "folder"))
    return f"it holds {' and '.join(parts) or 'nothing'}{_describe_h5(folder)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _describe_h5(folder: Path) -> str:
    """Say what samples of the HDF5 files of a folder hold; empty without any."""
    texts = [_describe_sample(each) for each in describe_samples(folder)]
    return f" ({'; '.join(texts)})" if texts else ""


def _describe_sample(sample: H5Sample) -> str:
    if sample.problem is not None:
        return sample.problem
    file, kind = printable(sample.path.name), sample.attrs.get("milpath_kind")
    if isinstance(kind, str):
        return f"{file} is a {printable(kind)} of milpath"
    if set(sample.shapes) == {"coords"}:
        return f"{file} says where patches lie, and holds no features"
    names = ", ".join(map(printable, sorted(sample.shapes)[:_SHOWN])) or "no dataset"
    return f"{file} has {names}"
