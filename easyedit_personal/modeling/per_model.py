"""What is computed once per model and kept in memory: found again by the model's fingerprint, whoever holds it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import nn

from .layout import fingerprint, tokenizer_fingerprint

T = TypeVar("T")
MODELS_KEPT = 4


class PerModel(Generic[T]):
    """Values by model and tokenizer; the least recently used ones are dropped. An edited model is another model.

    Args:
        most: how many are kept; fewer than usual where each is large.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = MODELS_KEPT if most is None else most
        self._kept: OrderedDict[tuple[Any, ...], T] = OrderedDict()

    def get(self, model: nn.Module, tokenizer: Any, make: Callable[[], T], *settings: Any) -> T:
        """The value for a model, a tokenizer and ``settings``; ``make`` gives it the first time."""
        key = (fingerprint(model), tokenizer_fingerprint(tokenizer), *settings)
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return self._kept[key]

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
