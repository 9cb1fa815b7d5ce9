"""Which encoder a user asked for: by name, file or model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from milpath.errors import UsageError
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.bundle import load_encoder
from milpath.nn.encoders import OWN_ENCODERS, build_encoder, fingerprint_weights
from milpath.nn.encoders.encoder import Encoder, NetworkEncoder
from milpath.nn.encoders.onnx import open_onnx_encoder
from milpath.nn.encoders.onnx_input import OnnxOptions
from milpath.nn.encoders.plugins import load_plugin
from milpath.nn.encoders.published import load_published
from milpath.nn.engine import keras
from milpath.params import GridParams
from milpath.registry import ENCODERS
from milpath.registry.installed import list_keras_names
from milpath.registry.names import is_onnx, match_name
from milpath.registry.plugins import EncoderPlugin, find_plugin
from milpath.registry.weights import locate_weights


@dataclass(frozen=True)
class EncoderRequest:
    """An encoder, and the patches it is for.

    Attributes
    ----------
    name : of a published encoder, of a network of `keras.applications`, of an encoder of another
        package, an ONNX file (.onnx), or a model folder
    weights : "imagenet", "random", a file or a folder; "" for the encoder's own choice. Not used
        for a model folder that holds its encoder
    variant : of a published encoder or an ONNX file
    patch_px, mpp : of the patches; None for those that the encoder was made for
    compute : precision of the arithmetic, of a published encoder
    seed : for random weights
    mean, std : of R, G, B on the scale 0..1, of an ONNX file that does not state them
    """

    name: str
    weights: str = ""
    variant: str | None = None
    patch_px: int | None = None
    mpp: float | None = None
    compute: Literal["float32", "float16", "bfloat16"] = "float32"
    seed: int = 0
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


def choose_encoder(request: EncoderRequest) -> Encoder:
    """Build or load the encoder that is asked for.

    Raises
    ------
    UsageError : no such encoder or weights, or not for such patches
    StoredFileError : the weights do not fit
    """
    weights = Path(request.weights) if request.weights else None
    if Path(request.name).is_dir():
        return _adapt(load_encoder(Path(request.name), weights), request)
    if is_onnx(request.name):
        return open_onnx_encoder(Path(request.name), _state_onnx(request))
    if request.name in OWN_ENCODERS:
        raise UsageError(
            f"the {request.name} CNN is trained with its model; give the model's folder instead"
        )
    if name := match_name(request.name, ENCODERS):
        encoder = ENCODERS[name]
        return load_published(
            encoder,
            locate_weights(encoder, weights, download=True),
            variant=request.variant,
            patch_px=request.patch_px,
            mpp=request.mpp,
            compute=request.compute,
        )
    plugin = None if match_name(request.name, list_keras_names()) else find_plugin(request.name)
    return _build_application(request) if plugin is None else _load_plugin(plugin, request)


def _load_plugin(plugin: EncoderPlugin, request: EncoderRequest) -> Encoder:
    for option, value in (("weights", request.weights), ("variant", request.variant)):
        if value:
            raise UsageError(
                f"the encoder {plugin.name} of the package {plugin.package} has no choice of "
                f"{option}; leave --{option} out"
            )
    return _adapt(load_plugin(plugin), request)


def _state_onnx(request: EncoderRequest) -> OnnxOptions:
    if request.weights:
        raise UsageError(f"{request.name} holds its weights; leave --weights out")
    return OnnxOptions(request.variant, request.patch_px, request.mpp, request.mean, request.std)


def _adapt(encoder: Encoder, request: EncoderRequest) -> Encoder:
    spec = encoder.spec
    if request.patch_px not in (None, spec.patch_px):
        raise UsageError(
            f"the patches have {request.patch_px} px, the encoder needs {spec.patch_px}; tile "
            f"again with --patch-size {spec.patch_px}"
        )
    return encoder


def _build_application(request: EncoderRequest) -> Encoder:
    """Build a network of `keras.applications`, made for patches of any size and resolution."""
    side = request.patch_px or GridParams().patch_px
    weights = request.weights or "imagenet"
    keras.utils.set_random_seed(request.seed)
    network = build_encoder(request.name, side, None if weights == "random" else weights)
    spec = EncoderSpec(
        name=request.name.lower(),
        patch_px=side,
        dim=network.output_shape[-1],
        weights=Path(weights).name,
        mpp=request.mpp or GridParams().mpp,
        digest=fingerprint_weights(network),
    )
    return NetworkEncoder(network, spec)
