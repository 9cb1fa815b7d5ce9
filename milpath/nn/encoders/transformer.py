"""Vision transformer: patches (n, P, P, 3) of 0..255 to features (n, D)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpath.nn.engine import keras, ops
from milpath.registry.published import Color, Pooling, VisionTransformer


def build_transformer(
    shape: VisionTransformer,
    patch_px: int,
    colors: tuple[Color, Color],
    pooling: Pooling,
    *,
    crop_px: int | None = None,
    compute: str = "float32",
) -> keras.Model:
    """Build a vision transformer; its weights are zeros until they are loaded.

    Its blocks normalise first (Dosovitskiy et al. 2021; DINOv2, Oquab et al. 2024):
    ``x + γ₁ attention(norm₁(x))``, then ``x + γ₂ mlp(norm₂(x))``.

    Parameters
    ----------
    shape : its architecture
    patch_px : side length of a patch, pixels
    colors : mean and standard deviation, of 0..1
    pooling : how tokens become features
    crop_px : side length of the centre that it sees; None for all
    compute : dtype of weights and arithmetic; norms and softmax are computed in float32

    Raises
    ------
    ValueError : what it sees is no whole number of tokens
    """
    seen = crop_px or patch_px
    side = seen // shape.token_px
    if side * shape.token_px != seen:
        raise ValueError(f"{seen} px are no multiple of {shape.token_px}")
    patch = keras.Input((patch_px, patch_px, 3), name="patch")
    x = _Normalise(colors, crop_px, dtype=compute, name="normalise")(patch)
    x = _Tokens(shape, side, dtype=compute, name="tokens")(x)
    for number in range(shape.depth):
        x = _Block(shape, dtype=compute, name=f"blocks.{number}")(x)
    x = _Norm(shape.epsilon, dtype=compute, name="norm")(x)
    features = _Pool(pooling, 1 + shape.registers, dtype="float32", name="pool")(x)
    return keras.Model(patch, features, name="vision_transformer")


def list_variables(network: keras.Model) -> dict[str, Any]:
    """List the variables of a vision transformer by timm's names of its weights.

    They are those of timm transposed: a matrix is (in, out), `patch_embed.proj.weight` is
    (rows, columns, channels, dim) as a matrix of (rows · columns · channels, dim).
    """
    return {
        variable.name if layer.name == "tokens" else f"{layer.name}.{variable.name}": variable
        for layer in network.layers
        for variable in layer.weights
    }


class _Normalise(keras.layers.Layer):
    """Crop the centre of patches of 0..255, and normalise their colours."""

    def __init__(self, colors: tuple[Color, Color], crop_px: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.colors, self.crop_px = colors, crop_px

    def call(self, patch: Any) -> Any:
        if self.crop_px is not None:
            low = (patch.shape[1] - self.crop_px) // 2
            patch = patch[:, low : low + self.crop_px, low : low + self.crop_px]
        mean, std = (np.array(values, np.float32) for values in self.colors)
        return ops.cast((ops.cast(patch, "float32") / 255.0 - mean) / std, self.compute_dtype)


class _Layer(keras.layers.Layer):
    """A layer whose weights have timm's names."""

    def add(self, name: str, *shape: int | None) -> Any:
        """Add a weight of zeros."""
        return self.add_weight(shape=shape, initializer="zeros", trainable=False, name=name)


