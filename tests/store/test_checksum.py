"""The checksum of a row: every column counts, and so does where one ends and the next begins."""

from __future__ import annotations

import pytest

from easyedit_personal.store.rows import checksum, undone_checksum

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
