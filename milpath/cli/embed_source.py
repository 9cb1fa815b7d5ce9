"""What `milpath embed` takes: slides, or a folder of bags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from milpath.cli.machines import files_of
from milpath.cohort.cohort import SLIDE_SUFFIXES, SlideEntry
from milpath.cohort.workitem import WorkItem
from milpath.errors import StoredFileError, UsageError
from milpath.formats.layout import list_bags
from milpath.params import CodecParams, GridParams, TileParams

if TYPE_CHECKING:
    from milpath.cli.params_file import GivenParams
    from milpath.formats.model_spec import EncoderSpec
    from milpath.nn.encoders.encoder import Encoder
    from milpath.nn.fitting import Patches
    from milpath.runs import Job

_Item = TypeVar("_Item", bound=WorkItem)

NO_PIXELS = {"pixels.codec": "none", "pixels.quality": CodecParams().quality}
"""Parameters of slides whose pixels are not stored, whatever a file of parameters says."""

_GRID = GridParams()
_LARGEST = 4096  # px of a patch


@dataclass(frozen=True)
class Target:
    """An encoder, and where its features go.

    Attributes
    ----------
    encoder : as it is applied
    stored : folder from which other processes load it
    weights : its file or folder, of one that is only referred to there
    out : folder of the features
    """

    encoder: Encoder
    stored: Path
    weights: Path | None
    out: Path

    @property
    def digest(self) -> str:
        """Of the weights."""
        return self.encoder.spec.digest or ""


class Source(Protocol, Generic[_Item]):
    """What is embedded."""

    @property
    def items(self) -> Sequence[_Item]:
        """The slides or bags."""

    def patches(self) -> Patches:
        """Return which patches the encoder is to see."""

    def list_files(self, items: Sequence[_Item]) -> list[Path]:
        """List the input files of a run over some items."""

    def record(self, spec: EncoderSpec) -> dict[str, Any]:
        """Return the parameters for the run log."""

    def job_here(self, target: Target, threads: int, *, dry_run: bool) -> Job[_Item]:
        """Return the job for this process, with the encoder that is loaded."""

    def job_elsewhere(self, target: Target, threads: int) -> Job[_Item]:
        """Return the job for other processes."""


@dataclass(frozen=True)
class BagSource:
    """Bags, and the grid of the first one that can be read; see `Source`."""

    items: Sequence[WorkItem]
    grid: GridParams

    @classmethod
    def open(cls, folder: Path) -> BagSource:
        """List the bags of a folder; raise `UsageError` unless one of them can be read."""
        from milpath.formats.bag import Bag

        items = [WorkItem(path, path.stem) for path in list_bags(folder)]
        reason: StoredFileError | None = None
        for item in items:
            try:
                with Bag(item.path) as bag:
                    return cls(items, bag.header.params.grid)
            except StoredFileError as error:
                reason = error
        raise UsageError(f"no readable bag: {reason}")

    def patches(self) -> Patches:
        """Return what patches the first readable bag holds."""
        from milpath.nn.fitting import Patches

        return Patches(self.grid.patch_px, self.grid.mpp, in_bags=True)

    def list_files(self, items: Sequence[WorkItem]) -> list[Path]:
        """List the bags."""
        return [item.path for item in items]

    def record(self, spec: EncoderSpec) -> dict[str, Any]:
        """Return nothing: bags have their own parameters."""
        return {}

    def job_here(self, target: Target, threads: int, *, dry_run: bool) -> Job[WorkItem]:
        """Return the job that embeds a bag."""
        from milpath.nn.embed import Embedder

        return Embedder(target.encoder, target.out, dry_run=dry_run)

    def job_elsewhere(self, target: Target, threads: int) -> Job[WorkItem]:
        """Return the same job for other processes."""
        from milpath.nn.jobs import EmbedJob

        return EmbedJob(target.stored, target.digest, target.out, target.weights)


@dataclass(frozen=True)
class SlideSource:
    """Slides, and how they are tiled; see `Source`.

    Attributes
    ----------
    items : the slides
    given : parameters of tiling that the user gave, `NO_PIXELS` among them
    annotated, frame : of the tissue annotations, for the run log
    """

    items: Sequence[SlideEntry]
    given: GivenParams[TileParams]
    annotated: bool
    frame: str

    def patches(self) -> Patches:
        """Return what patches the user wants; the encoder decides on what was not given."""
        from milpath.nn.fitting import Patches

        return Patches(self.given.get("grid.patch_px"), self.given.get("grid.mpp"))

    def list_files(self, items: Sequence[SlideEntry]) -> list[Path]:
        """List the slides and their annotations."""
        return files_of(items)

    def tile_params(self, spec: EncoderSpec) -> TileParams:
        """Return how slides are tiled for an encoder; raise `UsageError` where that cannot be."""
        mpp = spec.mpp or _GRID.mpp
        return self.given.build({"grid.patch_px": spec.patch_px, "grid.mpp": mpp})

    def record(self, spec: EncoderSpec) -> dict[str, Any]:
        """Return how slides are tiled."""
        tile = self.tile_params(spec).model_dump()
        return {"tile": tile, "annotated": self.annotated, "frame": self.frame}

    def job_here(self, target: Target, threads: int, *, dry_run: bool) -> Job[SlideEntry]:
        """Return the job that embeds a slide."""
        from milpath.nn.embed_slide import SlideEmbedder

        params = self.tile_params(target.encoder.spec)
        return SlideEmbedder(target.encoder, target.out, params, threads, dry_run=dry_run)

    def job_elsewhere(self, target: Target, threads: int) -> Job[SlideEntry]:
        """Return the same job for other processes."""
        from milpath.nn.jobs import EmbedSlideJob

        params = self.tile_params(target.encoder.spec)
        return EmbedSlideJob(
            target.stored, target.digest, target.out, params, target.weights, threads
        )


def check_tiling(given: GivenParams[TileParams]) -> None:
    """Raise `UsageError` for parameters that are not valid, before an encoder is loaded."""
    given.build({"grid.patch_px": _LARGEST})


def find_bag_folder(inputs: Sequence[Path]) -> Path | None:
    """Return the folder of bags that was given; None for slides.

    Raises
    ------
    UsageError : bags beside something else or without their folder, or an empty folder
    """
    for path in inputs:
        if path.suffix.lower() == ".h5" and path.is_file():
            raise UsageError(f"{path}: not a slide; of bags, give their folder")
        if path.is_dir() and not any(path.iterdir()):
            raise UsageError(
                f"{path}: no bags (*.h5) in this folder, and no slides; expected either"
            )
    folders = [path for path in inputs if path.is_dir() and _holds_bags(path)]
    if not folders:
        return None
    if len(inputs) > 1:
        raise UsageError(f"{folders[0]}: holds bags; give one folder of bags, or slides")
    return folders[0]


def _holds_bags(folder: Path) -> bool:
    """Return whether a folder is one of bags, not of slides; raise `UsageError` for one of both."""
    bags = list_bags(folder)
    if not bags:
        return False
    slides = [path for path in folder.iterdir() if path.suffix.lower() in SLIDE_SUFFIXES]
    if not slides:
        return True
    if not any(map(_is_bag, bags)):
        return False
    raise UsageError(
        f"{folder}: holds both slides and bags; give the slides as files or a CSV, or move the "
        "bags to a folder of their own"
    )


def _is_bag(path: Path) -> bool:
    from milpath.formats.bag import Bag

    try:
        with Bag(path):
            return True
    except StoredFileError:
        return False
