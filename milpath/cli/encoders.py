"""`milpath encoders`."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milpath.cli.console import JsonOption
from milpath.errors import UsageError

if TYPE_CHECKING:
    from milpath.registry import PublishedEncoder

_WIDTH = 120
"""Columns of the table where stdout is not a terminal."""

_HEADERS = (
    "encoder", "publisher", "licence", "comm. use", "access", "px", "µm/px", "variant", "dim",
    "cached",
)  # fmt: skip
_NARROWEST = (13, 9, 10, 7, 6, 3, 5, 8, 4, 6)
"""Least width of each column."""

_LEGEND = (
    "comm. use: whether the licence allows commercial use. access: open; login: share your contact "
    "data; terms: accept the publisher's terms. µm/px, variant: the default first. cached: whether "
    "the weights are in the cache of the hub. milpath encoders NAME says all about one."
)
_POOLING = {
    "class": "the class token",
    "class+mean": "the class token and the mean over the patch tokens",
    "mean": "the mean over the patch tokens",
}
_COMMERCIAL = {True: "yes", False: "no", None: "unclear"}


def encoders(
    name: Annotated[
        str | None,
        typer.Argument(
            help="An encoder, to see all about it and how to get its weights.",
            metavar="NAME",
            show_default="all",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the encoders that milpath knows, or describe one and how to get its weights.

    Listed are published encoders with their licence and how access is given, milpath's own, those
    of keras.applications, and those of installed packages (entry point milpath.encoders). Nothing
    is downloaded.
    """
    facts = _collect(name)
    if as_json:
        for each in facts:
            print(json.dumps(each, ensure_ascii=False))
    elif name is not None:
        _print_one(facts[0])
    else:
        _print_all(facts)


def _collect(name: str | None) -> list[dict[str, Any]]:
    """Return the facts about one encoder or all, by name."""
    from milpath.registry import ENCODERS
    from milpath.registry.names import describe_unknown, match_name

    found = [collect_facts(each) for each in ENCODERS.values()] + list(
        _collect_installed(tuple(ENCODERS))
    )
    if name is None:
        return found
    meant = match_name(name, (each["name"] for each in found))
    if meant is None:
        raise UsageError(describe_unknown(name))
    return [each for each in found if each["name"] == meant]


def collect_facts(encoder: PublishedEncoder) -> dict[str, Any]:
    """Return all facts about a published encoder, by name, for JSON."""
    from milpath.registry.hub import find_cached
    from milpath.registry.instructions import describe_page, describe_steps

    cached = find_cached(encoder)
    return {
        "name": encoder.name,
        "kind": "published",
        **asdict(encoder),
        "dims": {variant: encoder.dim(variant) for variant in encoder.variants},
        "default_variant": encoder.default_variant,
        "page": describe_page(encoder),
        "cached": None if cached is None else str(cached),
        "steps": describe_steps(encoder),
    }


def _collect_installed(published: Sequence[str]) -> Iterator[dict[str, Any]]:
    from milpath.registry.installed import OWN_ENCODERS, list_keras_names
    from milpath.registry.plugins import list_plugins

    of_keras = list_keras_names()
    for name, dim in OWN_ENCODERS.items():
        yield {"name": name, "kind": "own", "publisher": "milpath", "dims": {"cls": dim}}
    for name in of_keras:
        yield {"name": name, "kind": "keras", "publisher": "Keras"}
    for name, plugin in list_plugins((*published, *OWN_ENCODERS, *of_keras)).items():
        yield {
            "name": name,
            "kind": "plugin",
            "publisher": plugin.package,
            "version": plugin.version,
        }


def _print_all(facts: Sequence[dict[str, Any]]) -> None:
    width = shutil.get_terminal_size((_WIDTH, 24)).columns
    rows = [_make_row(each) for each in facts if each["kind"] == "published"]
    for line in lay_out_table([[[header] for header in _HEADERS], *rows], _NARROWEST, width):
        print(line)
    names = {
        kind: [each["name"] for each in facts if each["kind"] == kind]
        for kind in ("own", "keras", "plugin")
    }
    notes = (
        f"milpath's own, trained from pixels: {', '.join(names['own'])} (128 features).",
        f"keras.applications ({len(names['keras'])} networks), with weights of ImageNet: resnet50, "
        "efficientnetv2b0, ...",
        f"Of installed packages: {', '.join(names['plugin']) or 'none'}.",
        _LEGEND,
    )
    print()
    for note in notes:
        print(textwrap.fill(note, max(width, 40), break_on_hyphens=False))


