"""A vision transformer gives what NumPy, timm and transformers give."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import erf
from support.checkpoints import (
    Case,
    draw_patches,
    draw_weights,
    list_cases,
    shrink,
    small,
    write_checkpoint,
)

from milpath.errors import UsageError
from milpath.nn.encoders.encoder import NetworkEncoder
from milpath.nn.encoders.published import load_published
from milpath.nn.encoders.transformer import resample_positions
from milpath.registry import ENCODERS
from milpath.registry.published import PublishedEncoder, VisionTransformer

GOLDEN = Path(__file__).with_name("encoders.json")
Floats = NDArray[np.float64]


def load(folder: Path, encoder: PublishedEncoder, **options: Any) -> NetworkEncoder:
    path = folder / f"{encoder.name}.safetensors"
    if not path.exists():
        write_checkpoint(path, draw_weights(encoder))
    return load_published(encoder, path, **options)


def features_of(encoder: NetworkEncoder, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(encoder.network(patches))  # not traced, which takes longer than to compute


# -- an independent twin ---------------------------------------------------------------------------


def norm(x: Floats, weight: Floats, bias: Floats, epsilon: float) -> Floats:
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    result: Floats = centred / spread * weight + bias
    return result


def attend(x: Floats, w: dict[str, Floats], block: str, heads: int) -> Floats:
    outputs = []
    qkv = x @ w[f"{block}.attn.qkv.weight"].T + w[f"{block}.attn.qkv.bias"]
    query, key, value = np.split(qkv, 3, axis=-1)
    split = [np.split(part, heads, axis=-1) for part in (query, key, value)]
    for q, k, v in zip(*split, strict=True):
        scores = q @ k.T / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        outputs.append(weights / weights.sum(-1, keepdims=True) @ v)
    mixed = np.concatenate(outputs, axis=-1)
    result: Floats = mixed @ w[f"{block}.attn.proj.weight"].T + w[f"{block}.attn.proj.bias"]
    return result


def transform(x: Floats, w: dict[str, Floats], block: str, gated: bool) -> Floats:
    hidden = x @ w[f"{block}.mlp.fc1.weight"].T + w[f"{block}.mlp.fc1.bias"]
    if gated:
        gate, hidden = np.split(hidden, 2, axis=-1)
        hidden = gate / (1 + np.exp(-gate)) * hidden
    else:
        hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
    result: Floats = hidden @ w[f"{block}.mlp.fc2.weight"].T + w[f"{block}.mlp.fc2.bias"]
    return result


def twin(encoder: PublishedEncoder, patch: NDArray[np.uint8], pooling: str) -> Floats:
    """Compute the features of one patch, of the encoder's own size, token by token."""
    net = encoder.network
    w = {name: value.astype(np.float64) for name, value in draw_weights(encoder).items()}
    low = (len(patch) - (encoder.crop_px or len(patch))) // 2
    image = patch[low : len(patch) - low, low : len(patch) - low] / 255
    image = (image - np.array(encoder.mean)) / np.array(encoder.std)
    kernel = w["patch_embed.proj.weight"]
    positions = w["pos_embed"][0]
    tokens = []
    for row in range(net.grid):
        for column in range(net.grid):
            top, left = row * net.token_px, column * net.token_px
            square = image[top : top + net.token_px, left : left + net.token_px]
            tokens.append(np.einsum("dcij,ijc->d", kernel, square) + w["patch_embed.proj.bias"])
    prefix = [w["cls_token"][0, 0], *(w["reg_token"][0] if net.registers else [])]
    x = np.stack([*prefix, *tokens])
    x[len(x) - len(positions) if net.positions == "patches" else 0 :][: len(positions)] += positions
    for number in range(net.depth):
        block = f"blocks.{number}"
        scale = [w.get(f"{block}.ls{k}.gamma", np.ones(net.dim)) for k in (1, 2)]
        first, second = (
            (w[f"{block}.norm{k}.weight"], w[f"{block}.norm{k}.bias"], net.epsilon) for k in (1, 2)
        )
        x = x + scale[0] * attend(norm(x, *first), w, block, net.heads)
        x = x + scale[1] * transform(norm(x, *second), w, block, net.gated)
    x = norm(x, w["norm.weight"], w["norm.bias"], net.epsilon)
    mean = x[len(prefix) :].mean(axis=0)
    parts = {"class": [x[0]], "mean": [mean], "class+mean": [x[0], mean]}[pooling]
    return np.concatenate(parts)


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        ("uni", "class"),
        ("uni2-h", "mean"),
        ("virchow2", "class+mean"),
        ("prov-gigapath", "class"),
        ("lunit-vits16", "mean"),
    ],
)
def test_features_are_those_of_numpy(name: str, pooling: Any, tmp_path: Path) -> None:
    encoder = small(name)
    side = 5 * encoder.network.token_px
    encoder = replace(
        encoder,
        network=replace(encoder.network, grid=5),
        patch_px=side if encoder.crop_px is None else side + 32,
        crop_px=None if encoder.crop_px is None else side,
        variants={"only": pooling},
    )
    patches = draw_patches(encoder.patch_px, 1)
    (found,) = features_of(load(tmp_path, encoder), patches)
    assert found == pytest.approx(twin(encoder, patches[0], pooling), abs=1e-4)


