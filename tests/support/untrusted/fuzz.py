"""Fuzzing of one function, with atheris if it is installed, otherwise with random mutations."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from milpath.errors import MilpathError

Target = Callable[[bytes, Path], object]
"""Reads some bytes in an empty folder; any exception but a `MilpathError` is a fault."""

TOKENS = (
    b"[", b"]", b"{", b"}", b'"', b",", b";", b"\t", b"\n", b"\r", b"\0", b"\xff", b"-1", b"0",
    b"1e999", b"NaN", b"9" * 30, b"\\u0000", b"null", b"true", b"\xef\xbb\xbf", b"\xed\xa0\x80",
    b"../", b"=", b":", b"shape", b"extents", b"dtype", b"|O", b"slide", b"coordinates", b"type",
)  # fmt: skip


class Harness:
    """Counts executions, and ends the process when the time is over."""

    def __init__(self, name: str, target: Target, engine: str, seconds: float, seed: int) -> None:
        self._settings = {"harness": name, "engine": engine, "seed": seed}
        self._target = target
        self._seconds = seconds
        self._folder = Path(tempfile.mkdtemp(dir=_fast_folder()))
        self._started = time.monotonic()
        self._count = self._refused = 0

    def run(self, data: bytes) -> None:
        """Execute the target once."""
        if time.monotonic() - self._started > self._seconds:
            self.finish()
        self._count += 1
        try:
            self._target(data, self._folder)
        except MilpathError as error:
            self._refused += 1
            if len(str(error).splitlines()) != 1:
                raise
        except Exception:
            sys.stderr.write(f"fault with {data!r}\n")
            raise

    def finish(self) -> None:
        """Print the counts and end the process, as libFuzzer requires."""
        seconds = round(time.monotonic() - self._started, 1)
        counts = {"executions": self._count, "refused": self._refused, "seconds": seconds}
        print(json.dumps({**self._settings, **counts}), flush=True)
        shutil.rmtree(self._folder)
        os._exit(0)


def fuzz(name: str, load: Callable[[], tuple[Target, Sequence[bytes]]]) -> None:
    """Run the command line of a harness.

    Parameters
    ----------
    name : name of the harness
    load : imports the code to fuzz; returns the target and the initial inputs
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="do not use atheris")
    args = parser.parse_args()
    atheris = None if args.plain else _atheris()
    with nullcontext() if atheris is None else atheris.instrument_imports(include=["milpath"]):
        target, corpus = load()
    engine = "random mutations, fixed seed" if atheris is None else "atheris"
    harness = Harness(name, target, engine, args.seconds, args.seed)
    if atheris is None:
        rng = np.random.default_rng(args.seed)
        while True:
            harness.run(_mutated(rng, corpus))
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(corpus):
            (Path(folder) / str(number)).write_bytes(data)
        # atheris keeps a few KiB per execution, so the default limit is reached within minutes; for
        # longer runs use several seeds
        limits = ["-max_len=32768", "-rss_limit_mb=8192", "-verbosity=0"]
        crashes = f"-artifact_prefix={tempfile.gettempdir()}/"  # not into a checkout
        options = [f"-seed={args.seed}", *limits, crashes, folder]
        atheris.Setup([sys.argv[0], *options], harness.run)
        atheris.Fuzz()


def _atheris() -> Any:
    try:
        import atheris
    except ImportError:
        return None
    return atheris


def _fast_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _mutated(rng: np.random.Generator, corpus: Sequence[bytes]) -> bytes:
    """Return one of the initial inputs after a few random changes."""
    data = bytearray(corpus[int(rng.integers(len(corpus)))])
    for _ in range(1 << int(rng.integers(0, 4))):
        at = int(rng.integers(len(data) + 1))
        length = 1 << int(rng.integers(0, 8))
        kind = int(rng.integers(5))
        if kind == 0 and at < len(data):
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            data[at : at + int(rng.integers(2))] = TOKENS[int(rng.integers(len(TOKENS)))]
        else:
            other = corpus[int(rng.integers(len(corpus)))]
            data[at : at + length] = other[at : at + length]
    return bytes(data)
