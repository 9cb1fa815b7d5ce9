"""Kills, full disks, races and a soak: whether every file is whole, and what was lost.

python scripts/bench_faults.py [--kills 1000] [--full-disk 120] [--races 300] [--soak 500]
    [--vanish 20] [--seed 0] [--out FOLDER] [--quick]

--quick is tiling alone, a few times, and no soak.

A line of JSON a figure; the exit code is 1 when a fault was found. It draws its own slides.
The long form takes about 35 minutes of one processor.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench_tools import say
from fault_tools import (
    COMMANDS,
    Child,
    Stage,
    begin,
    begin_fresh,
    done_in,
    faults_of,
    files_in,
    load_early,
    parts_of,
    results_of,
    set_stage,
)

from milpath.journal import read_journals
from milpath.store import scratch
from milpath.synthetic import draw_slide

SLIDES = 8


class Share(NamedTuple):
    """Of all kills, points and races, those of one command."""

    forks: float
    """Kills of commands that began in a fork of this process."""
    fresh: float
    """Kills of commands of a Python of their own."""
    disks: float
    races: float


SHARES = {
    "tile": Share(0.62, 0.01, 0.5, 0.88),
    "train": Share(0.06, 0.01, 0.1, 0),
    "embed": Share(0.14, 0.01, 0.2, 0.06),
    "classify": Share(0.14, 0.01, 0.2, 0.06),
}
QUICK = {"kills": 12, "full_disk": 6, "races": 4, "soak": 0, "vanish": 2}


def main() -> None:
    """Do what is asked for; what is not given a number is done in full."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, number in (
        ("kills", 1000), ("full-disk", 120), ("vanish", 20), ("races", 300), ("soak", 500)
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a folder to work in; else a temporary one")
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    commands = ("tile",) if options.quick else COMMANDS
    load_early(commands)
    rng = random.Random(options.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.out) as scratch_folder:
        folder = Path(scratch_folder)
        stage = set_stage(folder / "stage", SLIDES, commands)
        faults = 0
        for command in commands:
            share = SHARES[command] if len(commands) > 1 else Share(1, 2 / options.kills, 1, 1)
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
    """Kill a command and begin it again, until it has come to its end; and so on.

    Every time, each file under a final name must be complete, and no slide that was done may be
    lost or done again. Whenever it ends, its results must be those of an undisturbed run, and the
    parts that the kills left must be gone.
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
        stage.start(command, out)
    code, said = start(stage.words(command, out)).end()
    if code != 0:
        found.append(f"exit {code}: {said[-300:]}")
    found += unlike(stage, command, out)
    found += ["a slide that was done was lost or done again"] * count["lost"]
    return tell("kills", began, found, command=command, fresh=fresh, **count)


def measure(stage: Stage, command: str, out: Path, *, fresh: bool) -> float:
    """Seconds that a command takes undisturbed."""
    stage.start(command, out)
    child = (begin_fresh if fresh else begin)(stage.words(command, out))
    assert child.end()[0] == 0
    return time.monotonic() - child.began


def moment(command: str, child: Child, out: Path, span: float, rng: random.Random) -> float:
    """Seconds after its beginning when a command is to be killed.

    Three in ten come at any time; for the others its first file is waited for, and the few slides
    after it, or for training the half second that it writes for.
    """
    if rng.random() < 0.3:
        return rng.uniform(0, span)
    before = seen_in(out)
    while not child.ended() and not seen_in(out) - before:
        time.sleep(0.001)
    return time.monotonic() - child.began + rng.uniform(0, 0.5 if command == "train" else span / 3)


def seen_in(folder: Path) -> set[tuple[str, int]]:
    """The results in a folder and what is to become one, with their times."""
    found = set()
    for path in [*files_in(folder), *parts_of(folder)]:
        with suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def unlike(stage: Stage, command: str, out: Path) -> list[str]:
    """What differs from the results of an undisturbed run, and what is left over."""
    right, found = results_of(stage.right(command)), results_of(out)
    differ = [
        f"{name} is not that of an undisturbed run"
        for name in sorted(right.keys() | found.keys())
        if right.get(name) != found.get(name)
    ]
    return differ + [f"{part.name} is left" for part in parts_of(out)]


# -- full disks ------------------------------------------------------------------------------------


def fill(
    stage: Stage, command: str, out: Path, points: int, rng: random.Random, *, by_limit: bool
) -> int:
    """At each point: exit 5, one line, nothing half written, and what was done before untouched."""
    if not points:
        return 0
    found: list[str] = []
    began = time.monotonic()
    sizes = [path.stat().st_size for path in files_in(stage.right(command))]
    for _ in range(points):
        if by_limit:
            stage.start(command, out)
            old = prefill(stage, command, out)
            most = int(max(sizes) ** rng.random())
            child = begin(stage.words(command, out), partial(limit_files, most))
            code, said = child.end()
            found += judge_full(out, old, code, said)
        else:
            with mounted(out, 2 * sum(sizes) + (1 << 20)):
                target = out / "results"
                stage.start(command, target)
                old = prefill(stage, command, target)
                growth = sum(sizes) - sum(path.stat().st_size for path in files_in(target))
                leave_free(out, rng.randrange(growth))
                code, said = begin(stage.words(command, target)).end()
                found += judge_full(target, old, code, said)
    how = "limit" if by_limit else "tmpfs"
    return tell("full disk", began, found, command=command, how=how, points=points)


def limit_files(most: int) -> None:
    """Let no file of this process grow beyond so many bytes; Python makes an error of it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def prefill(stage: Stage, command: str, out: Path) -> dict[str, str]:
    """Put the results of the first slide there, as an earlier run would; name and digest."""
    if command in ("tile", "classify", "embed"):
        for path in stage.right(command).rglob("s0.*"):
            place = out / path.relative_to(stage.right(command))
            place.parent.mkdir(exist_ok=True)
            shutil.copy2(path, place)
    return {name: digest for name, digest in results_of(out).items() if "s0." in name}