# -- other libraries -------------------------------------------------------------------------------


def golden_cases() -> list[Case]:
    """One case of each architecture and layout, three sizes of each way to resample positions.

    `scripts/check_encoders.py` compares all.
    """
    seen, chosen = set(), []
    for case in list_cases():
        encoder = shrink(ENCODERS[case.name])
        key = (encoder.network, encoder.layout)
        if key not in seen or case.name in ("lunit-vits16", "phikon-v2"):
            seen.add(key)
            chosen.append(case)
    return chosen


@pytest.mark.parametrize("case", golden_cases(), ids=str)
def test_features_are_those_of_timm_and_transformers(
    case: Case, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "checkpoints"
    encoder = load(folder, small(case.name), variant=case.variant, patch_px=case.patch_px)
    found = features_of(encoder, draw_patches(case.patch_px))
    expected = json.loads(GOLDEN.read_text())[str(case)]
    assert found.tolist() == [pytest.approx(row, abs=1e-5) for row in expected]


def test_every_case_has_its_numbers() -> None:
    assert set(json.loads(GOLDEN.read_text())) == {str(case) for case in list_cases()}


# -- laws ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("antialias", [True, False])
def test_positions_of_the_same_grid_stay_as_they_are(antialias: bool) -> None:
    positions = np.random.default_rng(0).standard_normal((25, 3)).astype(np.float32)
    assert resample_positions(positions, 5, antialias=antialias) is positions


@pytest.mark.parametrize("side", [2, 3, 7, 16])
@pytest.mark.parametrize("antialias", [True, False])
def test_a_constant_position_stays_constant_in_any_grid(antialias: bool, side: int) -> None:
    positions = np.full((25, 2), 0.7, np.float32)
    resampled = resample_positions(positions, side, antialias=antialias)
    assert resampled.shape == (side * side, 2)
    assert resampled == pytest.approx(0.7, abs=1e-6)


def test_a_transposed_grid_gives_transposed_positions() -> None:
    grid = np.random.default_rng(1).standard_normal((6, 6, 2)).astype(np.float32)
    one = resample_positions(grid.reshape(36, 2), 9, antialias=True).reshape(9, 9, 2)
    turned = grid.swapaxes(0, 1).reshape(36, 2)
    other = resample_positions(turned, 9, antialias=True).reshape(9, 9, 2)
    assert other == pytest.approx(one.swapaxes(0, 1), abs=1e-6)


def test_a_patch_has_the_same_features_in_any_company(tmp_path: Path) -> None:
    encoder = load(tmp_path, small("uni2-h"))
    patches = draw_patches(224, 3)
    together = features_of(encoder, patches)
    for number in range(3):
        assert features_of(encoder, patches[number : number + 1])[0] == pytest.approx(
            together[number], abs=1e-5
        )


def test_what_lies_outside_the_crop_is_not_seen(tmp_path: Path) -> None:
    encoder = load(tmp_path, small("prov-gigapath"))
    patches = draw_patches(256)
    changed = patches.copy()
    changed[:, :16] = 0
    changed[:, :, 240:] = 255
    assert (features_of(encoder, changed) == features_of(encoder, patches)).all()
    changed[:, 16, 16] ^= 255
    assert (features_of(encoder, changed) != features_of(encoder, patches)).any()


@pytest.mark.parametrize(("compute", "least"), [("float16", 0.9999), ("bfloat16", 0.999)])
def test_less_precise_arithmetic_gives_nearly_the_same_direction(
    compute: Any, least: float, tmp_path: Path
) -> None:
    patches = draw_patches(224)
    exact = features_of(load(tmp_path, small("virchow2")), patches)
    rough = features_of(load(tmp_path, small("virchow2"), compute=compute), patches)
    assert rough.dtype == np.float32
    assert (rough != exact).any()
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(rough, axis=1)
    assert ((exact * rough).sum(axis=1) / norms > least).all()


# -- faults ----------------------------------------------------------------------------------------


def test_patches_of_no_whole_number_of_tokens_raise(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="uni2-h sees patches of a multiple of 14 px, not 256 px"):
        load(tmp_path, small("uni2-h"), patch_px=256)


def test_an_unknown_variant_raises(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"virchow2 has no variant 'mean'; give one of: cls\+mean"):
        load(tmp_path, small("virchow2"), variant="mean")


def test_the_published_networks_have_their_published_sizes() -> None:
    sizes = {"uni": 303, "uni2-h": 681, "virchow2": 631, "h-optimus-0": 1135, "h0-mini": 86}
    for name, millions in sizes.items():
        assert round(count_weights(ENCODERS[name].network) / 1e6) == millions


def count_weights(network: VisionTransformer) -> int:
    from milpath.nn.encoders.checkpoint import list_weights

    return sum(int(np.prod(shape)) for shape in list_weights(network).values())
