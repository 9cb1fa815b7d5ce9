"""Shard: one of n parts of a list of slides, for runs that do not communicate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from milpath.errors import UsageError
from milpath.runs.outcome import Item


@dataclass(frozen=True)
class Shard:
    """Shard `number` of `count`, from 1: every `count`-th slide of the list."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read a shard from "i/n"; raise `UsageError` if that is not one."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise UsageError(f"--shard {text}: expected i/n, from 1/n to n/n (Slurm: --array=1-n)")
        return cls(number, count)

    def take(self, items: Sequence[Item]) -> list[Item]:
        """Return the items of this shard; the shards of a list are disjoint and cover it."""
        return list(items[self.number - 1 :: self.count])
