"""Encoders of other packages, which they offer under the entry point `milpath.encoders`.

An entry point names a function without arguments that returns an encoder: an object with `spec`,
whose fields are name, patch_px, mpp, dim and digest, and `embed(patches)`. It is loaded only when
it is named, and what it returns is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from milpath.errors import StoredFileError, UsageError
from milpath.formats.model_spec import EncoderSpec
from milpath.params import describe_violation
from milpath.registry.plugins import EncoderPlugin, find_plugin
from milpath.slides.names import is_file_name

BATCH = 64
"""Patches that a package's encoder receives at a time, at most."""
_FIELDS = ("name", "patch_px", "mpp", "dim", "digest")
_SAME = 1e-3
"""Largest difference of the numbers of one patch in two runs, of their range."""


def load_plugin(plugin: EncoderPlugin) -> PluginEncoder:
    """Load the encoder of a package, and check it on two patches of noise.

    Raises
    ------
    UsageError : it cannot be loaded, or is not an encoder; the text names the package
    """
    try:
        encoder = plugin.entry.load()()
    except (Exception, SystemExit) as error:  # it is the code of another package
        raise _refuse(plugin, f"cannot be loaded: {_describe(error)}") from error
    loaded = PluginEncoder(encoder, _read_spec(plugin, encoder), plugin)
    try:
        _check_rows(loaded, plugin)
    except StoredFileError as error:
        raise UsageError(str(error)) from error
    return loaded


def reload_plugin(spec: EncoderSpec) -> PluginEncoder:
    """Load the encoder that made features, by their spec.

    Raises
    ------
    UsageError : no installed package offers it, or one of another digest
    """
    package = spec.weights.partition(" ")[0]
    plugin = find_plugin(f"{package}:{spec.name}")
    if plugin is None:
        raise UsageError(
            f"encoder {spec.name}: made by the package {spec.weights}, which does not offer it "
            f"here; install it with pip install {package}"
        )
    loaded = load_plugin(plugin)
    differences = spec.compare(loaded.spec)
    if differences:
        fact = f"is not that of the features: {'; '.join(differences)}"
        raise UsageError(f"{_tell(plugin, fact)}; install {spec.weights}")
    loaded.spec = spec
    return loaded


class PluginEncoder:
    """An encoder of another package; what it returns is checked each time.

    Parameters
    ----------
    encoder : the package's object
    spec : what it states
    plugin : for messages
    """

    def __init__(self, encoder: Any, spec: EncoderSpec, plugin: EncoderPlugin) -> None:
        self.spec = spec
        self._encoder = encoder
        self._plugin = plugin

    def embed(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features of patches.

        Parameters
        ----------
        patches : (n, P, P, 3) uint8, RGB; any n

        Returns
        -------
        array : (n, D) float32, finite

        Raises
        ------
        StoredFileError : the package's code fails, or returns anything else
        """
        features = np.empty((len(patches), self.spec.dim), np.float32)
        for low in range(0, len(patches), BATCH):
            part = patches[low : low + BATCH]
            features[low : low + len(part)] = self._run(part.copy())
        return features

    def _run(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed patches that the package may overwrite."""
        expected = (len(patches), self.spec.dim)
        try:
            found = self._encoder.embed(patches)
        except (Exception, SystemExit) as error:  # it is the code of another package
            failure = f"fails on {len(patches)} patches: {_describe(error)}"
            raise StoredFileError(_tell(self._plugin, failure)) from error
        fact = None
        if not isinstance(found, np.ndarray):
            fact = f"returns {type(found).__name__}, expected a NumPy array"
        elif found.dtype != np.float32:
            fact = f"returns {found.dtype}, expected float32"
        elif found.shape != expected:
            fact = f"returns the shape {found.shape}, expected {expected} (n, dim)"
        elif not np.isfinite(found).all():
            fact = "returns numbers that are not finite"
        if fact is not None:
            raise StoredFileError(_tell(self._plugin, fact))
        return found


def _read_spec(plugin: EncoderPlugin, encoder: Any) -> EncoderSpec:
    """Return what the object of a package states; its fields may be attributes or keys."""
    stated = getattr(encoder, "spec", None)
    if isinstance(stated, Mapping):
        fields = {name: stated.get(name) for name in _FIELDS}
    else:
        fields = {name: getattr(stated, name, None) for name in _FIELDS}
    missing = [f"spec.{name}" for name, value in fields.items() if value in (None, "")]
    if not callable(getattr(encoder, "embed", None)):
        missing.append("embed")
    if missing:
        raise _refuse(
            plugin, f"is a {type(encoder).__name__} without {', '.join(missing)}; not an encoder"
        )
    if fields["name"] != plugin.name or not is_file_name(plugin.name):
        raise _refuse(
            plugin,
            f"has the spec.name {str(fields['name'])[:80]!r}, expected the name of its entry "
            "point, which must also be valid as the name of a folder",
        )
    source = f"{plugin.package} {plugin.version}".strip()
    try:
        return EncoderSpec.model_validate({**fields, "kind": "plugin", "weights": source})
    except ValidationError as error:
        raise _refuse(plugin, f"has a wrong spec: {' '.join(describe_violation(error))}") from None


def _check_rows(encoder: PluginEncoder, plugin: EncoderPlugin) -> None:
    """Raise `UsageError` unless each patch gives its own features, wherever it is in the batch."""
    side = encoder.spec.patch_px
    patches = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    one, two = encoder.embed(patches), encoder.embed(patches[::-1])[::-1]
    if np.abs(one - two).max() > _SAME * max(1e-6, float(np.abs(one).max())):
        raise _refuse(
            plugin,
            "gives a patch other numbers in another place of the batch, or each time; its network "
            "must be in evaluation mode",
        )


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _tell(plugin: EncoderPlugin, fact: str) -> str:
    return f"encoder {plugin.name} of the package {plugin.package} {fact}"


def _refuse(plugin: EncoderPlugin, fact: str) -> UsageError:
    return UsageError(f"{_tell(plugin, fact)}; ask the package's authors")
