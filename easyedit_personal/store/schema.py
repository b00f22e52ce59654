"""The store's tables, their version, and how an older store is brought up to date.

One row per edit. What tells one user from another stands in ``edits`` and ``job_texts`` alone; the other tables hold
numbers, salted digests, and what many users share: settings and factors.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    Table,
    Text,
    insert,
    inspect,
    select,
    update,
)

from ..errors import StoreError
from .encryption import Encryption, check_encryption

SCHEMA = 5

tables = MetaData()

# SQLite numbers its rows itself only where the column is exactly INTEGER; PostgreSQL's would end at 2^31.
Number = BigInteger().with_variant(Integer, "sqlite")

meta = Table(
    "meta",
    tables,
    Column("name", Text, primary_key=True),  # schema, salt, model, tokenizer, factors, encryption (its key's id)
    Column("value", Text, nullable=False),
)
# Every change of any user gets the next number. It names edits, and tells caches that a user has changed.
ticks = Sequence("ticks", metadata=tables)
clock = Table("clock", tables, Column("tick", Number, nullable=False))  # SQLite has no sequences
users = Table(
    "users",
    tables,
    Column("owner", LargeBinary, primary_key=True),  # salted digest of the user's id
    Column("changed", Number, nullable=False),  # the tick of the user's last change
    sqlite_with_rowid=False,
)
settings = Table(
    "settings",
    tables,
    Column("digest", LargeBinary, primary_key=True),
    Column("content", Text, nullable=False),  # JSON: the hyper-parameters of an edit
    sqlite_with_rowid=False,
)
edits = Table(
    "edits",
    tables,
    Column("id", Number, primary_key=True, autoincrement=False),  # the tick at which it was put
    Column("owner", LargeBinary, nullable=False, index=True),  # empty: forgotten, see maintenance.erase
    Column("live", SmallInteger, nullable=False),  # 1 live, 0 undone
    Column("token", LargeBinary, unique=True),  # salted digest of user and idempotency key
    Column("created", Double, nullable=False),  # seconds since 1970
    Column("kernel", Text, nullable=False),  # "words": no edit, but something that is kept in words
    Column("settings", ForeignKey("settings.digest")),
    Column("checksum", LargeBinary, nullable=False),  # see rows.checksum
    Column("user", Text, nullable=False),
    Column("record", LargeBinary, nullable=False),  # preference and health figures: JSON, deflated
    Column("factors", LargeBinary, nullable=False),  # safetensors; empty: merged into another edit, or words
)
shared_factors = Table(
    "shared_factors",
    tables,
    Column("digest", LargeBinary, primary_key=True),  # salted, of the content before it is encrypted
    Column("content", LargeBinary, nullable=False),  # safetensors of one update, see shared.py
    sqlite_with_rowid=False,
)
references = Table(
    "shared_references",
    tables,
    Column("ticket", LargeBinary, primary_key=True),  # salted digest of an edit's number
    Column("digest", ForeignKey("shared_factors.digest"), primary_key=True, index=True),
    sqlite_with_rowid=False,
)
user_keys = Table(
    "user_keys",
    tables,
    Column("id", Number, primary_key=True, autoincrement=False),  # a tick; rows are only ever added at the end
    Column("owner", LargeBinary, nullable=False, index=True),  # zeros: forgotten, as ``wrapped``
    Column("wrapped", LargeBinary, nullable=False),  # the user's key, see encryption.py
)
merges = Table(
    "merges",
    tables,
    Column("edit", ForeignKey("edits.id"), primary_key=True, autoincrement=False),
    Column("target", Number, nullable=False, index=True),  # the edit that holds its factors since `compact`
)
jobs = Table(
    "jobs",
    tables,
    Column("id", Number, primary_key=True, autoincrement=False),  # a tick
    Column("owner", LargeBinary, nullable=False, index=True),  # empty: forgotten or expired, see jobs.empty
    Column("token", LargeBinary, unique=True),  # as in edits
    Column("status", Text, nullable=False, index=True),  # see job_rows
    Column("created", Double, nullable=False),  # this and the other times: seconds since 1970
    Column("begun", Double),
    Column("ended", Double, index=True),
    Column("lease", Double),  # until when its learner has it; later, it is anybody's
    Column("holder", LargeBinary),  # random, anew at each claim: a learner that was away too long is known by it
    Column("attempts", Integer, nullable=False),  # claims that have not ended in good order
    Column("progress", Double, nullable=False),
    Column("eta", Double),  # seconds
)
job_texts = Table(
    "job_texts",
    tables,
    Column("id", Number, primary_key=True, autoincrement=False),  # a tick; rows are only ever added at the end
    Column("job", Number, nullable=False, index=True),
    Column("owner", LargeBinary, nullable=False, index=True),
    Column("kind", Text, nullable=False),  # request, report (one per edit), error
    Column("wrapped", LargeBinary),  # the row's own key, see encryption.py; NULL in a store in clear
    Column("content", LargeBinary, nullable=False),  # JSON, deflated
)


def _add_merges(connection: Connection) -> None:
    """Schema 1 could not compact."""
    merges.create(connection)


def _add_user_keys(connection: Connection) -> None:
    """Schema 2 could not encrypt."""
    user_keys.create(connection)


def _add_jobs(connection: Connection) -> None:
    """Schema 3 had no queue, and no rows without factors but merged ones: its releases take others for damaged."""
    for table in (jobs, job_texts):
        table.create(connection)


def _add_shared_factors(connection: Connection) -> None:
    """Schema 4 kept all of an edit's factors in its row; those edits stay as they are."""
    for table in (shared_factors, references):
        table.create(connection)


