"""Build vision transformers by timm and transformers, for `check_encoders.py`.

    python scripts/reference_encoders.py FOLDER

Needs torch, timm, transformers, safetensors and NumPy, and nothing of milpath. Reads
FOLDER/jobs.json, writes FOLDER/results.json and features.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Job = dict[str, Any]


def build_timm(network: dict[str, Any]) -> torch.nn.Module:
    from functools import partial

    import torch
    from timm.layers import SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer

    gated = {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU} if network["gated"] else {}
    wide = network["hidden"] * (2 if network["gated"] else 1)
    return VisionTransformer(
        img_size=network["grid"] * network["token_px"],
        patch_size=network["token_px"],
        embed_dim=network["dim"],
        depth=network["depth"],
        num_heads=network["heads"],
        mlp_ratio=wide / network["dim"] + 1e-9,
        init_values=1e-5 if network["layer_scale"] else None,
        reg_tokens=network["registers"],
        no_embed_class=network["positions"] == "patches",
        num_classes=0,
        dynamic_img_size=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=network["epsilon"]),
        **gated,
    )


def build_vit(network: dict[str, Any]) -> torch.nn.Module:

    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=network["dim"],
        num_hidden_layers=network["depth"],
        num_attention_heads=network["heads"],
        intermediate_size=network["hidden"],
        image_size=network["grid"] * network["token_px"],
        patch_size=network["token_px"],
        layer_norm_eps=network["epsilon"],
    )
    return ViTModel(config, add_pooling_layer=False)


def build_dinov2(network: dict[str, Any]) -> torch.nn.Module:
    from transformers import (
        Dinov2Config,
        Dinov2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
    )

    # transformers' own rule for the width of SwiGLU: two thirds, rounded up to 8
    ratio = network["hidden"] * (1.5 if network["gated"] else 1) / network["dim"]
    given = {
        "hidden_size": network["dim"],
        "num_hidden_layers": network["depth"],
        "num_attention_heads": network["heads"],
        "mlp_ratio": int(ratio) if ratio == int(ratio) else ratio,
        "image_size": network["grid"] * network["token_px"],
        "patch_size": network["token_px"],
        "layer_norm_eps": network["epsilon"],
        "use_swiglu_ffn": network["gated"],
    }
    if network["registers"]:
        config = Dinov2WithRegistersConfig(num_register_tokens=network["registers"], **given)
        return Dinov2WithRegistersModel(config)
    return Dinov2Model(Dinov2Config(**given))


def teacher_names(state: dict[str, torch.Tensor], network: dict[str, Any]) -> dict[str, Any]:
    """Rename timm's weights as DINOv2's authors name those of a teacher."""
    import torch

    renamed = {}
    for name, value in state.items():
        for one, other in TEACHER.items():
            name = name.replace(one, other)
        renamed[name] = value
    registers, place = network["registers"], renamed["pos_embed"]
    renamed["pos_embed"] = torch.cat([place[:, :1], place[:, 1 + registers :]], dim=1)
    return renamed


def timm_names(state: dict[str, torch.Tensor], network: dict[str, Any]) -> dict[str, Any]:
    """Undo `teacher_names`; registers have no position."""
    import torch

    renamed = {}
    for name, value in state.items():
        for one, other in TEACHER.items():
            name = name.replace(other, one)
        renamed[name] = value
    place = renamed["pos_embed"]
    none = torch.zeros(1, network["registers"], network["dim"])
    renamed["pos_embed"] = torch.cat([place[:, :1], none, place[:, 1:]], dim=1)
    return renamed


TEACHER = {"reg_token": "register_tokens", "mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3"}
BUILDERS = {"timm": build_timm, "vit": build_vit, "dinov2": build_dinov2, "teacher": build_timm}


def build(job: Job) -> torch.nn.Module:
    network = dict(job["network"])
    if job["layout"] == "teacher":  # the class token has a position, the registers have none
        network["positions"] = "prefix"
    return BUILDERS[job["layout"]](network).eval()


def old_names(state: dict[str, torch.Tensor], layout: str) -> dict[str, torch.Tensor]:
    """Rename weights as transformers names them in files, whatever it calls them inside."""
    import torch

    pairs = {
        "q_proj": "attention.query",
        "k_proj": "attention.key",
        "v_proj": "attention.value",
        "o_proj": "output.dense",
    }
    if layout == "vit":
        pairs |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    renamed = {}
    for name, value in state.items():
        old = f"encoder.layer{name.removeprefix('layers')}" if name.startswith("layers.") else name
        for new, part in {**pairs, "down_proj": "weights_out"}.items():
            old = old.replace(f".{new}.", f".{part}.")
        if ".gate_proj." in old:  # two matrices that files hold as one
            value = torch.cat([value, state[name.replace("gate_proj", "up_proj")]])
            old = old.replace("gate_proj", "weights_in")
        if ".up_proj." not in old:
            renamed[old] = value
    return renamed


def list_shapes(job: Job) -> dict[str, Any]:
    """List the weights as a file of the hub names them."""
    import torch

    transformers = job["layout"] in ("vit", "dinov2")
    with torch.device("meta"):
        state = build(job).state_dict()
        if transformers:
            state = old_names(state, job["layout"])
        if job["layout"] == "teacher":
            state = teacher_names(state, job["network"])
    return {
        "library": "transformers" if transformers else "timm",
        "shapes": {name: list(value.shape) for name, value in state.items()},
    }


def load(job: Job) -> torch.nn.Module:
    """Build the network and load the weights of a file, all of them."""
    from safetensors.torch import load_file

    model, place = build(job), Path(job["folder"]) / "reference"
    if job["layout"] in ("vit", "dinov2"):
        model.config.save_pretrained(place)
        given = {"add_pooling_layer": False} if job["layout"] == "vit" else {}
        found, report = type(model).from_pretrained(place, output_loading_info=True, **given)
        assert set(report["missing_keys"]) <= {"embeddings.mask_token"}, report
        assert not report["unexpected_keys"], report
        return found.eval()
    state = load_file(place / "model.safetensors")
    if job["layout"] == "teacher":
        state = timm_names(state, job["network"])
    model.load_state_dict(state, strict=True)
    return model


def compute_features(job: Job) -> dict[str, Any]:
    """Compute the features of patches.npy, and write features.npy beside it."""
    import torch

    model, folder = load(job), Path(job["folder"])
    patches = torch.from_numpy(np.load(folder / "patches.npy")).permute(0, 3, 1, 2)
    if job["crop_px"] is not None:
        low = (patches.shape[-1] - job["crop_px"]) // 2
        patches = patches[..., low : low + job["crop_px"], low : low + job["crop_px"]]
    mean, std = (torch.tensor(job[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    images = (patches.float() / 255 - mean) / std
    with torch.no_grad():
        if job["layout"] == "vit":
            tokens = model(images, interpolate_pos_encoding=True).last_hidden_state
        elif job["layout"] == "dinov2":
            tokens = model(images).last_hidden_state
        else:
            tokens = model.forward_features(images)
    first, mean_token = tokens[:, 0], tokens[:, 1 + job["network"]["registers"] :].mean(1)
    pooled = {"class": [first], "class+mean": [first, mean_token], "mean": [mean_token]}
    np.save(folder / "features.npy", torch.cat(pooled[job["pooling"]], -1).numpy())
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    results = []
    for job in json.loads((folder / "jobs.json").read_text()):
        results.append(list_shapes(job) if job["task"] == "shapes" else compute_features(job))
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
