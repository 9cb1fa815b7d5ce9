"""Model bundle: a folder with everything that a model needs to classify slides, and no code.

`model.json` says which networks of our own registry to build; the shapes of each weights file are
checked against them before memory is allocated. Nothing is unpickled or executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from milpath.errors import StoredFileError
from milpath.formats.layout import (
    encoder_spec_path,
    encoder_weights_path,
    list_weights,
    member_path,
    model_spec_path,
    shared_encoder_path,
    space_path,
)
from milpath.formats.model_spec import (
    BundleSpec,
    EncoderSpec,
    read_bundle_spec,
    read_record,
    require_model,
    space_paths,
    weights_paths,
)
from milpath.formats.space import FeatureSpace, load_space, save_space
from milpath.nn.encoders import fingerprint_weights, rebuild_encoder
from milpath.nn.encoders.encoder import Encoder, NetworkEncoder
from milpath.nn.encoders.referred import find_referred
from milpath.nn.engine import global_state, keras
from milpath.nn.mil import Member, build_head
from milpath.params import HeadParams
from milpath.store import discard, fingerprint, open_h5, publish_h5, publish_text


@dataclass(frozen=True)
class Bundle:
    """A model bundle in memory."""

    spec: BundleSpec
    members: tuple[Member, ...]
    encoder: NetworkEncoder | None
    """The encoder that all members share, if the bundle holds one."""
    space: FeatureSpace | None = None
    """Where the training set lies among the features of that encoder, or of the first member's."""


def assemble_bundle(
    fields: dict[str, Any],
    members: Sequence[Member],
    encoder: NetworkEncoder | None,
    space: FeatureSpace | None = None,
) -> Bundle:
    """Put networks in memory into a bundle.

    Parameters
    ----------
    fields : of `BundleSpec`, except `members` and `fingerprint`
    members : the ensemble
    encoder : the encoder that they share, if the bundle is to hold it
    space : where the training set lies among the features
    """
    parts = [] if encoder is None else [encoder.network]
    for member in members:
        parts.extend(networks_of(member))
    weights = [fingerprint_weights(part) for part in parts]
    known = {"members": len(members), "has_space": space is not None}
    draft = BundleSpec(**fields, **known, fingerprint="0" * 32)
    architecture = draft.model_dump(mode="json", exclude={"training", "seen", "has_space"})
    name = fingerprint("model", weights, architecture)
    return Bundle(draft.model_copy(update={"fingerprint": name}), tuple(members), encoder, space)


def save_bundle(folder: Path, bundle: Bundle) -> None:
    """Write the weights, then `model.json`, which makes the folder a bundle.

    An existing bundle stays complete until its `model.json` is replaced: the names of weights files
    contain the fingerprint of their model, and those of another model are removed last.
    """
    spec = bundle.spec
    if bundle.encoder is not None:
        path = shared_encoder_path(folder, spec.fingerprint)
        save_weights(path, [bundle.encoder.network], spec.fingerprint)
    for number, member in enumerate(bundle.members):
        path = member_path(folder, number, spec.fingerprint)
        save_weights(path, networks_of(member), spec.fingerprint)
    if bundle.space is not None:
        save_space(space_path(folder, spec.fingerprint), bundle.space, spec.fingerprint)
    publish_text(model_spec_path(folder), spec.model_dump_json(indent=2) + "\n")
    current = [*weights_paths(folder, spec), *space_paths(folder, spec)]
    for old in list_weights(folder):
        if old not in current:
            discard(old)


def load_bundle(folder: Path) -> Bundle:
    """Build the networks of a bundle and load their weights.

    Raises
    ------
    StoredFileError : no bundle, or its weights are not those of its architecture
    """
    spec = read_bundle_spec(folder)
    with _without_memory():
        shared, member = _build_shared(spec), _build_member(spec)
        if shared is not None:
            path = shared_encoder_path(folder, spec.fingerprint)
            require_weights(path, [shared], spec.fingerprint)
        for number in range(spec.members):
            path = member_path(folder, number, spec.fingerprint)
            require_weights(path, networks_of(member), spec.fingerprint)
    shared = _build_shared(spec)
    if shared is not None:
        load_weights(shared_encoder_path(folder, spec.fingerprint), [shared], spec.fingerprint)
    encoder = None if shared is None else NetworkEncoder(shared, spec.encoder)
    members = []
    for number in range(spec.members):
        members.append(_build_member(spec))
        path = member_path(folder, number, spec.fingerprint)
        load_weights(path, networks_of(members[-1]), spec.fingerprint)
    space = None
    if spec.has_space:
        path = space_path(folder, spec.fingerprint)
        space = load_space(path, spec.fingerprint, spec.encoder.dim)
    return Bundle(spec, tuple(members), encoder, space)


