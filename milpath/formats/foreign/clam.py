"""CLAM's `h5_files/<slide>.h5`, with the size of a patch in `patches` beside it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from milpath.formats.foreign.clam_patches import find_patches, read_patch_size, read_size
from milpath.formats.foreign.h5 import H5Sample, StoredRows, enter_h5, find_h5, read_coords
from milpath.formats.foreign.values import (
    FeatureFacts,
    FeatureHints,
    SlideFeatures,
    find_mpp,
    scale_to_l0,
)

_FOLDER = "h5_files"


class ClamLayout:
    """Features and coordinates without attributes, as CLAM's `extract_features_fp.py` writes them.

    The folder is the one that holds `h5_files`, or `h5_files` itself. CLAM stores neither the
    encoder nor µm per pixel, and the size of a patch only with the coordinates in `patches`.
    """

    name = "clam"

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the file of each slide by its id; empty if the folder is not of CLAM."""
        inside = folder / _FOLDER
        return find_h5(inside if inside.is_dir() else folder, _fits)

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raises `StoredFileError`."""
        with ExitStack() as files:
            h5 = enter_h5(files, path)
            rows = StoredRows(path, h5, "features")
            coords = read_coords(path, h5, "coords", rows.shape[0])
            slide_id = path.name.removesuffix(".h5")
            patch_px, size = read_size(h5)
            patches = find_patches(path.parent.parent, slide_id)
            if patch_px is None and patches is not None:
                patch_px, size = read_patch_size(patches, rows.shape[0])
            facts = FeatureFacts(
                layout=self.name,
                dim=rows.shape[1],
                encoder=hints.encoder,
                patch_px=hints.patch_px or patch_px,  # CLAM resizes patches for the encoder
                mpp=find_mpp(hints.mpp, hints, hints.patch_px or patch_px, size),
                tool="CLAM",
            )
            return SlideFeatures(
                slide_id=slide_id,
                features=rows,
                coords_l0=coords,
                patch_size_l0=size or scale_to_l0(facts, hints),
                facts=facts,
                files=files.pop_all(),
            )


def _fits(sample: H5Sample) -> bool:
    places = sample.shapes.get("coords", ())
    stated = "patch_size_level0" in sample.dataset_attrs.get("coords", {})
    return "features" in sample.shapes and places[1:] == (2,) and not stated
