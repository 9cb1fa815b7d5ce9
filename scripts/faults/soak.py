"""Many slides classified in one process, some of them invalid; see bench_faults.py."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from faults.stage import Stage, faults_of, report_figure
from milpath.runs.runlog import read_runlogs
from milpath.synthetic import draw_slide


def soak(folder: Path, stage: Stage, slides: int, rng: random.Random) -> int:
    """Classify many slides in one process, one in twenty invalid, and record its memory."""
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
        f"{name}, {kind}, has outcome {outcomes.get(name)}"
        for name, kind in kinds.items()
        if outcomes.get(name) not in EXPECTED[kind]
    ]
    if code != 3 or any("Traceback" in line for line in errors):
        found.append(f"exit {code}: {''.join(errors)[-400:]}")
    recorded = sum(len(run.slides) for run in read_runlogs(out))
    rows = (out / "predictions.csv").read_text().count("\n") - 1
    if not recorded == rows == slides:
        found.append(f"{rows} rows and {recorded} records of {slides} slides")
    found += faults_of(out)
    fifth = len(memory) // 5
    first, last = (sorted(some)[fifth // 2] for some in (memory[:fifth], memory[-fifth:]))
    growth = last / first - 1
    if growth > 0.05:
        found.append(f"memory grew by {growth:.1%}")
    return report_figure(
        "soak", began, found, slides=slides, **Counter(kinds.values()),
        first_fifth_mb=round(first), last_fifth_mb=round(last), growth=round(growth, 4),
    )  # fmt: skip


EXPECTED = {
    "valid": {"ok"},
    "no_tissue": {"no_tissue"},
    "truncated": {"failed", "ok"},  # if only background is cut off
    "corrupt": {"failed", "ok", "no_tissue"},  # depends on the number of damaged tiles
    "unreadable": {"failed"},
}


def draw_many(folder: Path, count: int, rng: random.Random) -> dict[str, str]:
    """Write `count` files of ten synthetic slides, one in twenty invalid; return their kinds."""
    folder.mkdir(parents=True)
    slides = []
    for number in range(10):
        path = folder / f"slide-{number}"
        draw_slide(
            path.with_suffix(".tif"), seed=number, tumour=bool(number % 2), size_px=(384, 384)
        )
        slides.append(path.with_suffix(".tif").read_bytes())
        path.with_suffix(".tif").unlink()
    blank = folder / "blank.tif"
    draw_slide(blank, seed=0, tumour=False, tissue=False, artefacts=False, size_px=(384, 384))
    background = blank.read_bytes()
    blank.unlink()
    kinds = {}
    bad = set(rng.sample(range(count), count // 20))
    for number in range(count):
        kind = rng.choice(sorted(EXPECTED.keys() - {"valid"})) if number in bad else "valid"
        data = bytearray(background if kind == "no_tissue" else slides[number % 10])
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
