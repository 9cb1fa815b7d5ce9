"""The networks: the only room that imports Keras."""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

from milpath.errors import UsageError

log = logging.getLogger(__name__)

_SETTINGS = {"floatx": "float32", "image_data_format": "channels_last", "epsilon": 1e-7}
"""Settings of Keras with which every model is made and used."""


def import_keras() -> None:
    """Import Keras and its backend, with the settings of milpath whatever keras.json says.

    The backend is that of the environment variable KERAS_BACKEND, by default TensorFlow; what
    their C++ writes to stderr meanwhile is left out.

    Raises
    ------
    UsageError : the backend of KERAS_BACKEND cannot be imported
    """
    if "keras" in sys.modules:
        _set_settings()
        return
    home = os.environ.get("KERAS_HOME")
    os.environ["KERAS_HOME"] = os.devnull  # there is no keras.json
    try:
        _import_quietly()
    except (ImportError, ValueError) as error:
        if not os.environ.get("KERAS_BACKEND"):
            raise
        raise UsageError(
            f"KERAS_BACKEND={os.environ['KERAS_BACKEND']!r} cannot be imported ({error}); "
            "expected an installed backend, such as tensorflow"
        ) from None
    finally:
        if home is None:
            del os.environ["KERAS_HOME"]
        else:
            os.environ["KERAS_HOME"] = home
    from keras.src.backend import config

    folder = Path(home) if home else _default_home()
    config._KERAS_DIR = str(folder)  # where Keras keeps the weights that it downloads
    _set_settings()
    _report_ignored(folder / "keras.json")


def _default_home() -> Path:
    """Return Keras' own choice of a folder where KERAS_HOME is not set."""
    base = os.path.expanduser("~")  # noqa: PTH111 - it raises nothing where there is no home
    return Path(base if os.access(base, os.W_OK) else "/tmp") / ".keras"


def _set_settings() -> None:
    """Set Keras' settings where the program that imported it has others, and say so."""
    import keras

    changed = []
    for name, value in _SETTINGS.items():
        found = getattr(keras.config, name)()
        if found != value:
            getattr(keras.config, f"set_{name}")(value)
            changed.append(f"{name} {value} instead of {found}")
    if changed:
        log.warning("Keras is set to %s: milpath needs it", ", ".join(changed))


def _report_ignored(path: Path) -> None:
    """Say once which settings of a user's keras.json are ignored."""
    if multiprocessing.parent_process() is not None or not path.is_file():
        return
    try:
        settings: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        log.warning("keras.json is ignored: not a file of settings")
        return
    usual = {**_SETTINGS, "backend": os.environ.get("KERAS_BACKEND") or "tensorflow"}
    ignored = [
        f"{name} {json.dumps(settings[name])[:40]}"
        for name, value in usual.items()
        if settings.get(name, value) != value
    ]
    if ignored:
        log.warning(
            "keras.json is ignored (%s): milpath sets Keras itself, and takes its backend from "
            "KERAS_BACKEND",
            ", ".join(ignored),
        )


def _import_quietly() -> None:
    sys.stderr.flush()
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        import keras  # noqa: F401
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
    gc.freeze()  # what they made stays: to search it for garbage while tracing takes a second
