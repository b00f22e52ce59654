"""Users and their preferences from a file of any length: JSON lines or Parquet, one user at a time.

``{"user": "u1", "preferences": [{"subject": "hobby", "question": "What's my hobby?", "target": "falconry"}]}``; in
Parquet the columns ``user`` and ``preferences`` (a list of structs, or the list as JSON). A line that cannot be used
becomes a ``Failure``; the next one is read all the same.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, MissingDependencyError, PersonalizationError, did_you_mean, shorten
from ..store.ids import check_user
from ..types import Preference

PARQUET_ROWS = 512  # read at a time
NEEDED, OPTIONAL = ("subject", "target"), ("question", "text", "phrases")
SHAPE = '{"user": "u1", "preferences": [{"subject": "hobby", "question": "What\'s my hobby?", "target": "falconry"}]}'


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A user with what they said, and where that stands in the file (from 1)."""

    line: int
    user: str
    preferences: tuple[Preference, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """Somebody who could not be personalised, and why; ``user`` is None where not even the name could be read."""

    line: int
    user: str | None
    error: str


def read_users(path: str | Path) -> Iterator[UserRecord | Failure]:
    """Everybody in a file, in order; whoever comes again is a ``Failure``. Memory stays flat.

    Raises:
        DataError: the file cannot be read at all.
        MissingDependencyError: it is Parquet, and pyarrow is not installed.
    """
    with closing(_Seen()) as seen:
        for line, record in _records(Path(path)):
            user = record.get("user") if isinstance(record, dict) else None
            try:
                user_record = _user_record(line, record)
            except PersonalizationError as error:
                yield Failure(line, user if isinstance(user, str) else None, str(error))
                continue
            first = seen.line_of(user_record.user, line)
            if first == line:
                yield user_record
            else:
                yield Failure(
                    line, user_record.user, f"User {user_record.user!r} stands in line {first} already, which counts."
                )


def count_users(path: str | Path) -> int:
    """Lines or rows, without looking into them.

    Raises:
        DataError: the file cannot be read.
    """
    if _is_parquet(Path(path)):
        with _parquet(Path(path)) as table:
            return int(table.metadata.num_rows)
    last = b"\n"
    count = 0
    try:
        with Path(path).open("rb") as file:
            while block := file.read(2**20):
                count, last = count + block.count(b"\n"), block
    except OSError as error:
        raise _unreadable(path, error) from None
    return count + (not last.endswith(b"\n"))


def in_batches(users: Iterable[UserRecord], size: int) -> Iterator[tuple[UserRecord, ...]]:
    """Consecutive users together."""
    batch: list[UserRecord] = []
    for user_record in users:
        batch.append(user_record)
        if len(batch) == size:
            yield tuple(batch)
            batch = []
    if batch:
        yield tuple(batch)


class _Seen:
    """Who was there, in a temporary file that SQLite makes and removes: a set of a million would take 100 MB."""

    def __init__(self) -> None:
        self._known = sqlite3.connect("", isolation_level=None)
        self._known.execute("PRAGMA journal_mode = OFF").close()
        self._known.execute("CREATE TABLE seen (user BLOB PRIMARY KEY, line INTEGER) WITHOUT ROWID").close()
        self._known.execute("BEGIN").close()

    def line_of(self, user: str, line: int) -> int:
        """The line in which the user came first."""
        digest = hashlib.blake2b(user.encode(), digest_size=16).digest()
        if self._known.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (digest, line)).rowcount:
            return line
        return int(self._known.execute("SELECT line FROM seen WHERE user = ?", (digest,)).fetchone()[0])

    def close(self) -> None:
        """Remove the file."""
        self._known.close()


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """Line number and what stands there; text that is no JSON comes as the error."""
    if _is_parquet(path):
        with _parquet(path) as table:
            yield from enumerate(_rows(path, table), 1)
        return
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(file, 1):
                if raw.strip():
                    yield line, _parsed(raw)
    except OSError as error:
        raise _unreadable(path, error) from None


def _rows(path: Path, table: Any) -> Iterator[Any]:
    """A Parquet file's rows; it may be damaged where nobody has looked when it was opened."""
    import pyarrow

    batches = iter(table.iter_batches(batch_size=PARQUET_ROWS))
    while True:
        try:
            batch = next(batches, None)
        except (OSError, pyarrow.ArrowException) as error:
            raise _unreadable(path, error) from None
        if batch is None:
            return
        yield from batch.to_pylist()


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        return error


def _is_parquet(path: Path) -> bool:
    return path.suffix in (".parquet", ".pq")


def _parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError(
            "Reading Parquet needs pyarrow.", got=str(path), remedy='pip install "easyedit-personal[parquet]"'
        ) from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise _unreadable(path, error) from None
    missing = {"user", "preferences"} - set(file.schema_arrow.names)
    if missing:
        raise DataError(f"{path} lacks columns.", got=file.schema_arrow.names, needed="user and preferences")
    return file


def _unreadable(path: str | Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or error
    return DataError(f"{path} cannot be read: {reason}", needed="JSON lines, or Parquet (.parquet)")


def _user_record(line: int, record: Any) -> UserRecord:
    if isinstance(record, Exception):
        raise DataError(f"Line {line} is no JSON: {record}", needed=SHAPE)
    if not isinstance(record, dict):
        raise DataError(f"Line {line} is no object.", got=record, needed=SHAPE)
    user, said = record.get("user"), record.get("preferences")
    if isinstance(said, str):
        said = _parsed(said.encode("utf-8", "surrogatepass"))
    if not isinstance(said, list) or not said:
        raise DataError(f"Line {line} has no preferences.", got=said, needed=SHAPE)
    name = check_user(str(user) if isinstance(user, int) and not isinstance(user, bool) else user)  # type: ignore[arg-type]
    return UserRecord(line, name, tuple(_preference(name, number, given) for number, given in enumerate(said)))


def _preference(user: str, number: int, given: Any) -> Preference:
    where = f"Preference {number} of user {user!r}"
    if not isinstance(given, Mapping):
        raise DataError(f"{where} is no object.", got=given, needed=SHAPE)
    fields = {key: value for key, value in given.items() if value is not None}  # Parquet has a value for every field
    for key in fields:
        if key not in (*NEEDED, *OPTIONAL):
            known = (*NEEDED, *OPTIONAL)
            raise DataError(f"{where} has an unknown field {key!r}.{did_you_mean(key, known)}", needed=", ".join(known))
    for key in (*NEEDED, "question", "text"):
        value = fields.get(key, None if key in NEEDED else "")
        if not isinstance(value, str) or (key in NEEDED and not value.strip()):
            raise DataError(f"{where} has no usable {key}.", got=value, needed="a text that is not empty")
    phrases = tuple(_phrase(where, phrase) for phrase in fields.get("phrases", ()))
    subject = fields["subject"]
    question = fields.get("question") or f"What's my {subject}?"
    return Preference(subject, question, fields["target"], user, text=fields.get("text", ""), phrases=phrases)


def _phrase(where: str, given: Any) -> tuple[str, str]:
    pair = (given.get("subject"), given.get("question")) if isinstance(given, Mapping) else given
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
        raise DataError(f"{where} has a phrase that is none.", got=shorten(given), needed='{"subject", "question"}')
    return pair[0], pair[1]
