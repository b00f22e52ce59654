"""The half of ``EditStore`` that only reads: what users have, in factors and in words, and what they had.

A user's id is only ever a bound parameter, and only ``edits.user`` holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sqlalchemy import func, select

from ..errors import StoreError
from ..statements.memory import current
from ..types import Preference, WeightDelta
from . import compact
from .blobs import BESIDE, BlobMissing, Blobs
from .database import Database
from .encryption import Encryption, check_encryption
from .ids import check_key, check_user, owner_of, token_of
from .queries import believed_records, live_edits, read_history, with_keys
from .records import StoredEdit, Where, where_of
from .rows import unpack_factors, unpack_record, user_in
from .schema import edits, users
from .shared import SharedFactors

PAGE = 1000  # users that are read at a time


class StoreReader:
    """What a store says of its users; see ``EditStore``, which adds what changes them.

    Attributes:
        base: fingerprints of the base model and tokenizer that the store is bound to, empty before there were any.
    """

    def __init__(self, database: Database, known: Mapping[str, str], encryption: Encryption | None = None) -> None:
        self._database, self._encryption = database, encryption
        self._salt = check_encryption(known, encryption)
        self.base = {name: known[name] for name in ("model", "tokenizer") if name in known}
        beside = known.get("factors") == BESIDE and database.path is not None
        place = f"{database.path}.factors" if beside else known.get("factors")
        self._blobs = Blobs(place) if place else None
        self._shared = SharedFactors(self._salt, encryption)

    def deltas(self, user: str, *, before: int | None = None) -> list[WeightDelta]:
        """All live edits composed exactly: one update per matrix, the factors side by side along the rank.

        Empty for an unknown user.

        Args:
            user: whose edits.
            before: only those with a smaller id.

        Raises:
            StoreError: a factor is damaged.
        """
        parts = self.parts(user, before=before)
        return compact.composed([delta for some in parts.values() for delta in some])

    def parts(self, user: str, *, before: int | None = None) -> dict[int, list[WeightDelta]]:
        """The factors of every live edit by its id, oldest first, as they were put; they add up to ``deltas``.

        Args, Raises: see ``deltas``.
        """
        query, rows = live_edits(self._owner(user)), None
        if before is not None:
            query = query.where(edits.c.id < before)
        while True:
            last = rows
            with self._database.reading() as connection:
                rows = connection.execute(query).all()
                shared = self._shared.read(connection, [row.id for row in rows])
            try:
                return {row.id: unpack_factors(row, self._blobs, self._encryption, shared) for row in rows}
            except BlobMissing:  # compacted or forgotten between the two reads?
                if rows == last:
                    raise

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

    def history(self, user: str) -> list[StoredEdit]:
        """All edits, live and undone, oldest first, without factors."""
        with self._database.reading() as connection:
            return read_history(connection, self._owner(user), self._encryption, self._shared)

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

    def _owner(self, user: str) -> bytes:
        return owner_of(check_user(user), self._salt)

    def _believed(self, user: str) -> list[tuple[Where, Preference]]:
        """All that is live, with where it lives, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(believed_records(self._owner(user))).all()
        said = [(where_of(row.kernel), unpack_record(row, self._encryption)[0]) for row in rows]
        return [(where, preference) for where, preferences in said for preference in preferences]
