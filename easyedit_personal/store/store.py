"""``EditStore``: every user's edits, kept, composed, undone and forgotten.

What only reads is inherited from ``reader``; what changes a user's edits is a transaction of ``writer``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from torch import nn

from ..errors import StoreError
from ..modeling.catalog import model_label
from ..modeling.layout import fingerprint, tokenizer_fingerprint
from ..modeling.wrappers import unwrapped
from ..types import Preference, WeightDelta
from . import key_rotation, maintenance, verify
from .blobs import Blobs
from .compact import CompactReport
from .database import Database
from .encryption import Encryption
from .entries import NewEdit
from .jobs import JobQueue
from .queries import bind
from .reader import StoreReader
from .records import StoredEdit
from .retry import again
from .verify import Fault
from .writer import Writer


class EditStore(StoreReader):
    """The edits of all users of one base model; safe to share between threads and processes, also after a fork.

    ``with EditStore.open("edits.db", model, tokenizer) as store: store.put("alice", result.deltas)``

    Attributes:
        base: fingerprints of the base model and tokenizer that the store is bound to, empty before there were any.
        jobs: what is to be learned.
    """

    def __init__(
        self,
        database: Database,
        model: nn.Module | None,
        known: Mapping[str, str],
        encryption: Encryption | None = None,
    ) -> None:
        super().__init__(database, known, encryption)
        self._model, self.jobs = model, JobQueue(database, self._salt, encryption)
        made_for = self.base.get("model", "")
        self._writer = Writer(database, self._blobs, encryption, self._salt, made_for, model)

    @classmethod
    def open(
        cls,
        url: str | Path,
        model: nn.Module | None = None,
        tokenizer: Any = None,
        *,
        factors: str | None = None,
        encryption: Encryption | None = None,
    ) -> EditStore:
        """Open a store, or make a new one.

        Args:
            url: a path or ``sqlite:///edits.db``, or ``postgresql://user@host/database``.
            model: the base model that the edits are made for, unedited; the first one to come binds the store to it.
                With it, factors that do not fit are refused by ``put``.
            tokenizer: likewise; its chat template counts.
            factors: where to keep factors instead of in the database, for fsspec: ``s3://bucket/prefix``, a folder. The
                store remembers it.
            encryption: the store's key; that of ``EASYEDIT_PERSONAL_STORE_KEY`` if not given. A new store is encrypted
                where there is one.

        Raises:
            StoreError: damaged, of a newer release, made with another base model or tokenizer, or the key is not the
                store's. Nothing of any user has been read or written then.
        """
        encryption = encryption or Encryption.from_environment()
        given: dict[str, str] = {}
        if model is not None:
            model = unwrapped(model)
            given |= {"model": fingerprint(model), "model_name": model_label(model)}
        if tokenizer is not None:
            given["tokenizer"] = tokenizer_fingerprint(tokenizer)
        if factors is not None:
            given["factors"] = Blobs(factors).url
        database = Database(url, encryption)
        try:
            return cls(database, model, bind(database, given), encryption)
        except BaseException:
            database.close()
            raise

    @again
    def put(
        self,
        user: str,
        deltas: Sequence[WeightDelta],
        *,
        preference: Preference | Sequence[Preference] | None = None,
        kernel: str = "",
        hparams: Mapping[str, Any] | None = None,
        health: Mapping[str, float] | None = None,
        key: str | None = None,
        dtype: str = "float32",
        why: str = "",
        instead: Sequence[int] = (),
        version: int | None = None,
        kept: Callable[[Connection, int], None] | None = None,
    ) -> int:
        """Keep an edit; it is on the disk when this returns.

        Args:
            user: any text of 1 to 1,024 bytes in UTF-8; compared byte by byte.
            deltas: the factors; several per matrix allowed. Those that are ``shared`` are kept once for all users who
                have them, and go with the last of them. None with the kernel ``WORDS``: the preference is then
                kept in words, see ``words``.
            preference: what the user said, or several such that were learned together; see ``preferences``.
            kernel: which one made the factors.
            hparams: kept once for all users, and not forgotten with them: nothing personal belongs in here.
            health: figures of the health panel.
            key: idempotency key; with the same user and key again nothing happens and the first id comes back, until
                the user is forgotten.
            dtype: float32 keeps every bit of float32 factors, in half the space where bfloat16 holds them exactly;
                bfloat16 rounds. Shared factors are kept as they are.
            why: it is kept in weights or in words, said to people.
            instead: live edits that are undone in the same transaction; an undo of the new one brings them back.
            version: what ``version(user)`` was when the factors were made; None takes any.
            kept: is called inside the transaction with the edit's id, to write what belongs to it; not for a key that
                was known. What it raises leaves nothing behind.

        Returns:
            The edit's id.

        Raises:
            StoreOvertaken: the user's edits have changed since ``version``.
            StoreError: a bad id, factors that cannot be kept (NaN, infinity, a huge rank), or a failing database.
            ModelError: the factors do not fit the model that the store was opened with.
        """
        new = NewEdit(deltas, preference, kernel, hparams, health, key, dtype, why, instead)
        return self._writer.put(user, self._owner(user), new, version=version, kept=kept)

    @again
    def supersede(
        self,
        user: str,
        version: int,
        since: int,
        new: Sequence[NewEdit],
        *,
        kept: Callable[[Connection, int], None] | None = None,
    ) -> list[int]:
        """Undo edits and put others in their place in one transaction: all of it is on the disk, or nothing.

        Args:
            user: whose edits.
            version: what ``version(user)`` was when the new ones were made.
            since: what is live with an id from here on is undone.
            new: what comes instead, in this order; without idempotency keys.
            kept: as in ``put``, with the id of the last one.

        Returns:
            The ids of the new edits.

        Raises:
            StoreOvertaken, StoreError: see ``put``.
        """
        return self._writer.supersede(user, self._owner(user), version, since, new, kept)

    @again
    def undo(self, user: str, edit_id: int | None = None, *, to_version: int | None = None) -> list[StoredEdit]:
        """Take edits back: the last live one, one by its id, or all that were put after ``to_version``.

        The factors of the others are not touched, so the model is bit for bit what it would be without the edit.
        What gave way to it (``instead``) is live again, unless a later value overrules that. What was undone stays so,
        also where ``to_version`` is from before its undo.

        Returns:
            What was undone, oldest first; empty if nothing was live, or if it was undone before.

        Raises:
            StoreError: the user has no such edit, it was merged by ``compact``, or both arguments were given.
        """
        if edit_id is not None and to_version is not None:
            raise StoreError("Undo takes an edit or a version.", got=f"edit {edit_id} and version {to_version}")
        return self._writer.undo(user, self._owner(user), edit_id, to_version)

    @again
    def forget(self, user: str) -> int:
        """Remove every byte of a user: rows, free pages and the log; backups are not reached.

        On PostgreSQL the bytes leave the server's files with ``vacuum``, and its log as the server recycles it.

        Returns:
            How many edits there were.

        Raises:
            StoreError: a reader has kept the log busy for half a minute; call again.
        """
        return maintenance.erase(self._database, self._owner(user), self._blobs, self._shared)

    @again
    def compact(self, user: str, rank: int, *, max_error: float | None = None) -> CompactReport:
        """Replace a user's live edits by one of at most ``rank`` per matrix (SVD of their sum).

        From then on they can only be undone together; history and preferences keep all of them.

        Args:
            user: whose edits.
            rank: the budget per matrix.
            max_error: refuse if any matrix's relative error is larger.

        Raises:
            StoreError: the error is larger than allowed, or the user's edits keep changing meanwhile.
        """
        return self._writer.compact(user, self._owner(user), rank, max_error)

    def stats(self) -> dict[str, Any]:
        """Users, edits (live, merged), bytes, and what the store is bound to.

        ``factor_bytes`` are users' own; ``shared_bytes`` belong to all, and are in the file once.
        """
        return maintenance.stats(self._database, self._shared)

    def verify(self) -> list[Fault]:
        """Read everything once and report what is damaged; empty if nothing is."""
        return verify.verify(self._database, self._salt, self._blobs, self._encryption, self._shared)

    def backup(self, path: str | Path) -> int:
        """Write a consistent copy while others go on, and return its size; PostgreSQL has its own tools."""
        return maintenance.backup(self._database, Path(path), self._blobs)

    def vacuum(self) -> None:
        """Rewrite the database without its empty places; nobody can write meanwhile."""
        maintenance.vacuum(self._database, self._blobs)

    def rotate_key(self) -> int:
        """Wrap all users' keys with the newest of the store's keys, and return their number.

        Give every process both keys first, ``NEW,OLD``; once this is done, the old one may go.
        """
        return key_rotation.rotate(self._database, self._encryption)

    def export_all(self, user: str, folder: str | Path) -> Path:
        """Write everything that is held about a user, live and undone; see ``personal_export.export_all``."""
        from .personal_export import export_all

        owner, place = self._owner(user), Path(folder)
        return export_all(
            self._database, owner, place, blobs=self._blobs, encryption=self._encryption, shared=self._shared
        )

    def export_lora(self, user: str, folder: str | Path, **options: Any) -> Path:
        """Write the user's live edits as a PEFT adapter; see ``store.lora.export_lora``."""
        from .lora import export_lora

        return export_lora(self.deltas(user), folder, **{"model": self._model, "name": user, **options})

    def close(self) -> None:
        """Give up all connections."""
        self._database.close()

    def __enter__(self) -> EditStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
