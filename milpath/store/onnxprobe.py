"""A run of an ONNX network in a child process under limits.

onnxruntime allocates whatever a graph asks for, already while it opens the file, and runs its loops
for as long as they go. So a network first runs here, in a process that may end. It sees two patches
of noise, and then the same two in the other order: a network that gives others then mixes its
patches, or is not the same each time.

The process reads one JSON object from stdin, see `milpath.store.onnxtrial`. It writes a line when
it is ready, and then one JSON object:
`{"outputs": {name: {"dtype", "shape", "finite", "same"}}}`, or `{"problem": text}`.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.store.probe import limit_memory, limit_time

READY = "ready"
"""The line that says that the process works; what fails after it is the network's fault."""
_SAME = 1e-3
"""Largest difference of the numbers of one patch in two runs, of their range: float16 rounds."""


def open_session(path: str, providers: list[str], threads: int = 0) -> Any:
    """Open an ONNX file with onnxruntime: as ONNX, without messages, without operator libraries.

    Parameters
    ----------
    path : the file
    providers : names of onnxruntime's execution providers, the first that works is used
    threads : of the network; 0 for one per CPU, and memory that is kept for the next run
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if threads:
        options.intra_op_num_threads = threads
        options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(path, options, providers=providers)


def run_twice(request: dict[str, Any]) -> dict[str, Any]:
    """Open a network and run it twice; return what its outputs are.

    Raises
    ------
    Exception : of any type that onnxruntime raises
    """
    session = open_session(request["path"], ["CPUExecutionProvider"], request["threads"])
    first = _draw_patches(request["dtype"], request["shape"])
    second = first.copy()
    pair = min(2, len(first))
    second[:pair] = first[:pair][::-1]
    names = [each.name for each in session.get_outputs()]
    feeds = ({request["input"]: patches} for patches in (first, second))
    one, two = (session.run(names, feed) for feed in feeds)
    outputs = zip(names, one, two, strict=True)
    return {
        name: _describe(before, after, pair)
        for name, before, after in outputs
        if isinstance(before, np.ndarray) and isinstance(after, np.ndarray)
    }


def _draw_patches(dtype: str, shape: list[int]) -> NDArray[Any]:
    """Draw noise: 0..255 for whole numbers, about -2..2 for others; zeros after two patches."""
    patches = np.zeros(shape, dtype)
    part = patches[:2]
    draw = np.random.default_rng(0)
    if dtype == "uint8":
        part[:] = draw.integers(0, 256, part.shape, np.uint8)
    else:
        part[:] = draw.random(part.shape, np.float32) * 4 - 2
    return patches


def _describe(before: NDArray[Any], after: NDArray[Any], pair: int) -> dict[str, Any]:
    found = {"dtype": before.dtype.name, "shape": list(before.shape), "finite": True, "same": True}
    if before.dtype.kind == "f" and before.ndim and len(before) >= pair:
        one, two = (each.astype(np.float64) for each in (before[:pair], after[:pair][::-1]))
        found["finite"] = bool(np.isfinite(one).all())
        if before.shape != after.shape:
            found["same"] = False
        elif found["finite"] and one.size:
            found["same"] = bool(np.abs(one - two).max() <= _SAME * max(1e-6, np.abs(one).max()))
    return found


def main() -> None:
    """Run the network of one request."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes of a command
        signal.signal(number, signal.SIG_IGN)  # this one ends with its answer
    request = json.loads(sys.stdin.readline())
    import onnxruntime  # noqa: F401 - the limits are for what comes after it

    print(READY, flush=True)
    limit_memory(request["memory"])
    limit_time(request["seconds"])
    answer: dict[str, Any]
    try:
        answer = {"outputs": run_twice(request)}
    except MemoryError:
        answer = {"problem": "needs too much memory"}
    except Exception as error:  # onnxruntime's errors have many types
        answer = {"problem": str(error)[:2000]}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
