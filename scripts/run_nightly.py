"""Run what is too long for the tests: benchmarks, fuzzing, fault injection, advisories, coverage.

./scripts/nightly [--only JOB ...] [--quick] [--fuzz-seconds 600] [--list]

Prints one JSON line per figure, each with the name of its job, and the exit code of every job that
failed. The exit code is 1 if a job failed. The full run takes about three hours on two CPUs;
--quick only checks that every job runs, in about 20 minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
ROOT = SCRIPTS.parent

Command = Sequence[str | Path]


@dataclass(frozen=True)
class Job:
    """Commands that print JSON lines.

    Attributes
    ----------
    full, quick : arguments of `scripts/<script>` in a full and in a quick run
    needs : a program without which the job is skipped
    """

    script: str
    full: Command = ()
    quick: Command = ()
    needs: str | None = None

    def command(self, quick: bool) -> Command:
        prefix = ["xvfb-run", "-a"] if self.needs == "xvfb-run" else []
        words = self.quick if quick else self.full
        return [*prefix, sys.executable, SCRIPTS / self.script, *words]


SMALL = ("--repeats", "1", "--side", "4096")
JOBS = {
    "untrusted": Job("bench_untrusted.py", (), ("--quick",)),
    "faults": Job(
        "bench_faults.py",
        ["--kills", "200", "--full-disk", "40", "--vanish", "5", "--races", "60", "--soak", "200"],
        ("--quick",),
    ),
    "tile": Job("bench_tile.py", ("--whole",), (*SMALL, "--patches", "40", "--whole")),
    "classify": Job(
        "bench_classify.py",
        (),
        (*SMALL, "--patches", "64", "--rows", "20000", "--counts", "1000"),
    ),
    "bag": Job("bench_bag.py", (), ("--repeats", "1", "--patches", "20", "--rows", "3000")),
    "intervals": Job("bench_intervals.py", (), ("--draws", "50")),
    "scale": Job("bench_scale.py", (), ("--quick",)),
    "demo": Job("bench_demo.py", ("--seeds", "3"), ("--seeds", "1")),
    "viewer": Job("bench_viewer.py", (), ("--repeats", "1"), needs="xvfb-run"),
}


def main() -> None:
    """Run the jobs, print their lines, and exit with 1 if any of them failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [*JOBS, *OTHERS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="JOB")
    parser.add_argument("--quick", action="store_true", help="small, to see that every job runs")
    parser.add_argument("--fuzz-seconds", type=float, default=600.0, help="per fuzzing script")
    parser.add_argument("--list", action="store_true", help="print the jobs and exit")
    options = parser.parse_args()
    if options.list:
        print("\n".join(names))
        return
    failed = False
    for name in options.only:
        start = time.perf_counter()
        for figures in run_job(name, options):
            print(json.dumps({"job": name, **figures}, ensure_ascii=False), flush=True)
            failed |= "exit_code" in figures
        seconds = round(time.perf_counter() - start, 1)
        print(json.dumps({"job": name, "job_seconds": seconds}), flush=True)
    sys.exit(failed)


def run_job(name: str, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Yield the figures of a job; a failure is a figure with an `exit_code`."""
    if name in OTHERS:
        yield from OTHERS[name](options)
        return
    job = JOBS[name]
    if job.needs and shutil.which(job.needs) is None:
        yield {"skipped": f"{job.needs} is not installed"}
        return
    yield from run_lines(job.command(options.quick))


def run_lines(command: Command) -> Iterator[dict[str, object]]:
    """Yield the JSON lines that a command prints; then, if it failed, its exit code."""
    with subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        for line in process.stdout or ():
            yield from parse_line(line)
    if process.returncode:
        yield {"command": " ".join(map(str, command)), "exit_code": process.returncode}


def parse_line(line: str) -> Iterator[dict[str, object]]:
    """Yield the JSON object in a line, if it is one."""
    try:
        found = json.loads(line)
    except ValueError:
        return
    if isinstance(found, dict):
        yield found


# -- jobs of more than one command -----------------------------------------------------------------


def fuzz(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Fuzz the readers of HDF5 files and of texts."""
    seconds = "2" if options.quick else str(options.fuzz_seconds)
    for script in ("fuzz_h5.py", "fuzz_manifest.py"):
        yield from run_lines([sys.executable, SCRIPTS / script, "--seconds", seconds])


def generated(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Run the benchmarks on public data on small generated data: only that they run is checked."""
    from made_data import draw_colon, write_classic, write_digits

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        colon = draw_colon(folder / "colon")
        mnist, example = write_digits(folder)
        short = ["--repeats", "1", "--folds", "2"]
        for kind in ("nuclei", "grid"):
            words = ["--data", colon, "--kind", kind, *short, "--epochs", "2", "--members", "1"]
            yield from run_lines([sys.executable, SCRIPTS / "bench_colon.py", *words])
        words = [write_classic(folder / "made.npz"), *short, "--epochs", "8"]
        yield from run_lines([sys.executable, SCRIPTS / "bench_classic_mil.py", *words])
        words = ["--data", mnist, "--keras-example", example, "--test-bags", "40"]
        words += ["--seeds", "1", "--epochs", "1"]
        yield from run_lines([sys.executable, SCRIPTS / "bench_mnist.py", *words])


def audit(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Ask for published advisories on every installed package, where there is a network."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        yield {"skipped": f"pip-audit had no answer: {reason}"}
        return
    for package in packages:
        for fault in package.get("vulns", []):
            about = {"package": package["name"], "version": package["version"]}
            yield {**about, "advisory": fault["id"], "fixed_in": fault["fix_versions"]}
    yield {"packages": len(packages)}
    if done.returncode:
        yield {"command": "pip-audit", "exit_code": done.returncode}


def coverage(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Measure which part of milpath the tests run; child processes are not counted."""
    fast = ["-m", "not slow"] if options.quick else []
    with tempfile.TemporaryDirectory() as folder:
        data = f"--data-file={folder}/coverage"
        run = [sys.executable, "-m", "coverage", "run", data, "-m", "pytest", "-q", *fast]
        yield from run_lines(run)
        report = [sys.executable, "-m", "coverage", "json", data, "-q", "-o", f"{folder}/c.json"]
        subprocess.run(report, cwd=ROOT, check=True)
        totals = json.loads((Path(folder) / "c.json").read_text())["totals"]
        yield {"percent": round(totals["percent_covered"], 1), "lines": totals["num_statements"]}


OTHERS: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, object]]]] = {
    "fuzz": fuzz,
    "generated": generated,
    "audit": audit,
    "coverage": coverage,
}


if __name__ == "__main__":
    main()
