"""Whose lock it is to write: one writer after another, across threads and processes.

SQLite's own waiting sleeps and tries again, which is not fair: with 8 writers some wait for 100 ms and more.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: SQLite's own waiting has to do
    fcntl = None  # type: ignore[assignment]


class WriteLock:
    """A lock on a file beside the database; whoever dies gives it up.

    Args:
        path: of the file that is locked, made where it is missing; None means that threads only are kept apart.
    """

    def __init__(self, path: Path | None) -> None:
        self._threads = threading.Lock()
        self._path = path
        self._file: int | None = None

    def __enter__(self) -> WriteLock:
        self._threads.acquire()
        try:
            if self._path is not None and self._file is None:
                self._file = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
            if self._file is not None and fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX)
        except BaseException:
            self._threads.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._file is not None and fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    @property
    def marked(self) -> bool:
        """Whether ``mark`` was ever called on this file; to be asked while it is our lock."""
        return self._file is not None and os.fstat(self._file).st_size > 0

    def mark(self) -> None:
        """Leave a mark in the file."""
        if self._file is not None:
            os.pwrite(self._file, b"a store was made beside this file\n", 0)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
