"""An ONNX file as an encoder, run by onnxruntime."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from milpath.errors import StoredFileError, UsageError
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.encoders.encoder import BATCH
from milpath.nn.encoders.onnx_output import OnnxOutput, choose_output
from milpath.nn.onnx_input import OnnxInput, OnnxOptions, check_onnx
from milpath.params import describe_violation
from milpath.store.onnxfile import OnnxDescription, read_onnx
from milpath.store.onnxprobe import open_session
from milpath.store.onnxtrial import try_onnx

log = logging.getLogger(__name__)

PROVIDERS = (
    "CUDAExecutionProvider",
    "ROCMExecutionProvider",
    "MIGraphXExecutionProvider",
    "CoreMLExecutionProvider",
    "DmlExecutionProvider",
    "OpenVINOExecutionProvider",
)
"""The execution providers of onnxruntime that are used, the first that there is; else the CPU.
AzureExecutionProvider is not: it sends patches to a server."""

_TRIAL_BATCH = 2
_BLOCK_BYTES = 1 << 20


class OnnxEncoder:
    """A network of an ONNX file, opened.

    Parameters
    ----------
    session : of onnxruntime
    spec : what the network is
    given, output : how patches become its input, and its output features
    """

    def __init__(
        self, session: Any, spec: EncoderSpec, given: OnnxInput, output: OnnxOutput
    ) -> None:
        self.spec = spec
        self._session = session
        self._given = given
        self._output = output

    def embed(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features of patches.

        The network runs on batches of one size, with the last one padded, so that the sums of a
        patch do not depend on how many come with it.

        Parameters
        ----------
        patches : (n, P, P, 3) uint8, RGB; any n

        Returns
        -------
        array : (n, D) float32, finite

        Raises
        ------
        StoredFileError : onnxruntime fails, for want of memory for instance, or gives numbers that
            are not finite
        """
        features = np.empty((len(patches), self.spec.dim), np.float32)
        size = self._given.batch or BATCH
        for low in range(0, len(patches), size):
            part = patches[low : low + size]
            full = np.zeros((size, *part.shape[1:]), np.uint8)
            full[: len(part)] = part
            features[low : low + len(part)] = self._run(full)[: len(part)]
        if not np.isfinite(features).all():
            count = int((~np.isfinite(features)).any(axis=1).sum())
            raise StoredFileError(
                f"{self.spec.weights}: gives numbers that are not finite for {count} of "
                f"{len(patches)} patches; check its mean, std and precision"
            )
        return features

    def _run(self, patches: NDArray[np.uint8]) -> NDArray[Any]:
        feed = {self._given.name: self._given.prepare(patches)}
        try:
            (found,) = self._session.run([self._output.name], feed)
        except Exception as error:  # onnxruntime's errors have many types
            reason = " ".join(str(error).split())[-200:]
            raise StoredFileError(
                f"{self.spec.weights}: onnxruntime fails on {len(patches)} patches ({reason})"
            ) from error
        return self._output.pick(np.asarray(found))


def open_onnx_encoder(path: Path, options: OnnxOptions) -> OnnxEncoder:
    """Open an ONNX file as an encoder; the file need not be trusted.

    Its structure is checked, then it runs once in a child process under limits, see
    `milpath.store.onnxtrial`. What the exporting program stored in `metadata_props` is used:
    milpath.name, milpath.mpp, milpath.patch_px, milpath.mean, milpath.std and milpath.layout.

    Parameters
    ----------
    path : the file; external data beside it
    options : what the user states

    Raises
    ------
    UsageError : not ONNX, damaged, or not a network from patches to features; something needed is
        not stated; onnxruntime is not installed
    """
    found, stated, given = check_onnx(path, options)
    batch = given.batch or _TRIAL_BATCH
    tried = try_onnx(path, found, given.dtype, given.shape(batch))
    output = choose_output(path, tried, batch, given.patch_px, options.variant)
    mean, std = given.scaling or (None, None)
    try:
        spec = EncoderSpec(
            name=stated.name,
            kind="onnx",
            weights=path.name,
            patch_px=given.patch_px,
            dim=output.dim,
            mpp=stated.mpp,
            variant=output.variant,
            digest=_digest_files(path, found),
            mean=mean,
            std=std,
            compute="float16" if found.half else "float32",
        )
    except ValidationError as error:  # names in the file may be anything
        raise UsageError(f"{path.name}: {' '.join(describe_violation(error))}") from None
    return OnnxEncoder(_open_with_provider(path), spec, given, output)


def reload_onnx_encoder(path: Path, spec: EncoderSpec) -> OnnxEncoder:
    """Open the ONNX file that made features, by their spec; the file may have another name now.

    Raises
    ------
    UsageError : as `open_onnx_encoder`; or it is another network
    """
    if _digest_files(path, read_onnx(path)) != spec.digest:
        raise UsageError(
            f"{path.name}: not the network of the encoder {spec.name}; give the file "
            f"{spec.weights} that made the features, whose sha256 begins with "
            f"{(spec.digest or '')[:12]}"
        )
    options = OnnxOptions(spec.variant, spec.patch_px, spec.mean, spec.std, allow_other=True)
    opened = open_onnx_encoder(path, options)
    differences = spec.compare(opened.spec.model_copy(update={"name": spec.name, "mpp": spec.mpp}))
    if differences:
        raise UsageError(f"{path.name}: {'; '.join(differences)}; compute the features again")
    opened.spec = spec
    return opened


def _digest_files(path: Path, found: OnnxDescription) -> str:
    """Return 32 hexadecimal digits of the SHA-256 of the file and its external data, in order."""
    digest = hashlib.sha256()
    for each in (path, *found.external):
        with each.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()[:32]


def _open_with_provider(path: Path) -> Any:
    """Open a session with the best provider that works, and log which."""
    import onnxruntime

    there = onnxruntime.get_available_providers()
    chosen = [each for each in PROVIDERS if each in there][:1]
    try:
        session = open_session(str(path), [*chosen, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have many types
        reason = " ".join(str(error).split())[-200:]
        raise UsageError(f"{path.name}: onnxruntime cannot open it ({reason})") from error
    used = session.get_providers()[0]
    log.info("%s runs on onnxruntime's %s", path.name, used)
    if chosen and used not in chosen:
        log.warning("onnxruntime cannot use its %s here; %s runs on the CPU", chosen[0], path.name)
    return session
