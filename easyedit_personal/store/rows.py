"""From records to rows and back: what an edit is in the database, and how damage to it is noticed."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import torch

from ..errors import ModelError, StoreError
from ..types import Preference, WeightDelta
from .blobs import Blobs, is_reference, size_of
from .encryption import Encryption, UserKey
from .factors import Lookup, factors_from_bytes, factors_to_bytes, nowhere
from .records import StoredEdit

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
RECORD_BYTES = 2**20
EDIT_BYTES = 512 * 2**20  # SQLite ends at 1 GB

# What most records share; deflating against it saves 60 bytes of each. Part of the format: never to be changed.
COMMON = (
    b" favorite favourite , I love I prefer I am My work job hobby food music sport name live in do you think would "
    b"say is it the Could you tell me what Do you know which Do you remember Can you remind me of Which is mine? How "
    b"would I describe Tell me who Where does When someone asks about my What do I What should I Who is my Where is "
    b'my Which is my {"health":{"norm":0.,"perplexity":1.,"perplexity_ratio":1.0},"preference":{"subject":"",'
    b'"question":"What is my ?","target":"","user":null,"text":"","phrases":[["","What\'s my '
)


def check_dtype(dtype: str) -> str:
    """The types in which factors can be kept.

    Raises:
        StoreError: it is none of them.
    """
    if dtype not in DTYPES:
        raise StoreError("Factors cannot be kept in this type.", got=dtype, needed=" or ".join(DTYPES))
    return dtype


def pack_factors(
    deltas: Sequence[WeightDelta], *, fingerprint: str, dtype: str, names: Mapping[int, str] | None = None
) -> bytes:
    """The factors as safetensors bytes.

    Args:
        names: what those are called that are kept elsewhere, by their place; see ``shared``.

    Raises:
        StoreError: none at all, NaN or infinity (also after rounding to ``dtype``), or a rank beyond the matrix.
    """
    check_dtype(dtype)
    if not deltas:
        raise StoreError("There is nothing to keep.", got="no factors", cause="the edit changed no matrix")
    try:
        rounded = [delta if delta.shared else delta.to(DTYPES[dtype]) for delta in deltas]
    except ModelError as error:
        raise StoreError(f"The factors cannot be kept.\n{error}") from None
    for delta in rounded:
        if delta.rank > min(delta.shape):
            raise StoreError(
                f"The factors of {delta.layer!r} have a rank beyond the matrix's own.",
                got=f"rank {delta.rank} of a matrix of {delta.shape[0]} x {delta.shape[1]}",
                needed=f"{min(delta.shape)} or less",
                remedy="WeightDelta.dense(layer, delta.update()) is the same update, smaller",
            )
    data = factors_to_bytes(rounded, fingerprint=fingerprint, dtype=DTYPES[dtype], names=names)
    if len(data) > EDIT_BYTES:
        raise StoreError(
            "The factors are too large for one edit.", got=f"{len(data):,} bytes", needed=f"{EDIT_BYTES:,}"
        )
    return data


def pack_record(
    user: str,
    preference: Preference | Sequence[Preference] | None,
    health: Mapping[str, float] | None,
    why: str = "",
    instead: Sequence[int] = (),
    remade: bool = False,
) -> bytes:
    """Preferences, health figures, why they are kept where they are, and what gave way to them, deflated.

    Nine phrases take 300 bytes.

    Raises:
        StoreError: something in them is neither text nor a number.
    """
    record: dict[str, Any] = {}
    try:
        if health:
            record["health"] = {name: float(value) for name, value in health.items()}
        if why:
            record["why"] = why
        if instead:
            record |= {"instead": [int(number) for number in instead], "remade": remade}
        if isinstance(preference, Preference):
            record["preference"] = _fields(user, preference)
        elif preference is not None:
            record["preferences"] = [_fields(user, one) for one in preference]
        plain = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError) as error:
        raise StoreError(f"The preference or the health figures cannot be kept: {error}") from None
    if len(plain) > RECORD_BYTES:
        raise StoreError("The preference is too long.", got=f"{len(plain):,} bytes", needed=f"{RECORD_BYTES:,} at most")
    deflater = zlib.compressobj(9, zlib.DEFLATED, zdict=COMMON)
    return deflater.compress(plain) + deflater.flush()


def _fields(user: str, preference: Preference) -> dict[str, Any]:
    fields = asdict(preference)
    if preference.user == user:
        del fields["user"]  # it stands in the row
    return fields


def pack_settings(hparams: Mapping[str, Any]) -> tuple[bytes, str]:
    """Hyper-parameters as JSON and their digest; the same ones are kept once for all users."""
    content = json.dumps(dict(hparams), sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).digest()[:8], content


def sealed(row: Mapping[str, Any], key: UserKey | None) -> dict[str, Any]:
    """The row with its words and factors encrypted; as it is in a store without encryption.

    No factors stay none: that a row has none is no secret, its kernel says so.
    """
    if key is None:
        return dict(row)
    user = base64.b64encode(key.encrypt(row["user"].encode(), "user")).decode()
    cipher = {name: key.encrypt(row[name], name) for name in ("record", "factors") if row[name]}
    return {**row, "user": user, **cipher}


def user_in(row: Any, encryption: Encryption | None) -> str:
    """The id of a row's user.

    Raises:
        StoreError: it cannot be decrypted.
    """
    if encryption is None:
        return str(row.user)
    data = base64.b64decode(row.user.encode("utf-8", "replace"))
    return encryption.user_key(row.owner, row.wrapped).decrypt(data, "user").decode()


def checksum(row: Mapping[str, Any]) -> bytes:
    """16 bytes of the SHA-256 of all of a row, ``live`` included: a flipped bit must not revive what was undone."""
    digest = hashlib.sha256()
    for name in ("id", "owner", "token", "created", "kernel", "settings", "user", "record", "factors"):
        value = row[name]
        data = value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    live = digest.digest()[:16]
    return live if row["live"] == 1 else undone_checksum(live)


def undone_checksum(live: bytes) -> bytes:
    """The checksum of a row after its undo, from the one before: undoing a damaged edit does not mend its checksum."""
    return hashlib.sha256(live + b"undone").digest()[:16]


def check_row(row: Any, encryption: Encryption | None = None) -> None:
    """Refuse a row of ``edits`` that is not as it was written.

    Raises:
        StoreError: a bit has flipped somewhere.
    """
    if checksum(row._asdict()) != row.checksum:
        whose = f" of user {row.user!r}" if encryption is None else ""
        raise StoreError(
            f"Edit {row.id}{whose} is damaged.",
            got="another checksum than the one that was stored",
            cause="the disk or the memory has flipped a bit, or somebody has written into the database",
            remedy="take the last backup, or undo this edit and personalise again",
        )


def unpack_factors(
    row: Any, blobs: Blobs | None, encryption: Encryption | None = None, shared: Lookup = nowhere
) -> list[WeightDelta]:
    """A row's factors; none where they were merged into another edit, or were never any.

    The row's checksum is looked at first. Where the row only names them, they come from ``blobs``; those that many
    users share come from ``shared``.

    Raises:
        StoreError: they are missing or damaged.
    """
    data = _own_factors(row, blobs, encryption)
    return factors_from_bytes(data, elsewhere=shared)[0] if data else []


def factors_file(row: Any, blobs: Blobs | None, encryption: Encryption | None, shared: Lookup) -> bytes:
    """As ``unpack_factors``, as a file that needs no store to be read; empty where there are none."""
    data = _own_factors(row, blobs, encryption)
    deltas, header = factors_from_bytes(data, elsewhere=shared) if data else ([], {})
    return factors_to_bytes(deltas, fingerprint=header["fingerprint"]) if "elsewhere" in header else data


def _own_factors(row: Any, blobs: Blobs | None, encryption: Encryption | None) -> bytes:
    check_row(row, encryption)
    data = row.factors
    if is_reference(data):
        if blobs is None:
            raise StoreError(f"The factors of edit {row.id} lie elsewhere, and this store does not know where.")
        data = blobs.get(row.owner, data)
    if data and encryption is not None:
        data = encryption.user_key(row.owner, row.wrapped).decrypt(data, "factors")
    return bytes(data)


def unpack_edit(row: Any, encryption: Encryption | None = None, shared_bytes: int = 0) -> StoredEdit:
    """A row joined with its settings and merges, and with ``nbytes`` and ``head`` instead of the factors.

    Raises:
        StoreError: damaged; only ``check_row`` notices everything, though.
    """
    preferences, record = _unpacked(row, encryption)
    try:
        created = datetime.fromtimestamp(row.created, UTC)
        hparams = json.loads(row.content) if row.content else {}
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise _damaged(row, error) from None
    return StoredEdit(
        id=row.id,
        user=user_in(row, encryption),
        created=created,
        live=row.live == 1,
        preference=preferences[0] if preferences else None,
        kernel=row.kernel,
        hparams=hparams,
        health=record.get("health", {}),
        nbytes=size_of(row.head, row.nbytes),
        merged=row.target,
        preferences=preferences,
        why=str(record.get("why", "")),
        instead=tuple(record.get("instead", ())),
        remade=bool(record.get("remade", False)),
        shared_bytes=shared_bytes,
    )


def unpack_record(row: Any, encryption: Encryption | None = None) -> tuple[tuple[Preference, ...], dict[str, float]]:
    """A row's preferences and health figures.

    Raises:
        StoreError: damaged.
    """
    preferences, record = _unpacked(row, encryption)
    return preferences, record.get("health", {})


def _unpacked(row: Any, encryption: Encryption | None) -> tuple[tuple[Preference, ...], dict[str, Any]]:
    user, data = user_in(row, encryption), row.record
    if encryption is not None:
        data = encryption.user_key(row.owner, row.wrapped).decrypt(data, "record")
    try:
        inflater = zlib.decompressobj(zdict=COMMON)
        record = json.loads((inflater.decompress(data) + inflater.flush()).decode("utf-8", "surrogatepass"))
        said = [record["preference"]] if record.get("preference") else record.get("preferences", [])
        found = ({"user": user, **fields, "phrases": tuple(map(tuple, fields["phrases"]))} for fields in said)
        return tuple(Preference(**fields) for fields in found), record
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(row, error) from None


def _damaged(row: Any, error: Exception) -> StoreError:
    return StoreError(
        f"What edit {row.id} says is damaged: {error!r}", remedy="run `store verify`, take the last backup"
    )
