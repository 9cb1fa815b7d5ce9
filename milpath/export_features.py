"""Export of features, in the layouts of other tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from milpath.cohort.workitem import WorkItem
from milpath.errors import StoredFileError
from milpath.formats.foreign.values import FeatureHints, Layout, SlideFeatures
from milpath.runs import Facts, Outcome
from milpath.store.torchwriting import publish_tensor
from milpath.store.writing import publish_plain_h5
from milpath.version import __version__

_T = TypeVar("_T")


class FeatureLayout(StrEnum):
    """A layout that features are written in."""

    trident = "trident"
    clam = "clam"
    stamp = "stamp"


@dataclass(frozen=True)
class ExportFacts(Facts):
    """Facts about exported features."""

    patches: int
    dim: int


@dataclass(frozen=True)
class FeatureExport:
    """The job that writes the features of a slide in the layout of another tool.

    Attributes
    ----------
    source, hints : how the features are read
    target : how they are written
    out : folder of the results
    slide_mpp : µm per pixel of all slides at level 0, where the features do not say it
    """

    source: Layout
    hints: FeatureHints
    target: FeatureLayout
    out: Path
    slide_mpp: float | None = None

    def __call__(self, item: WorkItem) -> Outcome:
        """Write the features of a slide; raise `StoredFileError` where they say too little."""
        hints = replace(self.hints, slide_mpp=self.slide_mpp)
        with self.source.open(item.path, hints) as slide:
            _WRITERS[self.target](self.out, item.path, slide)
            facts = ExportFacts(len(slide), slide.facts.dim)
        message = f"{facts.patches} patches, {facts.dim} features each"
        return Outcome(item.slide_id, "ok", message, facts)


def write_trident(out: Path, path: Path, slide: SlideFeatures) -> None:
    """Write `out/features_<encoder>/<slide>.h5` as TRIDENT does."""
    coords, size = _require_places(path, slide)
    encoder = _require(path, "the encoder (--encoder-name)", slide.facts.encoder)
    target = out / f"features_{encoder}" / f"{slide.slide_id}.h5"
    attrs: dict[str, object] = {
        "patch_size": _require(path, "the edge of a patch (--patch-size)", slide.facts.patch_px),
        "patch_size_level0": round(size),
        "overlap": 0,
        "name": slide.slide_id,
        "savetodir": "",
    }
    if slide.size_l0 is not None:
        attrs["level0_width"], attrs["level0_height"] = slide.size_l0
    if slide.facts.mpp is not None:
        attrs["target_magnification"] = round(10 / slide.facts.mpp)
    if slide.made is not None:
        facts = slide.made.slide
        attrs["level0_magnification"] = round(facts.objective or 10 / facts.mpp_x)
        grid = slide.made.grid
        covered = (grid.patch_size_l0 - grid.stride_l0) / grid.patch_size_l0
        attrs["overlap"] = round(covered * grid.patch_px)
    with publish_plain_h5(target) as h5:
        features = h5.create_dataset("features", data=_read_all(slide))
        features.attrs["encoder"], features.attrs["name"] = encoder, slide.slide_id
        features.attrs["savetodir"] = ""
        places = h5.create_dataset("coords", data=coords)
        for name, value in attrs.items():
            places.attrs[name] = value


def write_clam(out: Path, path: Path, slide: SlideFeatures) -> None:
    """Write `pt_files`, `h5_files` and `patches` as CLAM does, with patches of level 0."""
    coords, size = _require_places(path, slide)
    features, slide_id = _read_all(slide), slide.slide_id
    publish_tensor(out / "pt_files" / f"{slide_id}.pt", features)
    with publish_plain_h5(out / "h5_files" / f"{slide_id}.h5") as h5:
        h5.create_dataset("features", data=features)
        h5.create_dataset("coords", data=coords.astype(np.int32))
    with publish_plain_h5(out / "patches" / f"{slide_id}.h5") as h5:
        places = h5.create_dataset("coords", data=coords)
        places.attrs["patch_size"], places.attrs["patch_level"] = round(size), 0
        places.attrs["downsample"] = np.ones(2)
        if slide.size_l0 is not None:
            places.attrs["level_dim"] = places.attrs["downsampled_level_dim"] = slide.size_l0
        places.attrs["name"], places.attrs["save_path"] = slide_id, ""


def write_stamp(out: Path, path: Path, slide: SlideFeatures) -> None:
    """Write `out/<slide>.h5` as STAMP does, coordinates in µm from the corner of the canvas."""
    coords, size = _require_places(path, slide)
    encoder = _require(path, "the encoder (--encoder-name)", slide.facts.encoder)
    pixels = _require(path, "the edge of a patch (--patch-size)", slide.facts.patch_px)
    mpp = _require(path, "the µm per pixel of a patch (--mpp)", slide.facts.mpp)
    um = pixels * mpp
    scale = um / size if slide.made is None else slide.made.slide.mpp_x
    with publish_plain_h5(out / f"{slide.slide_id}.h5") as h5:
        h5.create_dataset("feats", data=_read_all(slide).astype(np.float16))
        h5.create_dataset("coords", data=(coords * scale).astype(np.float32))
        h5.attrs["stamp_version"], h5.attrs["extractor"] = "2.0.0", encoder
        h5.attrs["unit"], h5.attrs["feat_type"] = "um", "tile"
        h5.attrs["tile_size_um"], h5.attrs["tile_size_px"] = um, pixels
        h5.attrs["code_hash"] = f"milpath {__version__}"


_WRITERS: dict[FeatureLayout, Callable[[Path, Path, SlideFeatures], None]] = {
    FeatureLayout.trident: write_trident,
    FeatureLayout.clam: write_clam,
    FeatureLayout.stamp: write_stamp,
}


def _read_all(slide: SlideFeatures) -> NDArray[np.float32]:
    return np.asarray(slide.features[:], np.float32)


def _require_places(path: Path, slide: SlideFeatures) -> tuple[NDArray[np.int64], float]:
    """Return the coordinates of the patches, and their edge, level-0 pixels."""
    if slide.coords_l0 is None or slide.patch_size_l0 is None:
        raise StoredFileError(
            f"{path.name}: does not say where its patches lie at level 0, which other tools need; "
            "give the slide's µm per pixel with --slide-mpp, or write coordinates beside it"
        )
    return slide.coords_l0, slide.patch_size_l0


def _require(path: Path, what: str, value: _T | None) -> _T:
    if value is None:
        raise StoredFileError(f"{path.name}: does not say {what}; give it")
    return value
