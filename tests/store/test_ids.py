"""Users' ids and idempotency keys: their limits hold to the byte, their digests differ per user and store."""

from __future__ import annotations

import pytest

from easyedit_personal.errors import StoreError
from easyedit_personal.store import ids


@pytest.mark.parametrize(("check", "limit"), [(ids.check_user, 1024), (ids.check_key, 1024)])
def test_ids_and_keys_are_as_long_as_is_said(check, limit):
    assert check("é" * (limit // 2)) and check("x")
    for text in ("x" * (limit + 1), "é" * (limit // 2) + "x", ""):
        with pytest.raises(StoreError, match="1 to 1,024 bytes") as caught:
            check(text)
        assert repr(text[:40]) in str(caught.value) and "x" * 41 not in str(caught.value)


def test_a_key_is_another_one_for_another_user_and_in_another_store():
    ann, ben = (ids.owner_of(name, b"salt") for name in ("ann", "ben"))
    tokens = {ids.token_of(ann, "k", b"salt"), ids.token_of(ben, "k", b"salt"), ids.token_of(ann, "k", b"other")}
    assert len(tokens) == 3 and all(len(one) == 16 for one in (*tokens, ann, ben))
    assert ids.owner_of("ann", b"other") != ann != ben
