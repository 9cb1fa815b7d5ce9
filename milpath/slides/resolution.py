"""Resolution: µm per pixel of level 0, from all that a file says about it.

A file may say it in several places: its scanner's own metadata, the resolution tag of each page of
a TIFF, and OME-XML. One is used; that another disagrees is noted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.parsers import expat

from milpath.params import MPP_RANGE, MPP_WARN_DIFFERENCE
from milpath.slides.pyramid import find_factors
from milpath.slides.tiffpages import Mpp, Size, TiffPages

FileSource = Literal["slide", "ome-xml", "tiff-tag"]

PLAIN_TIFF = "generic-tiff"
"""What OpenSlide calls a TIFF without a scanner's own metadata."""

_MAX_XML_CHARS = 1 << 24
_HEAD_CHARS = 4096  # of a description, where the root element of OME-XML starts
_UM = {
    **dict.fromkeys(("", "µm", "μm", "um", "Âµm", "Î¼m", "micron", "microns", "micrometer"), 1.0),
    **dict.fromkeys(("nm", "nanometer"), 1e-3),
    **dict.fromkeys(("mm", "millimeter"), 1e3),
    **dict.fromkeys(("cm", "centimeter"), 1e4),
    **dict.fromkeys(("in", "inch"), 25_400.0),
    **{"pm": 1e-6, "Å": 1e-4, "dm": 1e5, "m": 1e6, "thou": 25.4, "mil": 25.4},
}
"""µm per unit of length in OME-XML; without a unit it is µm."""


@dataclass(frozen=True)
class FileMpp:
    """µm per pixel at level 0 in a file.

    Attributes
    ----------
    mpp : (x, y), unchecked; None where missing
    source : "slide", or what was used where the file contradicts itself
    notes : what is suspicious about it, one phrase each
    """

    mpp: tuple[float | None, float | None]
    source: FileSource = "slide"
    notes: tuple[str, ...] = ()


def find_mpp(
    reported: tuple[float | None, float | None],
    vendor: str,
    pages: TiffPages,
    sizes: Sequence[Size],
) -> FileMpp:
    """Choose µm per pixel of level 0 among all that a file says about it.

    A scanner's own metadata come first. In a plain TIFF that is OME-XML, then the resolution tag of
    the page that is level 0, whichever page comes first.

    Parameters
    ----------
    reported : (x, y) that OpenSlide reports
    vendor : what OpenSlide calls the format
    pages : of the file, if it is a TIFF
    sizes : (width, height) of all levels
    """
    page = pages.find(sizes[0])
    if page is None:
        return FileMpp(reported)
    known = None if None in reported else (float(reported[0] or 0), float(reported[1] or 0))
    ome, notes = _read_ome(pages.description, sizes[0])
    by_ome = _Claim("ome-xml", "its OME-XML", ome)
    if vendor == PLAIN_TIFF:
        first = page is pages.pages[0]
        tag = known if first and known else page.mpp
        usable = [by_ome, _Claim("tiff-tag", "the resolution tag of level 0", tag)]
        others = [] if first else [_Claim("slide", "the resolution tag of its first page", known)]
        others += _other_levels(pages, sizes, tag)
        fallback: tuple[float | None, float | None] = reported if first else tag or (None, None)
    else:
        usable = [_Claim("slide", "its scanner's metadata", known)]
        others = [by_ome, _Claim("tiff-tag", "the resolution tag of level 0", page.mpp)]
        fallback = reported
    used = next((each for each in usable if each.is_plausible), None)
    if used is None:
        return FileMpp(fallback, "slide", notes)
    other = next((each for each in (*usable, *others) if each.contradicts(used)), None)
    if other is None:
        return FileMpp(used.mpp or fallback, "slide", notes)
    return FileMpp(used.mpp or fallback, used.source, (*notes, _describe(used, other)))


