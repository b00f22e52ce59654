"""Reading and writing transactions on SQLite or PostgreSQL, with every failure as a ``StoreError``.

What the two need done differently stands here as far as it can; the rest says ``is_sqlite``.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, SQLAlchemyError

from ..errors import MissingDependencyError, StoreConflict, StoreError, StoreUnavailable
from .encryption import Encryption
from .schema import prepare
from .write_lock import WriteLock

# The last of a row's pages is half empty on average: 2 % of 12 kB are wasted with 512 (SQLite's least), 17 % with 4096
# (its own choice). An edit of Llama-3-8B's size (332 kB) takes the same time with both.
PAGE_BYTES = 512
# The log is carried back into the database once it holds so many pages: 32 MB, some 2,500 puts. All writers wait
# meanwhile (30 to 60 ms), with 8 of them 0.3 % of all puts; with SQLite's 1000 pages it would be every fifth.
CHECKPOINT_PAGES = 65_536
PATIENCE = 30.0  # seconds that a connection waits for a lock
ADDRESSES = "a path, sqlite:///edits.db or postgresql://user@host/database"
PREPARING = 7_243_392_103  # our number among PostgreSQL's advisory locks


class Database:
    """A store's database: ``reading()`` and ``writing()`` are transactions.

    On SQLite, a commit does not wait for the disk while it keeps others from writing: the log is synced after the
    lock has been given up and before ``writing()`` returns, so that writers of several processes share the disk's
    syncs. 8 writers of 12 kB: p99 13 ms, and 196 ms with SQLite's own syncs and waits. A transaction may be seen by
    others a few milliseconds before it is on the disk; it is acknowledged to its writer afterwards only.
    """

    def __init__(self, url: str | Path, encryption: Encryption | None = None) -> None:
        self.url, self._encryption = parsed(url), encryption
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.path = Path(self.url.database or "") if self.is_sqlite else None
        self._pid, self._turn = os.getpid(), self._new_lock()
        self.engine = _engine(self.url, self.is_sqlite)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        return str(self.path or self.url.render_as_string(hide_password=True))

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads, all of it as of one moment; it does not wait for writers, nor they for it."""
        self._after_fork()
        with self._explained(), self.engine.connect() as connection:
            if not self.is_sqlite:  # whose transactions are so anyway
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is on the disk when this returns, or has left nothing behind."""
        self._after_fork()
        with self._explained():
            with self._turn, self.engine.connect().execution_options(writes=True) as connection, connection.begin():
                yield connection
            self._sync()

    @contextmanager
    def outside(self) -> Iterator[Any]:
        """The driver's own connection outside of any transaction, for what cannot run inside one.

        On SQLite no other process of ours writes meanwhile.
        """
        self._after_fork()
        with self._explained(), self._turn, self.engine.connect() as connection:
            if not self.is_sqlite:
                connection.execution_options(isolation_level="AUTOCOMMIT")
            yield connection.connection.driver_connection

    def beside(self, suffix: str) -> Path:
        """The path of one of SQLite's files, such as ``-wal``."""
        if self.path is None:
            raise StoreError("PostgreSQL keeps its files itself.", got=str(self))
        return self.path.with_name(self.path.name + suffix)

    def close(self) -> None:
        """Give up all connections."""
        self.engine.dispose()
        self._turn.close()

    def _open(self) -> None:
        with self._explained(), self._turn as lock:
            if self.path is not None:
                _create_file(self.path, lock)
        with self.writing() as connection:
            if not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": PREPARING})
            prepare(connection, self._encryption)
        if self.is_sqlite:
            with self.outside() as raw:  # a restored backup may come without a log
                raw.execute("PRAGMA journal_mode = WAL").close()

    def _sync(self) -> None:
        """Have the log on the disk. Where it is gone, SQLite has synced what it held into the database."""
        if self.path is None:
            return
        try:
            log = os.open(self.beside("-wal"), os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            getattr(os, "fdatasync", os.fsync)(log)
        finally:
            os.close(log)

    def _new_lock(self) -> WriteLock:
        return WriteLock(self.beside("-lock") if self.is_sqlite else None)

    def _after_fork(self) -> None:
        """A forked child must not use its parent's connections, nor close them."""
        if os.getpid() != self._pid:
            self.engine.dispose(close=False)
            self._pid, self._turn = os.getpid(), self._new_lock()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError:  # a text that is none, also inside of SQLite's own message about it
            raise explained(sqlite3.DatabaseError("malformed text"), str(self)) from None
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise explained(error, str(self)) from None


def parsed(url: str | Path) -> URL:
    """A plain path means SQLite.

    Raises:
        StoreError: neither a path nor a URL of SQLite or PostgreSQL.
    """
    if isinstance(url, Path) or "://" not in url:
        found = URL.create("sqlite", database=str(url))
    else:
        try:
            found = make_url(url)
        except (ArgumentError, ValueError):
            raise StoreError("The store's address cannot be read.", got=url, needed=ADDRESSES) from None
    backend = found.get_backend_name()
    if backend == "postgresql":
        return found.set(drivername="postgresql+psycopg") if found.drivername == backend else found
    if backend != "sqlite":
        raise StoreError("There is no store for this kind of database.", got=backend, needed=ADDRESSES)
    if found.database in (None, "", ":memory:"):
        raise StoreError("A store in memory would be lost with the process.", got=str(url), needed=ADDRESSES)
    return found


def insert_into(connection: Connection, table: Table) -> Any:
    """INSERT that knows ON CONFLICT; both databases have it, SQLAlchemy spells it per dialect."""
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def exists(url: str | Path) -> bool:
    """Whether there may be a store: a file of SQLite that is not there is none."""
    found = parsed(url)
    return found.get_backend_name() != "sqlite" or Path(found.database or "").exists()


def check_store(url: str | Path) -> None:
    """Say now why a store could not be opened or written later, after the model was loaded; nothing is made.

    Raises:
        StoreError: it is damaged, belongs to a newer release, cannot be reached, or its place cannot be written.
    """
    found = parsed(url)
    if found.get_backend_name() == "sqlite":
        path = Path(found.database or "")
        folder = path.parent
        if not path.exists() and folder.is_dir() and os.access(folder, os.W_OK):
            return  # it will be made
        if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
            raise StoreError(
                f"The store {str(path)!r} cannot be written.",
                needed="a file in a folder that exists, both open for writing",
                cause="it is a folder" if path.is_dir() else f"no such folder, or no permission: {str(folder)!r}",
                remedy="make the folder first, or name another place",
            )
    Database(url).close()


# PostgreSQL's serialisation failure, its deadlock, and a row that was referred to while somebody was removing it.
CONFLICTS = ("40001", "40P01", "23503")
MARKS = (
    ("connection failed", "the server does not run, or refuses us", "check the address and the password"),
    ("connection is bad", "the server does not run, or refuses us", "check the address and the password"),
    ("disk is full", "the disk or the user's quota is full", "make room; what was acknowledged is safe"),
    ("No space left", "the disk is full", "make room; what was acknowledged is safe"),
    ("disk I/O error", "the disk is full or failing", "make room or mend it; what was acknowledged is safe"),
    ("malformed", "the file is damaged or cut off", "run `store verify`, then take the last backup"),
    (
        "not a database",
        "the file is damaged or cut off, or no SQLite file",
        "take the last backup, or name the store's file",
    ),
    ("database is locked", "another program holds the database", "close it and try again"),
    ("readonly", "no permission to write", "open it as a user who may write"),
    ("unable to open", "the folder is missing or may not be entered", "make the folder first"),
    ("No such file or directory", "the folder is missing", "make the folder first"),
)


def explained(error: Exception, where: str) -> StoreError:
    """A database's or a file system's complaint with its likely cause and remedy."""
    reason = " ".join(str(getattr(error, "orig", None) or error).split())
    passing = isinstance(error, (OperationalError, InterfaceError, sqlite3.OperationalError, OSError))
    kind = StoreUnavailable if passing else StoreError
    if getattr(getattr(error, "orig", None), "sqlstate", None) in CONFLICTS:
        kind = StoreConflict
    for mark, cause, remedy in MARKS:
        if mark in reason:
            return kind(f"{where}: {reason}", cause=cause, remedy=remedy)
    return kind(f"{where}: {reason}")


def _engine(url: URL, is_sqlite: bool) -> Engine:
    try:
        engine = create_engine(
            url,
            connect_args={"timeout": PATIENCE} if is_sqlite else {},
            pool_pre_ping=not is_sqlite,
            hide_parameters=True,  # users' ids and words would stand in logs
        )
    except ImportError as error:
        raise MissingDependencyError(
            f"PostgreSQL needs a driver: {error}", remedy='pip install "easyedit-personal[postgres]"'
        ) from None
    if is_sqlite:
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin)
    return engine


def _create_file(path: Path, lock: WriteLock) -> None:
    """A new database's file: only its owner may read it; its page size cannot be changed later.

    Raises:
        StoreError: a store has been here and is empty now; a new one in its place would hide the loss.
    """
    if path.exists() and path.stat().st_size:
        lock.mark()
        return
    if path.exists() and lock.marked:
        raise StoreError(
            f"{path} was a store, and is empty now.",
            cause="the file was cut off, or a copy of it failed",
            remedy="take the last backup, or remove the file to begin anew",
        )
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(path, timeout=PATIENCE)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    lock.mark()


def _configure(connection: Any, _: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see _begin
    for pragma in (
        "synchronous = NORMAL",  # the log is synced by Database._sync
        "secure_delete = ON",  # what is deleted is overwritten with zeros
        f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
        "temp_store = MEMORY",
        "cache_size = -8000",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    # A transaction that begins as a reader and writes later may find that somebody else was faster.
    kind = "IMMEDIATE" if connection.get_execution_options().get("writes") else "DEFERRED"
    connection.exec_driver_sql(f"BEGIN {kind}")
