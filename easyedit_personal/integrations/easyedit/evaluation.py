"""EasyEdit's editors in our evaluation: ``easyedit-personal evaluate --method lowrank,easyedit:ROME,easyedit:FT``.

One class per algorithm, made when its name is looked up; each goes through the same questions with a clean reset
for every user.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from ...baselines.base import Session
from ...data.records import UPQAItem
from ...hparams import PersonalizationHyperParams
from .host_methods import PREFIX, host_method


class HostBaseline:
    """One of the host's editors as a method of the evaluation.

    Args:
        hparams: ours; see ``HostMethod.__call__`` for what of it counts.
    """

    algorithm = ""
    name = ""
    edits = True

    def __init__(self, hparams: PersonalizationHyperParams | None = None) -> None:
        self.hparams = hparams or PersonalizationHyperParams()

    def prepare(self, items: Sequence[UPQAItem], seed: int) -> None:
        """Load the host, so that what lacks is said before the first user.

        Raises:
            HostError: EasyEdit is not there, or has no such algorithm.
            MissingDependencyError: the algorithm cannot run here.
        """
        self.method = host_method(self.algorithm)

    @contextmanager
    def personalize(
        self, model: nn.Module, tokenizer: Any, preferences: Sequence[UPQAItem], cluster_size: int
    ) -> Iterator[Session]:
        """A session on the model as the host edited it, all of the user's phrases in one call."""
        requests = [request for item in preferences for request in item.requests(cluster_size)]
        with self.method(model, tokenizer, requests, self.hparams) as edited:
            yield Session(edited, nbytes=self.method.nbytes)


def __getattr__(name: str) -> type[HostBaseline]:
    """The class for an algorithm, by its name with "_" for "-"; ``BASELINES`` looks it up here."""
    if name.startswith("__"):
        raise AttributeError(name)
    algorithm = name.replace("_", "-")
    return type(f"Host{name}", (HostBaseline,), {"algorithm": algorithm, "name": f"{PREFIX}{algorithm}"})
