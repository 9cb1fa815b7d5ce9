"""Kill commands, fill disks, race commands and run a soak test; check every file afterwards.

python scripts/bench_faults.py [--kills 1000] [--full-disk 120] [--races 300] [--soak 500]
    [--vanish 20] [--only COMMAND] [--seed 0] [--out FOLDER] [--quick]

--quick runs only tiling, a few times, without the soak test.

Prints one JSON line per figure; the exit code is 1 if a fault was found. Slides are synthetic. The
full run takes more than one CPU hour.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench_tools import say
from faults.disks import fill, tmpfs_mounts, vanish
from faults.soak import soak
from faults.stage import (
    COMMANDS,
    Child,
    Stage,
    begin,
    begin_fresh,
    done_in,
    faults_of,
    files_in,
    load_early,
    measure,
    parts_of,
    report_figure,
    results_of,
    set_stage,
    unlike,
)

from milpath.store import temporary

SLIDES = 8


class Share(NamedTuple):
    """One command's share of all kills, full disks and races."""

    forks: float
    """Kills of commands that run in a fork of this process."""
    fresh: float
    """Kills of commands that run in a new Python process."""
    disks: float
    races: float


SHARES = {
    "tile": Share(0.62, 0.01, 0.5, 0.88),
    "train": Share(0.06, 0.01, 0.1, 0),
    "embed": Share(0.14, 0.01, 0.2, 0.06),
    "classify": Share(0.14, 0.01, 0.2, 0.06),
}
ALONE = Share(0.8, 0.2, 1, 1)
QUICK = {"kills": 6, "full_disk": 4, "races": 3, "soak": 0, "vanish": 1}


