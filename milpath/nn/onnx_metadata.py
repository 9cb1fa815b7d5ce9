"""What an ONNX file states for milpath, in its `metadata_props`."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from milpath.errors import UsageError

log = logging.getLogger(__name__)

Colours = tuple[float, float, float]
"""A number for each of R, G, B."""
Layout = Literal["NCHW", "NHWC"]
"""Order of the axes of patches: number, colours (C), height and width."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


class OnnxMetadata:
    """What the exporting program stored for milpath.

    Raises
    ------
    UsageError : a value is not what its key is for
    """

    def __init__(self, path: Path, texts: Mapping[str, str]) -> None:
        self._path = path
        self._texts = texts
        self.mpp = self._read_number("milpath.mpp")
        self.patch_px = self._read_number("milpath.patch_px")
        if self.patch_px is not None and self.patch_px != int(self.patch_px):
            raise self._refuse("milpath.patch_px", "a whole number of pixels")
        self.mean = self._read_colours("milpath.mean")
        self.std = self._read_colours("milpath.std")
        self.layout = self._read_layout()
        self.name = self._read_name()

    def _read_number(self, key: str) -> float | None:
        return None if key not in self._texts else self._parse(key, 1, "a positive number")[0]

    def _read_colours(self, key: str) -> Colours | None:
        if key not in self._texts:
            return None
        red, green, blue = self._parse(key, 3, "three numbers, R,G,B")
        return red, green, blue

    def _parse(self, key: str, count: int, expected: str) -> list[float]:
        try:
            values = [float(each) for each in self._texts[key].strip("[]() ").split(",")]
        except ValueError:
            values = []
        wrong = count == 1 and not all(value > 0 for value in values)
        if len(values) != count or not all(map(math.isfinite, values)) or wrong:
            raise self._refuse(key, expected)
        return values

    def _read_layout(self) -> Layout | None:
        text = self._texts.get("milpath.layout")
        if text is None:
            return None
        if text.upper() == "NCHW":
            return "NCHW"
        if text.upper() == "NHWC":
            return "NHWC"
        raise self._refuse("milpath.layout", "NCHW or NHWC")

    def _read_name(self) -> str:
        """Return the encoder's name, which is also that of a folder: stated, or the file's."""
        stated = self._texts.get("milpath.name")
        if stated is not None:
            if not _NAME.fullmatch(stated):
                raise self._refuse("milpath.name", "letters, digits and the signs _ . + -")
            return stated
        name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", self._path.stem).strip("-_.+")[:64]
        return name.lower() or "onnx"

    def _refuse(self, key: str, expected: str) -> UsageError:
        return UsageError(
            f"{self._path.name}: its metadata say {key} = {self._texts[key][:60]!r}, expected "
            f"{expected}; export it again"
        )


def pick_stated(path: Path, name: str, given: Any, stated: Any) -> Any:
    """Return what the user gives, else what the file states; a warning if they differ."""
    if given is None:
        return stated
    if stated is not None and given != stated:
        log.warning("%s: %s is %s as given; its metadata say %s", path.name, name, given, stated)
    return given


def show_name(name: str) -> str:
    """Return a name in the file for a message: short, and without control characters."""
    return "".join(each if each.isprintable() else "?" for each in name[:60]) or "''"
