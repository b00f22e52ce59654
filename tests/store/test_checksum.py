"""The checksum of a row: every column counts, and so does where one ends and the next begins."""

from __future__ import annotations

import pytest

from easyedit_personal.store.rows import checksum, undone_checksum
from easyedit_personal.store.schema import _digest

ROW = {
    "id": 7,
    "owner": b"owner",
    "token": b"token",
    "created": 1.5,
    "kernel": "lowrank",
    "settings": b"digest",
    "user": b"ann",
    "record": b"{}",
    "factors": b"\x00\x01",
    "live": 1,
}


@pytest.mark.parametrize("name", ROW)
def test_every_column_counts(name):
    value = ROW[name]
    other = value + b"!" if isinstance(value, bytes) else value + "!" if isinstance(value, str) else value - 1
    assert len(checksum(ROW)) == 16 and checksum({**ROW, name: other}) != checksum(ROW)


def test_what_moves_from_one_column_to_the_next_is_seen():
    assert checksum({**ROW, "user": b"an", "record": b"n{}"}) != checksum(ROW)


def test_an_undone_row_has_the_checksum_that_undoing_writes():
    assert checksum({**ROW, "live": 0}) == undone_checksum(checksum(ROW)) != checksum(ROW)


def test_checksums_are_those_of_the_first_release():
    """With others, nobody could read what they have stored."""
    assert checksum(ROW).hex() == "472b36cefb22a0c4233a8564644d1aaa"
    assert checksum({**ROW, "live": 0}).hex() == "11f77f9fdb80794698d3f5d98a244a3b"
    assert _digest("ab") == "fb8e20fc2e4c3f24"
