"""Small cohort, commands that can be killed, and checks of files, for bench_faults.py.

A command runs `milpath.cli.main` in a fork of this process, in which all libraries are loaded but
nothing has been opened: this saves the seconds of start. With `fresh` it runs in a new Python
process.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from bench_tools import say
from PIL import Image

from milpath import cli
from milpath.formats.bag import Bag
from milpath.formats.model_spec import check_weights, read_bundle_spec
from milpath.formats.verify import check_files
from milpath.nn import import_keras
from milpath.synthetic import draw_slide

GRID = ("--mpp", "1", "--patch-size", "32")
COMMANDS = ("tile", "train", "embed", "classify")
"""Each needs the results of an earlier one."""
LATE = ("milpath.runs.runlog", "milpath.tile", "rich.console", "rich.progress")
NETWORK = (
    *("matplotlib.backends.backend_agg", "matplotlib.figure", "matplotlib.font_manager"),
    *("milpath.nn.embed", "milpath.nn.jobs", "milpath.nn.train"),
)


def nothing() -> None:
    """Do nothing before the command."""


@dataclass(frozen=True)
class Child:
    """A running command, and a pipe with its output."""

    pid: int
    said: int
    began: float

    def ended(self) -> bool:
        """Return whether the command has ended; it is still to be waited for."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def kill_after(self, seconds: float) -> bool:
        """Kill the command so many seconds after its start; return False if it had ended before."""
        while (left := self.began + seconds - time.monotonic()) > 0:
            if self.ended():
                return False
            time.sleep(min(left, 0.01))
        if self.ended():
            return False
        os.kill(self.pid, signal.SIGKILL)
        return True

    def end(self) -> tuple[int, str]:
        """Wait for the command; return its exit code, negative for a signal, and its output."""
        with os.fdopen(self.said, "rb") as pipe:
            said = pipe.read().decode("utf-8", "replace")
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status), said


def load_early(commands: Sequence[str]) -> None:
    """Import the modules that commands import late, so that children need not."""
    network = set(commands) != {"tile"}
    if network:
        import_keras()
    for name in (*LATE, *(NETWORK if network else ())):
        import_module(name)


def begin(words: Sequence[str | Path], first: Callable[[], None] = nothing) -> Child:
    """Start a command in a fork of this process, after calling `first` there."""
    read, write = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid:
        os.close(write)
        return Child(pid, read, began)
    code = 70
    try:
        os.close(read)
        os.dup2(write, 1)
        os.dup2(write, 2)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), "utf-8", write_through=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), "utf-8", write_through=True)
        sys.argv = ["milpath", *map(str, words)]
        first()
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException as error:  # Python would exit with 1 and a traceback
        os.write(2, f"Traceback: {type(error).__name__}: {error}\n".encode())
        code = 1
    finally:
        os._exit(code)


def begin_fresh(words: Sequence[str | Path]) -> Child:
    """Start a command in a new Python process."""
    read, write = os.pipe()
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "milpath", *map(str, words)], stdout=write, stderr=write
    )
    os.close(write)
    process.returncode = 0  # `Child.end` waits for it
    return Child(process.pid, read, began)


# -- the cohort ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """Synthetic slides, and the results of each command in an undisturbed run."""

    folder: Path

    @property
    def slides(self) -> Path:
        return self.folder / "slides"

    def right(self, command: str) -> Path:
        """Return the folder with the results of an undisturbed run."""
        return self.folder / f"right-{command}"

    def words(self, command: str, out: Path) -> list[str | Path]:
        """Return the arguments of a command for all slides."""
        return {
            "tile": ["tile", self.slides, "--out", out, *GRID, "-w", "1"],
            "embed": [
                *("embed", self.right("tile"), "--encoder", self.right("train"), "--out", out),
            ],
            "classify": ["classify", self.slides, "--model", self.right("train"), "--out", out],
            "train": [
                *("train", self.folder / "cohort.csv", "--bags", self.right("tile")),
                *("--out", out, "--overwrite", "--epochs", "1", "--patches-per-bag", "8"),
            ],
        }[command]

    def start(self, command: str, out: Path) -> Path:
        """Create an empty folder of results."""
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return out

    def only(self, slide: str) -> Path:
        """Return a folder with the bag of one slide alone."""
        folder = self.folder / f"only-{slide}"
        folder.mkdir(exist_ok=True)
        shutil.copy2(self.right("tile") / f"{slide}.h5", folder)
        return folder


