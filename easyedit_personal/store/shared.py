"""Factors that the edits of many users refer to, kept once: a kind's gate, which is the same for every user of a model.

They hold nothing that anybody said (``WeightDelta.shared``). Who refers to them cannot be told without the store's
salt, which an encrypted store keeps encrypted. With the last reference they are removed, in the same transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice

from safetensors.torch import load, save
from sqlalchemy import Connection, delete, exists, func, insert, select

from ..errors import StoreError
from ..types import WeightDelta, as_kept, from_kept
from .database import insert_into
from .encryption import Encryption, shared_key
from .factors import Lookup
from .schema import references, shared_factors

MANY = 1000  # edits that one statement asks for

_digest, _content = shared_factors.c.digest, shared_factors.c.content
_unused = ~exists().where(references.c.digest == _digest)


class SharedFactors:
    """The shared factors of one store. Each is named by a salted digest of what it holds.

    Args:
        salt: the store's.
        encryption: its key, where it has one. Shared factors are encrypted under a key that is no user's: whoever is
            forgotten takes nothing from others.
    """

    def __init__(self, salt: bytes, encryption: Encryption | None) -> None:
        self._salt, self._key = salt, None if encryption is None else shared_key(salt)

    def packed(self, deltas: Sequence[WeightDelta]) -> tuple[dict[int, str], dict[bytes, bytes]]:
        """What those that are shared are called, by their place among ``deltas``; and their rows, by digest."""
        plain = {place: _to_bytes(delta) for place, delta in enumerate(deltas) if delta.shared}
        digests = {place: self._digest(data) for place, data in plain.items()}
        rows = {digest: self._encrypted(digest, plain[place]) for place, digest in digests.items()}
        return {place: digest.hex() for place, digest in digests.items()}, rows

    def keep(self, connection: Connection, edit: int, rows: Mapping[bytes, bytes]) -> None:
        """Note that an edit refers to these, and insert those that are not there."""
        if not rows:
            return
        # Should somebody be removing one, the reference to it fails, and the whole is done again (``retry.again``).
        there = set(connection.scalars(select(_digest).where(_digest.in_(sorted(rows)))))
        for digest in sorted(rows.keys() - there):
            row = insert_into(connection, shared_factors).values(digest=digest, content=rows[digest])
            connection.execute(row.on_conflict_do_nothing())
        ticket = self._ticket(edit)
        connection.execute(insert(references), [{"ticket": ticket, "digest": digest} for digest in sorted(rows)])

    def drop(self, connection: Connection, edits: Iterable[int]) -> None:
        """Remove the references of edits, and what nobody refers to any more; the last step of a transaction."""
        gone: set[bytes] = set()
        for tickets in self._tickets(edits):
            mine = references.c.ticket.in_(tickets)
            gone |= set(connection.scalars(select(references.c.digest).where(mine)))
            connection.execute(delete(references).where(mine))
        if not gone:
            return
        these = _digest.in_(sorted(gone))
        # Locked first: of two who drop the last two references at once, neither would see that the other's goes too.
        connection.execute(select(_digest).where(these).order_by(_digest).with_for_update()).all()
        connection.execute(delete(shared_factors).where(these, _unused))

    def read(self, connection: Connection, edits: Iterable[int]) -> Lookup:
        """What finds the shared factors of edits by name; to be called in the transaction that reads the edits.

        What it returns raises ``StoreError`` for factors that are missing or damaged.
        """
        found: dict[str, bytes] = {}
        for tickets in self._tickets(edits):
            mine = select(references.c.digest).where(references.c.ticket.in_(tickets))
            rows = connection.execute(select(shared_factors).where(_digest.in_(mine)))
            found |= {row.digest.hex(): row.content for row in rows}

        @cache
        def lookup(name: str) -> WeightDelta:
            if name not in found:
                raise _broken("missing", "they are not in the database")
            return self._opened(bytes.fromhex(name), found[name])

        return lookup

    def sizes(self, connection: Connection, edits: Iterable[int]) -> dict[int, int]:
        """Bytes of the shared factors that each edit refers to."""
        numbers = {self._ticket(edit): edit for edit in edits}
        size = select(references.c.ticket, func.sum(func.length(_content)))
        size = size.join(shared_factors, _digest == references.c.digest).group_by(references.c.ticket)
        found: dict[int, int] = {}
        for tickets in self._tickets(numbers.values()):
            rows = connection.execute(size.where(references.c.ticket.in_(tickets)))
            found |= {numbers[ticket]: int(nbytes) for ticket, nbytes in rows}
        return found

    def totals(self, connection: Connection) -> dict[str, int]:
        """How many there are, and their bytes."""
        size = func.coalesce(func.sum(func.length(_content)), 0)
        count, nbytes = connection.execute(select(func.count(_digest), size)).one()
        return {"shared": count, "shared_bytes": int(nbytes)}

    def faults(self, connection: Connection, edits: Iterable[int]) -> Iterator[str]:
        """What is wrong with them and with the references to them.

        Args:
            edits: all of the store's, in the transaction of ``connection``.
        """
        for digest in connection.scalars(select(_digest).order_by(_digest)).all():
            try:
                self._opened(digest, connection.execute(select(_content).where(_digest == digest)).scalar_one())
            except StoreError as error:
                yield error.what
        count = select(func.count()).select_from(references)
        lost = connection.scalar(count) or 0
        for tickets in self._tickets(edits):
            lost -= connection.scalar(count.where(references.c.ticket.in_(tickets))) or 0
        if lost:
            yield f"{lost} references to shared factors belong to no edit"
        if unused := connection.scalar(select(func.count()).select_from(shared_factors).where(_unused)):
            yield f"{unused} shared factors belong to no edit"

    def _encrypted(self, digest: bytes, data: bytes) -> bytes:
        return data if self._key is None else self._key.encrypt(data, digest.hex())

    def _opened(self, digest: bytes, content: bytes) -> WeightDelta:
        data = bytes(content) if self._key is None else self._key.decrypt(bytes(content), digest.hex())
        if self._digest(data) != digest:
            raise _broken("damaged", "another digest than their name")
        return _from_bytes(data)

    def _digest(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=16, key=self._salt, person=b"factors").digest()

    def _ticket(self, edit: int) -> bytes:
        """What stands for an edit in the references."""
        number = edit.to_bytes(8, "little")
        return hashlib.blake2b(number, digest_size=16, key=self._salt, person=b"edit").digest()

    def _tickets(self, edits: Iterable[int]) -> Iterator[list[bytes]]:
        tickets = map(self._ticket, edits)
        while some := list(islice(tickets, MANY)):
            yield some


def _broken(how: str, got: str) -> StoreError:
    return StoreError(
        f"Factors that edits of many users share are {how}.",
        got=got,
        cause="the disk or the memory has flipped a bit, or somebody has written into the database",
        remedy="take the last backup, or undo the edits that `store verify` names and personalise again",
    )


def _to_bytes(delta: WeightDelta) -> bytes:
    """Safetensors without a header's words, whose order is drawn at random: equal factors give equal bytes."""
    sides = {f"{delta.layer}/left": delta.left, f"{delta.layer}/right": delta.right}
    parts = {name + part: t for name, side in sides.items() for part, t in as_kept(side.detach().to("cpu")).items()}
    return save({name: tensor.clone().contiguous() for name, tensor in parts.items()})


def _from_bytes(data: bytes) -> WeightDelta:
    tensors = load(data)
    layer = next(iter(tensors)).rpartition("/")[0]
    left, right = (from_kept(tensors, f"{layer}/{side}") for side in ("left", "right"))
    return WeightDelta(layer, left, right, shared=True)
