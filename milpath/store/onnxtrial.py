"""The trial of an ONNX network in a child process, before this process opens it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milpath.errors import UsageError
from milpath.store.onnxfile import OnnxDescription
from milpath.store.onnxprobe import READY
from milpath.store.probe import MEMORY_BYTES

_WAITING = 20  # times the processor time that a trial may take: disks can be slow
_START_SECONDS = 60  # to wait for the process, which imports onnxruntime
_RUNS = 2
_MIN_SECONDS = 0.6  # of processor time
_MAX_SECONDS = 600.0
_SECONDS_PER_BYTE = 20 / (1 << 30)  # of weights, to open them
_SECONDS_PER_PIXEL = 1e-7  # to draw the batch, and to read it
_OPERATIONS_PER_SECOND = 1e10  # of a slow processor
_STRIDE = 4  # px between the places where all weights may be applied: networks have larger ones
_BYTES_PER_PIXEL = 1536  # of a batch, for few weights
_FEW_WEIGHTS = 4 << 20  # bytes; more allow more memory per pixel, as attention takes it
_MAX_FACTOR = 8
_MAX_PIXEL_BYTES = 8 << 30
_COPIES = 3  # of the weights that onnxruntime may hold at a time
_MAX_THREADS = 4
_BYTES_PER_THREAD = 16 << 20
_REASONS = (
    (
        r"bad_alloc|Failed to allocate|allocate memory|needs too much memory",
        "needs too much memory for its size; it is damaged, or made to harm",
    ),
    (
        r"NOT_IMPLEMENTED|is not a registered function|No Op registered",
        "has an operator that this version of "
        "onnxruntime lacks; update onnxruntime, or export it for an older opset",
    ),
    (
        r"opset|ir_version|IR version",
        "is of a newer version of ONNX than this onnxruntime; "
        "update onnxruntime, or export it for an older opset",
    ),
)


@dataclass(frozen=True)
class TriedOutput:
    """An output of a network as it came in the trial.

    Attributes
    ----------
    dtype : NumPy's name of its type
    shape : lengths of its axes, for the trial's batch
    finite : whether all of its numbers were
    same : whether each patch gave the same numbers in another place of the batch
    """

    dtype: str
    shape: tuple[int, ...]
    finite: bool
    same: bool


def try_onnx(
    path: Path, found: OnnxDescription, dtype: str, shape: tuple[int, int, int, int]
) -> Mapping[str, TriedOutput]:
    """Run a network twice on noise, in a child process under limits of memory and time.

    The limits grow with the weights and with the pixels of the batch; for a network of few weights
    and patches up to 300 px they are 300 MiB and 0.6 s of processor time.

    Parameters
    ----------
    path : the file, which `read_onnx` has checked
    found : its description
    dtype : of the input: "float32", "float16" or "uint8"
    shape : of the input, with the batch

    Returns
    -------
    mapping : the outputs by name

    Raises
    ------
    UsageError : onnxruntime cannot open or run it, or not within the limits
    """
    pixels = shape[0] * shape[1] * shape[2] * shape[3] // 3
    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    seconds = _limit_seconds(found.weight_bytes, pixels)
    request = {
        "path": str(path.absolute()),
        "input": found.inputs[0].name,
        "dtype": dtype,
        "shape": shape,
        "threads": threads,
        "seconds": seconds,
        "memory": _limit_bytes(found.weight_bytes, pixels) + threads * _BYTES_PER_THREAD,
    }
    answer = _ask(json.dumps(request) + "\n", _START_SECONDS + _WAITING * seconds)
    if "problem" in answer:
        raise UsageError(f"{path.name}: {_explain(answer['problem'], path)}")
    return {
        name: TriedOutput(each["dtype"], tuple(each["shape"]), each["finite"], each["same"])
        for name, each in answer["outputs"].items()
    }


def _limit_seconds(weight_bytes: int, pixels: int) -> float:
    """Return the processor time that a network may take: to open it, and for its arithmetic."""
    operations = _RUNS * 2 * (weight_bytes / 4) * pixels / _STRIDE**2
    seconds = weight_bytes * _SECONDS_PER_BYTE + pixels * _SECONDS_PER_PIXEL
    seconds += operations / _OPERATIONS_PER_SECOND
    return min(_MIN_SECONDS + seconds, _MAX_SECONDS)


def _limit_bytes(weight_bytes: int, pixels: int) -> int:
    """Return the address space that a network may take."""
    factor = min(1 + weight_bytes // _FEW_WEIGHTS, _MAX_FACTOR)
    activations = min(pixels * _BYTES_PER_PIXEL * factor, _MAX_PIXEL_BYTES)
    return max(MEMORY_BYTES, activations) + _COPIES * weight_bytes


def _ask(request: str, timeout: float) -> dict[str, Any]:
    """Return the answer of a child process; -P: modules in the current folder are not imported."""
    more = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "ORT_LOAD_CONFIG_FROM_MODEL": "0"}
    more["MALLOC_ARENA_MAX"] = "1"  # each reserves address space
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "milpath.store.onnxprobe"],
            input=request.encode(),
            capture_output=True,
            env=os.environ | more,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"problem": ""}
    ready, _, answer = ended.stdout.decode(errors="replace").partition("\n")
    if ready.strip() != READY:
        reason = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise UsageError(
            f"onnxruntime cannot be started in a process of its own ({reason[:200]}); "
            "pip install 'milpath[onnx]' again"
        )
    try:
        return json.loads(answer)
    except ValueError:  # it ended without an answer
        return {"problem": ""}


def _explain(problem: str, path: Path) -> str:
    """Return onnxruntime's reason in one line, without the path."""
    if not problem:
        return (
            "onnxruntime does not finish running it within the time and memory for a network of "
            "its size, or ends on it; it is damaged, or made to harm"
        )
    for pattern, reason in _REASONS:
        if re.search(pattern, problem):
            return reason
    if failed := re.search(r"while running (\w+) node", problem):
        return f"its operator {failed[1]} fails in onnxruntime; export it again"
    text = problem.replace(str(path.absolute()), path.name)
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from \S+ failed:)?", "", text)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if "::" in text or "/" in text:  # names and paths of onnxruntime's own code
        return "onnxruntime cannot open it; export it again"
    return f"onnxruntime cannot run it ({text[:300]}); export it again"
