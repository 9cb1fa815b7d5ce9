"""A Keras weights file is checked before Keras allocates what it declares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from milpath.errors import UsageError
from milpath.nn.encoders import build_encoder
from milpath.store.untrusted import check_untrusted_hdf5


def made(folder: Path, change: Callable[[h5py.File], object]) -> Path:
    path = folder / "net.weights.h5"
    with h5py.File(path, "w") as h5:
        h5["layers/dense/vars/0"] = np.ones((3, 4), np.float32)
        change(h5)
    return path


FAULTS: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "bomb": (
        lambda h5: h5.create_dataset("x", (1 << 30,), "f4", chunks=(1 << 20,)),
        "'x' declares more numbers than the file holds",
    ),
    "twice": (
        lambda h5: [h5.__setitem__("x", np.zeros(9999)), h5.__setitem__("y", h5["x"])],
        "declares more numbers than it holds",
    ),
    "link": (lambda h5: h5.__setitem__("x", h5py.SoftLink("/layers")), "'x' is a link"),
    "elsewhere": (lambda h5: h5.__setitem__("x", h5py.ExternalLink("y", "/")), "'x' is a link"),
    "texts": (lambda h5: h5.__setitem__("x", ["a"]), "'x' holds other data than plain numbers"),
    "gzip": (
        lambda h5: h5.create_dataset("x", data=np.zeros(999), compression="gzip"),
        "'x' holds other data than plain numbers",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_problems_of_a_weights_file_are_found(tmp_path: Path, fault: str) -> None:
    change, words = FAULTS[fault]
    with pytest.raises(UsageError, match=rf"^weights net\.weights\.h5: {words}"):
        check_untrusted_hdf5(made(tmp_path, change))


def test_plain_weights_have_no_problem(tmp_path: Path) -> None:
    check_untrusted_hdf5(made(tmp_path, lambda h5: h5.create_group("g")))


def test_an_invalid_weights_file_raises_one_line_before_a_network_is_built(tmp_path: Path) -> None:
    path = tmp_path / "net.weights.h5"
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'id'\ntR.")
    with pytest.raises(UsageError, match=r"^weights net\.weights\.h5: is no HDF5 file; "):
        build_encoder("mobilenetv2", 32, str(path))
    with pytest.raises(UsageError, match="declares more numbers"):
        check_untrusted_hdf5(made(tmp_path, FAULTS["bomb"][0]))


def test_modules_in_the_current_folder_are_not_imported_by_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path, lambda h5: None)
    for name in ("h5py", "numpy", "milpath", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w').close()\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    for each in (path, Path(path.name)):
        check_untrusted_hdf5(each)
    assert not (tmp_path / "executed").exists()
