"""Table of malicious and invalid cohort files, annotations and model descriptions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from milpath.cohort.cohort import read_cohort
from milpath.formats.model_spec import read_bundle_spec
from milpath.params import GridParams, TileParams
from milpath.slides.annotation import rasterize_annotation, read_annotation
from milpath.slides.lattice import Lattice
from milpath.slides.thumbnail import Thumbnail
from milpath.slides.tissue import TissueMask
from support.untrusted.watch import Case

Contents = bytes | Callable[[], bytes]


def text_cases() -> Iterator[Case]:
    """Yield every invalid text file, and the valid ones."""
    for name, (contents, accepted) in COHORTS.items():
        yield Case(f"cohort {name}", partial(_write, "c.csv", contents), read_cohort, accepted)
    for name, (contents, accepted) in ANNOTATIONS.items():
        yield Case(
            f"annotation {name}", partial(_write, "o.geojson", contents), rasterize, accepted
        )
    for name, (contents, accepted) in DESCRIPTIONS.items():
        write = partial(_write, "model.json", contents)
        yield Case(f"description {name}", write, read_description, accepted)


def _write(name: str, contents: Contents, folder: Path) -> Path:
    path = folder / name
    path.write_bytes(contents if isinstance(contents, bytes) else contents())
    return path


# -- cohorts ---------------------------------------------------------------------------------------

_HEAD = b"slide,label,case\n"

COHORTS: dict[str, tuple[Contents, bool]] = {
    "plain": (_HEAD + b"a.svs,x,1\nb.svs,y,2\n", True),
    "BOM": (b"\xef\xbb\xbf" + _HEAD + b"a.svs,x,1\n", True),
    "semicolons": (b"slide;label\na.svs;x\n", True),
    "tabs": (b"slide\tlabel\na.svs\tx\n", True),
    "CRLF": (b"slide,label\r\na.svs,x\r\n", True),
    "CR": (b"slide,label\ra.svs,x\r", True),
    "quotes": (b'slide,label\n"a,b.svs","x"\n', True),
    "formula label": (_HEAD + b"a.svs,=cmd|' /C calc'!A0,1\n", True),
    "slide above": (_HEAD + b"../slides/a.svs,x,1\n", True),
    "slide elsewhere": (_HEAD + b"/slides/a.svs,x,1\n", True),
    "30,000 slides": (
        lambda: _HEAD + b"".join(b"%d.svs,x,1\n" % k for k in range(30_000)),
        True,
    ),
    "empty": (b"", False),
    "only a header": (_HEAD, False),
    "no slide column": (b"file,label\na,x\n", False),
    "column twice": (b"slide,slide\na,b\n", False),
    "few columns": (_HEAD + b"a.svs\n", False),
    "many columns": (_HEAD + b"a.svs,x,1,2,3\n", False),
    "no slide": (_HEAD + b",x,1\n", False),
    "same id": (_HEAD + b"a.svs,x,1\nb/a.svs,x,1\n", False),
    "same twice": (_HEAD + b"a.svs,x,1\na.svs,x,1\n", False),
    "same id but for case": (_HEAD + b"a.svs,x,1\nA.svs,x,1\n", False),
    "same id but for Unicode form": ("slide\n\u00e9.svs\ne\u0301.svs\n".encode(), False),
    "same id but for case folding": ("slide\nstrasse.svs\nstra\u00dfe.svs\n".encode(), False),
    "same case but for case": (_HEAD + b"a.svs,x,p1\nb.svs,x,P1\n", False),
    "UTF-16": ("slide,label\na.svs,x\n".encode("utf-16"), False),
    "UTF-32": ("slide,label\na.svs,x\n".encode("utf-32"), False),
    "Latin-1": ("slide,label\nb\xf6se.svs,x\n".encode("latin-1"), False),
    "incomplete character": (_HEAD + b"a.svs,\xc3,1\n", False),
    "overlong zero": (_HEAD + b"a\xc0\x80.svs,x,1\n", False),
    "surrogate": (_HEAD + b"a.svs,\xed\xa0\x80,1\n", False),
    "zero in slide": (_HEAD + b"a\0.svs,x,1\n", False),
    "zero in label": (_HEAD + b"a.svs,x\0,1\n", False),
    "zero in header": (b"slide\0,label\na.svs,x\n", True),  # ignored in names of columns
    "invisible letters in id": ("slide,slide_id\na.svs,\ufeffa\u200b\n".encode(), True),
    "zeros": (bytes(1000), False),
    "escape in label": (_HEAD + b"a.svs,\x1b[2Jx,1\n", False),
    "escape in case": (_HEAD + b"a.svs,x,\x1b]0;x\x07\n", False),
    "escape in slide": (_HEAD + b"\x1b[2J.svs,x,1\n", False),
    "escape in header": (b"\x1b[2J,label\na.svs,x\n", False),
    "new line in slide": (_HEAD + b'"a\nb.svs",x,1\n', False),
    "bell": (_HEAD + b"a.svs,x\x07,1\n", False),
    "open quote": (_HEAD + b'"a.svs,x,1\n', False),
    "quote within": (_HEAD + b'"a"b.svs,x,1\n', False),
    "10 MB in a line": (lambda: _HEAD + b"a" * (10 << 20) + b".svs,x,1\n", False),
    "10 MB of header": (lambda: b"a" * (10 << 20) + b"\n", False),
    "10 MB of columns": (lambda: b"a," * (5 << 20) + b"\n", False),
    "10 MB of quotes": (lambda: b'"' * (10 << 20), False),
    "10 MB of empty lines": (lambda: _HEAD + b"\n" * (10 << 20), False),
    "10 MB of carriage returns": (lambda: _HEAD + b"\r" * (10 << 20), False),
    "a million slides": (
        lambda: _HEAD + b"".join(b"%d.svs,x,1\n" % k for k in range(1_000_000)),
        False,
    ),
    "100 MB": (lambda: bytes(100 << 20), False),
    "long label": (_HEAD + b"a.svs," + b"x" * 5000 + b",1\n", False),
    "long path": (_HEAD + b"a/" * 4000 + b"a.svs,x,1\n", False),
    "web page": (b"<html><body>404</body></html>", False),
    "workbook": (b"PK\x03\x04" + bytes(1000), False),
    "pickle": (b"\x80\x04cos\nsystem\n(S'id'\ntR.", False),
    **{
        f"id {slide_id!r}": (f"slide,slide_id\na.svs,{slide_id}\n".encode(), False)
        for slide_id in (
            *("../x", "../../etc/passwd", "/etc/passwd", "C:\\x", "a/b", "a\\b", "a:b", ".."),
            *(".x", "-rf", "--help", "CON", "nul.txt", "com1", "x.", "a*", "a?", "a|b", "<a>"),
            *("x" * 201, "\u202egpj", "a\u2028b"),
        )
    },
    **{
        f"mpp {mpp}": (f"slide,mpp\na.svs,{mpp}\n".encode(), False)
        for mpp in ("0", "-1", "1_0", "inf", "1e400", "0.25um", "1_0_0", "1" * 5000)
    },
    "split": (b"slide,split\na.svs,holdout\n", False),
    "case on two sides": (b"slide,case,split\na.svs,p,train\nb.svs,p,test\n", False),
}


# -- annotations -----------------------------------------------------------------------------------


def rasterize(path: Path) -> None:
    """Read an annotation and rasterize it."""
    rgb = np.zeros((400, 500, 3), np.uint8)
    none = np.zeros(rgb.shape[:2], np.bool_)
    lattice = Lattice((0, 0), (32.0, 32.0))
    thumbnail = Thumbnail(rgb, lattice, 8.0, none)
    found = TissueMask(none, lattice, "bright", none)
    rasterize_annotation(thumbnail, found, read_annotation(path))


_SQUARE = [[100, 100], [9000, 100], [9000, 9000], [100, 9000], [100, 100]]


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _polygon(*rings: Any, **more: Any) -> bytes:
    return _json({"type": "Polygon", "coordinates": rings, **more})


def _zigzag(corners: int, height: float = 12_000.0) -> list[list[float]]:
    return [[k * 16_000 / corners, height * (k % 2)] for k in range(corners)]


def _many(count: int, side: float) -> bytes:
    ring = [[0, 0], [side, 0], [side, side], [0, side]]
    one = {"type": "Polygon", "coordinates": [ring]}
    return _json([one] * count)


ANNOTATIONS: dict[str, tuple[Contents, bool]] = {
    "square": (_polygon(_SQUARE), True),
    "hole": (_polygon(_SQUARE, [[x / 2 + 900, y / 2 + 900] for x, y in _SQUARE]), True),
    "crossing itself": (_polygon([[0, 0], [9000, 9000], [9000, 0], [0, 9000]]), True),
    "no area": (_polygon([[0, 0], [9000, 0], [100, 0], [500, 0]]), False),
    "twice the same corner": (_polygon([[100, 100]] * 9), False),
    "partly off": (_polygon([[-9000, -9000], [9000, -9000], [9000, 9000], [-9000, 9000]]), True),
    "properties": (_json({"type": "Feature", "geometry": json.loads(_polygon(_SQUARE))}), True),
    "formula": (_polygon(_SQUARE, name="=cmd|' /C calc'!A0"), True),
    "zigzag of 20,000": (lambda: _polygon(_zigzag(20_000)), True),
    "1,000 squares": (lambda: _many(1000, 400.0), True),
    "off the slide": (_polygon([[x + 1e6, y] for x, y in _SQUARE]), False),
    "longitudes": (_polygon([[-0.1, 51.4], [-0.2, 51.4], [-0.2, 51.5], [-0.1, 51.5]]), False),
    "crs": (_polygon(_SQUARE, crs={"type": "name", "properties": {"name": "EPSG:4326"}}), True),
    "NaN": (_polygon([[0, 0], [float("nan"), 0], [9, 9], [0, 9]]), False),
    "infinite": (_polygon([[0, 0], [float("inf"), 0], [9, 9], [0, 9]]), False),
    "1e308": (_polygon([[0, 0], [1e308, 0], [1e308, 1e308], [0, 1e308]]), False),
    "1e400": (b'{"type":"Polygon","coordinates":[[[0,0],[1e400,0],[9,9],[0,9]]]}', False),
    "digits": (
        b'{"type":"Polygon","coordinates":[[[0,%s],[9,0],[9,9],[0,9]]]}' % (b"9" * 100_000),
        False,
    ),
    "400 digits": (
        b'{"type":"Polygon","coordinates":[[[0,%s],[9,0],[9,9],[0,9]]]}' % (b"9" * 400),
        False,
    ),
    "two corners": (_polygon([[0, 0], [9, 9]]), False),
    "three axes": (_polygon([[0, 0, 1]] * 5), False),
    "one axis": (_polygon([[0]] * 5), False),
    "ragged": (_polygon([[0, 0], [9], [9, 9], [0, 9]]), False),
    "strings": (_polygon([["a", "b"]] * 5), False),
    "nulls": (_polygon([[None, None]] * 5), False),
    "objects": (_polygon([{"x": 1}] * 5), False),
    "no rings": (_polygon(), False),
    "empty ring": (_polygon([]), False),
    "point": (_json({"type": "Point", "coordinates": [1, 2]}), False),
    "closed line": (_json({"type": "LineString", "coordinates": _SQUARE}), True),
    "open line": (_json({"type": "LineString", "coordinates": _SQUARE[:4]}), False),
    "no type": (_json({"coordinates": [_SQUARE]}), False),
    "type a list": (_json({"type": ["Polygon"], "coordinates": [_SQUARE]}), False),
    "features a number": (_json({"type": "FeatureCollection", "features": 5}), False),
    "features a text": (_json({"type": "FeatureCollection", "features": "abc"}), False),
    "geometry null": (_json({"type": "Feature", "geometry": None}), False),
    "empty": (b"", False),
    "null": (b"null", False),
    "a number": (b"5", False),
    "bytes": (bytes(range(256)), False),
    "zeros": (bytes(1000), False),
    "half": (_polygon(_SQUARE)[:40], False),
    "UTF-16": (_polygon(_SQUARE).decode().encode("utf-16"), True),
    "lists in lists": (lambda: b"[" * 100_000, False),
    "lists in lists, closed": (lambda: b"[" * 100_000 + b"]" * 100_000, False),
    "objects in objects": (lambda: b'{"a":' * 100_000, False),
    "collections in collections": (
        lambda: b'{"type":"FeatureCollection","features":[' * 900 + b"]}" * 900,
        False,
    ),
    "10,000,000 corners": (
        lambda: b'{"type":"Polygon","coordinates":[[' + b"[1,2]," * 10_000_000 + b"[1,2]]]}",
        False,
    ),
    "5,000,000 corners": (
        lambda: b'{"type":"Polygon","coordinates":[[' + b"[1,2]," * 5_000_000 + b"[1,2]]]}",
        False,
    ),
    "400,000 corners": (lambda: _polygon(_zigzag(400_000)), False),
    "30,000 squares": (lambda: _many(30_000, 16_000.0), False),
    "5,000,000 objects": (lambda: b"[" + b"{}," * 5_000_000 + b"{}]", False),
    "32 MB of text": (lambda: b'"' + b"x" * (31 << 20) + b'"', False),
    "100 MB": (lambda: bytes(100 << 20), False),
}


# -- descriptions ----------------------------------------------------------------------------------


def read_description(path: Path) -> None:
    """Read a model.json."""
    read_bundle_spec(path.parent)


_DESCRIPTION = {
    "class_names": ["normal", "tumour"],
    "mode": "pixels",
    "encoder": {"name": "small", "patch_px": 16, "dim": 128, "weights": "trained"},
    "head": {"attention_dim": 8},
    "members": 1,
    "tile": TileParams(grid=GridParams(mpp=1.0, patch_px=16)).model_dump(),
    "background": "bright",
    "fingerprint": "0" * 32,
}


def _describe(**changes: Any) -> bytes:
    return _json({**_DESCRIPTION, **changes})


DESCRIPTIONS: dict[str, tuple[Contents, bool]] = {
    "plain": (_describe(), True),
    "code": (_describe(__reduce__=["os.system", "id"]), False),
    "class of code": (_describe(module="os", class_name="system"), False),
    "Lambda": (_describe(encoder={"class_name": "Lambda", "config": {"function": "id"}}), False),
    "members many": (_describe(members=10**9), False),
    "names equal": (_describe(class_names=["a", "a"]), False),
    "names empty": (_describe(class_names=["", "a"]), False),
    "names escape": (_describe(class_names=["a", "\x1b[2J"]), False),
    "names many": (_describe(class_names=[str(k) for k in range(50_000)]), False),
    "names long": (_describe(class_names=["a", "b" * 500_000]), False),
    "patches huge": (_describe(encoder={**_DESCRIPTION["encoder"], "patch_px": 1 << 40}), False),
    "dim huge": (_describe(encoder={**_DESCRIPTION["encoder"], "dim": 1 << 40}), False),
    "head huge": (_describe(head={"attention_dim": 1 << 40}), False),
    "mpp NaN": (_describe(tile={"grid": {"mpp": float("nan")}}), False),
    "mpp 0": (_describe(tile={"grid": {"mpp": 0}}), False),
    "patches differ": (_describe(tile={}), False),
    "newer": (_describe(format=4), False),
    "fingerprint of a path": (_describe(fingerprint="../../etc/passwd"), False),
    "field escape": (_describe(**{"\x1b[2J\n": 1}), False),
    "lists in lists": (lambda: b"[" * 100_000, False),
    "deep training": (lambda: _describe()[:-1] + b',"training":' + b'{"a":' * 50_000, False),
    "2 MB": (lambda: b" " * (2 << 20), False),
    "digits": (lambda: _describe()[:-1] + b',"members":' + b"9" * 500_000 + b"}", False),
    "bytes": (bytes(range(256)), False),
    "pickle": (b"\x80\x04cos\nsystem\n(S'id'\ntR.", False),
    "empty": (b"", False),
    "half": (_describe()[:99], False),
}
