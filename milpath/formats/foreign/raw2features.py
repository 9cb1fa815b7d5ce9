"""What raw2features exports to HDF5, in layouts that resemble those of TRIDENT, CLAM and STAMP."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from milpath.errors import StoredFileError
from milpath.formats.foreign.h5 import (
    H5Sample,
    StoredRows,
    describe_samples,
    enter_h5,
    find_h5,
    get_number,
    get_text,
    read_coords,
)
from milpath.formats.foreign.stamp import StampLayout
from milpath.formats.foreign.values import (
    FeatureFacts,
    FeatureHints,
    SlideFeatures,
    find_mpp,
    settle,
)
from milpath.store.foreign import ForeignH5

_STAMP_MARK = "raw2features_version"
_COORD_ATTRS = {
    "patch_size",
    "patch_size_level0",
    "target_magnification",
    "level0_magnification",
}
_UM = 10.0  # µm per pixel times magnification, as raw2features converts them
_ROUNDED = 0.05  # of a magnification that is rounded to one decimal
_MAX_ERROR = 0.01  # of µm per pixel, by that


class Raw2FeaturesLayout:
    """`<slide>.h5`, or `<slide>.<encoder>.h5` where the features of several encoders were exported.

    In the layout that resembles TRIDENT's, both patch sizes are in level-0 pixels, and µm per pixel
    is stated as a magnification of one decimal.
    """

    name = "raw2features"

    def find(self, folder: Path) -> dict[str, Path]:
        """Return the file of each slide by its id; empty if the folder is not of raw2features.

        Raises `StoredFileError` if a slide has files of several encoders.
        """
        found = find_h5(folder, _fits)
        encoders = {encoder for each in describe_samples(folder) if (encoder := _name(each))}
        if not any(slide_id.endswith(f".{each}") for slide_id in found for each in encoders):
            return found
        return _split_names(folder, found)

    def open(self, path: Path, hints: FeatureHints) -> SlideFeatures:
        """Open one slide's features; raises `StoredFileError`."""
        with ExitStack() as files:
            h5 = enter_h5(files, path)
            as_stamp = _STAMP_MARK in h5.attrs
            made = None if as_stamp else _open_as_trident(path, hints, h5, files)
        made = made if made is not None else StampLayout().open(path, hints)
        facts = replace(made.facts, layout=self.name, tool="raw2features")
        slide_id = made.slide_id.removesuffix(f".{facts.encoder}")
        return replace(made, slide_id=slide_id, facts=facts)


def _fits(sample: H5Sample) -> bool:
    if _STAMP_MARK in sample.attrs:
        return "coords" in sample.shapes
    stated = sample.dataset_attrs.get("coords", {})
    same = stated.get("patch_size", 0) == stated.get("patch_size_level0")
    known = same and "target_magnification" in stated and stated.keys() <= _COORD_ATTRS
    return known and set(sample.dataset_attrs.get("features", {})) == {"encoder"}


def _name(sample: H5Sample) -> str | None:
    stated = sample.dataset_attrs.get("features", {}).get("encoder")
    return get_text(stated or sample.attrs.get("extractor"))


def _split_names(folder: Path, found: dict[str, Path]) -> dict[str, Path]:
    """Return the files by slide, of files with names of a slide and an encoder."""
    split = {name: name.rpartition(".") for name in found}
    encoders = {encoder for _, _, encoder in split.values()}
    if len(encoders) > 1:
        raise StoredFileError(
            f"{folder}: holds files of several encoders ({', '.join(sorted(encoders))}); expected "
            "one, so move the files of each to a folder of its own"
        )
    return {slide_id: found[name] for name, (slide_id, _, _) in split.items()}


def _open_as_trident(
    path: Path, hints: FeatureHints, h5: ForeignH5, files: ExitStack
) -> SlideFeatures:
    rows = StoredRows(path, h5, "features")
    coords = read_coords(path, h5, "coords", rows.shape[0])
    size = get_number(h5.dataset_attr("coords", "patch_size_level0"))
    stated = _get_mpp(get_number(h5.dataset_attr("coords", "target_magnification")))
    mpp = settle(path, "µm per pixel", stated, hints.mpp)
    encoder = get_text(h5.dataset_attr("features", "encoder"))
    facts = FeatureFacts(
        layout=Raw2FeaturesLayout.name,
        dim=rows.shape[1],
        encoder=settle(path, "encoder", encoder, hints.encoder),
        patch_px=_settle_patch(path, h5, size, hints.patch_px),
        mpp=find_mpp(mpp, hints, hints.patch_px, size),
        tool="raw2features",
    )
    slide_id = path.name.removesuffix(".h5")
    return SlideFeatures(slide_id, rows, coords, size, facts, files=files.pop_all())


def _get_mpp(magnification: float | None) -> float | None:
    """Return µm per pixel; None if the magnification is too small for its one decimal."""
    if magnification is None or magnification < _ROUNDED / _MAX_ERROR:
        return None
    return _UM / magnification


def _settle_patch(path: Path, h5: ForeignH5, size: float | None, hint: int | None) -> int | None:
    """Return the edge of a patch that the user gives: files state it only up to rounding."""
    target = get_number(h5.dataset_attr("coords", "target_magnification"))
    scan = get_number(h5.dataset_attr("coords", "level0_magnification"))
    if hint is None or not (target and scan and size):
        return hint
    about = size * target / scan
    if abs(hint - about) > 1 + about * (_ROUNDED / target + _ROUNDED / scan):
        raise StoredFileError(
            f"{path.name}: its patch size is about {about:.0f}, but {hint} was given; correct "
            "--patch-size, or check that these are the features you mean"
        )
    return hint
