"""Looking after a store: erase for good, count, copy, rewrite."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select, update

from ..errors import StoreError
from .blobs import BESIDE, HEAD, Blobs, is_reference, size_of
from .database import Database
from .encryption import WRAPPED_BYTES
from .job_queries import forget_jobs
from .queries import touch
from .records import WORDS
from .schema import edits, job_texts, jobs, merges, read_meta, user_keys, users
from .shared import SharedFactors

NOBODY = bytes(16)  # the owner of a forgotten key


def erase(database: Database, owner: bytes, blobs: Blobs | None, shared: SharedFactors) -> int:
    """Remove a user's rows so that no byte of them stays, and say how many there were.

    SQLite overwrites what is deleted with zeros. Yet when a deletion leaves a page nearly empty, it moves the
    neighbours' rows together and may leave a stale copy of one behind, which nothing overwrites when *that* is deleted
    (of 10,000 random deletions, 2 rows could still be read). So rows are emptied where they stand, and dropped by
    ``vacuum`` only; the space of their factors is free at once. Shared factors that nobody else refers to go, too.
    """
    with database.writing() as connection:
        touch(connection, owner)  # from here on, nobody else writes for this user
        mine = select(edits.c.id).where(edits.c.owner == owner)
        numbers = connection.scalars(mine).all()
        connection.execute(delete(merges).where(merges.c.edit.in_(mine)))
        count = connection.execute(_emptied(database, owner)).rowcount
        connection.execute(delete(users).where(users.c.owner == owner))
        connection.execute(_without_key(database, owner))
        forget_jobs(connection, owner)
        if blobs is not None:
            blobs.forget(owner)
        shared.drop(connection, numbers)
    if database.is_sqlite:
        with database.outside() as raw:
            busy = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise StoreError(
                "The user is gone from the database, but not from its log.",
                cause="somebody has been reading for longer than we waited",
                remedy="call forget again when they are done",
            )
    return count


def vacuum(database: Database, blobs: Blobs | None) -> None:
    """Rewrite the database without its empty places; nobody can write meanwhile.

    Factors outside of the database that no row names, and that are older than an hour, are removed.

    On SQLite also the last traces of forgotten users go: the number and kernel of their edits, salted digests in pages
    of an index. On PostgreSQL this is what takes forgotten users out of its files: VACUUM FULL.
    """
    with database.writing() as connection:
        connection.execute(delete(edits).where(edits.c.owner == b""))
        connection.execute(delete(user_keys).where(user_keys.c.owner == NOBODY))
        for table in (jobs, job_texts):
            connection.execute(delete(table).where(table.c.owner == b""))
    with database.outside() as raw:
        if database.is_sqlite:
            raw.execute("VACUUM")
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            raw.execute("VACUUM FULL")
    for owner in blobs.owners() if blobs else ():
        with database.reading() as connection:
            named = set(connection.scalars(select(edits.c.factors).where(edits.c.owner == owner)))
        blobs.sweep(owner, {one for one in named if is_reference(one)})  # type: ignore[union-attr]


def stats(database: Database, shared: SharedFactors) -> dict[str, Any]:
    """Counts, bytes, and what the store is bound to."""
    size = func.length(edits.c.factors)
    counted = select(func.count(), func.coalesce(func.sum(edits.c.live), 0), func.coalesce(func.sum(size), 0))
    with database.reading() as connection:
        known = read_meta(connection)
        total, live, nbytes = connection.execute(counted.where(edits.c.owner != b"")).one()
        found = {
            "users": connection.scalar(select(func.count()).select_from(users)),
            "edits": total,
            "live": int(live),
            "words": connection.scalar(select(func.count()).where(edits.c.kernel == WORDS, edits.c.owner != b"")),
            "merged": connection.scalar(select(func.count()).select_from(merges)),
            "factor_bytes": int(nbytes),
        }
        found |= shared.totals(connection)
        if "factors" in known:
            heads = connection.execute(select(func.substr(edits.c.factors, 1, HEAD), size).where(edits.c.owner != b""))
            found["factor_bytes"] = sum(size_of(head, length) for head, length in heads)
    found["file_bytes"] = _file_bytes(database)
    names = ("schema", "model_name", "model", "tokenizer", "factors", "encryption")
    return {**found, **{name: known.get(name) for name in names}}


def backup(database: Database, path: Path, blobs: Blobs | None) -> int:
    """Write a consistent copy while others go on; returns its size in bytes.

    Factors outside of the database are copied into a folder beside it, ``<path>.factors``; the two belong together.

    Raises:
        StoreError: the path is taken, cannot be written, or the store is PostgreSQL's.
    """
    if not database.is_sqlite:
        raise StoreError("PostgreSQL has its own tools for backups.", got=str(database), remedy="use pg_dump")
    if path.exists():
        raise StoreError("The backup would overwrite a file.", got=str(path), remedy="name a new one")
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with database.reading() as connection:
            connection.connection.driver_connection.execute("VACUUM INTO ?", (str(part),)).close()  # type: ignore[union-attr]
        if blobs is not None:
            _copy_factors(part, blobs, Blobs(f"{path}.factors"))
        descriptor = os.open(part, os.O_RDWR)
        os.fsync(descriptor)
        os.close(descriptor)
        part.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}") from None
    finally:
        part.unlink(missing_ok=True)
    return path.stat().st_size


def _copy_factors(copy: Path, source: Blobs, target: Blobs) -> None:
    """Every object that the copied database names; from then on it looks for them beside itself."""
    connection = sqlite3.connect(copy)
    try:
        for owner, factors in connection.execute("SELECT owner, factors FROM edits"):
            if is_reference(factors):
                source.copy_to(target, owner, factors)
        connection.execute("UPDATE meta SET value = ? WHERE name = 'factors'", (BESIDE,))
        connection.commit()
    finally:
        connection.close()


def _emptied(database: Database, owner: bytes) -> Any:
    if not database.is_sqlite:
        return delete(edits).where(edits.c.owner == owner)
    nothing = dict.fromkeys(("owner", "checksum", "record", "factors"), b"")
    blank = update(edits).where(edits.c.owner == owner)
    return blank.values(**nothing, live=0, token=None, created=0.0, settings=None, user="")


def _without_key(database: Database, owner: bytes) -> Any:
    """SQLite writes a row of the same length over the old one, in its place."""
    mine = user_keys.c.owner == owner
    if not database.is_sqlite:
        return delete(user_keys).where(mine)
    return update(user_keys).where(mine).values(owner=NOBODY, wrapped=bytes(WRAPPED_BYTES))


def _file_bytes(database: Database) -> int:
    """Bytes on the disk, the log included."""
    if database.is_sqlite:
        files = (database.beside(suffix) for suffix in ("", "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())
    with database.reading() as connection:
        return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())
