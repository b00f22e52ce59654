"""``EditStore``: every user's edits, kept, composed, undone and forgotten.

Each operation is one transaction. A user's id is only ever a bound parameter, and only ``edits.user`` holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select
from torch import nn

from ..errors import JobLost, StoreConflict, StoreError, StoreOvertaken
from ..kernels.apply import check_fit
from ..modeling.catalog import model_label
from ..modeling.layout import fingerprint, tokenizer_fingerprint
from ..modeling.wrappers import unwrapped
from ..statements.memory import current
from ..types import Preference, WeightDelta
from . import compact, key_rotation, maintenance
from .blobs import BESIDE, BlobMissing, Blobs
from .compact import CompactReport
from .database import Database
from .encryption import Encryption, UserKey, check_encryption
from .entries import Entry, NewEdit, add, moved_out, pack
from .jobs import JobQueue
from .maintenance import Fault
from .queries import (
    believed_records,
    bind,
    check_version,
    find_token,
    find_user_key,
    keep_user_key,
    live_edits,
    lock_version,
    mark_undone,
    read_history,
    touch,
    with_keys,
)
from .retry import again
from .rows import (
    StoredEdit,
    Where,
    check_key,
    check_user,
    owner_of,
    token_of,
    unpack_factors,
    unpack_record,
    user_in,
    where_of,
)
from .schema import edits, users

PAGE = 1000  # users that are read at a time
TRIES = 5  # of compact, when the user's edits change meanwhile


class EditStore:
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
        self._database, self._model, self._encryption = database, model, encryption
        self._salt = check_encryption(known, encryption)
        self.jobs = JobQueue(database, self._salt, encryption)
        self._settings: set[bytes] = set()  # digests of those that are in the store for sure
        self.base = {name: known[name] for name in ("model", "tokenizer") if name in known}
        beside = known.get("factors") == BESIDE and database.path is not None
        place = f"{database.path}.factors" if beside else known.get("factors")
        self._blobs = Blobs(place) if place else None

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
            deltas: the factors; several per matrix allowed. None with the kernel ``WORDS``: the preference is then
                kept in words, see ``words``.
            preference: what the user said, or several such that were learned together; see ``preferences``.
            kernel: which one made the factors.
            hparams: kept once for all users, and not forgotten with them: nothing personal belongs in here.
            health: figures of the health panel.
            key: idempotency key; with the same user and key again nothing happens and the first id comes back, until
                the user is forgotten.
            dtype: float32 keeps every bit of float32 factors; bfloat16 takes half the room and rounds.
            why: it is kept in weights or in words, said to people.
            instead: live edits that are undone in the same transaction.
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
        new = NewEdit(deltas, preference, kernel, hparams, health, key, dtype, why)
        owner = self._owner(user)
        key_of_user = self._key(owner)
        packed = self._pack(user, owner, new, key_of_user)
        entry = moved_out(packed, self._blobs)
        try:
            with self._database.writing() as connection:
                before = None if version is None else lock_version(connection, owner)
                number = touch(connection, owner)
                if entry.token is not None and (known := find_token(connection, entry.token)) is not None:
                    connection.rollback()
                    self._drop(owner, [entry.row["factors"]])
                    return known
                check_version(user, before, version)
                self._keep(connection, number, key_of_user, [entry], [packed])
                if instead:
                    live = select(edits.c.id).where(edits.c.owner == owner, edits.c.live == 1)
                    mark_undone(connection, list(connection.scalars(live.where(edits.c.id.in_(instead)))))
                add(connection, number, entry, self._settings)
                if kept is not None:
                    kept(connection, number)
        except (StoreOvertaken, JobLost):
            self._drop(owner, [entry.row["factors"]])
            raise
        self._know([entry])
        return number

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
        owner = self._owner(user)
        key = self._key(owner)
        packed = [self._pack(user, owner, one, key) for one in new]
        entries = [moved_out(one, self._blobs) for one in packed]
        try:
            with self._database.writing() as connection:
                check_version(user, lock_version(connection, owner), version)
                touch(connection, owner)
                old = _chosen(user, read_history(connection, owner, self._encryption), None, since - 1)
                mark_undone(connection, [edit.id for edit in old])
                numbers = [touch(connection, owner) for _ in entries]
                if numbers:
                    self._keep(connection, numbers[0], key, entries, packed)
                for number, entry in zip(numbers, entries):
                    add(connection, number, entry, self._settings)
                if kept is not None and numbers:
                    kept(connection, numbers[-1])
        except (StoreOvertaken, JobLost):
            self._drop(owner, [entry.row["factors"] for entry in entries])
            raise
        self._know(entries)
        return numbers

    def find(self, keys: Mapping[str, str]) -> dict[str, int]:
        """The edits, live or undone, that were put under idempotency keys.

        Args:
            keys: user -> key.

        Returns:
            User -> id, of those users who have one.
        """
        tokens = {token_of(self._owner(user), str(check_key(key)), self._salt): user for user, key in keys.items()}
        with self._database.reading() as connection:
            rows = connection.execute(select(edits.c.token, edits.c.id).where(edits.c.token.in_(tokens))).all()
        return {tokens[row.token]: row.id for row in rows}

    def deltas(self, user: str, *, before: int | None = None) -> list[WeightDelta]:
        """All live edits composed exactly: one update per matrix, the factors side by side along the rank.

        Empty for an unknown user.

        Args:
            user: whose edits.
            before: only those with a smaller id.

        Raises:
            StoreError: a factor is damaged.
        """
        query, rows = live_edits(self._owner(user)), None
        if before is not None:
            query = query.where(edits.c.id < before)
        while True:
            last = rows
            with self._database.reading() as connection:
                rows = connection.execute(query).all()
            try:
                return compact.composed(
                    [delta for row in rows for delta in unpack_factors(row, self._blobs, self._encryption)]
                )
            except BlobMissing:  # compacted or forgotten between the two reads?
                if rows == last:
                    raise

    def version(self, user: str) -> int:
        """A number that changes with every put, undo and forget of this user and never comes back; 0 if unknown."""
        query = select(users.c.changed).where(users.c.owner == self._owner(user))
        with self._database.reading() as connection:
            return int(connection.scalar(query) or 0)

    def tag(self, user: str) -> str:
        """A user's salted digest in hexadecimal: fit for the name of a file, and says nothing of the user."""
        return self._owner(user).hex()

    def versions(self, tags: Iterable[str]) -> dict[str, int]:
        """Tag -> version, of those users whom the store knows."""
        owners, query = [bytes.fromhex(tag) for tag in tags], select(users.c.owner, users.c.changed)
        found: dict[str, int] = {}
        for start in range(0, len(owners), PAGE):
            with self._database.reading() as connection:
                rows = connection.execute(query.where(users.c.owner.in_(owners[start : start + PAGE]))).all()
            found |= {row.owner.hex(): row.changed for row in rows}
        return found

    def preferences(self, user: str, *, where: Where | None = None) -> list[Preference]:
        """What the user's live edits were made from and what is kept in words, oldest first.

        Args:
            user: whose.
            where: only what lives in the weights, or in words.
        """
        return [preference for place, preference in self._believed(user) if where in (None, place)]

    def words(self, user: str) -> list[Preference]:
        """What is kept in words and holds, oldest first: not overruled by anything that was told later.

        A model that is to know it needs it in its prompt; ``PersonalizedModel``, ``chat`` and ``serve`` put it there.
        """
        believed = self._believed(user)
        valid = {id(one) for one in current([preference for _, preference in believed])}
        return [preference for place, preference in believed if place == "words" and id(preference) in valid]

    def parts(self, user: str) -> dict[int, list[WeightDelta]]:
        """The factors of every live edit by its id, oldest first; they add up to ``deltas``.

        Raises:
            StoreError: a factor is damaged.
        """
        with self._database.reading() as connection:
            rows = connection.execute(live_edits(self._owner(user))).all()
        return {row.id: unpack_factors(row, self._blobs, self._encryption) for row in rows}

    def history(self, user: str) -> list[StoredEdit]:
        """All edits, live and undone, oldest first, without factors."""
        with self._database.reading() as connection:
            return read_history(connection, self._owner(user), self._encryption)

    @again
    def undo(self, user: str, edit_id: int | None = None, *, to_version: int | None = None) -> list[StoredEdit]:
        """Take edits back: the last live one, one by its id, or all that were put after ``to_version``.

        The factors of the others are not touched, so the model is bit for bit what it would be without the edit.
        What was undone stays so, also where ``to_version`` is from before its undo.

        Returns:
            What was undone, oldest first; empty if nothing was live, or if it was undone before.

        Raises:
            StoreError: the user has no such edit, it was merged by ``compact``, or both arguments were given.
        """
        if edit_id is not None and to_version is not None:
            raise StoreError("Undo takes an edit or a version.", got=f"edit {edit_id} and version {to_version}")
        owner = self._owner(user)
        with self._database.writing() as connection:
            touch(connection, owner)
            chosen = _chosen(user, read_history(connection, owner, self._encryption), edit_id, to_version)
            if not chosen:
                connection.rollback()
                return []
            mark_undone(connection, [edit.id for edit in chosen])
        return [replace(edit, live=False) for edit in chosen]

    @again
    def forget(self, user: str) -> int:
        """Remove every byte of a user: rows, free pages and the log; backups are not reached.

        On PostgreSQL the bytes leave the server's files with ``vacuum``, and its log as the server recycles it.

        Returns:
            How many edits there were.

        Raises:
            StoreError: a reader has kept the log busy for half a minute; call again.
        """
        return maintenance.erase(self._database, self._owner(user), self._blobs)

    def users(self) -> Iterator[str]:
        """All users who have a history, in no particular order, read a thousand at a time.

        Raises:
            StoreError: the file is damaged where users are looked up.
        """
        last = b""
        while True:
            first = select(func.min(edits.c.id)).where(edits.c.owner > last).group_by(edits.c.owner)
            page = first.order_by(edits.c.owner).limit(PAGE)
            query = with_keys(select(edits.c.owner, edits.c.user)).where(edits.c.id.in_(page)).order_by(edits.c.owner)
            with self._database.reading() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            if rows[-1].owner <= last:  # index and table disagree; going on would never end
                raise StoreError("The list of users is damaged.", remedy="run `store verify`, take the last backup")
            last = rows[-1].owner
            yield from (user_in(row, self._encryption) for row in rows)

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
        compact.check_budget(rank)
        owner = self._owner(user)
        for _ in range(TRIES):
            with self._database.reading() as connection:
                rows = connection.execute(live_edits(owner)).all()
            plan = compact.planned(user, rows, rank, self.base.get("model", ""), self._blobs, self._encryption)
            if max_error is not None and plan.report.max_error > max_error:
                raise StoreError(
                    f"Rank {rank} is too small for user {user!r}.",
                    got=f"a relative error of {plan.report.max_error:.3g}",
                    needed=f"{max_error:.3g} or less",
                    remedy="allow a larger rank",
                )
            if plan.factors is None:
                return plan.report
            if self._blobs is not None:
                plan = replace(plan, factors=self._blobs.put(owner, plan.factors))
            with self._database.writing() as connection:
                tick = touch(connection, owner)
                merged = {row.id for row in connection.execute(live_edits(owner))} == {row.id for row in rows}
                if merged:
                    compact.merge(connection, tick, rows, plan)
                else:
                    connection.rollback()
            self._drop(owner, [row.factors for row in rows] if merged else [plan.factors or b""])
            if merged:
                return replace(plan.report, edit=tick)
        raise StoreError(f"The edits of user {user!r} keep changing.", remedy="compact again in a quieter moment")

    def stats(self) -> dict[str, Any]:
        """Users, edits (live, merged), bytes of factors and of the database, and what the store is bound to."""
        return maintenance.stats(self._database)

    def verify(self) -> list[Fault]:
        """Read everything once and report what is damaged; empty if nothing is."""
        return maintenance.verify(self._database, self._salt, self._blobs, self._encryption)

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
        return export_all(self._database, owner, place, blobs=self._blobs, encryption=self._encryption)

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

    def _drop(self, owner: bytes, factors: list[bytes]) -> None:
        """Objects that no row names, now that the transaction has ended."""
        if self._blobs is not None:
            self._blobs.remove(owner, factors)

    def _owner(self, user: str) -> bytes:
        return owner_of(check_user(user), self._salt)

    def _believed(self, user: str) -> list[tuple[Where, Preference]]:
        """All that is live, with where it lives, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(believed_records(self._owner(user))).all()
        said = [(where_of(row.kernel), unpack_record(row, self._encryption)[0]) for row in rows]
        return [(where, preference) for where, preferences in said for preference in preferences]

    def _pack(self, user: str, owner: bytes, new: NewEdit, key: UserKey | None) -> Entry:
        if self._model is not None:
            check_fit(self._model, new.deltas)
        return pack(user, owner, new, salt=self._salt, fingerprint=self.base.get("model", ""), key=key)

    def _key(self, owner: bytes) -> UserKey | None:
        if self._encryption is None:
            return None
        with self._database.reading() as connection:
            return find_user_key(connection, owner, self._encryption)

    def _keep(
        self, connection: Connection, tick: int, key: UserKey | None, entries: Sequence[Entry], packed: Sequence[Entry]
    ) -> None:
        """The user's key, and objects that were swept away meanwhile (``Blobs.keep``); while the user is locked.

        Raises:
            StoreConflict: the entries are encrypted with a key that is not the user's any more.
        """
        owner, factors = entries[0].row["owner"], [entry.row["factors"] for entry in entries]
        try:
            if key is not None:
                keep_user_key(connection, tick, key)
        except StoreConflict:
            self._drop(owner, factors)
            raise
        if self._blobs is not None:
            for reference, whole in zip(factors, packed):
                if reference:
                    self._blobs.keep(owner, reference, whole.row["factors"])

    def _know(self, entries: Sequence[Entry]) -> None:
        self._settings |= {entry.settings[0] for entry in entries if entry.settings}


def _chosen(user: str, known: list[StoredEdit], edit_id: int | None, to_version: int | None) -> list[StoredEdit]:
    """The live edits that an undo means."""
    live = [edit for edit in known if edit.live]
    if to_version is not None:
        return [edit for edit in live if edit.id > to_version]
    if edit_id is None:
        return live[-1:]
    named = next((edit for edit in known if edit.id == edit_id), None)
    if named is None:
        needed = f"one of {[edit.id for edit in known]}" if known else "an edit of this user; there are none"
        raise StoreError(f"User {user!r} has no edit {edit_id}.", needed=needed)
    if named.merged is not None:
        raise StoreError(
            f"Edit {edit_id} of user {user!r} was merged with others by compact.",
            needed=f"edit {named.merged}, which undoes all of them",
        )
    return [named] if named.live else []