@dataclass(frozen=True)
class _Claim:
    """What one place in the file says: who it is, in words, and (x, y) µm per pixel if any."""

    source: FileSource
    name: str
    mpp: Mpp | None

    @property
    def is_plausible(self) -> bool:
        low, high = MPP_RANGE
        return self.mpp is not None and all(low <= each <= high for each in self.mpp)

    def contradicts(self, other: _Claim) -> bool:
        return self.is_plausible and other.is_plausible and not _agree(self.mpp, other.mpp)


def _agree(one: Mpp | None, two: Mpp | None) -> bool:
    if one is None or two is None:
        return False
    pairs = zip(one, two, strict=True)
    return all(abs(a - b) <= MPP_WARN_DIFFERENCE * min(a, b) for a, b in pairs)


def _describe(used: _Claim, other: _Claim) -> str:
    one, two = used.mpp or (0, 0), other.mpp or (0, 0)
    axis = 0 if abs(one[0] - two[0]) >= abs(one[1] - two[1]) else 1
    return (
        f"{used.name} says {one[axis]:.4g} µm per pixel and {other.name} {two[axis]:.4g}: "
        f"{one[axis]:.4g} is used; if that is wrong, give the right value with --slide-mpp"
    )


def _other_levels(pages: TiffPages, sizes: Sequence[Size], tag: Mpp | None) -> Iterator[_Claim]:
    """Yield what the tags of the smaller levels say of level 0; some writers repeat its own tag."""
    for size, factors in zip(sizes[1:], find_factors(sizes)[1:], strict=True):
        page = pages.find(size)
        if page is not None and page.mpp is not None and not _agree(page.mpp, tag):
            implied = page.mpp[0] / factors[0], page.mpp[1] / factors[1]
            yield _Claim("tiff-tag", f"the tag of its level of {size[0]} x {size[1]} px", implied)


# -- OME-XML ---------------------------------------------------------------------------------------


def _read_ome(text: str, size: Size) -> tuple[Mpp | None, tuple[str, ...]]:
    """Read the physical size of the pixels of the image of a size, and what is wrong with it."""
    if "<OME" not in text[:_HEAD_CHARS] and ":OME" not in text[:_HEAD_CHARS]:
        return None, ()
    try:
        found = _parse_pixels(text)
    except (expat.ExpatError, ValueError) as error:
        return None, (f"its OME-XML is not used ({error})",)
    of_level_0 = [each for each in found if (each.get("SizeX"), each.get("SizeY")) == _text(size)]
    values = [mpp for mpp in map(_physical_size, of_level_0) if mpp is not None]
    if any(not _agree(values[0], each) for each in values[1:]):
        return None, ("its OME-XML gives its images of that size different sizes of a pixel",)
    return (values[0] if values else None), ()


def _text(size: Size) -> tuple[str, str]:
    return str(size[0]), str(size[1])


def _physical_size(pixels: Mapping[str, str]) -> Mpp | None:
    """Return (x, y) µm per pixel; None if missing or in a unit that is no length."""
    mpp = []
    for axis in "XY":
        unit = _UM.get(pixels.get(f"PhysicalSize{axis}Unit", "").strip())
        try:
            value = float(pixels[f"PhysicalSize{axis}"]) * (unit or math.nan)
        except (KeyError, ValueError):
            return None
        if not 0 < value < math.inf:
            return None
        mpp.append(value)
    return mpp[0], mpp[1]


def _parse_pixels(text: str) -> list[dict[str, str]]:
    """Return the attributes of all elements `Pixels`; raise for what could expand or refer."""
    if len(text) > _MAX_XML_CHARS:
        raise ValueError(f"{len(text):,} characters; expected at most {_MAX_XML_CHARS:,}")
    found: list[dict[str, str]] = []

    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type")

    def start(name: str, attributes: dict[str, str]) -> None:
        if name.rpartition(":")[2] == "Pixels":
            found.append(attributes)

    parser = expat.ParserCreate("utf-8")
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.Parse(text.strip().encode(), True)
    return found