def judge_full(out: Path, old: dict[str, str], code: int, said: str) -> list[str]:
    """What is wrong about a run whose disk was full."""
    found = faults_of(out) + [f"{part.name} is left" for part in parts_of(out)]
    lines = [line for line in said.splitlines() if line.startswith("milpath: ")]
    if code != 5 or len(lines) != 1 or "Traceback" in said:
        found.append(f"exit {code}: {said[-400:]}")
    now = results_of(out)
    return found + [f"{name} was touched" for name in old if now.get(name) != old[name]]


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    """A disk of its own, of so many bytes, in memory."""
    folder.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "milpath-faults", str(folder)]
    subprocess.run(["mount", *options], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def tmpfs_mounts() -> bool:
    """Whether this user may mount a disk in memory."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mounted(Path(folder), 1 << 16):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def leave_free(disk: Path, free: int) -> None:
    """Fill a disk up to so many bytes, to the page."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        ballast = max(0, shutil.disk_usage(disk).free - free)
        file.write(bytes(ballast))


# -- folders that vanish ---------------------------------------------------------------------------


def vanish(stage: Stage, out: Path, points: int, rng: random.Random) -> int:
    """Take the folder of results away at random moments of tiling: exit 5, and one line."""
    found: list[str] = []
    began = time.monotonic()
    count: Counter[str] = Counter(taken=0, ended_before=0)
    span = measure(stage, "tile", out, fresh=False) if points else 0.0
    while count["taken"] < points:
        stage.start("tile", out)
        child = begin(stage.words("tile", out))
        while not list((out / "journal").glob("*")) and not child.ended():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.9 * span))
        gone = out.with_name("gone")
        out.rename(gone)
        code, said = child.end()
        whole = len(list(gone.glob("*.h5"))) == len(list(stage.slides.iterdir()))
        if code == 0 and whole:
            count["ended_before"] += 1
        else:
            count["taken"] += 1
            if code != 5 or "Traceback" in said or said.count("milpath: ") != 1:
                found.append(f"exit {code}: {said[-300:]}")
        found += faults_of(gone)
        shutil.rmtree(gone)
        shutil.rmtree(out, ignore_errors=True)
    return tell("vanishing folder", began, found, **count)


# -- races -----------------------------------------------------------------------------------------


def race(stage: Stage, command: str, out: Path, races: int, rng: random.Random) -> int:
    """Whatever they do, there is one result, the right one, and it is never seen in part."""
    found: list[str] = []
    began = time.monotonic()
    count: Counter[str] = Counter(races=races, without_locks=0, both_did_it=0, one_skipped=0)
    for number in range(races):
        slide = f"s{rng.randrange(4)}"
        locks = number % 2 == 0
        count["without_locks"] += not locks
        stage.start(command, out)
        if command == "embed":
            for path in out.glob("*.h5"):
                if path.stem != slide:
                    path.unlink()
        words = stage.words(command, out)
        words[1] = stage.slides / f"{slide}.tif" if command != "embed" else out
        gate, opener = os.pipe()
        pair = [begin(words, partial(wait_at, gate, opener, locks)) for _ in range(2)]
        os.close(gate)
        os.close(opener)  # both read the end of it at once
        while not all(child.ended() for child in pair):
            found += faults_of(out)
            time.sleep(0.02)
        ends = [child.end() for child in pair]
        found += [f"exit {code}: {said[-300:]}" for code, said in ends if code != 0]
        skips = sum("done before" in said for _, said in ends)
        count["both_did_it" if skips == 0 else "one_skipped"] += 1
        found += faults_of(out) + [f"{part.name} is left" for part in parts_of(out)]
        right, now = results_of(stage.right(command)), results_of(out)
        mine = [name for name in right if name.split("/")[-1].split(".")[0] == slide]
        found += [f"{name} is not right" for name in mine if now.get(name) != right[name]]
    return tell("races", began, found, command=command, **count)


