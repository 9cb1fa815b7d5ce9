"""How often the 95 % intervals of milpath hold the true value: one JSON line per setting.

Areas under the ROC curve are drawn from two normal distributions, shares from a binomial one.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from scipy.stats import norm

from milpath.intervals import auc_interval, wilson_interval


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--draws", type=int, default=2000, help="draws per setting")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    for positive, negative in ((5, 5), (10, 10), (5, 20), (30, 30), (100, 100)):
        for area in (0.5, 0.7, 0.9, 0.98):
            found = [draw_area(rng, area, positive, negative) for _ in range(given.draws)]
            tell("auc", f"{positive} + {negative}", area, found)
    for cases in (10, 20, 50, 200):
        for share in (0.5, 0.8, 0.95):
            hits = rng.binomial(cases, share, given.draws)
            found = [wilson_interval(float(each) / cases, cases) for each in hits]
            tell("share", str(cases), share, found)


def draw_area(
    rng: np.random.Generator, area: float, positive: int, negative: int
) -> tuple[float, float]:
    """The interval of one draw of scores whose true area is `area`."""
    shift = norm.ppf(area) * 2**0.5
    ones, noughts = rng.normal(shift, 1, positive), rng.normal(0, 1, negative)
    return auc_interval(float((ones[:, None] > noughts).mean()), positive, negative)


def tell(figure: str, cases: str, true: float, found: list[tuple[float, float]]) -> None:
    held = float(np.mean([low <= true <= high for low, high in found]))
    width = float(np.mean([high - low for low, high in found]))
    line = {"figure": figure, "cases": cases, "true": true, "held": round(held, 3)}
    print(json.dumps(line | {"mean_width": round(width, 3)}))


if __name__ == "__main__":
    main()