# From version n to n + 1; each runs in the transaction that also writes the new number.
MIGRATIONS: dict[int, Callable[[Connection], None]] = {
    1: _add_merges,
    2: _add_user_keys,
    3: _add_jobs,
    4: _add_shared_factors,
}


def prepare(connection: Connection, encryption: Encryption | None = None) -> None:
    """Make the tables of a new store, or bring those of an older one up to date.

    Args:
        connection: inside a transaction.
        encryption: the store's key; a new store is encrypted where there is one.

    Raises:
        StoreError: the database belongs to somebody else, or to a newer release, or the key is not the store's.
    """
    found = set(inspect(connection).get_table_names())
    if "meta" not in found:
        if found:
            raise StoreError("This database is no store of ours.", got=sorted(found), remedy="name an empty one")
        tables.create_all(connection)
        connection.execute(insert(clock).values(tick=0))
        salt = secrets.token_bytes(16)
        rows = salt_rows(salt.hex()) if encryption is None else encrypted_salt_rows(salt, encryption)
        for name, value in {"schema": str(SCHEMA), **rows}.items():
            connection.execute(insert(meta).values(name=name, value=value))
        return
    known = read_meta(connection)
    check_encryption(known, encryption)
    for step in range(int(known["schema"]), SCHEMA):
        MIGRATIONS[step](connection)
        connection.execute(update(meta).where(meta.c.name == "schema").values(value=str(step + 1)))


def read_meta(connection: Connection) -> dict[str, str]:
    """Schema version, salt and the base model's fingerprints.

    Raises:
        StoreError: damaged, or of a newer release. With another salt, nobody would find their edits.
    """
    known = {str(row.name): str(row.value) for row in connection.execute(select(meta.c.name, meta.c.value))}
    version = known.get("schema", "")
    if version.isdecimal() and int(version) > SCHEMA:
        raise StoreError(
            "This store was written by a newer release.",
            got=f"schema {version}",
            needed=f"schema {SCHEMA} or older",
            remedy="upgrade easyedit-personal",
        )
    if version not in map(str, range(1, SCHEMA + 1)) or known.get("salt_digest") != _digest(known.get("salt", "")):
        raise StoreError("What the store knows of itself is damaged.", remedy="take the last backup")
    return known


def salt_rows(salt: str) -> dict[str, str]:
    """What ``meta`` says of the salt, in clear or wrapped."""
    return {"salt": salt, "salt_digest": _digest(salt)}


def encrypted_salt_rows(salt: bytes, encryption: Encryption) -> dict[str, str]:
    """What ``meta`` says of an encrypted store."""
    return {**salt_rows(encryption.wrap_salt(salt)), "encryption": encryption.newest}


def _digest(salt: str) -> str:
    return hashlib.sha256(salt.encode()).hexdigest()[:16]
