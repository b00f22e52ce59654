"""Factors outside of the database, wherever fsspec reaches: a folder, S3, GCS. Rows keep digest, size and name.

Objects are written before their row and never changed; what no row names any more (a crash came in between, or edits
were compacted) is swept by ``vacuum``. A user's objects share a folder, so that ``forget`` takes them all.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from ..errors import MissingDependencyError, StoreError, StoreUnavailable

MARK = b"\xff" * 8  # safetensors begins with its header's length: never so long
HEAD = 16  # bytes of a reference that tell its size
BESIDE = "beside"  # the address of a backup's objects: a folder next to its file
YOUNG = timedelta(hours=1)  # objects that may belong to a put under way


class BlobMissing(StoreError):
    """A row names an object that is not there."""


class Blobs:
    """Where a store's factors lie.

    Args:
        url: of a folder, for fsspec: ``s3://bucket/prefix``, ``file:///data/factors`` or a plain path.

    Raises:
        StoreError: fsspec does not know such addresses, or the folder cannot be made.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise MissingDependencyError(
                "Factors outside of the database need fsspec.", remedy="pip install fsspec"
            ) from None
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise StoreError(
                f"Factors cannot be kept at {url!r}: {error}", needed="a folder, or a URL of fsspec"
            ) from None
        self._local = "file" in _protocols(self._fs)
        self.url = str(self._root) if self._local else url  # a relative path would mean another folder tomorrow
        with self._told():
            if self._local:
                os.makedirs(self._root, mode=0o700, exist_ok=True)

    def put(self, owner: bytes, data: bytes) -> bytes:
        """Keep factors; what the row holds instead."""
        name = secrets.token_bytes(16)
        self._write(owner, name, data)
        return MARK + len(data).to_bytes(8, "little") + hashlib.sha256(data).digest() + name

    def _write(self, owner: bytes, name: bytes, data: bytes) -> None:
        with self._told():
            self._fs.makedirs(self._folder(owner), exist_ok=True)
            with self._fs.open(self._path(owner, name), "wb") as file:
                file.write(data)
                if self._local:
                    file.flush()
                    os.fsync(file.fileno())
            if self._local:
                for folder in (self._folder(owner), self._root):
                    _sync_folder(folder)

    def keep(self, owner: bytes, reference: bytes, data: bytes) -> None:
        """Put an object again if it has been swept away with everything of a user who was forgotten meanwhile.

        To be called while the user is locked, as is ``forget``.
        """
        with self._told():
            there = self._fs.exists(self._path(owner, reference[-16:]))
        if not there:
            self._write(owner, reference[-16:], data)

    def get(self, owner: bytes, reference: bytes) -> bytes:
        """The factors that a row names.

        Raises:
            BlobMissing: they are gone.
            StoreError: they are damaged.
        """
        path = self._path(owner, reference[-16:])
        with self._told():
            try:
                data: bytes = self._fs.cat_file(path)
            except FileNotFoundError:
                raise BlobMissing(
                    f"An edit's factors are missing at {self.url}.", remedy="restore or undo it"
                ) from None
        if hashlib.sha256(data).digest() != reference[HEAD:-16]:
            raise StoreError(
                f"An edit's factors at {self.url} are damaged.", remedy="take the last backup, or undo this edit"
            )
        return data

    def remove(self, owner: bytes, references: list[bytes]) -> None:
        """Remove objects that no row names any more."""
        for reference in references:
            if is_reference(reference):
                with self._told(), suppress(FileNotFoundError):
                    self._fs.rm_file(self._path(owner, reference[-16:]))

    def forget(self, owner: bytes) -> None:
        """Remove all of a user's objects, also those that no row names; while the user is locked."""
        with self._told(), suppress(FileNotFoundError):
            if self._fs.exists(self._folder(owner)):
                self._fs.rm(self._folder(owner), recursive=True)

    def copy_to(self, other: Blobs, owner: bytes, reference: bytes) -> None:
        """Put an object under the same name elsewhere; one that was forgotten meanwhile stays away."""
        with suppress(BlobMissing):
            other._write(owner, reference[-16:], self.get(owner, reference))

    def owners(self) -> Iterator[bytes]:
        """Everybody who has a folder."""
        with self._told():
            found = self._fs.ls(self._root, detail=False) if self._fs.exists(self._root) else []
        for path in found:
            with suppress(ValueError):
                yield bytes.fromhex(str(path).rstrip("/").rpartition("/")[2])

    def sweep(self, owner: bytes, named: set[bytes], age: timedelta = YOUNG) -> int:
        """Remove a user's objects that rows do not name and that no put under way may be about to; how many."""
        kept, count = {one[-16:].hex() for one in named}, 0
        with self._told():
            try:
                found = self._fs.ls(self._folder(owner), detail=False)
            except FileNotFoundError:  # forgotten meanwhile
                found = []
            for path in found:
                with suppress(FileNotFoundError):  # somebody was faster
                    stale = datetime.now(UTC) - _aware(self._fs.modified(path)) >= age
                    if stale and str(path).rpartition("/")[2] not in kept:
                        self._fs.rm_file(path)
                        count += 1
        return count

    def _folder(self, owner: bytes) -> str:
        return f"{self._root}/{owner.hex()}"

    def _path(self, owner: bytes, name: bytes) -> str:
        return f"{self._folder(owner)}/{name.hex()}"

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A file system's complaints as ours."""
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(
                f"{self.url}: {error}", remedy="see that the place can be reached and written"
            ) from None


def is_reference(factors: bytes | None) -> bool:
    """Whether a row's factors lie elsewhere."""
    return factors is not None and bytes(factors[:8]) == MARK


def size_of(head: bytes | None, length: int) -> int:
    """Bytes of factors, from the first 16 of what the row holds (of nothing, SQLite's are NULL), and its length."""
    return int.from_bytes(bytes(head[8:HEAD]), "little") if head is not None and is_reference(head) else length


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