def wait_at(gate: int, opener: int, locks: bool) -> None:
    """Wait until the gate opens; then, if so asked, know of no locks."""
    os.close(opener)
    os.read(gate, 1)
    if not locks:
        scratch.fcntl.flock = refuse_lock  # type: ignore[attr-defined]


def refuse_lock(number: int, how: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


# -- soak ------------------------------------------------------------------------------------------


def soak(folder: Path, stage: Stage, slides: int, rng: random.Random) -> int:
    """Classify many slides, one in twenty of them bad, in one process; watch its memory."""
    began = time.monotonic()
    kinds = draw_many(folder / "slides", slides, rng)
    out = folder / "out"
    words = ["classify", folder / "slides", "--model", stage.right("train"), "--out", out, "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "milpath", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors: list[str] = []
    listener = threading.Thread(target=lambda: errors.extend(process.stderr or ()))
    listener.start()
    outcomes, memory = {}, []
    for line in process.stdout:
        one = json.loads(line)
        outcomes[one["slide_id"]] = one["status"]
        memory.append(resident_mb(process.pid))
    code = process.wait()
    listener.join()
    found = [
        f"{name}, {kind}, came to {outcomes.get(name)}"
        for name, kind in kinds.items()
        if outcomes.get(name) not in EXPECTED[kind]
    ]
    if code != 3 or any("Traceback" in line for line in errors):
        found.append(f"exit {code}: {''.join(errors)[-400:]}")
    recorded = sum(len(run.slides) for run in read_journals(out))
    rows = (out / "predictions.csv").read_text().count("\n") - 1
    if not recorded == rows == slides:
        found.append(f"{rows} rows and {recorded} records of {slides} slides")
    found += faults_of(out)
    first, last = (sorted(some)[len(some) // 2] for some in (memory[:100], memory[-100:]))
    growth = last / first - 1
    if growth > 0.05:
        found.append(f"memory grew by {growth:.1%}")
    return tell(
        "soak", began, found, slides=slides, **Counter(kinds.values()),
        first_100_mb=round(first), last_100_mb=round(last), growth=round(growth, 4),
    )  # fmt: skip


EXPECTED = {
    "sound": {"ok"},
    "no_tissue": {"no_tissue"},
    "truncated": {"failed", "ok"},  # where only what lies on glass is cut off
    "corrupt": {"failed", "ok", "no_tissue"},  # by how many of its tiles are hit
    "unreadable": {"failed"},
}


def draw_many(folder: Path, count: int, rng: random.Random) -> dict[str, str]:
    """So many files of ten drawn slides, one in twenty of them bad; the kind of each."""
    folder.mkdir(parents=True)
    drawn = []
    for number in range(10):
        path = folder / f"drawn-{number}"
        draw_slide(
            path.with_suffix(".tif"), seed=number, tumour=bool(number % 2), size_px=(384, 384)
        )
        drawn.append(path.with_suffix(".tif").read_bytes())
        path.with_suffix(".tif").unlink()
    blank = folder / "blank.tif"
    draw_slide(blank, seed=0, tumour=False, tissue=False, artefacts=False, size_px=(384, 384))
    glass = blank.read_bytes()
    blank.unlink()
    kinds = {}
    bad = set(rng.sample(range(count), count // 20))
    for number in range(count):
        kind = rng.choice(sorted(EXPECTED.keys() - {"sound"})) if number in bad else "sound"
        data = bytearray(glass if kind == "no_tissue" else drawn[number % 10])
        if kind == "truncated":
            del data[rng.randrange(len(data)) :]
        elif kind == "corrupt":
            for _ in range(20):
                data[rng.randrange(len(data))] ^= 0xFF
        elif kind == "unreadable":
            data = bytearray(b"<html>404</html>")
        (folder / f"s{number:04d}.tif").write_bytes(data)
        kinds[f"s{number:04d}"] = kind
    return kinds


def resident_mb(pid: int) -> float:
    words = ["ps", "-o", "rss=", "-p", str(pid)]
    return int(subprocess.run(words, capture_output=True, text=True).stdout or 0) / 1024


def tell(figure: str, began: float, found: list[str], **values: object) -> int:
    """A line of JSON, and the first few faults on stderr; how many there were."""
    for fault in found[:5]:
        print(f"{figure}: {fault}", file=sys.stderr, flush=True)
    seconds = round(time.monotonic() - began, 1)
    say(figure=figure, **values, faults=len(found), seconds=seconds)
    return len(found)


if __name__ == "__main__":
    main()