@contextmanager
def _without_memory() -> Iterator[None]:
    """Build networks in this scope with shapes but without memory for their weights.

    Keras lists such weights and would create them later; here they are removed from its list, for
    which there is no public function. A bound computed from the spec would not do instead: the size
    of a network of `keras.applications` is known only once it is built, and takes up to 1.4 GB.
    """
    waiting = list(global_state.get_global_attribute(_WAITING) or [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(_WAITING, waiting)


_WAITING = "uninitialized_variables"


def _build_shared(spec: BundleSpec) -> keras.Model | None:
    stored = spec.mode == "features" and spec.has_encoder
    return rebuild_encoder(spec.encoder) if stored else None


def _build_member(spec: BundleSpec) -> Member:
    own = spec.mode == "pixels"
    return build_member(len(spec.class_names), spec.head, spec.encoder, own_encoder=own)


def build_member(
    classes: int, head: HeadParams, encoder: EncoderSpec, *, own_encoder: bool
) -> Member:
    """Build a member whose weights are to be loaded.

    Parameters
    ----------
    classes : C
    head, encoder : what it is made of
    own_encoder : whether it contains the encoder, or is for its features
    """
    own = rebuild_encoder(encoder) if own_encoder else None
    built = build_head(classes, head, projected=own is None)
    built.build((None, None, encoder.dim))
    return Member(built, own)


def save_encoder(folder: Path, encoder: Encoder) -> None:
    """Store an encoder beside the features it made, or what it is if it is only referred to."""
    if isinstance(encoder, NetworkEncoder) and encoder.spec.kind == "keras":
        save_weights(encoder_weights_path(folder), [encoder.network])
    publish_text(encoder_spec_path(folder), encoder.spec.model_dump_json(indent=2) + "\n")


def load_encoder(folder: Path, weights: Path | None = None) -> Encoder:
    """Load the encoder that `save_encoder` stored, or that of a model (of its first member).

    Parameters
    ----------
    folder : of the encoder, or of a model
    weights : file or folder of the weights, of an encoder that is only referred to

    Raises
    ------
    StoredFileError : there is no encoder, or its weights do not fit
    UsageError : the weights of one that is referred to cannot be found
    """
    if encoder_spec_path(folder).is_file():
        spec = read_record(EncoderSpec, encoder_spec_path(folder))
        if spec.kind != "keras":
            return find_referred(spec, weights)
        with _without_memory():
            require_weights(encoder_weights_path(folder), [rebuild_encoder(spec)])
        network = rebuild_encoder(spec)
        load_weights(encoder_weights_path(folder), [network])
    else:
        bundle = load_bundle(folder)
        spec = bundle.spec.encoder
        if spec.kind != "keras":
            return find_referred(spec, weights)
        own = bundle.members[0].encoder if bundle.encoder is None else bundle.encoder.network
        if own is None:
            raise StoredFileError(
                f"{folder}: the model was trained on features of {spec.name} and does not hold "
                "this encoder"
            )
        network, spec = own, spec.model_copy(update={"mpp": bundle.spec.tile.grid.mpp})
    known = {"digest": fingerprint_weights(network)}
    return NetworkEncoder(network, spec.model_copy(update=known))


def save_weights(path: Path, networks: Sequence[Any], model: str = "") -> None:
    """Write every weight of some networks, numbered in order, into one HDF5 file.

    Parameters
    ----------
    path : the file
    networks : whose weights
    model : fingerprint of the bundle that they are part of, if any
    """
    with publish_h5(path, "weights") as h5:
        h5.attrs["model"] = model
        for number, weight in enumerate(_weights(networks)):
            h5.create_dataset(f"{number:05d}", data=np.asarray(weight.numpy(), np.float32))
            h5[f"{number:05d}"].attrs["path"] = weight.path


def load_weights(path: Path, networks: Sequence[Any], model: str = "") -> None:
    """Load weights written by `save_weights` into networks of the same architecture.

    Raises
    ------
    StoredFileError : a weight is missing or has another shape, or the file is of another model
    """
    require_weights(path, networks, model)
    with open_h5(path, "weights") as h5:
        for number, weight in enumerate(_weights(networks)):
            weight.assign(h5.read(f"{number:05d}", "float32", tuple(weight.shape)))


def require_weights(path: Path, networks: Sequence[Any], model: str = "") -> None:
    """Check weights like `load_weights`, for networks that may not have memory for them yet."""
    weights = _weights(networks)
    with open_h5(path, "weights") as h5:
        require_model(path, h5, model)
        for number, weight in enumerate(weights):
            h5.require(f"{number:05d}", "float32", tuple(weight.shape))
        if f"{len(weights):05d}" in h5:
            raise h5.refuse("it contains more weights than the model has")


def _weights(networks: Sequence[Any]) -> list[Any]:
    return [weight for network in networks for weight in network.weights]


def networks_of(member: Member) -> list[Any]:
    """List the networks of a member: its own encoder, if it has one, and its head."""
    return [network for network in (member.encoder, member.head) if network is not None]
