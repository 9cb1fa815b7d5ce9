"""Weights of a vision transformer in a published file: found by name, checked by shape, loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from milpath.errors import StoredFileError
from milpath.nn.encoders.transformer import list_variables, resample_positions
from milpath.nn.engine import keras
from milpath.registry.published import Layout, Positions, PublishedEncoder, VisionTransformer
from milpath.store.weightsfile import Weights

Shape = tuple[int, ...]

_MAX_TOKENS = 1 << 14
_MAX_SHOWN = 3

_BLOCK = r"(?P<block>\d+)"
_RULES: dict[Layout, tuple[tuple[str, str], ...]] = {
    "timm": (
        (rf"blocks\.{_BLOCK}\.mlp\.fc1_[gx]\.(?P<rest>weight|bias)", "mlp.fc1"),  # g before x
        (rf"blocks\.{_BLOCK}\.(?P<rest>.+)", ""),
    ),
    "vit": (
        (r"embeddings\.patch_embeddings\.projection\.(?P<rest>.+)", "patch_embed.proj"),
        (r"embeddings\.position_embeddings", "pos_embed"),
        (r"embeddings\.cls_token", "cls_token"),
        (rf"encoder\.layer\.{_BLOCK}\.layernorm_before\.(?P<rest>.+)", "norm1"),
        (rf"encoder\.layer\.{_BLOCK}\.attention\.output\.dense\.(?P<rest>.+)", "attn.proj"),
        (rf"encoder\.layer\.{_BLOCK}\.layernorm_after\.(?P<rest>.+)", "norm2"),
        (rf"encoder\.layer\.{_BLOCK}\.intermediate\.dense\.(?P<rest>.+)", "mlp.fc1"),
        (rf"encoder\.layer\.{_BLOCK}\.output\.dense\.(?P<rest>.+)", "mlp.fc2"),
        (r"layernorm\.(?P<rest>.+)", "norm"),
    ),
    "dinov2": (
        (r"embeddings\.patch_embeddings\.projection\.(?P<rest>.+)", "patch_embed.proj"),
        (r"embeddings\.position_embeddings", "pos_embed"),
        (r"embeddings\.cls_token", "cls_token"),
        (r"embeddings\.register_tokens", "reg_token"),
        (rf"encoder\.layer\.{_BLOCK}\.attention\.output\.dense\.(?P<rest>.+)", "attn.proj"),
        (rf"encoder\.layer\.{_BLOCK}\.layer_scale1\.lambda1", "ls1.gamma"),
        (rf"encoder\.layer\.{_BLOCK}\.layer_scale2\.lambda1", "ls2.gamma"),
        (rf"encoder\.layer\.{_BLOCK}\.mlp\.weights_in\.(?P<rest>.+)", "mlp.fc1"),
        (rf"encoder\.layer\.{_BLOCK}\.mlp\.weights_out\.(?P<rest>.+)", "mlp.fc2"),
        (rf"encoder\.layer\.{_BLOCK}\.(?P<rest>(norm[12]|mlp\.fc[12])\..+)", ""),
        (r"layernorm\.(?P<rest>.+)", "norm"),
    ),
    "teacher": (
        (r"register_tokens", "reg_token"),
        (rf"blocks\.(\d+\.)?{_BLOCK}\.mlp\.w12\.(?P<rest>.+)", "mlp.fc1"),
        (rf"blocks\.(\d+\.)?{_BLOCK}\.mlp\.w3\.(?P<rest>.+)", "mlp.fc2"),
        (rf"blocks\.(\d+\.)?{_BLOCK}\.(?P<rest>.+)", ""),
    ),
}
"""What weights are called in a file, and by timm: "blocks.N." and the rest are added."""
_QKV = re.compile(
    rf"encoder\.layer\.{_BLOCK}\.attention\.attention\.(query|key|value)\.(?P<rest>weight|bias)"
)
_ORDER = ("query", "key", "value", "fc1_g", "fc1_x")
_UNUSED = re.compile(r"(embeddings\.)?mask_token|pooler\.dense\.(weight|bias)|head\.(weight|bias)")
"""Weights of training and of classifiers, which features do not need."""


@dataclass(frozen=True)
class Checkpoint:
    """A vision transformer in a file.

    Attributes
    ----------
    network : its architecture
    sources : names in the file of each weight, by timm's name; more than one are parts of it, one
        below the other
    """

    network: VisionTransformer
    sources: Mapping[str, tuple[str, ...]]


def read_checkpoint(name: str, weights: Weights, encoder: PublishedEncoder) -> Checkpoint:
    """Find the weights of an encoder in an open file, by names and shapes alone.

    Which kind of MLP, layer scale and position embeddings it has is taken from the file, because
    documents often do not say it; all else must be what the registry says.

    Parameters
    ----------
    name : of the file, for messages

    Raises
    ------
    StoredFileError : weights are missing, left over, or of another shape
    """
    shapes = {
        key.removeprefix(encoder.prefix): shape
        for key, shape in weights.shapes.items()
        if key.startswith(encoder.prefix) and not _UNUSED.fullmatch(key[len(encoder.prefix) :])
    }
    sources = _name_weights(encoder.layout, shapes)
    found = {key: _join_shapes([shapes[each] for each in names]) for key, names in sources.items()}
    try:
        network = _settle_network(encoder.network, found)
    except (KeyError, IndexError, ValueError):
        network = encoder.network
    problems = _compare_networks(encoder.network, network)
    problems = problems or _compare(list_weights(network), found)
    if problems:
        raise StoredFileError(f"{name}: not the weights of {encoder.title}: {'; '.join(problems)}")
    prefixed = {
        key: tuple(encoder.prefix + each for each in names) for key, names in sources.items()
    }
    return Checkpoint(network, prefixed)


def load_checkpoint(network: keras.Model, weights: Weights, checkpoint: Checkpoint) -> None:
    """Load the weights of a file into a network of its architecture."""
    for name, variable in list_variables(network).items():
        parts = [np.asarray(weights.read(each), np.float32) for each in checkpoint.sources[name]]
        value = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if name == "pos_embed":
            side = round((variable.shape[1] - 1 - checkpoint.network.registers) ** 0.5)
            value = _place_positions(value[0], checkpoint.network, side)[None]
        elif name == "patch_embed.proj.weight":
            value = value.transpose(2, 3, 1, 0).reshape(variable.shape)
        elif value.ndim == 2:
            value = value.T
        variable.assign(value)


def list_weights(network: VisionTransformer) -> dict[str, Shape]:
    """List the shapes of all weights of a network as timm stores them, by timm's names."""
    dim, hidden, edge = network.dim, network.hidden, network.token_px
    prefix = {"patches": 0, "class": 1, "prefix": 1 + network.registers}[network.positions]
    shapes: dict[str, Shape] = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, prefix + network.grid**2, dim),
        "patch_embed.proj.weight": (dim, 3, edge, edge),
        "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
    }
    if network.registers:
        shapes["reg_token"] = (1, network.registers, dim)
    wide = 2 * hidden if network.gated else hidden
    for number in range(network.depth):
        block: dict[str, Shape] = {
            "attn.qkv.weight": (3 * dim, dim),
            "attn.qkv.bias": (3 * dim,),
            "attn.proj.weight": (dim, dim),
            "attn.proj.bias": (dim,),
            "mlp.fc1.weight": (wide, dim),
            "mlp.fc1.bias": (wide,),
            "mlp.fc2.weight": (dim, hidden),
            "mlp.fc2.bias": (dim,),
        }
        norms = ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"]
        scales = ["ls1.gamma", "ls2.gamma"] if network.layer_scale else []
        block |= dict.fromkeys((*norms, *scales), (dim,))
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    return shapes


