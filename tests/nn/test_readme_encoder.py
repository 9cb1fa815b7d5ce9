"""The README's encoder of a PyTorch network works, with stand-ins for timm and PyTorch."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.nn_tools import random_patches
from support.plugins import offer

from milpath.nn.encoder_choice import EncoderRequest, choose_encoder

README = Path(__file__).resolve().parents[2] / "README.md"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Tensor(np.ndarray[Any, np.dtype[Any]]):
    """An array with the methods of a tensor that the README uses."""

    def permute(self, *axes: int) -> Any:
        return self.transpose(*axes)

    def numpy(self) -> NDArray[Any]:
        return np.asarray(self)


def to_tensor(values: Any) -> Tensor:
    return np.asarray(values, np.float32).view(Tensor)


class Network:
    """Gives the mean of each colour, 512 times scaled."""

    pretrained_cfg = {"mean": MEAN, "std": STD}  # noqa: RUF012
    weights = np.linspace(0, 1, 3 * 512, dtype=np.float32).reshape(3, 512)

    def eval(self) -> Network:
        return self

    def state_dict(self) -> dict[str, Tensor]:
        return {"weights": to_tensor(self.weights)}

    def __call__(self, patches: Tensor) -> Tensor:
        assert patches.shape[1:] == (3, 224, 224)
        return to_tensor(np.asarray(patches).mean(axis=(2, 3)) @ self.weights)


def create_model(name: str, *, pretrained: bool, num_classes: int) -> Network:
    assert (name, pretrained, num_classes) == ("resnet18", True, 0)
    return Network()


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    timm, torch = ModuleType("timm"), ModuleType("torch")
    vars(timm).update(create_model=create_model)
    vars(torch).update(tensor=to_tensor, from_numpy=to_tensor, inference_mode=nullcontext)
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "torch", torch)


@pytest.mark.usefixtures("stand_ins")
def test_the_readmes_encoder_of_a_timm_network_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"^```py\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    scope: dict[str, Any] = {}
    exec(block, scope)
    offer(tmp_path, "mypackage", {"resnet18": scope["Resnet18"]})
    monkeypatch.syspath_prepend(str(tmp_path))
    encoder = choose_encoder(EncoderRequest("resnet18"))
    assert (encoder.spec.kind, encoder.spec.dim, encoder.spec.mpp) == ("plugin", 512, 0.5)
    patches = random_patches(3, 224)
    scaled = ((patches / 255 - MEAN) / STD).mean(axis=(1, 2))
    np.testing.assert_allclose(encoder.embed(patches), scaled @ Network.weights, rtol=1e-3)
