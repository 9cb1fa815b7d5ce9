"""Feature files of milpath and of other tools, a module for each layout.

A new layout is a module with a class as `milpath.formats.foreign.values.Layout`, and a line here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from milpath.errors import UsageError
from milpath.formats.foreign.clam import ClamLayout
from milpath.formats.foreign.clam_pt import ClamTensorLayout
from milpath.formats.foreign.milpath import MilpathLayout
from milpath.formats.foreign.numpy import NumpyLayout
from milpath.formats.foreign.slideflow import SlideflowLayout
from milpath.formats.foreign.stamp import StampLayout
from milpath.formats.foreign.torch import TorchLayout
from milpath.formats.foreign.torchmil import TorchmilLayout
from milpath.formats.foreign.trident import TridentLayout
from milpath.formats.foreign.values import FeatureHints, Layout, SlideFeatures
from milpath.formats.foreign.verified import VerifiedLayout
from milpath.formats.foreign.zarr import ZarrLayout

LAYOUTS: tuple[Layout, ...] = (
    MilpathLayout(),
    TridentLayout(),
    StampLayout(),
    ClamLayout(),
    SlideflowLayout(),
    ClamTensorLayout(),
    TorchmilLayout(),
    ZarrLayout(),
    NumpyLayout(),
    TorchLayout(),
)


@dataclass(frozen=True)
class FeatureFolder:
    """The feature files of a cohort."""

    folder: Path
    layout: Layout
    files: dict[str, Path]

    def open(self, slide_id: str, hints: FeatureHints) -> SlideFeatures:
        """Open the features of a slide; raises `StoredFileError`."""
        return self.layout.open(self.files[slide_id], hints)


def detect_features(folder: Path, *, verified_only: bool = False) -> FeatureFolder:
    """Find out which layout a folder has; raises `UsageError`."""
    for layout in LAYOUTS:
        files = layout.find(folder)
        if files:
            kept = VerifiedLayout(layout) if verified_only else layout
            return FeatureFolder(folder, kept, files)
    raise UsageError(f"{folder}: no features in this folder")
