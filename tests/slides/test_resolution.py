"""µm per pixel belong to level 0, whichever page or text of the file says them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.drawing import Pixels, noise
from tifffile import TiffWriter

from milpath.errors import ResolutionError, UnsupportedSlideError
from milpath.slides.slide import Slide

FULL = noise(512, 512)
Page = tuple[Pixels, float | None]


def pages(path: Path, *levels: Page, text: str | None = None, **given: Any) -> Path:
    """A tiled TIFF of pages in this order, each with its own resolution tag, µm per pixel."""
    with TiffWriter(path) as tiff:
        for index, (rgb, mpp) in enumerate(levels):
            tag: dict[str, Any] = {}
            if mpp is not None:
                tag = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
            tiff.write(
                rgb,
                **{"tile": (256, 256), "photometric": "rgb", "compression": "zlib"} | tag | given,
                description=None if index else text,
                subfiletype=1 if index else 0,
                metadata=None,
            )
    return path


def ome(size: int, value: object, unit: str | None = "µm", before: str = "") -> str:
    units = "" if unit is None else f'PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}" '
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{before}'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:1"><Pixels ID="Pixels:1" SizeX="99" SizeY="99" PhysicalSizeX="9" '
        'PhysicalSizeY="9"/></Image>'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" SizeX="{size}" SizeY="{size}" {units}'
        f'PhysicalSizeX="{value}" PhysicalSizeY="{value}"/></Image></OME>'
    )


def halves(*mpp: float | None) -> list[Page]:
    return [
        (np.ascontiguousarray(FULL[: 512 >> k, : 512 >> k]), each) for k, each in enumerate(mpp)
    ]


def test_the_tag_of_the_page_that_is_level_0_counts(tmp_path: Path) -> None:
    path = pages(tmp_path / "s.tif", *halves(0.5, 1.0, 2.0)[::-1])
    with Slide(path) as slide:
        assert slide.mpp == pytest.approx((0.5, 0.5))
        assert slide.facts.mpp_source == "tiff-tag"
        (note,) = slide.mpp_notes
        assert "level 0 says 0.5 µm per pixel and the resolution tag of its first page 2:" in note
    with Slide(path, mpp=0.7) as slide:
        assert not slide.mpp_notes


def test_the_tag_of_another_page_alone_is_not_taken(tmp_path: Path) -> None:
    path = pages(tmp_path / "s.tif", *halves(None, None, 2.0)[::-1])
    with Slide(path) as slide, pytest.raises(ResolutionError, match="does not contain its µm"):
        _ = slide.mpp


@pytest.mark.parametrize("tags", [(0.5, 1.0, 2.0), (0.5, 0.5, 0.5), (0.5, None, None)])
def test_a_file_that_agrees_with_itself_is_taken_without_a_word(
    tmp_path: Path, tags: tuple[float | None, ...]
) -> None:
    with Slide(pages(tmp_path / "s.tif", *halves(*tags))) as slide:
        assert slide.mpp == pytest.approx((0.5, 0.5))
        assert (slide.mpp_source, slide.mpp_notes) == ("slide", ())


def test_tags_in_the_wrong_order_are_said(tmp_path: Path) -> None:
    with Slide(pages(tmp_path / "s.tif", *halves(2.0, 1.0, 0.5))) as slide:
        (note,) = slide.mpp_notes
        assert "level 0 says 2 µm per pixel and the tag of its level of 256 x 256 px 0.5" in note
        assert slide.mpp_source == "tiff-tag"


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        *((0.5, None), (0.5, "µm"), (0.5, "μm"), (0.5, "um"), (500, "nm"), (5e-4, "mm")),
        *((5e-5, "cm"), (5e-7, "m"), (0.5 / 25400, "in"), (0.5 / 25400, "inch")),
    ],
)
def test_ome_xml_alone_gives_it(tmp_path: Path, value: float, unit: str | None) -> None:
    path = pages(tmp_path / "s.ome.tif", (FULL, None), text=ome(512, value, unit).encode())  # type: ignore[arg-type]
    with Slide(path) as slide:
        assert slide.mpp == pytest.approx((0.5, 0.5))
        assert (slide.mpp_source, slide.mpp_notes) == ("slide", ())


@pytest.mark.parametrize(
    ("size", "value", "unit"), [(400, 0.5, "µm"), (512, "", ""), (512, 1, "pixel")]
)
def test_ome_xml_of_another_picture_or_without_a_length_gives_nothing(
    tmp_path: Path, size: int, value: object, unit: str
) -> None:
    path = pages(tmp_path / "s.ome.tif", (FULL, None), text=ome(size, value, unit).encode())  # type: ignore[arg-type]
    with Slide(path) as slide:
        assert slide.mpp_of_file == (None, None)


@pytest.mark.parametrize(("tag", "notes"), [(1.0, 1), (0.255, 0), (352.8, 0)])
def test_where_ome_xml_and_the_tag_disagree_that_is_said(
    tmp_path: Path, tag: float, notes: int
) -> None:
    path = pages(tmp_path / "s.ome.tif", (FULL, tag), text=ome(512, 0.25).encode())  # type: ignore[arg-type]
    with Slide(path) as slide:
        assert slide.mpp == (0.25, 0.25)
        assert len(slide.mpp_notes) == notes
        assert slide.mpp_source == ("ome-xml" if notes else "slide")


@pytest.mark.parametrize(
    "before", ['<!DOCTYPE OME [<!ENTITY a "0.5">]>', '<!DOCTYPE OME SYSTEM "file:///etc/passwd">']
)
def test_ome_xml_with_a_document_type_is_not_read(tmp_path: Path, before: str) -> None:
    text = ome(512, 0.5, before=before).encode()
    with Slide(pages(tmp_path / "s.ome.tif", (FULL, 0.5), text=text)) as slide:  # type: ignore[arg-type]
        assert slide.mpp == pytest.approx((0.5, 0.5))
        assert slide.mpp_notes == ("its OME-XML is not used (it declares a document type)",)


# -- orientation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("compression", ["zlib", "jpeg", None])
def test_a_turned_picture_is_refused(
    tmp_path: Path, orientation: int, compression: str | None
) -> None:
    tag = [(274, 3, 1, orientation, True)]
    path = pages(tmp_path / "s.tif", (FULL, 0.5), compression=compression, extratags=tag)
    with pytest.raises(UnsupportedSlideError, match=rf"its Orientation tag is {orientation}.*\n?"):
        Slide(path)


def test_an_upright_picture_is_read(tmp_path: Path) -> None:
    path = pages(tmp_path / "s.tif", (FULL, 0.5), extratags=[(274, 3, 1, 1, True)])
    with Slide(path) as slide:
        assert np.array_equal(slide.read_level((0, 0), 0, (512, 512)), FULL)
