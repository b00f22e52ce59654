"""Reading and writing transactions on SQLite or PostgreSQL, with every failure as a ``StoreError``.

What the two need done differently stands here and nowhere else, as far as it can.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ..errors import MissingDependencyError, StoreError
from .schema import check_version, prepare, read_meta

try:
    import fcntl
except ImportError:  # Windows: SQLite's own waiting has to do, which is not fair between writers
    fcntl = None  # type: ignore[assignment]

# Of 512 to 65536, the least waste for rows of some 10 kB: 4 % of the factors' bytes, where 4096 wastes up to 20 %.
PAGE_BYTES = 1024
CHECKPOINT_PAGES = 8192
PATIENCE = 30.0  # seconds that a connection waits for a lock


class Database:
    """A store's database: ``reading()`` gives a consistent snapshot, ``writing()`` all or nothing.

    On SQLite, a commit does not wait for the disk inside the database's lock: the log is synced after the lock has
    been given up and before ``writing()`` returns, so that writers of several processes share the disk's syncs
    (8 writers: p99 13 ms; 196 ms with SQLite's own sync inside the lock).
    """

    def __init__(self, url: str | Path) -> None:
        self.url = parsed(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.path = Path(self.url.database or "") if self.is_sqlite else None
        self._pid = os.getpid()
        self._turn = Turn(self._beside("-lock") if self.path else None)
        with self._explained():
            if self.path:
                _create_file(self.path)
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
        """A snapshot that stays as it is while others write."""
        self._after_fork()
        with self._explained(), self.engine.connect() as connection:
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
    def alone(self) -> Iterator[Any]:
        """SQLite's own connection outside of any transaction, while no other process of ours writes."""
        self._after_fork()
        with self._explained(), self._turn:
            raw = self.engine.raw_connection()
            try:
                yield raw.driver_connection
            finally:
                raw.close()

    def close(self) -> None:
        """Give up all connections; open again with a new ``Database``."""
        self.engine.dispose()
        self._turn.close()

    def _open(self) -> None:
        with self.reading() as connection:
            ours = connection.dialect.has_table(connection, "meta")
            if ours:
                check_version(int(read_meta(connection).get("schema", "0")))
        with self.writing() as connection:
            prepare(connection)

    def _sync(self) -> None:
        """Have the log on the disk. Where it is gone, its content has reached the database, synced."""
        if self.path is None:
            return
        try:
            log = os.open(self._beside("-wal"), os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            getattr(os, "fdatasync", os.fsync)(log)
        finally:
            os.close(log)

    def _beside(self, suffix: str) -> Path:
        assert self.path is not None
        return self.path.with_name(self.path.name + suffix)

    def _after_fork(self) -> None:
        """A forked child must not use its parent's connections, nor close them."""
        if os.getpid() != self._pid:
            self.engine.dispose(close=False)
            self._turn = Turn(self._beside("-lock") if self.path else None)
            self._pid = os.getpid()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise explained(error, str(self)) from None


class Turn:
    """One writer after another, across threads and processes, in the order in which they came.

    SQLite's own waiting sleeps and tries again; with 8 writers some wait for 100 ms and more.
    """

    def __init__(self, path: Path | None) -> None:
        self._threads = threading.Lock()
        self._path = path if fcntl else None
        self._file: int | None = None

    def __enter__(self) -> None:
        self._threads.acquire()
        try:
            if self._path is not None:
                if self._file is None:
                    self._file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._file, fcntl.LOCK_EX)
        except BaseException:
            self._threads.release()
            raise

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._threads.release()

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def parsed(url: str | Path) -> URL:
    """A plain path means SQLite.

    Raises:
        StoreError: neither a path nor a URL of SQLite or PostgreSQL.
    """
    needed = "a path, sqlite:///edits.db or postgresql://user@host/database"
    if isinstance(url, Path) or "://" not in url:
        found = URL.create("sqlite", database=str(url))
    else:
        try:
            found = make_url(url)
        except ArgumentError:
            raise StoreError("The store's address cannot be read.", got=url, needed=needed) from None
    backend = found.get_backend_name()
    if backend == "postgresql":
        return found.set(drivername="postgresql+psycopg") if found.drivername == backend else found
    if backend != "sqlite":
        raise StoreError("There is no store for this kind of database.", got=backend, needed=needed)
    if found.database in (None, "", ":memory:"):
        raise StoreError("A store in memory would be lost with the process.", got=str(url), needed=needed)
    return found


def explained(error: Exception, where: str) -> StoreError:
    """A database's or a file system's complaint with its likely cause and remedy."""
    reason = str(getattr(error, "orig", None) or error).strip()
    for mark, cause, remedy in (
        ("disk is full", "the disk or the user's quota is full", "make room; what was acknowledged is safe"),
        ("No space left", "the disk is full", "make room; what was acknowledged is safe"),
        ("disk I/O error", "the disk is full or failing", "make room or mend it; what was acknowledged is safe"),
        ("malformed", "the file is damaged or cut off", "run `store verify`, then take the last backup"),
        ("not a database", "the file is damaged, or is no SQLite file", "name the store's own file"),
        ("database is locked", "another program holds the database", "close it and try again"),
        ("readonly", "no permission to write", "open it as a user who may write"),
        ("unable to open", "the folder is missing or may not be entered", "make the folder first"),
        ("connection", "the server does not run, or refuses us", "check the address and the password"),
    ):
        if mark in reason:
            return StoreError(f"{where}: {reason}", cause=cause, remedy=remedy)
    return StoreError(f"{where}: {reason}")


def _engine(url: URL, is_sqlite: bool) -> Engine:
    try:
        engine = create_engine(
            url, connect_args={"timeout": PATIENCE} if is_sqlite else {}, pool_pre_ping=not is_sqlite
        )
    except ImportError as error:
        raise MissingDependencyError(
            f"PostgreSQL needs a driver: {error}", remedy='pip install "easyedit-personal[postgres]"'
        ) from None
    if is_sqlite:
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin)
    return engine


def _create_file(path: Path) -> None:
    """A new database's file: readable by its owner only, with the page size that cannot be changed later."""
    if path.exists() and path.stat().st_size:
        return
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(path, timeout=PATIENCE)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


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
    # A transaction that begins as a reader and then writes may find that it is too late.
    kind = "IMMEDIATE" if connection.get_execution_options().get("writes") else "DEFERRED"
    connection.exec_driver_sql(f"BEGIN {kind}")
