"""Missing: slides of a cohort that cannot be trained on, refused or left out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from milpath.cohort.cohort import Cohort, SlideEntry, count_slides, list_slides
from milpath.errors import UsageError

log = logging.getLogger(__name__)

_WHERE = {
    "label": "label (empty, or NA, nan, None, null)",
    "bag": "bag in {}",
    "features": "features in {}",
}
_REMEDIES = {
    "label": "write the labels",
    "bag": "run milpath tile on this CSV first",
    "features": "check the folder, and the names of its files against the slide ids",
}


def settle_missing(
    cohort: Cohort,
    folder: Path,
    what: str,
    is_there: Callable[[SlideEntry], bool],
    *,
    skip: bool,
) -> tuple[Cohort, dict[str, list[str]]]:
    """Leave out the slides without a label, or without a file; or refuse them.

    Parameters
    ----------
    cohort : all slides
    folder : of the files
    what : "bag" or "features"
    is_there : whether the file of a slide is in the folder
    skip : leave them out and log all of them

    Returns
    -------
    The cohort without them, and their ids by what they lack.

    Raises
    ------
    UsageError : some are missing and not to be left out, or no slide of a class is left
    """
    missing: dict[str, list[str]] = {}
    for entry in cohort.entries:
        if entry.label is None:
            missing.setdefault("label", []).append(entry.slide_id)
        elif not is_there(entry):
            missing.setdefault(what, []).append(entry.slide_id)
    if not missing:
        return cohort, missing
    _report(cohort, folder, missing, skip=skip)
    lost = {slide_id for ids in missing.values() for slide_id in ids}
    left = Cohort(cohort.name, tuple(each for each in cohort.entries if each.slide_id not in lost))
    noun = "a bag" if what == "bag" else what
    require_each_class(cohort, left, f"has both a label and {noun} to train on")
    return left, missing


def require_each_class(cohort: Cohort, left: Cohort, verb: str) -> None:
    """Raise `UsageError` if no slide of a class is left; `verb` ends the message."""
    lost = [name for name in cohort.class_names if name not in left.class_names]
    if lost:
        raise UsageError(f"{cohort.name}: no slide of class {lost[0]!r} {verb}")


def _report(
    cohort: Cohort, folder: Path, missing: Mapping[str, Sequence[str]], *, skip: bool
) -> None:
    if skip:
        for lacks, ids in missing.items():
            text = f"{count_slides(ids)} no {lacks}: {list_slides(ids)}"
            log.warning("%s: left out, %s", cohort.name, text)
        return
    facts = [
        f"{count_slides(ids)} no {_WHERE[lacks].format(folder)}: {list_slides(ids)}"
        for lacks, ids in missing.items()
    ]
    remedies = [_REMEDIES[lacks] for lacks in missing]
    raise UsageError(
        f"{cohort.name}: {', '.join(facts)}; {', '.join(remedies)}, or leave them out with "
        "--skip-missing"
    )
