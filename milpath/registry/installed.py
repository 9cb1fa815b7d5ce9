"""Names of milpath's own encoders and of those of Keras, which is not imported."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

OWN_ENCODERS = {"small": 128, "centred": 128}
"""milpath's own CNNs and how many features they give."""


def list_keras_names() -> tuple[str, ...]:
    """Return the lower-case names of the networks of `keras.applications`."""
    spec = find_spec("keras")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        return ()
    source = Path(folders[0], "applications", "__init__.py").read_text(encoding="utf-8")
    imported = [
        name.asname or name.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    ]
    return tuple(sorted(name.lower() for name in imported if name[0].isupper()))
