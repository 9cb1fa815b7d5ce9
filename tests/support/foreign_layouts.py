"""How a folder of each layout is drawn, and which facts its files state."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tests.support import foreign_h5 as h5
from tests.support import foreign_tensors as tensors
from tests.support.foreign_tensors import Drawn

ALL = frozenset({"encoder", "patch_px", "mpp", "patch_size_l0"})


@dataclass(frozen=True)
class Drawing:
    """How files of a layout are written, and what they state.

    Parameters
    ----------
    layout : name of the layout
    write : writes the file of a slide into a folder, and returns the path that the layout finds
    stated : facts that the files state without help of the user
    replaced : stated facts in whose place the user's are taken
    needs : packages that must be installed to read them
    """

    layout: str
    write: Callable[[Path, str, Drawn], Path]
    stated: frozenset[str] = frozenset()
    replaced: frozenset[str] = frozenset()
    needs: tuple[str, ...] = ()


def _write_clam_pt(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    """Write tensors and patches alone."""
    path = tensors.write_clam_pt(folder, slide_id, drawn)
    shutil.rmtree(folder / "h5_files")
    return path


def _write_zarr(folder: Path, slide_id: str, drawn: Drawn) -> Path:
    path = tensors.write_lazyslide(folder, slide_id, drawn)
    if find_spec("pyarrow"):
        tensors.write_tiles(path, drawn, np.arange(len(drawn.coords)), stated=True)
    return path


_CLAM = frozenset({"patch_px", "patch_size_l0"}), frozenset({"patch_px"})

DRAWINGS = {
    "milpath": Drawing("milpath", h5.write_milpath, ALL),
    "trident": Drawing("trident", h5.write_trident, ALL - {"mpp"}),
    "clam": Drawing("clam", h5.write_clam, *_CLAM),
    "stamp": Drawing("stamp", h5.write_stamp, ALL - {"patch_size_l0"}),
    "atlaspatch": Drawing("atlaspatch", h5.write_atlaspatch, ALL),
    "raw2features": Drawing("raw2features", h5.write_raw2features, ALL - {"patch_px"}),
    "raw2features clam": Drawing(
        "raw2features", partial(h5.write_raw2features, clam=True), ALL - {"patch_px"}
    ),
    "raw2features stamp": Drawing(
        "raw2features", h5.write_raw2features_stamp, ALL - {"patch_size_l0"}
    ),
    "slide2vec": Drawing("slide2vec", h5.write_slide2vec, ALL),
    "slide2vec npz": Drawing("slide2vec", partial(h5.write_slide2vec, suffix=".npz"), ALL),
    "slide2vec 2": Drawing(
        "slide2vec", h5.write_old_slide2vec, frozenset({"patch_px", "patch_size_l0"})
    ),
    "torchmil": Drawing("torchmil", tensors.write_torchmil, frozenset({"encoder"})),
    "torchmil h5": Drawing("torchmil", tensors.write_torchmil_h5),
    "clam-pt": Drawing("clam-pt", _write_clam_pt, *_CLAM),
    "slideflow": Drawing("slideflow", tensors.write_slideflow, ALL - {"patch_size_l0"}),
    "torch": Drawing("torch", tensors.write_plain_torch),
    "npz": Drawing("numpy", tensors.write_npz),
    "npy": Drawing("numpy", tensors.write_npy),
    "zarr": Drawing("zarr", _write_zarr, ALL, needs=("zarr", "pyarrow")),
}
