"""Features that `milpath embed` wrote: `features/<encoder>/<slide>.h5`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from milpath.formats.bag import read_header
from milpath.formats.features import read_encoder
from milpath.formats.foreign.h5 import H5Sample, StoredRows, enter_h5, find_h5
from milpath.formats.foreign.values import (
    FeatureFacts,
    FeatureHints,
    Provenance,
    SlideFeatures,
    settle,
)
from milpath.formats.geometry import read_geometry


class MilpathLayout:
    """Features of one encoder: with checksums, or without where another program touched a file."""

    name = "milpath"

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the file of each slide by its id; empty if the folder is not of milpath."""
        return find_h5(folder, _is_features, of_milpath=True)

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raises `StoredFileError`."""
        with ExitStack() as files:
            h5 = enter_h5(files, path)
            if h5.attr("milpath_kind") != "features":
                raise h5.refuse("is no features file of milpath")
            slide, grid = read_geometry(h5)
            made = Provenance(slide, grid, read_header(h5, len(grid)), read_encoder(h5))
            encoder = made.encoder
            rows = StoredRows(path, h5, "features")
            if rows.shape != (len(grid), encoder.dim):
                raise h5.refuse(f"'features' has shape {rows.shape}, expected {len(grid)} rows")
            facts = FeatureFacts(
                layout=self.name,
                dim=encoder.dim,
                encoder=settle(path, "encoder", encoder.name, hints.encoder),
                patch_px=settle(path, "patch size", grid.patch_px, hints.patch_px),
                mpp=settle(path, "µm per pixel", encoder.mpp, hints.mpp),
                tool="milpath",
                variant=encoder.variant,
                revision=encoder.revision,
                digest=encoder.digest,
            )
            return SlideFeatures(
                slide_id=slide.slide_id,
                features=rows,
                coords_l0=grid.coords,
                patch_size_l0=grid.patch_size_l0,
                facts=facts,
                size_l0=(slide.width_l0, slide.height_l0),
                made=made,
                verified=h5.verified,
                files=files.pop_all(),
            )


def _is_features(sample: H5Sample) -> bool:
    return bool(sample.attrs.get("milpath_kind") == "features")
