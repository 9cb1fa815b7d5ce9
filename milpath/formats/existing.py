"""Existing: whether a result is there already, and whether it can be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Existing(Generic[T]):
    """What was found in the place of a result.

    Attributes
    ----------
    state : "absent"; "current" where it was made from the same input with the same parameters;
        "stale" where it must be made again
    value : what was found, where it is current
    reason : why it is stale, a phrase such as "grid.mpp changed from 0.5 to 1.0"
    """

    state: Literal["absent", "current", "stale"] = "absent"
    value: T | None = None
    reason: str = ""

    @classmethod
    def current(cls, value: T) -> Existing[T]:
        """A result that can be kept."""
        return cls("current", value)

    @classmethod
    def stale(cls, reason: str) -> Existing[T]:
        """A result that must be made again."""
        return cls("stale", reason=reason)
