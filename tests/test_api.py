"""What the commands do can be done from Python, and importing milpath loads nothing heavy."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import milpath


def test_importing_milpath_loads_no_library() -> None:
    code = "import sys, milpath; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "scipy", "keras", "tensorflow", "h5py", "openslide", "pydantic", "matplotlib"}
    assert not heavy & set(run.stdout.split())


def test_every_public_name_exists_and_is_described() -> None:
    assert list(milpath.__all__) == sorted(milpath.__all__)
    for name in set(milpath.__all__) - {"__version__"}:
        found = getattr(milpath, name)
        assert inspect.getdoc(found), name
        assert name in dir(milpath)


def test_the_names_for_type_checkers_are_the_public_ones() -> None:
    source = inspect.getsource(milpath)
    block = source[source.index("if TYPE_CHECKING:") : source.index("_MODULES = ")]
    named = {
        name.strip()
        for line in block.splitlines()
        if " import " in line
        for name in line.partition(" import ")[2].split(",")
    }
    assert named == set(milpath.__all__) - {"__version__"} == set(milpath._MODULES)


def test_an_unknown_name_raises() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = milpath.nothing
