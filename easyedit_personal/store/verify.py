"""Reading all of a store once, to say what is damaged: checksums, factors, preferences, and what belongs together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from ..errors import ModelError, StoreError
from .blobs import Blobs
from .database import Database
from .encryption import Encryption
from .factors import Lookup, nowhere
from .ids import owner_of
from .job_rows import read_jobs
from .queries import with_keys
from .records import WORDS
from .rows import unpack_factors, unpack_record, user_in
from .schema import edits, jobs, merges, users
from .shared import SharedFactors

ROWS = 100  # rows with factors that are held in memory at a time
PAGE = 1000  # ids likewise


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that ``verify`` found: the edit's id and user where it is one edit, and what is wrong."""

    what: str
    edit: int | None = None
    user: str | None = None


def verify(
    database: Database, salt: bytes, blobs: Blobs | None, encryption: Encryption | None, shared: SharedFactors
) -> list[Fault]:
    """Read everything once and report what is damaged; memory stays flat.

    Looks at the database's own structure (SQLite), every checksum, every factor (also for NaN and infinity), every
    preference, and whether edits, users and shared factors belong together.
    """
    faults = [Fault(what) for what in _structure(database)]
    try:
        faults += _lost(database, encryption)
        for row, lookup in _walk(database, shared):
            faults += [row] if isinstance(row, Fault) else _row_faults(row, salt, blobs, encryption, lookup)
        faults += _job_faults(database, salt, encryption)
        with database.reading() as connection:
            faults += [Fault(what) for what in shared.faults(connection, _numbers(connection))]
    except StoreError as error:
        faults.append(Fault(error.what))
    return faults


def _structure(database: Database) -> Iterator[str]:
    """What SQLite says of its own file."""
    if not database.is_sqlite:
        return
    try:
        with database.outside() as raw:
            lines = [row[0] for row in raw.execute("PRAGMA integrity_check").fetchall()]
    except StoreError as error:
        lines = [error.what]
    yield from (line for line in lines if line != "ok")


def _lost(database: Database, encryption: Encryption | None) -> list[Fault]:
    """Edits without their user or the reverse."""
    with database.reading() as connection:
        missing = with_keys(select(edits.c.id, edits.c.owner, edits.c.user)).outerjoin(
            users, users.c.owner == edits.c.owner
        )
        orphans = connection.execute(missing.where(edits.c.owner != b"", users.c.owner.is_(None))).all()
        empty = select(func.count()).select_from(users).where(users.c.owner.not_in(select(edits.c.owner)))
        count = connection.scalar(empty)
    faults = [Fault("its user is missing in the list of users", row.id, _user(row, encryption)) for row in orphans]
    return faults + ([Fault(f"{count} users have no edits")] if count else [])


def _walk(database: Database, shared: SharedFactors) -> Iterator[tuple[Any, Lookup]]:
    """All rows with what finds their shared factors, a hundred at a time.

    Where those cannot be read, one by one with a fault for each that fails.
    """
    last = -1
    while True:
        numbers = select(edits.c.id).where(edits.c.id > last, edits.c.owner != b"").order_by(edits.c.id).limit(ROWS)
        with database.reading() as connection:
            ids = list(connection.scalars(numbers))
        if not ids:
            return
        last = ids[-1]
        try:
            with database.reading() as connection:
                found = _rows(connection, ids, shared)
        except StoreError:
            yield from _one_by_one(database, ids, shared)
        else:
            yield from found


def _rows(connection: Connection, ids: list[int], shared: SharedFactors) -> list[tuple[Any, Lookup]]:
    query = with_keys(select(edits, merges.c.target)).outerjoin(merges, merges.c.edit == edits.c.id)
    rows = connection.execute(query.where(edits.c.id.in_(ids)).order_by(edits.c.id)).all()
    lookup = shared.read(connection, ids)
    return [(row, lookup) for row in rows]


def _one_by_one(database: Database, ids: list[int], shared: SharedFactors) -> Iterator[tuple[Any, Lookup]]:
    for number in ids:
        try:
            with database.reading() as connection:
                rows = _rows(connection, [number], shared)
        except StoreError as error:
            yield Fault(error.what, number), nowhere
        else:
            yield from rows


def _numbers(connection: Connection) -> Iterator[int]:
    """The ids of all edits, in pages."""
    last = -1
    while page := connection.scalars(
        select(edits.c.id).where(edits.c.id > last, edits.c.owner != b"").order_by(edits.c.id).limit(PAGE)
    ).all():
        yield from page
        last = page[-1]


def _row_faults(
    row: Any, salt: bytes, blobs: Blobs | None, encryption: Encryption | None, shared: Lookup
) -> Iterator[Fault]:
    user = _user(row, encryption)
    try:
        deltas = unpack_factors(row, blobs, encryption, shared)
        unpack_record(row, encryption)
    except (StoreError, ModelError) as error:
        yield Fault(error.what, row.id, user)
        return
    if not deltas and row.target is None and row.kernel != WORDS:
        yield Fault("its factors are missing", row.id, user)
    if user is None or owner_of(user, salt) != row.owner:
        yield Fault("it is kept under another user", row.id, user)


def _job_faults(database: Database, salt: bytes, encryption: Encryption | None) -> list[Fault]:
    """Jobs whose texts are missing, damaged or somebody else's."""
    faults = []
    with database.reading() as connection:
        rows = connection.execute(select(jobs.c.id, jobs.c.owner).where(jobs.c.owner != b"")).all()
        for row in rows:
            try:
                found = read_jobs(connection, jobs.c.id == row.id, encryption)
            except StoreError as error:
                faults.append(Fault(error.what))
                continue
            if found and owner_of(found[0].user, salt) != row.owner:  # else forgotten meanwhile
                faults.append(Fault(f"job {row.id} is kept under another user", user=found[0].user))
    return faults


def _user(row: Any, encryption: Encryption | None) -> str | None:
    """The row's user, where that can be read."""
    try:
        return user_in(row, encryption)
    except StoreError:
        return None
