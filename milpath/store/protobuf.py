"""Fields of a protobuf message in a file, read one by one without any library of its format.

No field is read before its length was compared with what the message holds, and long ones need not
be read at all: files of any size, and untrusted ones, take no more memory than what is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

MAX_FIELDS = 200_000
"""Fields of all messages of a file; the largest networks have some ten thousand."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_WINDOW_BYTES = 1 << 16


class ProtobufError(ValueError):
    """The bytes are not such a message; the text says why."""


@dataclass(frozen=True)
class Message:
    """Where a message lies in the file: its first byte, and the one after its last."""

    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Its length in bytes."""
        return self.end - self.start


@dataclass(frozen=True)
class Field:
    """A field of a message.

    Attributes
    ----------
    number : of the field, as its schema counts
    value : the number; of a field with a length, 0
    body : where a field with a length lies: a text, bytes, a message, or packed numbers
    """

    number: int
    value: int = 0
    body: Message | None = None


class ProtobufFile:
    """An open file whose messages are read.

    Parameters
    ----------
    file : open for reading, as bytes
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = MAX_FIELDS
        self._window = b""
        self._window_start = 0
        self.whole = Message(0, os.fstat(file.fileno()).st_size)

    def iter_fields(self, message: Message) -> Iterator[Field]:
        """Yield the fields of a message in the order of the file.

        Raises
        ------
        ProtobufError : not a message, cut short, or the file has too many fields
        """
        at = message.start
        while at < message.end:
            self._left -= 1
            if self._left < 0:
                raise ProtobufError(f"it has more than {MAX_FIELDS} fields")
            field, at = self._read_field(at, message.end)
            yield field

    def read(self, body: Message, most: int) -> bytes:
        """Return the bytes of a field, of which there must not be more than `most`."""
        if body.nbytes > most:
            raise ProtobufError(f"a field of {body.nbytes} bytes, where up to {most} are expected")
        self._file.seek(body.start)
        found = self._file.read(body.nbytes)
        if len(found) < body.nbytes:
            raise ProtobufError("it is cut short")
        return found

    def read_text(self, body: Message, most: int) -> str:
        """Return a text of at most `most` bytes."""
        return self.read(body, most).decode("utf-8", "replace")

    def read_varints(self, body: Message, most: int) -> list[int]:
        """Return packed integers, signed 64-bit, of at most `most` bytes."""
        data, at, found = self.read(body, most), 0, []
        while at < len(data):
            value, at = _decode_varint(data, at)
            found.append(_to_signed(value))
        return found

    def _read_field(self, at: int, end: int) -> tuple[Field, int]:
        """Return the field at a place, and the place after it."""
        (key, kind), at = self._read_key(at)
        value, body = 0, None
        if kind == _VARINT:
            value, at = self._read_varint(at)
        elif kind == _BYTES:
            length, start = self._read_varint(at)
            at = start + length
            body = Message(start, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ProtobufError("it has a field of an unknown type")
        if at > end:
            raise ProtobufError("it is cut short, or damaged")
        return Field(key, _to_signed(value), body), at

    def _read_key(self, at: int) -> tuple[tuple[int, int], int]:
        key, at = self._read_varint(at)
        number, kind = key >> 3, key & 7
        if not 1 <= number < 1 << 29:
            raise ProtobufError("it has a field of an impossible number")
        return (number, kind), at

    def _read_varint(self, at: int) -> tuple[int, int]:
        place = at - self._window_start
        if place < 0 or place + _MAX_VARINT_BYTES > len(self._window):
            self._file.seek(at)
            self._window, self._window_start, place = self._file.read(_WINDOW_BYTES), at, 0
        value, after = _decode_varint(self._window, place)
        return value, self._window_start + after


def _decode_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place, and the place after it."""
    value = 0
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        if at >= len(data):
            raise ProtobufError("it is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), at
    raise ProtobufError("it has a number of more than 64 bits")


def _to_signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
