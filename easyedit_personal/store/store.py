"""``EditStore``: every user's edits, kept, composed, undone and forgotten.

Each operation is one transaction. A user's id is only ever a bound parameter, and only ``edits.user`` holds it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from torch import nn

from ..errors import StoreError
from ..modeling.layout import fingerprint, tokenizer_fingerprint
from ..types import Preference, WeightDelta
from .database import Database
from .rows import (
    StoredEdit,
    check_key,
    check_user,
    checksum,
    owner_of,
    pack_factors,
    pack_record,
    pack_settings,
    token_of,
    unpack_edit,
    unpack_factors,
    unpack_record,
)
from .schema import clock, edits, meta, read_meta, settings, ticks, users

PAGE = 1000  # users that are read at a time


class EditStore:
    """The edits of all users of one base model; safe to share between threads, processes and after a fork.

    Open it with ``EditStore.open``; it is a context manager.
    """

    def __init__(self, database: Database, salt: bytes, base: Mapping[str, str]) -> None:
        self.database, self._salt, self.base = database, salt, dict(base)

    @classmethod
    def open(cls, url: str | Path, model: nn.Module | None = None, tokenizer: Any = None) -> EditStore:
        """Open a store, or make a new one.

        Args:
            url: a path or ``sqlite:///edits.db``, or ``postgresql://user@host/database``.
            model: the base model that the edits are made for; the first one to come binds the store to it.
            tokenizer: likewise.

        Raises:
            StoreError: damaged, of a newer release, or made with another base model or tokenizer.
        """
        given = {}
        if model is not None:
            given["model"] = fingerprint(model)
        if tokenizer is not None:
            given["tokenizer"] = tokenizer_fingerprint(tokenizer)
        database = Database(url)
        try:
            known = _bind(database, given)
        except BaseException:
            database.close()
            raise
        return cls(database, bytes.fromhex(known["salt"]), {k: known[k] for k in ("model", "tokenizer") if k in known})

    def put(
        self,
        user: str,
        deltas: Sequence[WeightDelta],
        *,
        preference: Preference | None = None,
        kernel: str = "",
        hparams: Mapping[str, Any] | None = None,
        health: Mapping[str, float] | None = None,
        key: str | None = None,
        dtype: str = "float32",
    ) -> int:
        """Keep an edit; on the disk when this returns.

        Args:
            user: any text of up to 1,024 bytes.
            deltas: the factors; several per matrix allowed.
            preference: what the user said; see ``preferences``.
            kernel: which one made the factors.
            hparams: kept once for all users, and not forgotten with them: nothing personal belongs in here.
            health: figures of the health panel.
            key: idempotency key; the same user and key again change nothing and return the first id, until
                the user is forgotten.
            dtype: float32 keeps every bit of float32 factors; bfloat16 takes half the room and rounds.

        Returns:
            The edit's id.

        Raises:
            StoreError: factors that cannot be kept (NaN, infinity, a huge rank), a bad id, or a failing database.
        """
        owner = owner_of(check_user(user), self._salt)
        token = None if check_key(key) is None else token_of(owner, str(key), self._salt)
        packed = pack_settings(hparams)
        row: dict[str, Any] = {
            "owner": owner,
            "live": 1,
            "token": token,
            "created": time.time(),
            "kernel": kernel,
            "settings": packed[0] if packed else None,
            "user": user,
            "record": pack_record(preference, health),
            "factors": pack_factors(deltas, fingerprint=self.base.get("model", ""), dtype=dtype),
        }
        with self.database.writing() as connection:
            tick = _touch(connection, owner)
            if token is not None:
                known = connection.scalar(select(edits.c.id).where(edits.c.token == token))
                if known is not None:
                    connection.rollback()
                    return int(known)
            if packed:
                statement = _insert(connection, settings).values(digest=packed[0], content=packed[1])
                connection.execute(statement.on_conflict_do_nothing())
            row["id"] = tick
            connection.execute(insert(edits).values(**row, checksum=checksum(row)))
        return tick

    def deltas(self, user: str) -> list[WeightDelta]:
        """All live edits composed exactly: one update per matrix, the factors side by side along the rank.

        Empty for an unknown user.

        Raises:
            StoreError: a factor is damaged.
        """
        owner = owner_of(check_user(user), self._salt)
        with self.database.reading() as connection:
            query = select(edits).where(edits.c.owner == owner, edits.c.live == 1).order_by(edits.c.id)
            rows = connection.execute(query).all()
        return composed([delta for row in rows for delta in unpack_factors(row)])

    def version(self, user: str) -> int:
        """A number that changes with every put, undo and forget of this user and never comes back; 0 if unknown."""
        owner = owner_of(check_user(user), self._salt)
        with self.database.reading() as connection:
            return int(connection.scalar(select(users.c.changed).where(users.c.owner == owner)) or 0)

    def preferences(self, user: str) -> list[Preference]:
        """What the user's live edits were made from, oldest first."""
        owner = owner_of(check_user(user), self._salt)
        query = select(edits.c.id, edits.c.record).where(edits.c.owner == owner, edits.c.live == 1)
        with self.database.reading() as connection:
            rows = connection.execute(query.order_by(edits.c.id)).all()
        return [preference for row in rows if (preference := unpack_record(row)[0]) is not None]

    def history(self, user: str) -> list[StoredEdit]:
        """All edits, live and undone, oldest first, without factors."""
        owner = owner_of(check_user(user), self._salt)
        with self.database.reading() as connection:
            return _history(connection, owner)

    def undo(self, user: str, edit_id: int | None = None, *, to_version: int | None = None) -> list[StoredEdit]:
        """Take edits back: the last live one, one by its id, or all that were put after ``to_version``.

        The factors of the others are not touched, so the model is bit for bit what it would be without the edit.

        Returns:
            What was undone, oldest first; empty if nothing was live, or if it was undone before.

        Raises:
            StoreError: the user has no such edit, or both an id and a version were given.
        """
        if edit_id is not None and to_version is not None:
            raise StoreError("Undo takes an edit or a version.", got=f"edit {edit_id} and version {to_version}")
        owner = owner_of(check_user(user), self._salt)
        with self.database.writing() as connection:
            _touch(connection, owner)
            known = _history(connection, owner)
            if edit_id is not None and edit_id not in {edit.id for edit in known}:
                raise StoreError(
                    f"User {user!r} has no edit {edit_id}.", needed=f"one of {[e.id for e in known]}" if known else None
                )
            live = [edit for edit in known if edit.live]
            if edit_id is not None:
                chosen = [edit for edit in live if edit.id == edit_id]
            elif to_version is not None:
                chosen = [edit for edit in live if edit.id > to_version]
            else:
                chosen = live[-1:]
            if not chosen:
                connection.rollback()
                return []
            connection.execute(update(edits).where(edits.c.id.in_([edit.id for edit in chosen])).values(live=0))
        return [replace(edit, live=False) for edit in chosen]

    def forget(self, user: str) -> int:
        """Remove every byte of a user, also from free pages and from the log.

        Returns:
            How many edits there were.
        """
        owner = owner_of(check_user(user), self._salt)
        with self.database.writing() as connection:
            count = connection.execute(delete(edits).where(edits.c.owner == owner)).rowcount
            connection.execute(delete(users).where(users.c.owner == owner))
        return count

    def users(self) -> Iterator[str]:
        """All users who have a history, in no particular order, read a thousand at a time."""
        last = b""
        while True:
            first = select(func.min(edits.c.id)).where(edits.c.owner > last).group_by(edits.c.owner)
            page = first.order_by(edits.c.owner).limit(PAGE)
            query = select(edits.c.owner, edits.c.user).where(edits.c.id.in_(page)).order_by(edits.c.owner)
            with self.database.reading() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            last = rows[-1].owner
            yield from (row.user for row in rows)

    def export_lora(self, user: str, folder: str | Path, **options: Any) -> Any:
        """Write the user's edits as a PEFT adapter; see ``store.lora.export_lora``."""
        from .lora import export_lora

        return export_lora(self.deltas(user), folder, **options)

    def close(self) -> None:
        """Give up all connections."""
        self.database.close()

    def __enter__(self) -> EditStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def composed(deltas: Sequence[WeightDelta]) -> list[WeightDelta]:
    """One update per matrix: left factors side by side, right ones below each other, so that updates add up exactly.

    Raises:
        StoreError: updates of one matrix have different shapes.
    """
    layers: dict[str, list[WeightDelta]] = defaultdict(list)
    for delta in deltas:
        layers[delta.layer].append(delta)
    result = []
    for layer, parts in layers.items():
        if len({part.shape for part in parts}) > 1:
            shapes = sorted({part.shape for part in parts})
            raise StoreError(f"Edits of {layer!r} do not fit together.", got=shapes, cause="made for different models")
        if len(parts) == 1:
            result.append(parts[0])
            continue
        left = torch.cat([part.left for part in parts], dim=1)
        result.append(WeightDelta(layer, left, torch.cat([part.right for part in parts], dim=0)))
    return result


