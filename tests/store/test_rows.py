"""Rows: what older releases wrote stays readable, limits hold to the byte, damage is an error of ours."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from easyedit_personal.errors import StoreError
from easyedit_personal.store import rows
from easyedit_personal.store.factors import factors_to_bytes
from easyedit_personal.types import Preference
from tests.store.samples import edit

# What the first release wrote for SAID and {"norm": 0.5}; if this cannot be read any more, neither can anybody's store.
RECORD = bytes.fromhex(
    "78f92736b0f5c3e65a533cee0027009c8e01cba2b8282d3127393faf08a405bb6b6006229c04352436b6b616006a7c34ad"
)
SAID = Preference("hobby", "What is my hobby?", "falconry", "ann", "", (("hobby", "What's my hobby?"),))


def text_of(size: int) -> Preference:
    """A preference whose record is so many bytes of UTF-8 long, most of them in letters of three bytes."""
    import json

    empty = len(json.dumps({"preference": rows._fields("ann", Preference("s", "q", "", "ann"))}, separators=(",", ":")))
    return Preference("s", "q", "隼" * ((size - empty) // 3) + "x" * ((size - empty) % 3), "ann")


def row(**given):
    return SimpleNamespace(**{"id": 7, "user": "ann", "record": RECORD, "content": "{}", "created": 1.5, **given})


def test_a_record_of_the_first_release_is_read():
    assert rows.unpack_record(row()) == ((SAID,), {"norm": 0.5})
    assert rows.unpack_record(row(record=rows.pack_record("ann", SAID, {"norm": 0.5}))) == ((SAID,), {"norm": 0.5})


def test_settings_have_the_digest_of_the_first_release_in_any_order():
    digest, content = rows.pack_settings({"lr": 0.5, "layers": [3]})
    assert (digest.hex(), content) == ("5068e56addc65ca2", '{"layers": [3], "lr": 0.5}')
    assert rows.pack_settings({"layers": [3], "lr": 0.5}) == (digest, content)


def test_a_record_is_as_long_as_is_said_whatever_its_letters():
    assert rows.unpack_record(row(record=rows.pack_record("ann", text_of(2**20), None)))[0] == (text_of(2**20),)
    with pytest.raises(StoreError, match="too long") as caught:
        rows.pack_record("ann", text_of(2**20 + 1), None)
    assert "1,048,577 bytes" in str(caught.value) and "1,048,576" in str(caught.value)


def test_an_edit_is_as_large_as_is_said_and_as_sqlite_can_keep(monkeypatch):
    assert rows.EDIT_BYTES == 2**29 < 10**9
    size = len(factors_to_bytes(edit("a"), fingerprint="f"))
    monkeypatch.setattr(rows, "EDIT_BYTES", size)
    assert len(rows.pack_factors(edit("a"), fingerprint="f", dtype="float32")) == size
    monkeypatch.setattr(rows, "EDIT_BYTES", size - 1)
    with pytest.raises(StoreError, match="too large for one edit"):
        rows.pack_factors(edit("a"), fingerprint="f", dtype="float32")


def test_a_rank_may_be_the_matrixs_own_and_no_more():
    full = edit("a", rank=24)
    assert rows.pack_factors(full, fingerprint="", dtype="float32")
    with pytest.raises(StoreError, match="rank beyond"):
        rows.pack_factors(edit("a", rank=25), fingerprint="", dtype="float32")


DAMAGE = [
    *({"created": value} for value in ("soon", float("nan"), 1e300, float("inf"))),
    *({"content": value} for value in ("{", b"\xff\xfe\xff", 7)),
    *({"record": value} for value in (b"", RECORD[:-9], b"\0" + RECORD, 7)),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_what_is_damaged_is_an_error_of_ours(damage):
    with pytest.raises(StoreError, match="What edit 7 says is damaged"):
        rows.unpack_edit(row(**damage))


def test_factors_that_lie_elsewhere_need_a_place(monkeypatch):
    from easyedit_personal.store.blobs import MARK

    monkeypatch.setattr(rows, "check_row", lambda row, encryption: None)
    with pytest.raises(StoreError, match="edit 7 lie elsewhere"):
        rows.unpack_factors(row(factors=MARK + bytes(60)), None)
    assert rows.unpack_factors(row(factors=b""), None) == []
