"""Fields of protobuf messages are found without reading what they hold."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from milpath.store.protobuf import ProtobufError, ProtobufFile

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


def write(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> Path:
    path = tmp_path_factory.getbasetemp() / "message"
    path.write_bytes(data)
    return path


@given(st.lists(INT64, max_size=20), st.text(max_size=50), st.binary(max_size=100))
def test_numbers_texts_and_bytes_are_those_that_protobuf_wrote(
    tmp_path_factory: pytest.TempPathFactory, dims: list[int], name: str, raw: bytes
) -> None:
    tensor = TensorProto(dims=dims, name=name, raw_data=raw, data_type=1)
    with write(tmp_path_factory, tensor.SerializeToString()).open("rb") as file:
        proto = ProtobufFile(file)
        fields = list(proto.iter_fields(proto.whole))
        assert [each.value for each in fields if each.number == 1] == dims
        bodies = {each.number: each.body for each in fields if each.body is not None}
        assert proto.read_text(bodies[8], 300) == name
        assert proto.read(bodies[9], 100) == raw


@given(st.lists(INT64, min_size=1, max_size=20))
def test_packed_numbers_are_those_that_protobuf_wrote(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int]
) -> None:
    data = TensorProto(int64_data=numbers).SerializeToString()
    with write(tmp_path_factory, data).open("rb") as file:
        proto = ProtobufFile(file)
        (field,) = proto.iter_fields(proto.whole)
        assert field.body is not None
        assert proto.read_varints(field.body, 1000) == numbers
        with pytest.raises(ProtobufError, match="up to 0"):
            proto.read(field.body, 0)


def test_fields_before_and_after_a_long_one_are_found_and_it_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "message"
    path.write_bytes(
        TensorProto(dims=[7], raw_data=bytes(1 << 24), doc_string="d").SerializeToString()
    )

    class Counting(io.FileIO):
        read_bytes = 0

        def read(self, size: int | None = -1, /) -> bytes:
            found = super().read(size) or b""
            self.read_bytes += len(found)
            return found

    with Counting(path) as file:
        proto = ProtobufFile(file)
        assert [each.number for each in proto.iter_fields(proto.whole)] == [1, 9, 12]
        assert file.read_bytes < 1 << 18


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        *((b"\x08", "cut short"), (b"\x08\x80", "cut short"), (b"\x0a\x05abc", "cut short")),
        *((b"\x00\x01", "impossible number"), (b"\x0b", "unknown type"), (b"\x09abc", "cut short")),
        (b"\x08" + b"\xff" * 11, "64 bits"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "cut short"),
    ],
)
def test_what_is_no_message_is_refused(tmp_path: Path, data: bytes, fact: str) -> None:
    path = tmp_path / "message"
    path.write_bytes(data)
    with path.open("rb") as file:
        proto = ProtobufFile(file)
        with pytest.raises(ProtobufError, match=fact):
            list(proto.iter_fields(proto.whole))
