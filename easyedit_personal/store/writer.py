"""The transactions of ``EditStore`` that change a user's edits: put, supersede, undo, compact.

Objects (``Blobs``) are no part of a transaction: they are written before it, and removed where it is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sqlalchemy import Connection, select
from torch import nn

from ..errors import JobLost, StoreConflict, StoreError, StoreOvertaken
from ..kernels.apply import check_fit
from . import compact
from .blobs import Blobs
from .compact import CompactReport
from .database import Database
from .encryption import Encryption, UserKey
from .entries import Entry, NewEdit, add, moved_out, pack
from .queries import (
    check_version,
    find_token,
    find_user_key,
    keep_user_key,
    live_edits,
    lock_version,
    mark_live,
    mark_undone,
    read_history,
    touch,
)
from .records import StoredEdit, to_give_back, to_undo
from .rows import unpack_factors
from .schema import edits
from .shared import SharedFactors

Kept = Callable[[Connection, int], None]
TRIES = 5  # of compact, when the user's edits change meanwhile


@dataclass(frozen=True, slots=True)
class Batch:
    """Edits of one user, ready to be kept together.

    Attributes:
        owner: the user's digest.
        key: the user's key in an encrypted store; a new one is kept with the edits.
        entries: the rows; where factors are kept outside of the database, they only name them.
        whole: the same rows with their factors.
    """

    owner: bytes
    key: UserKey | None
    entries: Sequence[Entry]
    whole: Sequence[Entry]


class Writer:
    """Changes the edits of one store's users, whom it knows by name and by digest (``ids.owner_of``).

    Args:
        database, blobs, encryption, salt: the store's.
        fingerprint: of the base model; empty if the store is bound to none.
        model: factors have to fit it, where there is one.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs | None,
        encryption: Encryption | None,
        salt: bytes,
        fingerprint: str,
        model: nn.Module | None,
    ) -> None:
        self._database, self._blobs, self._encryption, self._salt = database, blobs, encryption, salt
        self._fingerprint, self._model = fingerprint, model
        self._shared = SharedFactors(salt, encryption)
        self._settings: set[bytes] = set()  # digests of those that are in the store for sure

    def put(
        self,
        user: str,
        owner: bytes,
        new: NewEdit,
        *,
        version: int | None,
        kept: Kept | None,
    ) -> int:
        """Add an edit; ``EditStore.put`` explains the arguments."""
        batch = self._pack(user, owner, [new])
        token = batch.entries[0].token
        with self._writing(batch) as connection:
            before = None if version is None else lock_version(connection, owner)
            number = touch(connection, owner)
            if token is not None and (known := find_token(connection, token)) is not None:
                connection.rollback()
                self._drop(batch)
                return known
            check_version(user, before, version)
            if new.instead:
                live = select(edits.c.id).where(edits.c.owner == owner, edits.c.live == 1)
                mark_undone(connection, list(connection.scalars(live.where(edits.c.id.in_(new.instead)))))
            self._add(connection, batch, [number])
            if kept is not None:
                kept(connection, number)
        self._added(batch)
        return number

    def supersede(
        self, user: str, owner: bytes, version: int, since: int, new: Sequence[NewEdit], kept: Kept | None
    ) -> list[int]:
        """Put edits in the place of others; ``EditStore.supersede`` explains the arguments."""
        batch = self._pack(user, owner, new)
        with self._writing(batch) as connection:
            check_version(user, lock_version(connection, owner), version)
            touch(connection, owner)
            known = read_history(connection, owner, self._encryption, self._shared)
            old = to_undo(user, known, None, since - 1)
            mark_undone(connection, [edit.id for edit in old])
            numbers = [touch(connection, owner) for _ in new]
            self._add(connection, batch, numbers)
            if kept is not None and numbers:
                kept(connection, numbers[-1])
        self._added(batch)
        return numbers

    def undo(self, user: str, owner: bytes, edit_id: int | None, to_version: int | None) -> list[StoredEdit]:
        """Take edits back; ``EditStore.undo`` explains the arguments."""
        with self._database.writing() as connection:
            touch(connection, owner)
            known = read_history(connection, owner, self._encryption, self._shared)
            chosen = to_undo(user, known, edit_id, to_version)
            if not chosen:
                connection.rollback()
                return []
            back, with_them = to_give_back(known, chosen, to_version)
            mark_undone(connection, [edit.id for edit in (*chosen, *with_them)])
            mark_live(connection, [edit.id for edit in back])
        return [replace(edit, live=False) for edit in chosen]

    def compact(self, user: str, owner: bytes, rank: int, max_error: float | None) -> CompactReport:
        """Merge a user's live edits; ``EditStore.compact`` explains the arguments."""
        compact.check_budget(rank)
        for _ in range(TRIES):
            with self._database.reading() as connection:
                rows = connection.execute(live_edits(owner)).all()
                shared = self._shared.read(connection, [row.id for row in rows])
            parts = [part for row in rows for part in unpack_factors(row, self._blobs, self._encryption, shared)]
            plan = compact.planned(user, rows, parts, rank, self._fingerprint, self._shared, self._encryption)
            compact.check_error(plan.report, rank, max_error)
            if plan.factors is None:
                return plan.report
            if self._blobs is not None:
                plan = replace(plan, factors=self._blobs.put(owner, plan.factors))
            with self._database.writing() as connection:
                tick = touch(connection, owner)
                merged = {row.id for row in connection.execute(live_edits(owner))} == {row.id for row in rows}
                if merged:
                    compact.merge(connection, tick, rows, plan, self._shared)
                else:
                    connection.rollback()
            self._remove(owner, [row.factors for row in rows] if merged else [plan.factors or b""])
            if merged:
                return replace(plan.report, edit=tick)
        raise StoreError(f"The edits of user {user!r} keep changing.", remedy="compact again in a quieter moment")

    def _pack(self, user: str, owner: bytes, new: Sequence[NewEdit]) -> Batch:
        """Everything that can be refused is refused here; objects are written.

        Raises:
            StoreError: something cannot be kept.
            ModelError: factors do not fit the model.
        """
        key = self._key(owner)
        whole = [self._packed(user, owner, one, key) for one in new]
        return Batch(owner, key, [moved_out(one, self._blobs) for one in whole], whole)

    @contextmanager
    def _writing(self, batch: Batch) -> Iterator[Connection]:
        """A transaction for the batch; its objects are removed where others have changed what it was made for."""
        try:
            with self._database.writing() as connection:
                yield connection
        except (StoreOvertaken, JobLost):
            self._drop(batch)
            raise

    def _add(self, connection: Connection, batch: Batch, numbers: Sequence[int]) -> None:
        """Insert the batch under these ids, with the user's key and objects that were swept away since ``_pack``.

        Only while the user is locked.

        Raises:
            StoreConflict: the batch is encrypted with a key that is not the user's any more.
        """
        if not numbers:
            return
        try:
            if batch.key is not None:
                keep_user_key(connection, numbers[0], batch.key)
        except StoreConflict:
            self._drop(batch)
            raise
        for number, entry, whole in zip(numbers, batch.entries, batch.whole, strict=True):
            if self._blobs is not None and entry.row["factors"]:
                self._blobs.keep(batch.owner, entry.row["factors"], whole.row["factors"])
            add(connection, number, entry, self._settings, self._shared)

    def _added(self, batch: Batch) -> None:
        """Note that the batch is on the disk: its settings need not be written again."""
        self._settings |= {entry.settings[0] for entry in batch.entries if entry.settings}

    def _drop(self, batch: Batch) -> None:
        """Remove the objects of a batch that was not kept."""
        self._remove(batch.owner, [entry.row["factors"] for entry in batch.entries])

    def _remove(self, owner: bytes, factors: Sequence[bytes]) -> None:
        """Remove objects that no row names, now that the transaction has ended."""
        if self._blobs is not None:
            self._blobs.remove(owner, list(factors))

    def _key(self, owner: bytes) -> UserKey | None:
        """The user's key, or a new one that is not kept yet; None in a store without encryption."""
        if self._encryption is None:
            return None
        with self._database.reading() as connection:
            return find_user_key(connection, owner, self._encryption)

    def _packed(self, user: str, owner: bytes, new: NewEdit, key: UserKey | None) -> Entry:
        if self._model is not None:
            check_fit(self._model, new.deltas)
        return pack(user, owner, new, salt=self._salt, fingerprint=self._fingerprint, shared=self._shared, key=key)
