"""Bag: the patches of one slide in one HDF5 file, written once and never changed.

Layout: `/coords` (N, 2) int64 with TRIDENT's attribute names; `/patches`, either JPEG bytes end to
end with `/patch_offsets` (N+1,) int64, or raw (N, P, P, 3) uint8; and their artefacts as `/blur`,
`/fold` and `/pen` (N,) float32. Features have files of their own, see `milpath.formats.features`.
"""

from milpath.formats.bag.header import (
    BagHeader,
    BagStatus,
    Origin,
    bag_fingerprint,
    read_header,
    write_header,
)
from milpath.formats.bag.reading import Bag
from milpath.formats.bag.writing import Encoded, as_kept, encode_patch, estimate_bytes, write_bag

__all__ = [
    "Bag",
    "BagHeader",
    "BagStatus",
    "Encoded",
    "Origin",
    "as_kept",
    "bag_fingerprint",
    "encode_patch",
    "estimate_bytes",
    "read_header",
    "write_bag",
    "write_header",
]
