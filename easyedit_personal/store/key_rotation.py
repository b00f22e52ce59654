"""A new key for an encrypted store: every user's and job's key is wrapped anew, nothing that it encrypts is touched.

With the old key destroyed, all earlier copies of users' keys (backups, logs of the database) open nothing any more.
"""

from __future__ import annotations

from sqlalchemy import bindparam, select, update

from ..errors import StoreError
from .database import Database
from .encryption import Encryption, check_encryption
from .maintenance import NOBODY
from .schema import encrypted_salt_rows, job_texts, meta, read_meta, user_keys


def rotate(database: Database, encryption: Encryption | None) -> int:
    """Wrap all users' keys with the newest key, in one transaction; returns how many.

    Raises:
        StoreError: the store is not encrypted, or a key that it needs is not here. Nothing is changed then.
    """
    if encryption is None:
        raise StoreError("This store is not encrypted: there is no key to rotate.")
    with database.writing() as connection:
        # First of all: writers of new keys wait for this row, or we for them (queries.keep_user_key).
        mine = meta.c.name == "encryption"
        connection.execute(update(meta).where(mine).values(value=encryption.newest))
        salt = check_encryption(read_meta(connection), encryption)
        for name, value in encrypted_salt_rows(salt, encryption).items():
            connection.execute(update(meta).where(meta.c.name == name).values(value=value))
        rows = connection.execute(select(user_keys).where(user_keys.c.owner != NOBODY)).all()
        anew = [{"row": row.id, "anew": encryption.rewrapped(row.owner, row.wrapped)} for row in rows]
        if anew:
            change = update(user_keys).where(user_keys.c.id == bindparam("row")).values(wrapped=bindparam("anew"))
            connection.execute(change, anew)
        for row in connection.execute(select(job_texts).where(job_texts.c.wrapped.is_not(None))).all():
            again = encryption.rewrapped(row.owner, row.wrapped)
            connection.execute(update(job_texts).where(job_texts.c.id == row.id).values(wrapped=again))
    return len(anew)
