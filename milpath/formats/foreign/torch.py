"""A folder of `<slide>.pt` files: a tensor of features, or a dict of features and coordinates."""

from __future__ import annotations

from pathlib import Path

from milpath.formats.foreign.arrays import pick_coords, pick_features
from milpath.formats.foreign.folders import find_files
from milpath.formats.foreign.values import (
    FeatureFacts,
    FeatureHints,
    SlideFeatures,
    scale_to_l0,
)
from milpath.store.torchfile import read_torch


class TorchLayout:
    """Files that a program of the user's own saved; they say nothing of how they were made."""

    name = "torch"

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the file of each slide by its id; empty without `.pt` files."""
        return find_files(folder, ".pt")

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raises `StoredFileError`."""
        tensors = read_torch(path).tensors
        features = pick_features(path, tensors)
        facts = FeatureFacts(
            layout=self.name,
            dim=features.shape[1],
            encoder=hints.encoder,
            patch_px=hints.patch_px,
            mpp=hints.mpp,
            tool="PyTorch",
        )
        slide_id = path.name.removesuffix(".pt")
        coords = pick_coords(path, tensors, len(features))
        return SlideFeatures(slide_id, features, coords, scale_to_l0(facts, hints), facts)
