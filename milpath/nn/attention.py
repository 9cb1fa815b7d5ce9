"""Gated attention over the instances of a bag.

Ilse, Tomczak & Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018, eq. 8 and 9.
"""

from __future__ import annotations

from typing import Any

from milpath.nn.engine import keras, ops


@keras.saving.register_keras_serializable("milpath")
class GatedAttention(keras.layers.Layer):
    """Attention of each instance of a bag, summing to 1 over the instances that are real.

    ``a_k = softmax_k(wᵀ (tanh(V h_k) ⊙ σ(U h_k)))``, or without the gate ``wᵀ tanh(V h_k)``.
    Permuting the instances permutes the attention; padding that the mask hides changes nothing.

    Parameters
    ----------
    units : L, the rows of V and U
    gated : with the sigmoid gate U
    kernel_initializer, kernel_regularizer : of V, U and w

    Call
    ----
    instances : (B, N, D)
    mask : boolean (B, N), True where an instance is real; None when all are
    returns : (B, N) float32, zero where the mask is False
    """

    def __init__(
        self,
        units: int,
        gated: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.gated = gated
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        dim = input_shape[-1]
        self.V = self._kernel("V", (dim, self.units))
        self.U = self._kernel("U", (dim, self.units)) if self.gated else None
        self.w = self._kernel("w", (self.units, 1))
        self.built = True

    def _kernel(self, name: str, shape: tuple[int | None, int]) -> Any:
        return self.add_weight(
            name=name,
            shape=shape,
            # an initializer with a seed gives the same numbers at every call: clone it
            initializer=self.kernel_initializer.clone(),
            regularizer=self.kernel_regularizer,
        )

    def scores(self, instances: Any) -> Any:
        """Attention before the softmax: (..., N, D) to (..., N)."""
        hidden = ops.tanh(ops.matmul(instances, self.V))
        if self.U is not None:
            hidden = hidden * ops.sigmoid(ops.matmul(instances, self.U))
        return ops.squeeze(ops.matmul(hidden, self.w), axis=-1)

    def call(self, instances: Any, mask: Any = None) -> Any:
        # the softmax is taken in float32: half precision has no room for the mask's minus infinity
        scores = ops.cast(self.scores(instances), "float32")
        if mask is None:
            return _softmax(scores)
        mask = ops.cast(mask, "bool")
        return ops.where(mask, _softmax(ops.where(mask, scores, -1e9)), 0.0)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return tuple(input_shape[:-1])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "gated": self.gated,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }


def _softmax(scores: Any) -> Any:
    """Over the last axis; Keras' own warns of a bag of one."""
    return ops.exp(scores - ops.logsumexp(scores, axis=-1, keepdims=True))
