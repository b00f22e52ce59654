"""Encryption at rest: each user's words and factors under a key of their own, which the store's key wraps.

The store's key never lies in the store; it comes from the environment. Who is forgotten loses their own key, so that
copies of their rows and objects elsewhere (a bucket's old versions, a replica) cannot be read any more.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import MissingDependencyError, StoreError

ENV = "EASYEDIT_PERSONAL_STORE_KEY"
KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16  # AES-256-GCM; NIST SP 800-38D recommends nonces of 96 bits
ID_BYTES = 8
WRAPPED_BYTES = ID_BYTES + NONCE_BYTES + KEY_BYTES + TAG_BYTES
VERSION = b"\x01"  # of what is encrypted below; never the first byte of a reference (blobs.MARK)
MAKE = "openssl rand -base64 32"


@dataclass(frozen=True, slots=True)
class UserKey:
    """One user's key.

    Attributes:
        owner: whose (``rows.owner_of``).
        secret: 32 random bytes.
        wrapped: the secret as the store keeps it.
        is_new: whether the store does not have it yet.
    """

    owner: bytes
    secret: bytes
    wrapped: bytes
    is_new: bool = False

    def is_wrapped_with(self, key_id: str) -> bool:
        """Whether the store's key of this id opens it."""
        return self.wrapped[:ID_BYTES].hex() == key_id

    def encrypt(self, data: bytes, field: str) -> bytes:
        """Bytes that only this key reads, and only as this field of this user."""
        return VERSION + _encrypted(self.secret, data, self.owner + field.encode())

    def decrypt(self, data: bytes, field: str) -> bytes:
        """What ``encrypt`` was given.

        Raises:
            StoreError: it was changed, or belongs to another user or field.
        """
        return _decrypted(self.secret, data.removeprefix(VERSION), self.owner + field.encode())


class Encryption:
    """The store's key, and older ones that some users' keys may still be wrapped with.

    Args:
        keys: 32 bytes each, the newest first.

    Raises:
        MissingDependencyError: the extra ``encryption`` is not installed.
        StoreError: a key has another length, or there is none.
    """

    def __init__(self, keys: Iterable[bytes]) -> None:
        _cipher(bytes(KEY_BYTES))
        self._keys = {_key_id(key): key for key in keys}
        if not self._keys or any(len(key) != KEY_BYTES for key in self._keys.values()):
            got = [len(key) for key in self._keys.values()]
            raise StoreError("The store's key cannot be used.", got=f"{got} bytes", needed=f"{KEY_BYTES} bytes")

    @classmethod
    def from_environment(cls) -> Encryption | None:
        """The keys that ``EASYEDIT_PERSONAL_STORE_KEY`` holds in base64, separated by commas; None where it is unset.

        Raises:
            StoreError: it holds something else. The message shows nothing of it.
        """
        text = os.environ.get(ENV, "").strip()
        if not text:
            return None
        parts = [part for part in re.split(r"[,\s]+", text) if part]
        try:
            keys = [base64.b64decode(part.translate(_URL_SAFE), validate=True) for part in parts]
        except (binascii.Error, ValueError):
            keys = []
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise StoreError(
                f"{ENV} holds no key.",
                got=f"{len(parts)} words of {[len(part) for part in parts]} characters",
                needed="32 bytes in base64; several keys are separated by commas, the newest first",
                remedy=f"make one with `{MAKE}`",
            )
        return cls(keys)

    @property
    def newest(self) -> str:
        """The id of the newest key, in hexadecimal."""
        return next(iter(self._keys))

    def new_key(self, owner: bytes, key_id: str) -> UserKey:
        """A key for a user who has none, wrapped with the store's key of this id."""
        secret = secrets.token_bytes(KEY_BYTES)
        return UserKey(owner, secret, self._wrapped(secret, owner, key_id), is_new=True)

    def user_key(self, owner: bytes, wrapped: bytes | None) -> UserKey:
        """A user's key from what the store keeps of it.

        Raises:
            StoreError: it is gone or damaged, or was wrapped with a key that is not here.
        """
        if wrapped is None:
            raise StoreError("A user's key is gone: what is left of them cannot be read.", remedy="forget the user")
        return UserKey(owner, self._unwrapped(wrapped, owner), wrapped)

    def rewrapped(self, owner: bytes, wrapped: bytes) -> bytes:
        """The same key of a user, wrapped with the newest key."""
        return self._wrapped(self._unwrapped(wrapped, owner), owner, self.newest)

    def wrap_salt(self, salt: bytes) -> str:
        """The store's salt as text: without the key, nobody can try ids against the digests in the store."""
        return base64.b64encode(self._wrapped(salt, b"salt", self.newest)).decode()

    def unwrap_salt(self, text: str) -> bytes:
        """The store's salt."""
        return self._unwrapped(base64.b64decode(text), b"salt")

    def _wrapped(self, secret: bytes, context: bytes, key_id: str) -> bytes:
        return bytes.fromhex(key_id) + _encrypted(self._key(key_id), secret, context)

    def _unwrapped(self, wrapped: bytes, context: bytes) -> bytes:
        return _decrypted(self._key(wrapped[:ID_BYTES].hex()), wrapped[ID_BYTES:], context)

    def _key(self, key_id: str) -> bytes:
        if key_id not in self._keys:
            raise StoreError(
                "The store is encrypted with another key.",
                got=f"the key {', '.join(self._keys)} (ids, not the keys)",
                needed=f"the key {key_id}",
                remedy=f"put that one into {ENV}; while keys are rotated, both: NEW,OLD",
            )
        return self._keys[key_id]


def check_encryption(known: Mapping[str, str], encryption: Encryption | None) -> bytes:
    """The store's salt, which only its key opens.

    Args:
        known: what the store knows of itself (``schema.read_meta``).
        encryption: the keys at hand.

    Raises:
        StoreError: a key is missing, is another one, or was given to a store that is not encrypted.
    """
    if "encryption" not in known:
        if encryption is not None:
            raise StoreError(
                "This store is not encrypted, and a key was given.",
                cause=f"it was made before {ENV} was set; what is put into it would lie there in clear",
                remedy=f"unset {ENV} to go on in clear, or move its users to a new store (SECURITY.md says how)",
            )
        return bytes.fromhex(known["salt"])
    if encryption is None:
        raise StoreError(
            "This store is encrypted, and no key was given.",
            needed=f"the key with the id {known['encryption']} in {ENV}",
            remedy=f"export {ENV}=... before the command",
        )
    return encryption.unwrap_salt(known["salt"])


def shared_key(salt: bytes) -> UserKey:
    """The key of what users of an encrypted store share: it follows from the salt, which only the store's key opens."""
    secret = hashlib.blake2b(b"shared factors", digest_size=KEY_BYTES, key=salt).digest()
    return UserKey(b"shared", secret, wrapped=b"")


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"easyedit-personal store key" + key).hexdigest()[: 2 * ID_BYTES]


_URL_SAFE = str.maketrans("-_", "+/")


def _encrypted(key: bytes, data: bytes, context: bytes) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + _cipher(key).encrypt(nonce, data, context)


def _decrypted(key: bytes, data: bytes, context: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        return _cipher(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], context)
    except (InvalidTag, ValueError):
        raise StoreError(
            "Something in the store cannot be decrypted.",
            cause="it was damaged, or put where it does not belong",
            remedy="run `store verify`, take the last backup",
        ) from None


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise MissingDependencyError(
            f"An encrypted store needs cryptography, and {ENV} is set.",
            remedy='pip install "easyedit-personal[encryption]"',
        ) from None
    return AESGCM(key)
