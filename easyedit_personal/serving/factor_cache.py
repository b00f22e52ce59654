"""The factors, and the words, of the users who were here last, bounded in bytes, never older than the store.

A hit costs one ``version`` query; what was read is merged to one update per projection and lies on its device.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..modeling.layout import get_module
from ..statements.memory import sentence
from ..types import WeightDelta
from .multi_adapter import Updates, check_rows, merged

CACHE_BYTES = 256 * 2**20  # 256 MiB: some 800 users at Llama-3-8B's shape, rank 9 in bf16

ENTRY_BYTES = 512  # an entry without factors: its name, number and places in two dictionaries


class FactorStore(Protocol):
    """What is needed of a store; ``EditStore`` has more. ``words(user)`` is asked for too, where there is one."""

    def deltas(self, user: str) -> Sequence[WeightDelta]:
        """All live updates of a user; none for an unknown one."""
        ...

    def version(self, user: str) -> int:
        """A number that changes with every change of the user's updates."""
        ...


@dataclass(frozen=True, slots=True)
class _Entry:
    version: int
    factors: Updates
    words: tuple[str, ...]
    nbytes: int


class FactorCache:
    """Least recently used users go first; safe with threads.

    Args:
        store: where factors come from.
        model: the base model; updates that do not fit it are refused on reading.
        max_bytes: bound of what is kept; 0 keeps nothing.
    """

    def __init__(self, store: FactorStore, model: nn.Module, max_bytes: int = CACHE_BYTES) -> None:
        if max_bytes < 0:
            raise ConfigError("cache_bytes must not be negative.", got=max_bytes, needed="0 (no cache) or more")
        self.store, self.model, self.max_bytes = store, model, max_bytes
        self.nbytes = 0
        self.hits = self.misses = 0
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, user: str) -> bool:
        return user in self._entries

    def get(self, user: str) -> Updates:
        """The user's updates by module path, as the store has them now.

        Raises:
            ModelError: they were made for another base model.
        """
        return self.memory(user)[0]

    def memory(self, user: str) -> tuple[Updates, tuple[str, ...]]:
        """As ``get``, and the sentences that are kept in words, the oldest first; both of the same moment."""
        entry = self._entry(user)
        return entry.factors, entry.words

    def _entry(self, user: str) -> _Entry:
        version = self.store.version(user)
        with self._lock:
            entry = self._entries.get(user)
            if entry is not None and entry.version == version:
                self.hits += 1
                self._entries.move_to_end(user)
                return entry
            self.misses += 1
        return self._read(user, version)

    def clear(self) -> None:
        """Forget everybody."""
        with self._lock:
            self._entries.clear()
            self.nbytes = 0

    def _read(self, user: str, version: int) -> _Entry:
        factors = self._placed(merged(self.store.deltas(user)))
        check_rows(self.model, [factors])
        read_words = getattr(self.store, "words", None)
        words = tuple(sentence(one) for one in read_words(user)) if read_words else ()
        entry = _Entry(version, factors, words, _nbytes(factors) + sum(map(len, words)))
        # An edit between the two reads: newer factors must not be kept under the older number, nor the reverse.
        if self.store.version(user) == version:
            self._keep(user, entry)
        return entry

    def _placed(self, factors: Mapping[str, WeightDelta]) -> dict[str, WeightDelta]:
        """On the device where each projection computes, and not as views that keep larger tensors alive."""
        devices = {path: next(get_module(self.model, path).parameters()).device for path in factors}
        moved = {path: delta.to(devices[path]) for path, delta in factors.items()}
        return {path: WeightDelta(path, _own(delta.left), _own(delta.right)) for path, delta in moved.items()}

    def _keep(self, user: str, entry: _Entry) -> None:
        with self._lock:
            self._drop(user)
            if entry.nbytes > self.max_bytes:
                return
            self._entries[user] = entry
            self.nbytes += entry.nbytes
            while self.nbytes > self.max_bytes:
                self._drop(next(iter(self._entries)))

    def _drop(self, user: str) -> None:
        entry = self._entries.pop(user, None)
        self.nbytes -= entry.nbytes if entry else 0


def _own(tensor: Tensor) -> Tensor:
    """The tensor in memory of its own size."""
    fits = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor.detach() if fits else tensor.detach().clone(memory_format=torch.contiguous_format)


def _nbytes(factors: Updates) -> int:
    """Bytes that the tensors really hold, an overhead per user included, so that users without edits count too."""
    tensors = [tensor for update in factors.values() for tensor in (update.left, update.right)]
    return ENTRY_BYTES + sum(tensor.numel() * tensor.element_size() for tensor in tensors)