def _make_row(facts: dict[str, Any]) -> list[list[str]]:
    """Return the cells of an encoder's row, each as its lines."""
    return [
        [facts["name"]],
        [facts["publisher"]],
        [facts["licence"]],
        [_COMMERCIAL[facts["commercial"]]],
        [facts["gate"]],
        [str(facts["patch_px"])],
        [" ".join(f"{mpp:g}" for mpp in facts["mpp"])],
        list(facts["dims"]),
        [str(dim) for dim in facts["dims"].values()],
        ["yes" if facts["cached"] else "no"],
    ]


def lay_out_table(
    rows: Sequence[Sequence[Sequence[str]]], narrowest: Sequence[int], width: int
) -> Iterator[str]:
    """Yield the lines of a table; where it is too wide, its widest columns are narrowed.

    Parameters
    ----------
    rows : of cells, each of which is its lines; longer lines are broken
    narrowest : least width of each column
    width : of the table, characters
    """
    widths = [
        max(least, *(len(line) for row in rows for line in row[column]))
        for column, least in enumerate(narrowest)
    ]
    gap = 2 if width >= _WIDTH else 1
    while sum(widths) + gap * (len(widths) - 1) > width:
        spare = [have - least for have, least in zip(widths, narrowest, strict=True)]
        if not any(spare):
            break
        widths[spare.index(max(spare))] -= 1
    for row in rows:
        cells = [
            [part for line in cell for part in textwrap.wrap(line, have) or [""]]
            for cell, have in zip(row, widths, strict=True)
        ]
        for number in range(max(map(len, cells))):
            parts = (cell[number] if number < len(cell) else "" for cell in cells)
            padded = (part.ljust(have) for part, have in zip(parts, widths, strict=True))
            yield (" " * gap).join(padded).rstrip()


def _print_one(facts: dict[str, Any]) -> None:
    lines = _DESCRIPTIONS[facts["kind"]](facts)
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")
    if facts["kind"] == "published":
        print()
        print("How to get and use the weights:")
        for number, step in enumerate(facts["steps"], start=1):
            print(f"{number}. {step}")


def _describe_published(facts: dict[str, Any]) -> dict[str, str]:
    network, dims = facts["network"], facts["dims"]
    mlp = "SwiGLU" if network["gated"] else "GELU"
    first, *others = (f"{mpp:g}" for mpp in facts["mpp"])
    default = {facts["default_variant"]: ", the default"}
    crop = f", of which the centre of {facts['crop_px']} px is seen" if facts["crop_px"] else ""
    return {
        "encoder": facts["name"],
        "title": facts["title"],
        "publisher": facts["publisher"],
        "licence": facts["licence"],
        "commercial use": _COMMERCIAL[facts["commercial"]],
        "access": facts["gate"],
        "repository": facts["repository"],
        "revision": facts["revision"] or "not known; the newest is taken",
        "file": facts["file"],
        "sha256": facts["sha256"] or "not known",
        "cached": facts["cached"] or "no",
        "patch in pixels": f"{facts['patch_px']}{crop}",
        "µm per pixel": first + (f" (or {', '.join(others)})" if others else ""),
        "that is stated in": facts["mpp_source"] or "-",
        "variants": "; ".join(
            f"{name}: {dim} features, {_POOLING[facts['variants'][name]]}{default.get(name, '')}"
            for name, dim in dims.items()
        ),
        "network": f"vision transformer: tokens of {network['token_px']} px, {network['depth']} "
        f"blocks, {network['heads']} heads, width {network['dim']}, {mlp} of "
        f"{network['hidden']}, {network['registers']} registers",
        "colours": f"mean {_join(facts['mean'])}, standard deviation {_join(facts['std'])}",
        "resampling": f"{facts['resampling']}, by its authors",
        "precision": f"{facts['precision']}, of its authors",
        "reference": facts["reference"] or facts["page"],
    }


def _join(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:g}" for number in numbers)


def _describe_own(facts: dict[str, Any]) -> dict[str, str]:
    return {
        "encoder": facts["name"],
        "publisher": "milpath",
        "features": str(*facts["dims"].values()),
        "use": "milpath train COHORT trains it from pixels; milpath embed --encoder MODEL uses it",
    }


def _describe_keras(facts: dict[str, Any]) -> dict[str, str]:
    return {
        "encoder": facts["name"],
        "publisher": "Keras, in keras.applications",
        "weights": "of ImageNet; Keras downloads them once",
        "use": f"milpath embed SLIDES --encoder {facts['name']} --out FEATURES",
    }


def _describe_plugin(facts: dict[str, Any]) -> dict[str, str]:
    return {
        "encoder": facts["name"],
        "publisher": f"the installed package {facts['publisher']} {facts['version']}".strip(),
        "use": f"milpath embed SLIDES --encoder {facts['name']} --out FEATURES",
    }


_DESCRIPTIONS = {
    "published": _describe_published,
    "own": _describe_own,
    "keras": _describe_keras,
    "plugin": _describe_plugin,
}
"""How each kind of encoder is described, line by line."""
