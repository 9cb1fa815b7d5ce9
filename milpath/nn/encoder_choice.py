"""Which encoder a user asked for: by name, file or model folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from milpath.errors import UsageError
from milpath.formats.model_spec import EncoderSpec
from milpath.nn.bundle import load_encoder
from milpath.nn.encoders import (
    OWN_ENCODERS,
    build_encoder,
    fingerprint_weights,
    resize_encoder,
)
from milpath.nn.encoders.encoder import Encoder, NetworkEncoder
from milpath.nn.encoders.onnx import OnnxEncoder, open_onnx_encoder
from milpath.nn.encoders.plugins import PluginEncoder, load_plugin
from milpath.nn.encoders.published import describe_published, load_published
from milpath.nn.engine import keras
from milpath.nn.fitting import Patches, fit_encoder
from milpath.nn.onnx_input import OnnxOptions
from milpath.params import GridParams
from milpath.registry import ENCODERS
from milpath.registry.installed import list_keras_names
from milpath.registry.names import is_onnx, match_name
from milpath.registry.plugins import EncoderPlugin, find_plugin
from milpath.registry.published import Precision, PublishedEncoder
from milpath.registry.weights import locate_weights

log = logging.getLogger(__name__)


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
    compute : precision of the arithmetic; "auto" for that of its authors where there is a GPU, and
        float32 elsewhere. Others than float32 are for published encoders
    seed : for random weights
    in_bags : whether the patches are cut already
    allow_other : apply it to patches that it was not made for, and log that
    mean, std : of R, G, B on the scale 0..1, of an ONNX file that does not state them
    """

    name: str
    weights: str = ""
    variant: str | None = None
    patch_px: int | None = None
    mpp: float | None = None
    compute: Precision | Literal["auto"] = "auto"
    seed: int = 0
    in_bags: bool = False
    allow_other: bool = False
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    @property
    def patches(self) -> Patches:
        """The patches that it is to see."""
        return Patches(self.patch_px, self.mpp, self.in_bags)


def choose_encoder(request: EncoderRequest) -> Encoder:
    """Build or load the encoder that is asked for.

    Raises
    ------
    UsageError : no such encoder or weights, or not for such patches
    StoredFileError : the weights do not fit
    """
    name = match_name(request.name, ENCODERS)
    if name and not Path(request.name).is_dir():
        return _load_published(ENCODERS[name], request)
    if request.compute not in ("auto", "float32"):
        raise UsageError(
            f"--precision {request.compute} is for published encoders; {request.name} computes in "
            "float32, so leave it out"
        )
    if is_onnx(request.name):
        return _open_onnx(request)
    return _load_unpublished(request)


def _load_unpublished(request: EncoderRequest) -> Encoder:
    weights = Path(request.weights) if request.weights else None
    if Path(request.name).is_dir():
        return _adapt(load_encoder(Path(request.name), weights), request)
    if request.name in OWN_ENCODERS:
        raise UsageError(
            f"the {request.name} CNN is trained with its model; give the model's folder instead"
        )
    plugin = None if match_name(request.name, list_keras_names()) else find_plugin(request.name)
    return _build_application(request) if plugin is None else _load_plugin(plugin, request)


def _open_onnx(request: EncoderRequest) -> Encoder:
    if request.weights:
        raise UsageError(f"{request.name} holds its weights; leave --weights out")
    encoder = open_onnx_encoder(
        Path(request.name),
        OnnxOptions(
            request.variant, request.patch_px, request.mean, request.std, request.allow_other
        ),
    )
    fitted = _adapt(encoder, request)
    if fitted.spec.mpp is None:
        raise UsageError(
            f"{fitted.spec.weights}: does not say for which µm per pixel it was made; give --mpp"
        )
    return fitted


def _load_plugin(plugin: EncoderPlugin, request: EncoderRequest) -> Encoder:
    for option, value in (("weights", request.weights), ("variant", request.variant)):
        if value:
            raise UsageError(
                f"the encoder {plugin.name} of the package {plugin.package} has no choice of "
                f"{option}; leave --{option} out"
            )
    return _adapt(load_plugin(plugin), request)


def _load_published(encoder: PublishedEncoder, request: EncoderRequest) -> Encoder:
    compute = request.compute
    if compute == "auto":
        compute = encoder.precision if keras.distribution.list_devices("gpu") else "float32"
    own = describe_published(encoder, request.variant, None, None, compute)
    fitted = fit_encoder(own, request.patches, encoder.mpp, allow=request.allow_other)
    weights = Path(request.weights) if request.weights else None
    return load_published(
        encoder,
        locate_weights(encoder, weights, download=True),
        variant=request.variant,
        patch_px=fitted.patch_px,
        mpp=fitted.mpp,
        compute=compute,
    )


def _adapt(encoder: Encoder, request: EncoderRequest) -> Encoder:
    """Return an encoder as it is applied to other patches, if it can take them."""
    spec = encoder.spec
    fitted = fit_encoder(spec, request.patches, allow=request.allow_other)
    if fitted == spec:
        return encoder
    if isinstance(encoder, NetworkEncoder):
        network = encoder.network
        if fitted.patch_px != spec.patch_px:
            network = resize_encoder(network, fitted)
        return NetworkEncoder(network, fitted)
    if isinstance(encoder, OnnxEncoder | PluginEncoder) and fitted.patch_px == spec.patch_px:
        encoder.spec = fitted
        return encoder
    raise UsageError(f"{spec.name} cannot be applied to other patches; leave out --allow-mpp")


def _build_application(request: EncoderRequest) -> Encoder:
    """Build a network of `keras.applications`, made for patches of any size and resolution."""
    if request.variant:
        raise UsageError(f"{request.name} gives one vector; leave --variant out")
    side = request.patches.patch_px or GridParams().patch_px
    weights = request.weights or "imagenet"
    keras.utils.set_random_seed(request.seed)
    network = build_encoder(request.name, side, None if weights == "random" else weights)
    spec = EncoderSpec(
        name=request.name.lower(),
        patch_px=side,
        dim=network.output_shape[-1],
        weights=Path(weights).name,
        mpp=request.patches.mpp or GridParams().mpp,
        digest=fingerprint_weights(network),
    )
    if request.patches.mpp is None:
        log.warning(
            "%s was made for no particular resolution: its patches have %g µm per pixel; give "
            "another with --mpp",
            spec.name,
            spec.mpp,
        )
    return NetworkEncoder(network, spec)
