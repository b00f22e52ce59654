"""Retrieval: the user's preferences lie in a memory, and those nearest to the question are restated before it.

The memory holds further preferences of other kinds beside the one that is asked for; a memory of one entry would
make retrieval the reminder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
from torch import nn

from ..clustering.embed import HiddenStateEmbedder, SentenceEmbedder
from ..data.records import UPQAItem
from ..errors import MissingDependencyError
from ..hparams import RetrievalParams
from .base import Prompting, Session, statement
from .prompting import stated_bytes


class Retrieval(Prompting):
    """Top-k of the user's preferences by embedding similarity with the question.

    Args:
        settings: how many are restated, of how many that a user has, the ones asked for included.
        embedder: what ``clustering.embed.make_embedder`` takes; None takes the sentence encoder where it is
            installed, else the model's own hidden states.
    """

    name = "retrieval"

    def __init__(self, settings: RetrievalParams | None = None, embedder: Any = None) -> None:
        self.settings, self._embedder = settings or RetrievalParams(), embedder
        self.items: Sequence[UPQAItem] = ()
        self.seed = 0

    def prepare(self, items: Sequence[UPQAItem], seed: int) -> None:
        """Remember everybody's items, from which the users' other preferences are drawn; load the encoder."""
        self.items, self.seed = items, seed
        self._embedder = self._embedder or sentence_embedder()

    @contextmanager
    def personalize(
        self, model: nn.Module, tokenizer: Any, preferences: Sequence[UPQAItem], cluster_size: int
    ) -> Iterator[Session]:
        """A session that restates what the memory finds for each question."""
        known = [*preferences, *self._others(preferences)]
        recall = self._recall(model, tokenizer, [statement(item) for item in known])
        yield Session(model, rewrite=recall, nbytes=stated_bytes(known))

    def _others(self, preferences: Sequence[UPQAItem]) -> list[UPQAItem]:
        """Preferences about other things than those asked for, one per kind, the same at every call."""
        pool = list(self.items)
        Random(f"{self.seed}/{preferences[0].id}").shuffle(pool)
        taken = {item.subject for item in preferences}
        others: list[UPQAItem] = []
        for item in pool:
            if item.subject not in taken and len(preferences) + len(others) < self.settings.memory:
                taken.add(item.subject)
                others.append(item)
        return others

    def _recall(self, model: nn.Module, tokenizer: Any, texts: list[str]) -> Callable[[str], str]:
        embedder = self._embedder or HiddenStateEmbedder(model, tokenizer)
        vectors = np.asarray(embedder.embed(texts))

        @lru_cache(maxsize=256)
        def recall(question: str) -> str:
            similarity = vectors @ np.asarray(embedder.embed([question]))[0]
            best = sorted(np.argsort(-similarity, kind="stable")[: self.settings.top_k])
            return " ".join([*(texts[i] for i in best), question])

        return recall


def sentence_embedder() -> Any:
    """The sentence encoder, loaded; None where it is not installed."""
    try:
        embedder = SentenceEmbedder()
        embedder.embed(["hello"])  # loads it
    except MissingDependencyError:
        return None
    return embedder