def _name_weights(layout: Layout, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Find timm's name of each weight of a file; names without a rule stay as they are."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_rename(layout, name), []).append(name)
    return {key: tuple(sorted(each, key=_order)) for key, each in found.items()}


def _rename(layout: Layout, name: str) -> str:
    joined = _QKV.fullmatch(name)
    if joined and layout in ("vit", "dinov2"):
        return f"blocks.{joined['block']}.attn.qkv.{joined['rest']}"
    for pattern, target in _RULES[layout]:
        if match := re.fullmatch(pattern, name):
            groups = match.groupdict()
            block = f"blocks.{groups['block']}" if "block" in groups else ""
            return ".".join(filter(None, (block, target, groups.get("rest"))))
    return name


def _order(name: str) -> int:
    parts = name.split(".")
    return next((place for place, part in enumerate(_ORDER) if part in parts), 0)


def _join_shapes(shapes: list[Shape]) -> Shape:
    """Return the shape of parts that lie one below the other; of unequal ones, the first part's."""
    first = shapes[0]
    if len(shapes) == 1 or not first or any(shape[1:] != first[1:] for shape in shapes):
        return first
    return (sum(shape[0] for shape in shapes), *first[1:])


def _settle_network(published: VisionTransformer, shapes: Mapping[str, Shape]) -> VisionTransformer:
    """Take the architecture of a file from its shapes, as far as they tell it."""
    dim = shapes["cls_token"][-1]
    registers = shapes["reg_token"][1] if "reg_token" in shapes else 0
    fc1, fc2 = shapes["blocks.0.mlp.fc1.weight"], shapes["blocks.0.mlp.fc2.weight"]
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
    positions, grid = _find_grid(shapes["pos_embed"][1], registers, published)
    return replace(
        published,
        token_px=shapes["patch_embed.proj.weight"][-1],
        dim=dim,
        depth=len(blocks),
        hidden=fc2[1],
        gated=fc1[0] == 2 * fc2[1],
        registers=registers,
        layer_scale="blocks.0.ls1.gamma" in shapes,
        positions=positions,
        grid=grid,
    )


def _find_grid(count: int, registers: int, published: VisionTransformer) -> tuple[Positions, int]:
    """Tell which tokens `count` position embeddings are of; raise `ValueError` if of none."""
    prefixes: dict[Positions, int] = {"patches": 0, "class": 1, "prefix": 1 + registers}
    first = published.positions
    for positions in sorted(prefixes, key=lambda name: name != first):
        patches = count - prefixes[positions]
        grid = round(max(patches, 0) ** 0.5)
        if 0 < grid**2 == patches <= _MAX_TOKENS:
            return positions, grid
    raise ValueError


def _compare(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> list[str]:
    """Describe what is missing, left over, or of another shape, one phrase each."""
    missing = [name for name in expected if name not in found]
    left = [_quote(name) for name in found if name not in expected]
    wrong = [
        f"{name} {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if found.get(name) not in (None, shape)
    ]
    kinds = (("missing", missing), ("left over", left), ("of another shape", wrong))
    return [f"{what} {_list_some(names)}" for what, names in kinds if names]


def _list_some(names: list[str]) -> str:
    more = len(names) - _MAX_SHOWN
    return ", ".join(names[:_MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _compare_networks(published: VisionTransformer, found: VisionTransformer) -> list[str]:
    return [
        f"{what} {getattr(found, name)}, expected {getattr(published, name)}"
        for name, what in (
            ("dim", "numbers per token"),
            ("depth", "blocks"),
            ("token_px", "px per token"),
            ("registers", "registers"),
        )
        if getattr(found, name) != getattr(published, name)
    ]


def _place_positions(
    stored: NDArray[np.float32], network: VisionTransformer, side: int
) -> NDArray[np.float32]:
    """Lay out position embeddings for every token, (1 + registers + side², D)."""
    count = len(stored) - network.grid**2
    prefix = np.zeros((1 + network.registers, stored.shape[1]), np.float32)
    prefix[:count] = stored[:count]
    patches = resample_positions(stored[count:], side, antialias=network.antialias)
    return np.concatenate([prefix, patches])


def _quote(name: str) -> str:
    return ascii(name[:60])[1:-1]
