"""An edit on its way into the store: what a caller gives, and the row that it becomes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection

from ..types import Preference, WeightDelta
from .blobs import Blobs
from .encryption import UserKey
from .ids import check_key, token_of
from .queries import add_edit, add_setting
from .records import WORDS
from .rows import pack_factors, pack_record, pack_settings, sealed
from .shared import SharedFactors


@dataclass(frozen=True, slots=True)
class NewEdit:
    """An edit to keep; ``EditStore.put`` and ``StoredEdit`` explain the fields. In words, the kernel is ``WORDS``."""

    deltas: Sequence[WeightDelta] = ()
    preference: Preference | Sequence[Preference] | None = None
    kernel: str = ""
    hparams: Mapping[str, Any] | None = None
    health: Mapping[str, float] | None = None
    key: str | None = None
    dtype: str = "float32"
    why: str = ""
    instead: Sequence[int] = ()
    remade: bool = False

    @property
    def in_words(self) -> bool:
        """Whether there are no factors, on purpose."""
        return self.kernel == WORDS


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of ``edits`` but for its id, and the settings and shared factors that it names."""

    row: Mapping[str, Any]
    settings: tuple[bytes, str] | None
    shared: Mapping[bytes, bytes] = field(default_factory=dict)

    @property
    def token(self) -> bytes | None:
        """User and idempotency key as a digest."""
        return self.row["token"]


def pack(
    user: str,
    owner: bytes,
    new: NewEdit,
    *,
    salt: bytes,
    fingerprint: str,
    shared: SharedFactors,
    key: UserKey | None = None,
) -> Entry:
    """All that can be refused is refused here, before any transaction.

    Args:
        user, owner: whose edit, as text and as the digest of it (``ids.owner_of``).
        new: the edit.
        salt: the store's.
        fingerprint: of the base model; empty if the store is bound to none.
        shared: names the factors that many users share, and the store keeps once.
        key: the user's, in an encrypted store.

    Raises:
        StoreError: something in it cannot be kept.
    """
    token = None if check_key(new.key) is None else token_of(owner, str(new.key), salt)
    settings = pack_settings(new.hparams) if new.hparams else None
    names, elsewhere = shared.packed(new.deltas)
    row = {
        "owner": owner,
        "live": 1,
        "token": token,
        "created": time.time(),
        "kernel": new.kernel,
        "settings": settings[0] if settings else None,
        "user": user,
        "record": pack_record(user, new.preference, new.health, new.why, new.instead, new.remade),
        "factors": b""
        if new.in_words
        else pack_factors(new.deltas, fingerprint=fingerprint, dtype=new.dtype, names=names),
    }
    return Entry(sealed(row, key), settings, elsewhere)


def moved_out(entry: Entry, blobs: Blobs | None) -> Entry:
    """The entry whose row names its factors, which lie in ``blobs`` from now on; itself where there are none."""
    if blobs is None or not entry.row["factors"]:
        return entry
    return replace(entry, row={**entry.row, "factors": blobs.put(entry.row["owner"], entry.row["factors"])})


def add(connection: Connection, number: int, entry: Entry, known: set[bytes], shared: SharedFactors) -> None:
    """Insert it under this id, its settings unless their digest is among the known, and what it shares with others."""
    if entry.settings and entry.settings[0] not in known:
        add_setting(connection, entry.settings)
    add_edit(connection, {**entry.row, "id": number})
    shared.keep(connection, number, entry.shared)
