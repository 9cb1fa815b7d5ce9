"""How well the demo does, seed by seed: one JSON line each, and last their least and mean.

python scripts/bench_demo.py --seeds 3 [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

FIGURES = ("auc", "accuracy", "attention_auc", "contribution_auc", "seconds")


def main() -> None:
    """Run the demo in a process of its own for each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="keep what the demos make here")
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


def run(out: Path, seed: int) -> dict[str, float]:
    """One demo; its result, printed as it comes."""
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
