"""Users' ids and idempotency keys: what may be one, and the salted digests that stand for them in every index."""

from __future__ import annotations

import hashlib

from ..errors import StoreError

USER_BYTES = 1024
KEY_BYTES = 1024


def check_user(user: str) -> str:
    """Any text may name a user, up to 1,024 bytes of UTF-8; two ids are one user only if they are equal byte by byte.

    Raises:
        StoreError: empty, too long, not text, or not storable.
    """
    return _check_text("A user's id", user, USER_BYTES)


def check_key(key: str | None) -> str | None:
    """An idempotency key obeys the rules of a user's id."""
    return None if key is None else _check_text("An idempotency key", key, KEY_BYTES)


def owner_of(user: str, salt: bytes) -> bytes:
    """The user's id as 16 bytes that say nothing about it: fit for an index, whatever the id looks like."""
    return hashlib.blake2b(user.encode(), digest_size=16, key=salt).digest()


def token_of(owner: bytes, key: str, salt: bytes) -> bytes:
    """User and idempotency key as 16 bytes."""
    return hashlib.blake2b(owner + key.encode(), digest_size=16, key=salt).digest()


def _check_text(what: str, text: str, limit: int) -> str:
    if not isinstance(text, str):
        raise StoreError(f"{what} must be text.", got=type(text).__name__)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise StoreError(f"{what} is not valid Unicode.", got=text, cause="half of a surrogate pair") from None
    if not 0 < size <= limit or "\0" in text:
        raise StoreError(
            f"{what} cannot be used.",
            got=f"{size:,} bytes: {text[:40]!r}",
            needed=f"1 to {limit:,} bytes of UTF-8, without the character NUL",
            remedy="use a digest of it",
        )
    return text
