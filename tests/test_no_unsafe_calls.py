"""Nothing that a user's file holds is run: no room of milpath can unpickle or evaluate."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "milpath").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")])

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__", "load_model", "model_from_json"}
CALLS |= {"from_config", "deserialize_keras_object", "enable_unsafe_deserialization", "memmap"}


def offences(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from {each.name.partition(".")[0] for each in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            yield from {(node.module or "").partition(".")[0]} & MODULES
        elif isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            plain = isinstance(called, ast.Name) or name not in {"compile", "eval"}
            yield from {name} & CALLS if plain else ()
            for word in node.keywords:
                if word.arg in {"allow_pickle", "safe_mode"} and _is(word.value, word.arg):
                    yield word.arg


def _is(value: ast.expr, name: str) -> bool:
    """Whether a keyword lets code in: anything but a plain refusal of it."""
    refusal = name == "safe_mode"
    return not (isinstance(value, ast.Constant) and value.value is refusal)


def test_no_room_unpickles_evaluates_or_loads_code() -> None:
    found = {
        str(path.relative_to(ROOT)): bad
        for path in SOURCES
        if (bad := sorted(offences(ast.parse(path.read_text("utf-8")))))
    }
    assert len(SOURCES) > 60
    # a layer's own config, by Keras' grammar; no file of a user's gets there
    assert found == {"milpath/nn/mil.py": ["deserialize_keras_object"]}


def test_the_law_sees_what_it_forbids() -> None:
    code = (
        "import pickle\nfrom joblib import load\neval('1')\nkeras.models.load_model('x')\n"
        "np.load('x', allow_pickle=True)\nmodel.compile()\nnp.load('x', allow_pickle=False)\n"
    )
    assert sorted(offences(ast.parse(code))) == [
        *("allow_pickle", "eval", "joblib", "load_model", "pickle"),
    ]


def test_every_array_file_is_read_without_pickles() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"np.load", "numpy.load"}:
                assert {word.arg for word in node.keywords} >= {"allow_pickle"}, path


def test_only_the_store_and_the_weights_of_others_are_opened_as_hdf5() -> None:
    opened = {
        str(path.relative_to(ROOT)) for path in SOURCES if "h5py.File(" in path.read_text("utf-8")
    }
    assert opened == {
        "milpath/store/integrity.py",  # what milpath has just written
        "milpath/store/writing.py",
        "milpath/store/untrusted.py",  # in a process of its own
    }
