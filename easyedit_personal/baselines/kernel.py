"""Our kernels as methods: compute the factors, apply them, take them back bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from ..data.records import UPQAItem
from ..hparams import PersonalizationHyperParams
from ..kernels.apply import edited
from ..registry import KERNELS
from ..types import EditRequest, WeightDelta
from .base import Session


class KernelMethod:
    """One kernel with its settings.

    Args:
        name: under which results are kept.
        hparams: ``kernel`` and ``strategy`` say what runs; several preferences are edited one on top of the other.
    """

    edits = True

    def __init__(self, name: str, hparams: PersonalizationHyperParams) -> None:
        self.name, self.hparams = name, hparams

    def prepare(self, items: Sequence[UPQAItem], seed: int) -> None:
        """Nothing to prepare."""

    @contextmanager
    def personalize(
        self, model: nn.Module, tokenizer: Any, preferences: Sequence[UPQAItem], cluster_size: int
    ) -> Iterator[Session]:
        """A session on the edited model."""
        deltas: list[WeightDelta] = []
        with ExitStack() as stack:
            for item in preferences:
                for part in self._portions(item.requests(cluster_size)):
                    new = list(KERNELS.get(self.hparams.kernel)(model, tokenizer, part, self.hparams))
                    stack.enter_context(edited(model, new))
                    deltas += new
            yield Session(model, deltas=deltas, nbytes=sum(delta.nbytes for delta in deltas))

    def _portions(self, requests: list[EditRequest]) -> list[list[EditRequest]]:
        """All phrases at once, or one after the other as the paper does."""
        return [requests] if self.hparams.strategy == "joint" else [[request] for request in requests]
