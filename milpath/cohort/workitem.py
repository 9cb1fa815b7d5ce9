"""WorkItem: one file that a job works on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class WorkItem:
    """A file to work on: a slide, or a bag made from one."""

    path: Path
    slide_id: str
    """Names its results, and the item itself in messages."""

    def absolute(self) -> Self:
        """Return the item with absolute paths, for a process in another folder."""
        return replace(self, path=self.path.absolute())