class _Norm(_Layer):
    """Layer normalisation, computed in float32."""

    def __init__(self, epsilon: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.gamma = self.add("weight", input_shape[-1])
        self.beta = self.add("bias", input_shape[-1])

    def call(self, x: Any) -> Any:
        return _normalise(x, self.gamma, self.beta, self.epsilon)


def _normalise(x: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    full = ops.cast(x, "float32")
    mean, variance = ops.moments(full, axes=-1, keepdims=True)
    factor = ops.cast(gamma, "float32") * ops.rsqrt(variance + epsilon)
    return ops.cast((full - mean) * factor + ops.cast(beta, "float32"), x.dtype)


class _Tokens(_Layer):
    """Turn the squares of a patch into tokens, behind the class token and the registers."""

    def __init__(self, shape: VisionTransformer, side: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape, self.side = shape, side

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape, dim = self.shape, self.shape.dim
        self.kernel = self.add("patch_embed.proj.weight", shape.token_px**2 * 3, dim)
        self.bias = self.add("patch_embed.proj.bias", dim)
        self.first = self.add("cls_token", 1, 1, dim)
        self.registers = self.add("reg_token", 1, shape.registers, dim) if shape.registers else None
        # of all tokens: those without a position embedding have zeros
        self.positions = self.add("pos_embed", 1, 1 + shape.registers + self.side**2, dim)

    def call(self, image: Any) -> Any:
        side, edge, dim = self.side, self.shape.token_px, self.shape.dim
        squares = ops.reshape(image, (-1, side, edge, side, edge * 3))
        squares = ops.transpose(squares, (0, 1, 3, 2, 4))
        squares = ops.reshape(squares, (-1, side * side, edge * edge * 3))
        tokens = ops.matmul(squares, self.kernel) + self.bias
        prefix = [self.first] if self.registers is None else [self.first, self.registers]
        count = ops.shape(image)[0]
        prefix = [
            ops.broadcast_to(ops.convert_to_tensor(each), (count, each.shape[1], dim))
            for each in prefix
        ]
        return ops.concatenate([*prefix, tokens], axis=1) + self.positions


class _Block(_Layer):
    """A block: self-attention, then an MLP, each behind a norm and beside an identity."""

    def __init__(self, shape: VisionTransformer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape = shape

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        dim, hidden = self.shape.dim, self.shape.hidden
        self.norm1 = (self.add("norm1.weight", dim), self.add("norm1.bias", dim))
        self.qkv = (self.add("attn.qkv.weight", dim, 3 * dim), self.add("attn.qkv.bias", 3 * dim))
        self.proj = (self.add("attn.proj.weight", dim, dim), self.add("attn.proj.bias", dim))
        self.ls1 = self.add("ls1.gamma", dim) if self.shape.layer_scale else None
        self.norm2 = (self.add("norm2.weight", dim), self.add("norm2.bias", dim))
        wide = 2 * hidden if self.shape.gated else hidden
        self.fc1 = (self.add("mlp.fc1.weight", dim, wide), self.add("mlp.fc1.bias", wide))
        self.fc2 = (self.add("mlp.fc2.weight", hidden, dim), self.add("mlp.fc2.bias", dim))
        self.ls2 = self.add("ls2.gamma", dim) if self.shape.layer_scale else None

    def call(self, x: Any) -> Any:
        x = self._add(x, self._attend(_normalise(x, *self.norm1, self.shape.epsilon)), self.ls1)
        return self._add(
            x, self._transform(_normalise(x, *self.norm2, self.shape.epsilon)), self.ls2
        )

    def _add(self, x: Any, change: Any, scale: Any) -> Any:
        return x + (change if scale is None else change * scale)

    def _attend(self, x: Any) -> Any:
        heads, dim = self.shape.heads, self.shape.dim
        tokens = x.shape[1]
        qkv = _dense(x, self.qkv)
        qkv = ops.transpose(ops.reshape(qkv, (-1, tokens, 3, heads, dim // heads)), (2, 0, 3, 1, 4))
        query, key, value = qkv[0] * (dim // heads) ** -0.5, qkv[1], qkv[2]
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        attention = ops.cast(ops.softmax(ops.cast(scores, "float32"), axis=-1), x.dtype)
        mixed = ops.transpose(ops.matmul(attention, value), (0, 2, 1, 3))
        return _dense(ops.reshape(mixed, (-1, tokens, dim)), self.proj)

    def _transform(self, x: Any) -> Any:
        hidden = _dense(x, self.fc1)
        if self.shape.gated:
            gate, value = ops.split(hidden, 2, axis=-1)
            return _dense(ops.silu(gate) * value, self.fc2)
        return _dense(ops.gelu(hidden, approximate=False), self.fc2)


def _dense(x: Any, weights: tuple[Any, Any]) -> Any:
    kernel, bias = weights
    return ops.matmul(x, kernel) + bias


class _Pool(keras.layers.Layer):
    """Turn tokens (n, T, dim) into features (n, D), float32."""

    def __init__(self, pooling: Pooling, prefix: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pooling, self.prefix = pooling, prefix

    def call(self, tokens: Any) -> Any:
        tokens = ops.cast(tokens, "float32")
        first, mean = tokens[:, 0], ops.mean(tokens[:, self.prefix :], axis=1)
        if self.pooling == "class":
            return first
        return mean if self.pooling == "mean" else ops.concatenate([first, mean], axis=-1)


def resample_positions(
    positions: NDArray[np.float32], side: int, *, antialias: bool
) -> NDArray[np.float32]:
    """Resample position embeddings to another grid of tokens, as PyTorch's bicubic filter does.

    Parameters
    ----------
    positions : (N, D) of the patch tokens, N a square, row by row
    side : tokens per side
    antialias : widen the filter where the new grid is coarser

    Returns
    -------
    array (side², D); the same array where the grid is the same
    """
    stored = round(len(positions) ** 0.5)
    if stored == side:
        return positions
    matrix = _bicubic(stored, side, antialias=antialias)
    grid = positions.reshape(stored, stored, -1).astype(np.float64)
    resampled = np.einsum("ia,jb,abd->ijd", matrix, matrix, grid, optimize=True)
    return resampled.reshape(side * side, -1).astype(np.float32)


def _bicubic(old: int, new: int, *, antialias: bool) -> NDArray[np.float64]:
    """Weights (new, old) of Keys' cubic convolution between pixels whose centres are at .5."""
    scale = old / new
    sharpness = -0.5 if antialias else -0.75  # PyTorch's two filters
    width = max(scale, 1.0) if antialias else 1.0
    centers = (np.arange(new) + 0.5) * scale
    reach = int(np.ceil(2 * width)) + 1
    taps = np.floor(centers)[:, None].astype(int) + np.arange(-reach, reach + 1)
    weights = _cubic((taps + 0.5 - centers[:, None]) / width, sharpness)
    if antialias:  # what lies outside is left out, without it the edge is repeated
        weights[(taps < 0) | (taps >= old)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new)[:, None], taps.clip(0, old - 1)), weights)
    return matrix


def _cubic(x: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
