"""`milpath check`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from milpath.cli.console import JsonOption
from milpath.errors import UsageError


def check(
    folder: Annotated[
        Path,
        typer.Argument(
            exists=True,
            help="Folder of bags, features, predictions or models, and folders in it; or one file.",
            metavar="FOLDER",
            show_default=False,
        ),
    ],
    reseal: Annotated[
        bool,
        typer.Option(
            "--reseal",
            help="Give checksums back to files that another program opened for writing, if all "
            "their contents are valid.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Verify every file that milpath wrote under a folder, by its checksums and its contents.

    Files that are wrong are listed, one per line. HDF5 files of other programs are counted, but not
    verified. The exit code is 3 if some files are wrong, and 4 if all are.
    """
    from milpath.formats.verify import check_files

    states: Counter[str] = Counter()
    failed = 0
    for found in check_files(folder, restore=reseal):
        states[found.state] += 1
        failed += found.failed
        if as_json:
            print(json.dumps(asdict(found), ensure_ascii=False), flush=True)
        elif found.state not in ("ok", "of another program"):
            print(f"{found.file}: {found.message or 'has its checksums again'}", flush=True)
    other = states.pop("of another program", 0)
    total = states.total()
    more = f"; HDF5 files of other programs, not verified: {other}" if other else ""
    if not total:
        raise UsageError(f"{folder}: holds no bag, features, prediction or model of milpath{more}")
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    print(f"{total} files of milpath: {counts}{more}", file=sys.stderr)
    if failed:
        raise typer.Exit(3 if failed < total else 4)
