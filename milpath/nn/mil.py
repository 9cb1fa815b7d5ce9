"""The multiple-instance model: one encoder for all patches, gated attention, a linear head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from milpath.nn.attention import GatedAttention
from milpath.nn.engine import keras, ops
from milpath.nn.scaling import Scaling
from milpath.params import HeadParams


@keras.saving.register_keras_serializable("milpath")
class MILHead(keras.layers.Layer):
    """Map a bag of embeddings to the logits of its classes.

    ``z = Σ_k a_k h_k`` and ``logits = Wᵀ z + b``. The head is linear in z, so that instance k adds
    exactly ``a_k (w_c · h_k)`` to the logit of class c.

    Parameters
    ----------
    classes : C
    attention_dim, gated : of `GatedAttention`
    projection_dim : width of a dense ReLU layer before the attention, for features of a frozen
        encoder; None for no such layer
    dropout : fraction of the embeddings' entries dropped during training

    Call
    ----
    instances : (B, N, D)
    mask : boolean (B, N) or None
    returns : (B, C) logits
    """

    def __init__(
        self,
        classes: int,
        attention_dim: int = 64,
        gated: bool = True,
        projection_dim: int | None = None,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True  # the mask is an argument of call; see compute_mask
        self.classes = classes
        self.projection_dim = projection_dim
        self.projection = (
            None
            if projection_dim is None
            else keras.layers.Dense(projection_dim, "relu", name="projection")
        )
        self.dropout = keras.layers.Dropout(dropout, name="dropout")
        self.attention = GatedAttention(attention_dim, gated, name="attention")
        self.classifier = keras.layers.Dense(classes, name="classifier", dtype="float32")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = tuple(input_shape)
        if self.projection is not None:
            self.projection.build(shape)
            shape = (*shape[:-1], self.projection_dim)
        self.dropout.build(shape)
        self.attention.build(shape)
        self.classifier.build((shape[0], shape[-1]))
        self.built = True

    def hidden(self, instances: Any, training: bool | None = None) -> Any:
        """Compute h, the embeddings that are pooled, (..., N, D')."""
        if self.projection is not None:
            instances = self.projection(instances)
        return self.dropout(instances, training=training)

    def start_even(self) -> None:
        """Make the attention of all instances the same, until training finds that some matter."""
        self.attention.w.assign(ops.zeros_like(self.attention.w))

    def fold_scaling(self, scaling: Scaling) -> None:
        """Make the scaling of the features that the head learned on part of its projection."""
        assert self.projection is not None  # a head for features has one
        kernel, bias = self.projection.weights
        wide, shifted = scaling.fold(kernel.numpy(), bias.numpy())
        kernel.assign(wide)
        bias.assign(shifted)

    def pool(self, hidden: Any, attention: Any) -> Any:
        """Pool h, (B, N, D'), by attention, (B, N), into the logits of the bags, (B, C)."""
        attention = ops.cast(attention, hidden.dtype)
        return self.classifier(ops.einsum("bn,bnd->bd", attention, hidden))

    def call(self, instances: Any, mask: Any = None, training: bool | None = None) -> Any:
        hidden = self.hidden(instances, training=training)
        return self.pool(hidden, self.attention(hidden, mask=mask))

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        return None  # the logits of a bag have no mask

    def evidence(self, instances: Any) -> tuple[Any, Any]:
        """Compute what each instance contributes before pooling, independent of its bag.

        Parameters
        ----------
        instances : (n, D)

        Returns
        -------
        attention scores (n,) and class evidence ``w_c · h_k`` (n, C): enough to pool a bag of any
        size exactly, as a stream.
        """
        hidden = self.hidden(instances, training=False)
        hidden = ops.cast(hidden, "float32")
        return self.attention.scores(hidden), ops.matmul(hidden, self.classifier.kernel)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.classes)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "classes": self.classes,
            "attention_dim": self.attention.units,
            "gated": self.attention.gated,
            "projection_dim": self.projection_dim,
            "dropout": self.dropout.rate,
        }


@keras.saving.register_keras_serializable("milpath")
class PerInstance(keras.layers.Layer):
    """Apply one network to every instance of every bag: (B, N, ...) to (B, N, D)."""

    def __init__(self, network: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.built = True  # the network is built already

    def call(self, bags: Any, training: bool | None = None) -> Any:
        count = ops.shape(bags)[1]
        flat = ops.reshape(bags, (-1, *bags.shape[2:]))
        embeddings = self.network(flat, training=training)
        return ops.reshape(embeddings, (-1, count, embeddings.shape[-1]))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:2], self.network.output_shape[-1])

    def get_config(self) -> dict[str, Any]:
        network = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), "network": network}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PerInstance:
        network = keras.saving.deserialize_keras_object(config.pop("network"))
        return cls(network=network, **config)


def build_head(classes: int, params: HeadParams, projected: bool) -> MILHead:
    """Build the head that `params` describe; `projected` for features of a frozen encoder."""
    return MILHead(
        classes,
        params.attention_dim,
        params.gated,
        params.projection_dim if projected else None,
        params.dropout_of(projected=projected),
        name="head",
    )


