"""The shards of a list are disjoint and cover it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.farm import entries

from milpath.errors import UsageError
from milpath.runs import Shard


@given(st.integers(0, 40), st.integers(1, 12))
def test_every_slide_is_in_exactly_one_shard(slides: int, count: int) -> None:
    listed = entries(*(f"s{number}" for number in range(slides)))
    shards = [Shard(number, count).take(listed) for number in range(1, count + 1)]
    together = sorted((one for shard in shards for one in shard), key=listed.index)
    assert together == listed
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_shard_is_read_from_text() -> None:
    assert Shard.parse("2/4") == Shard(2, 4)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "2", "a/b", "-1/4", "1/4/2", " 1/4", ""])
def test_text_that_is_not_a_shard_raises(text: str) -> None:
    with pytest.raises(UsageError, match=r"--shard .*: expected i/n, from 1/n to n/n"):
        Shard.parse(text)
