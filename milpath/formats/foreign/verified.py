"""VerifiedLayout: a layout whose files are refused without checksums of milpath."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from milpath.errors import StoredFileError
from milpath.formats.foreign.values import FeatureHints, Layout, SlideFeatures


@dataclass(frozen=True)
class VerifiedLayout:
    """A layout of which only verified files are opened."""

    layout: Layout

    @property
    def name(self) -> str:
        """Name of the layout."""
        return self.layout.name

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the file of each slide by its id, as the layout does."""
        return self.layout.find(folder)

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raise `StoredFileError` also if they have no checksums."""
        found = self.layout.open(path, hints)
        if found.verified:
            return found
        found.close()
        raise StoredFileError(
            f"{path.name}: has no checksums of milpath, and --verified-only refuses it; leave that "
            "option out to read it, or give features that milpath wrote (milpath check --reseal "
            "gives these their checksums back)"
        )
