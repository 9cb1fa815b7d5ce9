"""Encoders that packages offer under the entry point `milpath.encoders`; none is loaded here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from milpath.errors import UsageError

GROUP = "milpath.encoders"


@dataclass(frozen=True)
class EncoderPlugin:
    """An encoder that an installed package offers; not loaded.

    Attributes
    ----------
    package, version : that offer it
    name : of the entry point
    entry : what loads it
    """

    package: str
    version: str
    name: str
    entry: EntryPoint

    @property
    def full_name(self) -> str:
        """The name by which it is always found, "package:name"."""
        return f"{self.package}:{self.name}"


def list_plugins(taken: Collection[str]) -> dict[str, EncoderPlugin]:
    """List the encoders of all installed packages by the name that chooses each; none is loaded.

    Parameters
    ----------
    taken : names of milpath's own encoders; one of these, or one that two packages offer, is listed
        as "package:name"
    """
    found = _find_plugins()
    counts = Counter(each.name for each in found)
    listed = {}
    for each in found:
        free = counts[each.name] == 1 and each.name not in taken
        listed[each.name if free else each.full_name] = each
    return dict(sorted(listed.items()))


def find_plugin(name: str) -> EncoderPlugin | None:
    """Return the encoder of a name, "name" or "package:name"; None if no package offers it.

    Raises
    ------
    UsageError : several packages offer it
    """
    found = [each for each in _find_plugins() if name in (each.name, each.full_name)]
    if len(found) > 1:
        raise UsageError(
            f"encoder {name}: several packages offer it; choose one: "
            + ", ".join(sorted(each.full_name for each in found))
        )
    return found[0] if found else None


def _find_plugins() -> list[EncoderPlugin]:
    found = []
    for entry in entry_points(group=GROUP):
        package = entry.dist.name if entry.dist else entry.value.partition(":")[0]
        version = entry.dist.version if entry.dist else ""
        found.append(EncoderPlugin(package, version, entry.name, entry))
    return found
