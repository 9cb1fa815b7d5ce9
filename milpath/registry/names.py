"""Names of encoders, as people write them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from milpath.registry import ENCODERS
from milpath.registry.installed import OWN_ENCODERS, list_keras_names
from milpath.registry.plugins import list_plugins
from milpath.slides.names import printable

MAX_SUGGESTIONS = 6


def list_names() -> tuple[str, ...]:
    """Return the names of all encoders: published, milpath's own, Keras', and installed ones."""
    own = (*ENCODERS, *OWN_ENCODERS, *list_keras_names())
    return (*own, *list_plugins(own))


def match_name(name: str, known: Iterable[str]) -> str | None:
    """Return the one of `known` that a name means, whatever its case; None if there is none."""
    known = tuple(known)
    if name in known:
        return name
    return next((each for each in known if each.casefold() == name.casefold()), None)


def suggest_names(name: str) -> tuple[str, ...]:
    """Return the names nearest to a name that does not exist, the nearest first.

    A repository of the hub is taken for its last part, and a title for the name.
    """
    asked = _simplify(name.rpartition("/")[2])
    spellings = {each: _simplify(each) for each in list_names()}
    titles = {_simplify(each.title): each.name for each in ENCODERS.values()}
    repositories = {each.repository.casefold(): each.name for each in ENCODERS.values()}
    exact = [repositories.get(name.casefold()), titles.get(_simplify(name))]
    exact += [each for each, simple in spellings.items() if simple == asked]
    within = [each for each, simple in spellings.items() if len(asked) > 2 and asked in simple]
    near = difflib.get_close_matches(asked, list(spellings.values()), n=MAX_SUGGESTIONS)
    close = [each for simple in near for each in spellings if spellings[each] == simple]
    found = dict.fromkeys(each for each in (*exact, *within, *close) if each)
    return tuple(found)[:MAX_SUGGESTIONS]


def describe_unknown(name: str) -> str:
    """Say that there is no such encoder, and which names are near."""
    near = suggest_names(name)
    meant = f"; did you mean {', '.join(near)}?" if near else ";"
    return f"there is no encoder '{printable(name)}'{meant} milpath encoders lists all"


def _simplify(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
