"""Packages that offer encoders, as if they were installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGEST = "0123456789abcdef" * 2


class MeanColour:
    """The mean of each colour, of patches of 32 px."""

    def __init__(self, **other: Any) -> None:
        self.spec = {"name": "mean-colour", "patch_px": 32, "mpp": 0.5, "dim": 3}
        self.spec |= {"digest": DIGEST} | other

    def embed(self, patches: NDArray[np.uint8]) -> Any:
        features = patches.mean(axis=(1, 2), dtype=np.float32)
        patches[:] = 0  # a package may use the memory
        return features


def offer(folder: Path, package: str, encoders: Mapping[str, Callable[[], Any]]) -> None:
    """Install a package that offers encoders into a folder on `sys.path`.

    Its module is put into `sys.modules`; what is installed is the entry points.
    """
    module = ModuleType(f"{package}_module")
    info = folder / f"{package}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
    lines = ["[milpath.encoders]"]
    for number, (name, build) in enumerate(encoders.items()):
        setattr(module, f"build_{number}", build)
        lines.append(f"{name} = {module.__name__}:build_{number}")
    sys.modules[module.__name__] = module
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