def build_mil(
    instance_shape: tuple[int, ...],
    head: MILHead,
    encoder: keras.Model | None = None,
    *,
    negative_class: bool = False,
    instance_loss: bool = False,
) -> keras.Model:
    """Build the model that is trained: from a batch of padded bags to logits.

    Parameters
    ----------
    instance_shape : (P, P, 3) of a patch, or (D,) of features when there is no encoder
    head : gated attention and classifier
    encoder : P x P x 3 to D, shared by all instances; None when the instances are features
    negative_class : train under the standard assumption of multiple-instance learning, that a bag
        belongs to the negative class unless it holds an instance of another class: also give the
        logits of every instance as a bag of its own, and of every bag joined with its neighbour in
        the batch
    instance_loss : train instances to be of their bag's class, weighted by attention: also give the
        attention-weighted mean of the instances' log-probabilities, ``Σ_k a_k log p_k``, with no
        gradient through the attention (Shi et al. 2020, "Loss-based attention for deep multiple
        instance learning", let such a loss train the attention)

    Returns
    -------
    A model of ``{"instances": (B, N, *instance_shape), "mask": (B, N)}`` that gives (B, C) logits,
    or a dict: "bag" (B, C), with `negative_class` "instance" (B, N, C) and "pair" (B, C), with
    `instance_loss` "attention_weighted" (B, C). N may differ from batch to batch.

    Without `negative_class`, attention may learn that the *absence* of something makes a bag
    positive (Raff & Holt 2023, "Reproducibility in multiple instance learning: a case for
    algorithmic unit tests"). With it, a bag's logits are a mean of its instances' logits, so a
    model that calls every instance of the negative bags negative calls no bag of such instances
    positive; and a positive bag stays positive when it is joined with a negative one.
    """
    instances = keras.Input((None, *instance_shape), name="instances")
    mask = keras.Input((None,), dtype="bool", name="mask")
    embeddings = instances if encoder is None else PerInstance(encoder, name="encoder")(instances)
    if not (negative_class or instance_loss):
        logits: Any = head(embeddings, mask=mask)
        return keras.Model({"instances": instances, "mask": mask}, logits, name="mil")
    if not head.built:
        head.build(embeddings.shape)
    hidden = head.hidden(embeddings)
    attention = head.attention(hidden, mask=mask)
    logits = {"bag": head.pool(hidden, attention)}
    each = head.classifier(hidden)
    if negative_class:
        both = _join(hidden)
        joined = head.attention(both, mask=_join(mask))
        logits |= {"instance": each, "pair": head.pool(both, joined)}
    if instance_loss:
        given = ops.stop_gradient(attention)
        logits["attention_weighted"] = ops.einsum("bn,bnc->bc", given, ops.log_softmax(each))
    return keras.Model({"instances": instances, "mask": mask}, logits, name="mil")


def _join(bags: Any) -> Any:
    """Join every bag of a batch with the one before it, (B, N, ...) to (B, 2N, ...)."""
    return ops.concatenate([bags, ops.roll(bags, 1, axis=0)], axis=1)


@dataclass(frozen=True)
class Member:
    """One model of an ensemble: its head, and its own encoder if that was trained with it."""

    head: MILHead
    encoder: keras.Model | None = None


def build_evidence(
    instance_shape: tuple[int, ...],
    members: Sequence[Member],
    *,
    with_features: bool = False,
) -> keras.Model:
    """Build a model that applies a whole ensemble to single instances.

    Parameters
    ----------
    instance_shape : (P, P, 3) of a patch, or (D,) of features
    members : M models
    with_features : also give the features

    Returns
    -------
    A model of (n, *instance_shape) that gives attention scores (n, M) and class evidence (n, M, C),
    see `MILHead.evidence`, and on request the features (n, D): the instances, or those of the
    first member's encoder.
    """
    instances = keras.Input(instance_shape, name="instance")
    scores, evidence, features = [], [], []
    for number, member in enumerate(members):
        one = _Evidence(member, name=f"member{number}")(instances)
        scores.append(one[0])
        evidence.append(one[1])
        features.append(one[2])
    stacked = [
        _Stack(name=name)(parts) for name, parts in (("scores", scores), ("evidence", evidence))
    ]
    outputs = [*stacked, features[0]] if with_features else stacked
    return keras.Model(instances, outputs, name="evidence_of_all")


class _Evidence(keras.layers.Layer):
    """`MILHead.evidence` as a layer that contains the member's own encoder.

    The encoders of all members have the same name, which a model allows only once at its top level.
    """

    def __init__(self, member: Member, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder = member.encoder
        self.head = member.head

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.built = True  # encoder and head are built already

    def call(self, instances: Any) -> tuple[Any, Any, Any]:
        if self.encoder is not None:
            instances = self.encoder(instances, training=False)
        return *self.head.evidence(instances), instances

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> Any:
        count = input_shape[0]
        features = input_shape if self.encoder is None else (count, self.encoder.output_shape[-1])
        return (count,), (count, self.head.classes), features


class _Stack(keras.layers.Layer):
    """Stack the members' outputs on axis 1."""

    def call(self, parts: list[Any]) -> Any:
        return ops.stack(parts, axis=1)
