"""Run the demo with several seeds: a JSON line per seed, then the least, mean and most of each.

python scripts/bench_demo.py --seeds 3 [--out FOLDER]

The exit code is 1 if a figure is below its limit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LIMITS = {"auc": 0.95, "attention_auc": 0.90}
FIGURES = ("auc", "accuracy", "attention_auc", "contribution_auc", "seconds")


def main() -> None:
    """Run the demo in one process per seed, and compare its figures with their limits."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder to keep the results in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        results = [run(folder / f"seed-{seed}", seed) for seed in range(options.seeds)]
    summary = {
        name: {
            "least": min(result[name] for result in results),
            "mean": round(statistics.mean(result[name] for result in results), 4),
            "most": max(result[name] for result in results),
        }
        for name in FIGURES
    }
    print(json.dumps({"seeds": options.seeds, **summary}))
    sys.exit(any(summary[name]["least"] < limit for name, limit in LIMITS.items()))


def run(out: Path, seed: int) -> dict[str, float]:
    """Run one demo, print its result as a JSON line, and return it."""
    command = [sys.executable, "-m", "milpath", "demo", "--json"]
    done = subprocess.run(
        [*command, "--seed", str(seed), "--out", str(out)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout)
    print(json.dumps({"seed": seed, **result}), flush=True)
    return result


if __name__ == "__main__":
    main()