def main() -> None:
    """Run the tests and exit with 1 if a fault was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, number in (
        ("kills", 1000), ("full-disk", 120), ("vanish", 20), ("races", 300), ("soak", 500)
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="working folder; default: a temporary one")
    parser.add_argument("--only", choices=COMMANDS, help="test only this command")
    parser.add_argument("--quick", action="store_true", help="a small run, to check that it works")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    commands = ("tile",) if options.quick else COMMANDS
    load_early(commands)
    rng = random.Random(options.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.out) as scratch_folder:
        folder = Path(scratch_folder)
        stage = set_stage(folder / "stage", 4 if options.quick else SLIDES, commands)
        faults = 0
        for command in [options.only] if options.only else commands:
            share = ALONE if options.quick else SHARES[command]
            forks, fresh = round(options.kills * share.forks), round(options.kills * share.fresh)
            faults += kill_often(stage, command, folder / "out", forks, rng, fresh=False)
            faults += kill_often(stage, command, folder / "out", fresh, rng, fresh=True)
            points = round(options.full_disk * share.disks)
            by_limit = points - points // 2 if tmpfs_mounts() else points
            faults += fill(stage, command, folder / "out", by_limit, rng, by_limit=True)
            faults += fill(stage, command, folder / "disk", points - by_limit, rng, by_limit=False)
            races = round(options.races * share.races)
            faults += race(stage, command, folder / "out", races, rng) if races else 0
        faults += vanish(stage, folder / "out", options.vanish, rng)
        if options.soak:
            faults += soak(folder / "soak", stage, options.soak, rng)
    say(figure="all", seed=options.seed, faults=faults, seconds=round(time.monotonic() - began))
    sys.exit(bool(faults))


# -- kills -----------------------------------------------------------------------------------------


def kill_often(
    stage: Stage, command: str, out: Path, kills: int, rng: random.Random, *, fresh: bool
) -> int:
    """Kill a command and restart it until it ends, and repeat until `kills` kills.

    After each kill, every file with a final name must be complete, and no finished slide may be
    lost or processed again. After each end, the results must equal those of an undisturbed run, and
    no temporary file may be left.
    """
    start = begin_fresh if fresh else begin
    if not kills:
        return 0
    count: Counter[str] = Counter(dict.fromkeys(("kills", "in_a_write", "ended", "lost"), 0))
    found: list[str] = []
    began = time.monotonic()
    span = measure(stage, command, out, fresh=fresh)
    stage.start(command, out)
    while count["kills"] < kills:
        before = done_in(command, out)
        child = start(stage.words(command, out))
        killed = child.kill_after(moment(command, child, out, span, rng))
        code, said = child.end()
        after = done_in(command, out)
        count["lost"] += sum(after.get(name) != was for name, was in before.items())
        found += faults_of(out)
        if killed:
            count["kills"] += 1
            count["in_a_write"] += bool(parts_of(out))
            continue
        count["ended"] += 1
        if code != 0:
            found.append(f"exit {code}: {said[-300:]}")
        found += unlike(stage, command, out)
        if command != "train":  # the next training replaces the whole model
            stage.start(command, out)
    code, said = start(stage.words(command, out)).end()
    if code != 0:
        found.append(f"exit {code}: {said[-300:]}")
    found += unlike(stage, command, out)
    found += ["a finished slide was lost or processed again"] * count["lost"]
    return report_figure("kills", began, found, command=command, fresh=fresh, **count)


def moment(command: str, child: Child, out: Path, span: float, rng: random.Random) -> float:
    """Return how many seconds after its start a command is to be killed.

    Three in ten kills come at any time; the others come shortly after its first file appears,
    during the next few slides or, for training, the half second in which it writes.
    """
    if rng.random() < 0.3:
        return rng.uniform(0, span)
    before = seen_in(out)
    while not child.ended() and not seen_in(out) - before:
        time.sleep(0.001)
    return time.monotonic() - child.began + rng.uniform(0, 0.5 if command == "train" else span / 3)


def seen_in(folder: Path) -> set[tuple[str, int]]:
    """Return the results and temporary files in a folder, with their modification times."""
    found = set()
    for path in [*files_in(folder), *parts_of(folder)]:
        with suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


# -- races -----------------------------------------------------------------------------------------


def race(stage: Stage, command: str, out: Path, races: int, rng: random.Random) -> int:
    """Run two commands on one slide at once: one complete, correct result, never a partial one."""
    found: list[str] = []
    began = time.monotonic()
    count: Counter[str] = Counter(races=races, without_locks=0, both_did_it=0, one_skipped=0)
    for number in range(races):
        slide = f"s{rng.randrange(4)}"
        locks = number % 2 == 0
        count["without_locks"] += not locks
        stage.start(command, out)
        words = stage.words(command, out)
        one = stage.slides / f"{slide}.tif"
        words[1] = stage.only(slide) if command == "embed" else one
        gate, opener = os.pipe()
        pair = [begin(words, partial(wait_at, gate, opener, locks)) for _ in range(2)]
        os.close(gate)
        os.close(opener)  # both see its end at the same time
        while not all(child.ended() for child in pair):
            found += faults_of(out)
            time.sleep(0.02)
        ends = [child.end() for child in pair]
        found += [f"exit {code}: {said[-300:]}" for code, said in ends if code != 0]
        skips = sum("already done" in said for _, said in ends)
        count["both_did_it" if skips == 0 else "one_skipped"] += 1
        found += faults_of(out) + [f"{part.name} is left" for part in parts_of(out)]
        right, now = results_of(stage.right(command)), results_of(out)
        mine = [name for name in right if name.split("/")[-1].split(".")[0] == slide]
        found += [
            f"{name} differs from that of an undisturbed run"
            for name in mine
            if now.get(name) != right[name]
        ]
    return report_figure("races", began, found, command=command, **count)


def wait_at(gate: int, opener: int, locks: bool) -> None:
    """Wait until the gate opens; without `locks`, make file locks unavailable."""
    os.close(opener)
    os.read(gate, 1)
    if not locks:
        temporary.fcntl.flock = refuse_lock  # type: ignore[attr-defined]


def refuse_lock(number: int, how: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


if __name__ == "__main__":
    main()
