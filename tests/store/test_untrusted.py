"""A weights file of Keras is looked at before Keras takes memory for what it declares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from milpath.errors import UsageError
from milpath.nn.encoders import build_encoder
from milpath.store.untrusted import check_untrusted_hdf5, find_problem


def made(folder: Path, plant: Callable[[h5py.File], object]) -> Path:
    path = folder / "net.weights.h5"
    with h5py.File(path, "w") as h5:
        h5["layers/dense/vars/0"] = np.ones((3, 4), np.float32)
        plant(h5)
    return path


def _round(h5: h5py.File) -> None:
    h5["layers/again"] = h5["layers"]


FAULTS: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "bomb": (
        lambda h5: h5.create_dataset("x", (1 << 30,), "f4", chunks=(1 << 20,)),
        "declares more numbers than it holds",
    ),
    "link": (lambda h5: h5.__setitem__("x", h5py.SoftLink("/layers")), "holds a link"),
    "elsewhere": (lambda h5: h5.__setitem__("x", h5py.ExternalLink("y", "/")), "holds a link"),
    "texts": (lambda h5: h5.__setitem__("x", ["a"]), "something else than plain numbers"),
    "gzip": (
        lambda h5: h5.create_dataset("x", data=np.zeros(999), compression="gzip"),
        "something else than plain numbers",
    ),
    "round": (_round, "holds too many parts"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_not_plainly_there_are_refused(tmp_path: Path, fault: str) -> None:
    plant, words = FAULTS[fault]
    assert words in str(find_problem(made(tmp_path, plant)))


def test_plain_weights_have_no_fault(tmp_path: Path) -> None:
    assert find_problem(made(tmp_path, lambda h5: None)) is None


def test_a_file_that_is_none_is_refused_in_one_line_and_nothing_built(tmp_path: Path) -> None:
    path = tmp_path / "net.weights.h5"
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'id'\ntR.")
    with pytest.raises(UsageError, match=r"^weights net\.weights\.h5: damaged, or no HDF5 file; "):
        build_encoder("mobilenetv2", 32, str(path))
    with pytest.raises(UsageError, match="declares more numbers than it holds"):
        check_untrusted_hdf5(made(tmp_path, FAULTS["bomb"][0]))
