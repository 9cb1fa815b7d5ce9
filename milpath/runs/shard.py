"""A share of the slides, for runs that know nothing of each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from milpath.cohort.cohort import SlideEntry
from milpath.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """The `number`th of `count` shares, from 1: every `count`th slide of the list."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """A shard from "i/n"; raises `UsageError`."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise UsageError(f"--shard {text}: expected i/n, from 1/n to n/n (Slurm: --array=1-n)")
        return cls(number, count)

    def take(self, entries: Sequence[SlideEntry]) -> list[SlideEntry]:
        """The slides of this shard: the shards of one list are disjoint, and together all of it."""
        return list(entries[self.number - 1 :: self.count])

    def file_name(self, stem: str, suffix: str) -> str:
        """A file's name that no other shard writes."""
        return f"{stem}-{self.number}-of-{self.count}{suffix}"
