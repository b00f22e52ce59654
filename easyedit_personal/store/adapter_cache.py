"""Adapters of the users who are asked for, in a bounded folder, under names that change with every edit.

Servers keep what an adapter made of a prompt under the adapter's name: a name that came to stand for other weights
would answer from the old ones. So a name holds the revision, ``alice@17``, and only the present revision has a file.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from ..errors import StoreError
from ..types import WeightDelta
from .ids import check_user
from .lora import export_lora, remove_adapter
from .store import EditStore

BASE = "base"  # the base model; ``base@alice`` is whatever alice's revision is now
MAX_ADAPTERS = 1000
SWEEP_SECONDS = 60.0  # between two looks for users who have changed or were forgotten
IN_USE_SECONDS = 60.0  # an adapter that was asked for so lately may be being loaded
STALE_SECONDS = 3600.0  # what a killed process left half written
REVISION = re.compile(r"[1-9][0-9]{0,18}")
FOLDER = re.compile(r"([0-9a-f]{32})@([1-9][0-9]{0,18})")  # EditStore.tag and revision: no part is anybody's to choose


class NoAdapter(StoreError):
    """There is no such user, or no such revision of them any more."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A user's present adapter: the name to ask a server for, the revision, and the folder that PEFT and vLLM load."""

    name: str
    revision: int
    folder: Path


def adapter_name(user: str, revision: int) -> str:
    """``alice@17``. What is not plain in an id is percent-encoded, so that no two users share a name, nor any with
    ``base@alice``."""
    plain = quote(user, safe="")
    return f"{'%62ase' if plain == BASE else plain}@{revision}"


def parse_name(name: str) -> tuple[str, int | None] | None:
    """Whom a name means, and the revision; None for the present one. None for names of other things.

    ``base@`` is followed by an id as it is; ``alice@17`` has to be spelt as ``adapter_name`` does.
    """
    if name.startswith(f"{BASE}@"):
        return name[len(BASE) + 1 :], None
    plain, _, revision = name.rpartition("@")
    if REVISION.fullmatch(revision) is None:
        return None
    try:
        user = unquote(plain, errors="strict")
    except UnicodeDecodeError:
        return None
    return (user, int(revision)) if adapter_name(user, int(revision)) == name else None


class AdapterCache:
    """The adapters that were asked for last; safe with threads, and with other processes over the same folder.

    Args:
        store: whose users are served.
        folder: is made, readable by its owner only; it holds users' factors in clear.
        max_adapters: beyond these, those that were asked for longest ago are removed.
        clock: seconds, for the sweeps.
    """

    def __init__(
        self,
        store: EditStore,
        folder: str | Path,
        max_adapters: int = MAX_ADAPTERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._folder, self._most, self._clock = store, Path(os.path.abspath(folder)), max_adapters, clock
        self._lock, self._swept = threading.Lock(), -SWEEP_SECONDS
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def route(self, name: str) -> str:
        """The name that a server must be asked for where a client asks for ``name``.

        ``base@alice`` and ``alice@17`` become alice's present adapter, which is there when this returns, or the base
        model if nothing of alice's is live. Unknown users and earlier revisions become ``base@...``, which no server
        has: it answers that there is no such model. All other names stay.
        """
        meant = parse_name(name)
        if meant is None:
            return name
        try:
            found = self.find(*meant)
        except NoAdapter:
            return f"{BASE}@{meant[0]}"
        return BASE if found is None else found.name

    def find(self, user: str, revision: int | None = None) -> Adapter | None:
        """A user's adapter, exported where it is not there yet; None if nothing of the user is live.

        Args:
            user: any text.
            revision: which must be the present one; None takes whatever that is.

        Raises:
            NoAdapter: the id is none, the store does not know the user (any more), or the revision is not the present.
            StoreError: the rank is too high for any server, or the disk is full.
        """
        try:
            check_user(user)
        except StoreError as error:
            raise NoAdapter(f"There is no such user: {error.what}") from None
        if self._clock() - self._swept >= SWEEP_SECONDS:
            self.sweep()
        return self._found(user, self._store.tag(user), revision)

    def sweep(self) -> None:
        """Remove the adapters of users who have changed or were forgotten, then those beyond the bound."""
        self._swept = self._clock()
        with self._lock:
            self._sweep()

    def _sweep(self) -> None:
        known = [(path, match) for path in self._folder.iterdir() if (match := FOLDER.fullmatch(path.name))]
        present = self._store.versions({match[1] for _, match in known})
        for path, match in known:
            if present.get(match[1]) != int(match[2]):
                remove_adapter(path)
        for path in self._folder.glob(".part-*"):
            if _age(path) > STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        self._evict()

    def _found(self, user: str, tag: str, revision: int | None) -> Adapter | None:
        while True:
            version = self._store.version(user)
            if version == 0 or (revision is not None and revision != version):
                self._remove_others(tag, version)
                raise NoAdapter("There is no such user, or no such revision of them.", got=f"{user[:80]!r}, {revision}")
            target = self._folder / f"{tag}@{version}"
            with suppress(FileNotFoundError):
                os.utime(target)
                return Adapter(adapter_name(user, version), version, target)
            deltas = self._store.deltas(user)
            if self._store.version(user) == version:
                self._remove_others(tag, version)
                if not deltas:
                    return None
                self._export(deltas, target, tag)

    def _export(self, deltas: Sequence[WeightDelta], target: Path, tag: str) -> None:
        """Another thread or process may be faster: its adapter is the same."""
        with self._lock:
            try:
                if not target.is_dir():
                    export_lora(deltas, target, name=tag)
            except StoreError:
                if not target.is_dir():
                    raise
            self._evict()

    def _remove_others(self, tag: str, version: int) -> None:
        for path in self._folder.glob(f"{tag}@*"):
            if path.name != f"{tag}@{version}":
                remove_adapter(path)

    def _evict(self) -> None:
        """Least recently asked for first, and none that a server may be reading."""
        kept = sorted((path for path in self._folder.iterdir() if FOLDER.fullmatch(path.name)), key=_age)
        for path in kept[self._most :]:
            if _age(path) > IN_USE_SECONDS:
                remove_adapter(path)


def _age(path: Path) -> float:
    """Seconds since it was last used; a folder that another process has just removed is ancient."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
