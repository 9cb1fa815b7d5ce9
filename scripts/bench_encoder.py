"""Speed of a vision transformer of random weights: milpath against timm in PyTorch.

    python scripts/bench_encoder.py --reference-python PYTHON [--backends tensorflow jax]
        [--encoder uni] [--blocks 24] [--threads 2] [--batch 8] [--rounds 5]

PYTHON is one with torch and timm. Each program keeps its network in a process of its own; they take
turns, a batch each a round, so that what else the machine does meets all alike. A line of JSON for
each program (patches per second, of its fastest round and the median), then one with the ratios of
the medians to timm's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

Options = argparse.Namespace
_SIDE = 224


class Program:
    """A process that embeds a batch whenever it is asked to."""

    def __init__(self, python: str, arguments: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [python, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        self._ask()

    def _ask(self) -> str:
        reply: IO[str] | None = self._process.stdout
        assert reply is not None
        line = reply.readline()
        if not line:
            raise SystemExit("a program ended before its time; see above")
        return line

    def run(self) -> float:
        """Embed a batch, and return its seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._ask())

    def end(self) -> None:
        """Let the process end."""
        self._process.communicate("")


def serve(embed: Any) -> None:
    """Answer each line of stdin with the seconds of a batch; the first one is not timed."""
    embed()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        embed()
        print(time.perf_counter() - start, flush=True)


def serve_milpath(network: dict[str, Any], batch: int) -> None:
    import numpy as np

    from milpath.nn.encoders.transformer import build_transformer
    from milpath.registry.published import IMAGENET, VisionTransformer

    model = build_transformer(VisionTransformer(**network), _SIDE, IMAGENET, "class")
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(0.05 * generator.standard_normal(weight.shape, np.float32))
    patches = generator.integers(0, 256, (batch, _SIDE, _SIDE, 3), dtype=np.uint8)
    serve(lambda: np.asarray(model.predict_on_batch(patches)))


def serve_timm(network: dict[str, Any], batch: int, threads: int) -> None:
    import torch
    from reference_encoders import build_timm

    torch.set_num_threads(threads)
    model = build_timm(network).eval()
    patches = torch.randint(0, 256, (batch, 3, _SIDE, _SIDE), dtype=torch.uint8)
    mean, std = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)

    def embed() -> None:
        with torch.inference_mode():
            model((patches.float() / 255 - mean) / std)

    serve(embed)


def compare(options: Options) -> None:
    from milpath.registry import ENCODERS

    network = replace(ENCODERS[options.encoder].network, grid=_SIDE // 16)
    if options.blocks:
        network = replace(network, depth=options.blocks)
    given = ["--network", json.dumps(asdict(network)), "--batch", str(options.batch)]
    given += ["--threads", str(options.threads)]
    threads = str(options.threads)
    limits = {"OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads}
    limits |= {"TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    limits |= {"XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={str(options.threads > 1).lower()}"}
    programs = {"timm": Program(options.reference_python, ["--serve", "timm", *given], limits)}
    for backend in options.backends:
        chosen = limits | {"KERAS_BACKEND": backend}
        programs[backend] = Program(sys.executable, ["--serve", "milpath", *given], chosen)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(options.rounds):
        for name, program in programs.items():
            seconds[name].append(program.run())
    for program in programs.values():
        program.end()
    for name, found in seconds.items():
        line = {
            "program": name,
            "encoder": options.encoder,
            "blocks": network.depth,
            "threads": options.threads,
            "batch": options.batch,
            "patches_per_second": round(options.batch / statistics.median(found), 3),
            "fastest": round(options.batch / min(found), 3),
        }
        print(json.dumps(line))
    base = statistics.median(seconds.pop("timm"))
    ratios = {name: round(base / statistics.median(found), 3) for name, found in seconds.items()}
    print(json.dumps({"ratio_to_timm": ratios}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference-python", default=sys.executable)
    parser.add_argument("--backends", nargs="+", default=["tensorflow"])
    parser.add_argument("--encoder", default="uni")
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", choices=["milpath", "timm"], help=argparse.SUPPRESS)
    parser.add_argument("--network", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    if options.serve == "timm":
        serve_timm(json.loads(options.network), options.batch, options.threads)
    elif options.serve == "milpath":
        serve_milpath(json.loads(options.network), options.batch)
    else:
        compare(options)


if __name__ == "__main__":
    main()
