"""Bag: the patches of one slide, and their features, in one HDF5 file.

Layout: `/coords` (N, 2) int64 with TRIDENT's attribute names; `/patches`, either JPEG bytes end to
end with `/patch_offsets` (N+1,) int64, or raw (N, P, P, 3) uint8; their artefacts as `/blur`,
`/fold` and `/pen` (N,) float32; and after `milpath embed` `/features` (N, D) float16 or float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import h5py
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from milpath.errors import StoredFileError
from milpath.formats.geometry import read_geometry, write_geometry
from milpath.params import ArtefactParams, CodecParams, TileParams
from milpath.patches.artefacts import ArtefactFilter, Artefacts
from milpath.patches.grid import PatchGrid
from milpath.slides.facts import SlideFacts
from milpath.store import fingerprint, open_h5, publish_h5

BagStatus = Literal["ok", "no_tissue"]
Encoded = bytes | NDArray[np.uint8]

_APPEND_BYTES = 1 << 20
_MIN_CHUNK = 1 << 14
_JPEG_RATIO = 8  # pixel bytes per JPEG byte, roughly
_MAX_LOSS = 1e-3  # of the spread of features over patches, by rounding to float16
_MIN_SPREAD = 1e-6  # standard deviation of features over patches
_FEATURE_DTYPES = ("float16", "float32")
_BITS: dict[int, tuple[Any, int]] = {2: (np.uint16, 0x7C00), 4: (np.uint32, 0x7F800000)}
"""By bytes of a float: the integer of its bits, and infinity as bits; NaNs are above."""
_CHECKED_NUMBERS = 1 << 18  # at a time


@dataclass(frozen=True)
class BagHeader:
    """Attributes of a bag.

    Attributes
    ----------
    status : "ok", or "no_tissue" if it has no patches
    background : of the slide
    unreadable : number of patches left out because the slide's file is damaged there
    fingerprint : see `bag_fingerprint`
    params : parameters the bag was made with
    annotation : fingerprint of the tissue annotation; None if the tissue was detected
    pen_mm2 : area that was left out as marker pen
    grey : whether the slide has no colour
    left_out : number of patches left out as artefacts
    """

    status: BagStatus
    background: Literal["bright", "dark"]
    unreadable: int
    fingerprint: str
    params: TileParams
    annotation: str | None = None
    pen_mm2: float = 0.0
    grey: bool = False
    left_out: int = 0


_OPTIONAL = ("annotation", "pen_mm2", "grey", "left_out")
_HEADER = TypeAdapter(BagHeader)


def bag_fingerprint(slide: SlideFacts, params: TileParams, annotation: str | None = None) -> str:
    """Return a fingerprint of the slide, its resolution, its annotation and all parameters."""
    more = [] if annotation is None else [annotation]
    if slide.content_hash is not None:
        more.append(f"contents {slide.content_hash}")
    limits = params.artefacts != ArtefactParams()
    values = params.model_dump(
        exclude=None if limits else {"artefacts"}
    )  # as before there were any
    source = (slide.quickhash, slide.mpp_x, slide.mpp_y, values, *more)
    return fingerprint("bag", *source)


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
            for name, scores in vars(artefacts.scores).items():
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
        )
        for field in fields(header):
            value = getattr(header, field.name)
            if value is not None:
                h5.attrs[field.name] = value.model_dump_json() if field.name == "params" else value
    return header


def encode_patch(pixels: NDArray[np.uint8], params: CodecParams) -> Encoded:
    """Encode a patch (P, P, 3) uint8 as a bag stores it: JPEG bytes, or the pixels themselves."""
    if params.codec == "raw":
        return pixels
    return bytes(imagecodecs.jpeg8_encode(pixels, level=params.quality, subsampling="444"))


def as_kept(pixels: NDArray[np.uint8], params: CodecParams) -> NDArray[np.uint8]:
    """Encode and decode a patch (P, P, 3) uint8, as if it had been stored in a bag."""
    encoded = encode_patch(pixels, params)
    if isinstance(encoded, bytes):
        return np.asarray(imagecodecs.jpeg8_decode(encoded))
    return encoded


def _write_patches(
    h5: h5py.File,
    patches: Iterable[tuple[int, Encoded]],
    grid: PatchGrid,
    params: CodecParams,
) -> NDArray[np.int64]:
    """Write `/patches` as the patches arrive; return their rows of the grid."""
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


def write_features(
    bag: Bag, batches: Iterable[NDArray[Any]], encoder: str, encoder_fingerprint: str, dim: int
) -> None:
    """Write features into a bag's file, replacing earlier ones; the whole file is rewritten.

    Parameters
    ----------
    bag : open bag with N patches
    batches : arrays (n, D) in the order of the patches, N rows in all
    encoder, encoder_fingerprint : name and fingerprint of the encoder
    dim : D

    They are stored as float16, or as float32 where float16 loses more than `_MAX_LOSS` of their
    spread over the patches.

    Raises
    ------
    StoredFileError : features are not finite or do not differ, or the bag's file was replaced
    OutputError : the file cannot be written; the old one is kept
    ValueError : not N rows
    """
    path = bag.path
    parts = [np.asarray(each, np.float32) for each in batches]
    features = np.concatenate([np.zeros((0, dim), np.float32), *parts])
    if len(features) != len(bag):
        raise ValueError(f"{len(features)} rows of features for {len(bag)} patches")
    stored = _choose_dtype(features, f"{path.name}: {encoder}")
    with publish_h5(path, "bag") as h5:
        _copy_patches(bag, h5)
        dataset = h5.create_dataset("features", data=stored)
        dataset.attrs["encoder"] = encoder
        dataset.attrs["encoder_fingerprint"] = encoder_fingerprint


def _choose_dtype(features: NDArray[np.float32], name: str) -> NDArray[np.floating[Any]]:
    """Give features (N, D) as float16 or float32; raise `StoredFileError` if they are useless."""
    if not np.isfinite(features).all():
        raise StoredFileError(f"{name} gives features that are not finite; check its weights")
    if len(features) == 0:
        return features.astype(np.float16)
    spread = _root_mean_square(features - features.mean(axis=0))
    if len(features) > 1 and spread < _MIN_SPREAD:
        raise StoredFileError(
            f"{name} gives the same features for all {len(features)} patches (they differ by "
            f"{spread:.1g}); check its weights"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # infinite where float16 overflows
        half = features.astype(np.float16)
        loss = _root_mean_square(half.astype(np.float32) - features)
    fits = loss <= _MAX_LOSS * (spread if len(features) > 1 else _root_mean_square(features))
    return half if fits else features


def _root_mean_square(values: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _copy_patches(bag: Bag, h5: h5py.File) -> None:
    """Copy all but the features of a bag, if its file is still the one that `bag` has opened."""
    with open_h5(bag.path, "bag") as old:
        same = old.attr("fingerprint") == bag.header.fingerprint
        if not same or not np.array_equal(old.read("coords", "int64", (None, 2)), bag.grid.coords):
            raise StoredFileError(
                f"{bag.path.name}: was replaced by another bag while it was embedded; "
                "embed it again"
            )
        old.copy(h5, without="features")


class Bag:
    """A bag of N patches, opened for reading; a context manager.

    Parameters
    ----------
    path : the bag's file

    Attributes
    ----------
    slide : record of the slide
    grid : the N patches
    header : the other attributes

    Raises
    ------
    StoredFileError : missing, damaged, modified outside milpath, or not a bag
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as stack:
            self._h5 = stack.enter_context(open_h5(path, "bag"))
            self.slide, self.grid = read_geometry(self._h5)
            self.header = self._read_header()
            self._offsets = self._read_offsets()
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self.grid)

    def _read_header(self) -> BagHeader:
        needed = [field.name for field in fields(BagHeader) if field.name not in _OPTIONAL]
        values = {name: self._h5.require_attr(name) for name in needed}
        try:
            values["params"] = TileParams.model_validate_json(values["params"])
            given = {name: self._h5.attr(name) for name in _OPTIONAL}
            values |= {name: value for name, value in given.items() if value is not None}
            header = _HEADER.validate_python(values)
        except ValueError:
            raise StoredFileError(
                f"{self.path.name}: its parameters are not those of this milpath version; "
                "tile it again"
            ) from None
        if (header.status == "ok") != (len(self) > 0):
            raise self._h5.refuse(
                f"attribute 'status' is {header.status!r} with {len(self)} patches"
            )
        return header

    def _read_offsets(self) -> NDArray[np.int64] | None:
        if self._h5.dataset_attr("patches", "codec") != "jpeg":
            self._read_raw(slice(0, 0))
            return None
        offsets = self._h5.read("patch_offsets", "int64", (len(self) + 1,))
        fits = self._h5.shape("patches") == (offsets[-1],)
        if offsets[0] != 0 or not fits or (np.diff(offsets) <= 0).any():
            raise StoredFileError(
                f"{self.path.name}: 'patch_offsets' do not match 'patches'; tile it again"
            )
        return offsets

    def _read_raw(self, rows: Any) -> NDArray[np.uint8]:
        side = self.grid.patch_px
        return self._h5.read("patches", "uint8", (len(self), side, side, 3), rows)

    def read_patches(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read the pixels of some patches.

        Parameters
        ----------
        rows : int64 array (n,) of indices in any order

        Returns
        -------
        uint8 array (n, P, P, 3) in the order of `rows`.

        Raises
        ------
        StoredFileError : damaged there
        """
        side = self.grid.patch_px
        if self._offsets is None:
            order = np.argsort(rows)
            data = np.empty((len(rows), side, side, 3), np.uint8)
            if len(rows):
                unique, inverse = np.unique(rows[order], return_inverse=True)
                data[order] = self._read_raw(unique)[inverse]
            return data
        patches = np.empty((len(rows), side, side, 3), np.uint8)
        for place, row in enumerate(rows):
            span = slice(int(self._offsets[row]), int(self._offsets[row + 1]))
            jpeg = self._h5.read("patches", "uint8", (None,), span)
            try:  # with `out`, a JPEG of another size or colour space is an error
                imagecodecs.jpeg8_decode(jpeg.tobytes(), out=patches[place])
            except Exception as error:  # the codec's exception class is not public
                raise StoredFileError(
                    f"{self.path.name}: patch {row} is damaged ({error}); tile it again"
                ) from None
        return patches

    def read_artefacts(self) -> Artefacts | None:
        """Read the artefacts of all patches; None in files of earlier versions.

        Raises
        ------
        StoredFileError : damaged, or not 0 to 1
        """
        names = [field.name for field in fields(Artefacts)]
        if not all(name in self._h5 for name in names):
            return None
        values = {name: self._h5.read(name, "float32", (len(self),)) for name in names}
        for name, scores in values.items():
            if not ((scores >= 0) & (scores <= 1)).all():
                raise self._h5.refuse(f"{name!r} is not 0 to 1 everywhere")
        return Artefacts(**values)

    def iter_patches(self, batch: int) -> Iterator[NDArray[np.uint8]]:
        """Read all patches in order, up to `batch` at a time; arrays as in `read_patches`."""
        for start in range(0, len(self), batch):
            yield self.read_patches(np.arange(start, min(start + batch, len(self))))

    @property
    def encoder(self) -> tuple[str, str] | None:
        """Name and fingerprint of the encoder of the features; None if there are no features."""
        if "features" not in self._h5:
            return None
        name = self._h5.dataset_attr("features", "encoder")
        encoder_fingerprint = self._h5.dataset_attr("features", "encoder_fingerprint")
        return str(name), str(encoder_fingerprint)

    @property
    def feature_dim(self) -> int:
        """Length D of a feature vector."""
        return self._h5.shape("features")[1]

    def read_features(self, rows: Any = slice(None)) -> NDArray[np.floating[Any]]:
        """Read features, float16 or float32 array (n, D), as stored.

        Parameters
        ----------
        rows : slice without a step, or int64 array of indices

        Raises
        ------
        StoredFileError : there are none, damaged there, or not all finite
        """
        dtype = self._h5.dtype("features")
        expected = dtype if dtype in _FEATURE_DTYPES else "float16"
        features = self._h5.read("features", expected, (len(self), None), rows)
        if not _all_finite(features):
            raise self._h5.refuse("'features' are not all finite")
        return features

    def iter_features(self, batch: int) -> Iterator[NDArray[np.floating[Any]]]:
        """Read all features in order, up to `batch` rows at a time."""
        for start in range(0, len(self), batch):
            yield self.read_features(slice(start, min(start + batch, len(self))))


def _all_finite(values: NDArray[np.floating[Any]]) -> bool:
    """Check the bits of blocks that fit in the cache, ten times as fast as `np.isfinite`."""
    kind, infinity = _BITS[values.dtype.itemsize]
    bits = values.reshape(-1).view(kind)
    magnitude = np.iinfo(kind).max >> 1  # all bits but the sign
    pieces = (bits[at : at + _CHECKED_NUMBERS] for at in range(0, len(bits), _CHECKED_NUMBERS))
    return all(int((piece & magnitude).max()) < infinity for piece in pieces)
