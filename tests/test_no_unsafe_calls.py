"""No module can run code from a user's file: no unpickling, no evaluation, no unsafe loaders."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "milpath").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")])

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "compile", "__import__", "load_model", "model_from_json"}
CALLS |= {"from_config", "deserialize_keras_object", "enable_unsafe_deserialization", "memmap"}
SAFE_YAML = {"safe_load", "safe_dump", "CSafeLoader", "SafeLoader", "YAMLError"}
"""All that may be used of PyYAML, and `load` with one of the safe loaders."""


def find_unsafe(tree: ast.AST) -> Iterator[str]:
    """Yield the name of each unsafe module, call, keyword or part of PyYAML in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from {each.name.partition(".")[0] for each in node.names} & MODULES
            yield from (each.name for each in node.names if each.name == "yaml" and each.asname)
        elif isinstance(node, ast.ImportFrom):
            yield from {(node.module or "").partition(".")[0]} & MODULES
            if (node.module or "").partition(".")[0] == "yaml":
                yield from (f"yaml.{each.name}" for each in node.names if _is_unsafe_yaml(each))
        elif isinstance(node, ast.Call):
            yield from _find_unsafe_call(node)
    yield from _find_unsafe_yaml(tree)


def _find_unsafe_call(node: ast.Call) -> Iterator[str]:
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    builtin = isinstance(called, ast.Name) or name not in {"compile", "eval"}
    yield from {name} & CALLS if builtin else ()
    for word in node.keywords:
        if word.arg in {"allow_pickle", "safe_mode"} and not _is_off(word.value, word.arg):
            yield word.arg


def _is_off(value: ast.expr, name: str) -> bool:
    """Return whether a keyword is the constant that forbids code."""
    return isinstance(value, ast.Constant) and value.value is (name == "safe_mode")


def _is_unsafe_yaml(imported: ast.alias) -> bool:
    return imported.name not in SAFE_YAML or imported.asname is not None


def _find_unsafe_yaml(tree: ast.AST) -> Iterator[str]:
    safe_loads = {
        node.func
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and any(
            word.arg == "Loader"
            and ast.unparse(word.value).removeprefix("yaml.") in {"CSafeLoader", "SafeLoader"}
            for word in node.keywords
        )
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "yaml":
            safe = node.attr in SAFE_YAML or (node.attr == "load" and node in safe_loads)
            yield from () if safe else (f"yaml.{node.attr}",)


def test_no_module_unpickles_evaluates_or_loads_code() -> None:
    found = {
        str(path.relative_to(ROOT)): unsafe
        for path in SOURCES
        if (unsafe := sorted(find_unsafe(ast.parse(path.read_text("utf-8")))))
    }
    assert len(SOURCES) > 60
    assert found == {
        # the config of a layer inside a layer, as Keras requires; it is never read from a file
        "milpath/nn/mil.py": ["deserialize_keras_object"],
        "milpath/demo.py": ["load_model"],  # milpath.nn.predict.load_model, not that of Keras
    }


def test_unsafe_calls_are_found() -> None:
    code = (
        "import pickle\nfrom joblib import load\neval('1')\nkeras.models.load_model('x')\n"
        "np.load('x', allow_pickle=True)\nmodel.compile()\nnp.load('x', allow_pickle=False)\n"
    )
    assert sorted(find_unsafe(ast.parse(code))) == [
        *("allow_pickle", "eval", "joblib", "load_model", "pickle"),
    ]


def test_only_the_safe_loaders_of_yaml_are_allowed() -> None:
    safe = (
        "import yaml\nfrom yaml import CSafeLoader, YAMLError\nyaml.safe_load(x)\n"
        "yaml.load(x, Loader=yaml.CSafeLoader)\nyaml.load(x, Loader=CSafeLoader)\n"
    )
    assert list(find_unsafe(ast.parse(safe))) == []
    for unsafe in (
        *("import yaml as y", "from yaml import load", "from yaml import Loader as SafeLoader"),
        *("yaml.load(x)", "yaml.unsafe_load(x)", "yaml.load(x, Loader=yaml.Loader)"),
        *("yaml.full_load(x)", "from yaml.cyaml import CLoader", "yaml.load(x, yaml.Loader)"),
    ):
        assert list(find_unsafe(ast.parse(unsafe))), unsafe


def test_every_array_file_is_read_without_pickles() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"np.load", "numpy.load"}:
                assert {word.arg for word in node.keywords} >= {"allow_pickle"}, path


def test_only_the_store_opens_hdf5_files() -> None:
    opened = {
        str(path.relative_to(ROOT)) for path in SOURCES if "h5py.File(" in path.read_text("utf-8")
    }
    assert opened == {
        "milpath/store/integrity.py",  # a file that milpath has just written
        "milpath/store/writing.py",
        "milpath/store/probe.py",  # in a child process
    }