def set_stage(folder: Path, slides: int, commands: Sequence[str]) -> Stage:
    """Draw slides, every other one with a tumour, and run the commands undisturbed."""
    stage = Stage(folder)
    stage.slides.mkdir(parents=True)
    rows = ["slide,label"]
    for number in range(slides):
        name = f"s{number}.tif"
        draw_slide(stage.slides / name, seed=number, tumour=bool(number % 2), size_px=(384, 384))
        rows.append(f"slides/{name},{('normal', 'tumour')[number % 2]}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    for command in commands:
        out = stage.start(command, stage.right(command))
        code, said = begin(stage.words(command, out)).end()
        assert code == 0, said
    return stage


# -- files on the disk -----------------------------------------------------------------------------


def results_of(folder: Path) -> dict[str, str]:
    """Return name and digest of every result, without the seconds of training."""
    found = {}
    for path in files_in(folder):
        data = path.read_bytes()
        if path.name == "metrics.json":
            data = repr({**json.loads(data), "seconds": None}).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def files_in(folder: Path) -> list[Path]:
    """List all results, without run logs and temporary files."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name != "runlog" and path.name[0] != "."
    ]


def parts_of(folder: Path) -> list[Path]:
    """List all temporary files."""
    return [path for path in folder.rglob("*") if is_part(path)]


def is_part(path: Path) -> bool:
    return path.name.startswith(".milpath-") and path.suffix == ".part"


def faults_of(folder: Path) -> list[str]:
    """Return the results that are not complete; every byte of each is read."""
    found = []
    for path in folder.rglob("*"):
        if is_part(path) or path.is_dir():
            continue
        try:
            read_whole(path)
        except Exception as error:
            found.append(f"{path.relative_to(folder)}: {type(error).__name__}: {error}")
    if (folder / "model.json").exists():
        check_weights(folder, read_bundle_spec(folder))
    return found


def read_whole(path: Path) -> None:
    """Read a file to its end; raises any exception if it is not complete."""
    match path.suffix:
        case ".h5":
            _read_h5(path)
        case ".png":
            with Image.open(path) as image:
                image.load()
        case ".csv":
            text = path.read_text()
            assert text.endswith("\n"), "cut short"
            assert len({len(row) for row in csv.reader(io.StringIO(text))}) == 1, "cut short"
        case ".json":
            json.loads(path.read_text())
        case ".jsonl":  # the last line may be incomplete
            for line in path.read_text("utf-8", "replace").splitlines(keepends=True):
                if line.endswith("\n"):
                    json.loads(line)
        case other:
            raise AssertionError(f"no result has the suffix {other!r}")


def _read_h5(path: Path) -> None:
    (found,) = check_files(path)
    assert found.state == "ok", found.message
    if found.kind == "bag":
        with Bag(path) as bag:
            assert sum(map(len, bag.iter_patches(64))) == len(bag)


def done_in(command: str, folder: Path) -> dict[str, tuple[int, int]]:
    """Return the finished results of a command, with inode and time to detect a rewrite.

    Training runs with --overwrite, so of a model only its existence is recorded.
    """
    found = {}
    if command == "train":
        return {"model.json": (0, 0)} if (folder / "model.json").exists() else {}
    for path in folder.glob("*/s*.h5" if command == "embed" else "*.h5"):
        if command == "tile":
            beside = folder / "qc" / f"{path.stem}.png"
        elif command == "classify":
            beside = folder / f"{path.name.removesuffix('.prediction.h5')}.png"
        else:
            beside = path
        if beside.exists():
            found[path.name] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


def unlike(stage: Stage, command: str, out: Path) -> list[str]:
    """Return what differs from the results of an undisturbed run, and temporary files."""
    right, found = results_of(stage.right(command)), results_of(out)
    differ = [
        f"{name} differs from that of an undisturbed run"
        for name in sorted(right.keys() | found.keys())
        if right.get(name) != found.get(name)
    ]
    return differ + [f"{part.name} is left" for part in parts_of(out)]


# -- figures ---------------------------------------------------------------------------------------


def measure(stage: Stage, command: str, out: Path, *, fresh: bool) -> float:
    """Return the seconds of an undisturbed command."""
    stage.start(command, out)
    child = (begin_fresh if fresh else begin)(stage.words(command, out))
    assert child.end()[0] == 0
    return time.monotonic() - child.began


def report_figure(figure: str, began: float, found: list[str], **values: object) -> int:
    """Print a JSON line, and the first five faults to stderr; return their number."""
    for fault in found[:5]:
        print(f"{figure}: {fault}", file=sys.stderr, flush=True)
    seconds = round(time.monotonic() - began, 1)
    say(figure=figure, **values, faults=len(found), seconds=seconds)
    return len(found)