def _bind(database: Database, given: Mapping[str, str]) -> dict[str, str]:
    """What the store knows about itself, after it has learned or compared the base model's fingerprints."""
    with database.reading() as connection:
        known = read_meta(connection)
    if given.keys() - known.keys():
        with database.writing() as connection:
            for name, value in given.items():
                connection.execute(_insert(connection, meta).values(name=name, value=value).on_conflict_do_nothing())
            known = read_meta(connection)
    for name, value in given.items():
        if known[name] != value:
            raise StoreError(
                f"{database} was made with another {'base model' if name == 'model' else name}.",
                got=f"{name} {value}",
                needed=f"{name} {known[name]}",
                remedy="load the one that it was made with, or open another store",
            )
    return known


def _touch(connection: Connection, owner: bytes) -> int:
    """Note a change of this user, and keep others from changing them until the transaction ends; returns its tick."""
    row = _insert(connection, users)
    if connection.dialect.name == "sqlite":
        tick = connection.scalar(update(clock).values(tick=clock.c.tick + 1).returning(clock.c.tick))
        row = row.values(owner=owner, changed=tick)
        connection.execute(row.on_conflict_do_update(index_elements=["owner"], set_={"changed": tick}))
        return int(tick)
    # On a conflict the tick is drawn once the row is locked, so that a user's ticks rise in the order of commits.
    row = row.values(owner=owner, changed=ticks.next_value())
    row = row.on_conflict_do_update(index_elements=["owner"], set_={"changed": ticks.next_value()})
    return int(connection.scalar(row.returning(users.c.changed)))


def _insert(connection: Connection, table: Any) -> Any:
    """INSERT with ON CONFLICT, which both databases know and SQLAlchemy spells per dialect."""
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def _history(connection: Connection, owner: bytes) -> list[StoredEdit]:
    columns = [column for column in edits.c if column.name != "factors"]
    nbytes = func.length(edits.c.factors).label("nbytes")
    query = select(*columns, nbytes, settings.c.content).outerjoin(settings).where(edits.c.owner == owner)
    return [unpack_edit(row) for row in connection.execute(query.order_by(edits.c.id))]
