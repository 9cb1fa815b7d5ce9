"""Writing a bag: patches as they arrive, then where they lie."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import h5py
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from milpath.formats.bag.header import BagHeader, bag_fingerprint, write_header
from milpath.formats.geometry import write_geometry
from milpath.params import CodecParams, TileParams
from milpath.patches.artefacts import ArtefactFilter
from milpath.patches.grid import PatchGrid
from milpath.patches.stain import Normaliser, write_normaliser
from milpath.slides.facts import SlideFacts
from milpath.store import publish_h5

Encoded = bytes | NDArray[np.uint8]
_APPEND_BYTES = 1 << 20
_MIN_CHUNK = 1 << 14
_JPEG_RATIO = 8  # pixel bytes per JPEG byte, at most
_TISSUE_RATIO = 5  # the same for tissue at quality 90; measured: 3.8 to 7.5
_PATCH_BYTES = 36  # of a patch's position, offset and artefacts
_BAG_BYTES = 8192  # of a bag without patches


def write_bag(  # noqa: PLR0913 (each keyword is one thing that is stored)
    path: Path,
    slide: SlideFacts,
    grid: PatchGrid,
    background: Literal["bright", "dark"],
    patches: Iterable[tuple[int, Encoded]],
    params: TileParams,
    annotation: str | None = None,
    *,
    artefacts: ArtefactFilter | None = None,
    left_out: int = 0,
    pen_mm2: float = 0.0,
    grey: bool = False,
    stain: Normaliser | None = None,
) -> BagHeader:
    """Write a bag, complete or not at all.

    Parameters
    ----------
    path : final path of the file
    slide : the slide's record
    grid : its patches, including the unreadable ones
    background : of the slide
    patches : (row of the grid, result of `encode_patch`) in the grid's order; missing rows could
        not be read and are left out of the bag
    params : parameters the grid and the patches were made with
    annotation : fingerprint of the tissue annotation, None without one
    artefacts : what `patches` went through; their scores are stored
    left_out : number of patches that the grid lacks already because of artefacts
    pen_mm2, grey : see `BagHeader`
    stain : that was applied to the patches

    Returns
    -------
    The header of the bag.

    Raises
    ------
    OutputError : it cannot be written; nothing is left behind
    """
    with publish_h5(path, "bag") as h5:
        rows = _write_patches(h5, patches, grid, params.pixels)
        h5.flush()  # otherwise the bytes depend on when the dataset object is freed
        kept = grid.select(rows)
        write_geometry(h5, slide, kept)
        blurred = 0
        if artefacts is not None:
            blurred = artefacts.left_out
            for name, scores in artefacts.scores.known.items():
                h5.create_dataset(name, data=scores)
        header = BagHeader(
            status="ok" if len(kept) else "no_tissue",
            background=background,
            unreadable=len(grid) - len(kept) - blurred,
            fingerprint=bag_fingerprint(slide, params, annotation),
            params=params,
            annotation=annotation,
            pen_mm2=pen_mm2,
            grey=grey,
            left_out=left_out + blurred,
            stain=None if stain is None else write_normaliser(stain),
        )
        write_header(h5, header)
    return header


def encode_patch(pixels: NDArray[np.uint8], params: CodecParams) -> Encoded:
    """Encode a patch (P, P, 3) uint8 as a bag stores it: JPEG bytes, or the pixels themselves."""
    if params.codec == "raw":
        return pixels
    return bytes(imagecodecs.jpeg8_encode(pixels, level=params.quality, subsampling="444"))


def as_kept(pixels: NDArray[np.uint8], params: CodecParams) -> NDArray[np.uint8]:
    """Return a patch (P, P, 3) uint8 as a network saw it: from a bag, or as it was read."""
    if params.codec == "none":
        return pixels
    encoded = encode_patch(pixels, params)
    if isinstance(encoded, bytes):
        return np.asarray(imagecodecs.jpeg8_decode(encoded))
    return encoded


def estimate_bytes(patches: int, params: TileParams) -> int:
    """Estimate the size of a bag; tissue as JPEG has about a fifth of its pixels' bytes."""
    codec = params.pixels.codec
    pixels = (
        3 * params.grid.patch_px**2 / {"raw": 1, "jpeg": _TISSUE_RATIO, "none": math.inf}[codec]
    )
    return round(patches * (pixels + _PATCH_BYTES)) + _BAG_BYTES


def _write_patches(
    h5: h5py.File,
    patches: Iterable[tuple[int, Encoded]],
    grid: PatchGrid,
    params: CodecParams,
) -> NDArray[np.int64]:
    """Write `/patches` as the patches arrive; return their rows of the grid."""
    if params.codec == "none":
        return np.asarray([row for row, _ in patches], np.int64)
    rows: list[int] = []
    side = grid.patch_px
    if params.codec == "raw":
        shape = (side, side, 3)
        raw = h5.create_dataset(
            "patches",
            (0, *shape),
            np.uint8,
            maxshape=(None, *shape),
            chunks=(max(1, _APPEND_BYTES // math.prod(shape)), *shape),
        )
        for row, pixels in patches:
            raw.resize(len(rows) + 1, axis=0)
            raw[len(rows)] = pixels
            rows.append(row)
    else:
        offsets = [0]
        estimate = len(grid) * side * side * 3 // _JPEG_RATIO  # small bags get small chunks
        chunk = min(max(estimate, _MIN_CHUNK), _APPEND_BYTES)
        jpeg = h5.create_dataset(
            "patches", (0,), np.uint8, maxshape=(None,), chunks=(chunk,), fill_time="never"
        )
        jpeg.attrs["codec"], jpeg.attrs["quality"] = "jpeg", params.quality
        waiting: list[bytes] = []
        kept = 0
        for row, encoded in patches:
            waiting.append(bytes(encoded))
            rows.append(row)
            offsets.append(offsets[-1] + len(waiting[-1]))
            if offsets[-1] - kept >= _APPEND_BYTES:
                _append(jpeg, waiting)
                kept = offsets[-1]
        _append(jpeg, waiting)
        h5.create_dataset("patch_offsets", data=np.asarray(offsets, np.int64))
    return np.asarray(rows, np.int64)


def _append(dataset: h5py.Dataset, waiting: list[bytes]) -> None:
    data = np.frombuffer(b"".join(waiting), np.uint8)
    start = len(dataset)
    dataset.resize(start + len(data), axis=0)
    dataset[start:] = data
    waiting.clear()
