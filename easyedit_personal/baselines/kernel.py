"""The editor itself as a method: a user's preferences as ``learn`` puts them into a model, kernel by kernel.

Clustering, phrases, composition and health check are those that users get, and their seconds count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..data.records import UPQAItem
from ..editing.composition import add_preferences
from ..errors import HealthError
from ..hparams import PersonalizationHyperParams
from ..kernels.beside import edited
from ..types import Preference, WeightDelta, own_bytes, shared_bytes
from .base import Session


class KernelMethod:
    """The editor with one kernel.

    Args:
        name: under which results are kept.
        hparams: the settings; ``cluster.size`` gives way to the evaluation's.
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
        """A session on the edited model; what the health check refuses is left out, as it is for a user."""
        hparams = self.hparams.replace(cluster={"size": cluster_size})
        known: list[Preference] = []
        deltas: list[WeightDelta] = []
        refused: list[str] = []
        for preference in (item.preference(cluster_size) for item in preferences):
            try:
                deltas += add_preferences(model, tokenizer, known, [preference], deltas, hparams).deltas
                known.append(preference)
            except HealthError as error:
                refused.append(str(error))
        with edited(model, deltas):
            own, shared = own_bytes(deltas), shared_bytes(deltas)
            yield Session(model, deltas=deltas, nbytes=own, shared_bytes=shared, refused=tuple(refused))
