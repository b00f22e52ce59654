"""How a kernel reads keys: ours, and the two other ways of EasyEdit's ROME and MEMIT, as values that kernels pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..hparams import PersonalizationHyperParams
from .solve import RIDGE


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """What ``keys``, ``values`` and the solve have to know of the kernel that calls them. The defaults are ROME's.

    Attributes:
        raw: encode prompts without chat template and end of turn, whatever the settings say.
        sentences: (tokens, number) of sentences that the model begins itself and that prompts are put behind; empty
            for neutral ones of ours.
        bare_share: share of the bare prompt in a phrase's key where it has several contexts; None for equal shares.
        reads_bare: whether the other side of the equation looks at the bare prompt only.
        in_stream: whether v_0, which a shift is measured by, is the decoder layer's output (MEMIT) instead of the
            down projection's (ROME).
        ridge: added to second moments, relative to the mean of their diagonal.
    """

    raw: bool = False
    sentences: tuple[tuple[int, int], ...] = ()
    bare_share: float | None = None
    reads_bare: bool = False
    in_stream: bool = False
    ridge: float = RIDGE

    def encoding(self, hparams: PersonalizationHyperParams) -> PersonalizationHyperParams:
        """The settings with which prompts are encoded."""
        return hparams.replace(prompt_format="raw", end_of_turn=False) if self.raw else hparams

    def key_weights(self, n: int) -> Tensor:
        """Shares of n contexts in a phrase's key, [n]; the bare prompt comes first."""
        if self.bare_share is None or n == 1:
            return torch.full((n,), 1.0 / n)
        return torch.tensor([self.bare_share, *[(1.0 - self.bare_share) / (n - 1)] * (n - 1)])

    def read_weights(self, n: int) -> Tensor:
        """The same for the other side of the equation, [n]."""
        return torch.eye(n)[0] if self.reads_bare else self.key_weights(n)


# EasyEdit knows no chat template and no end of turn, and adds no ridge.
HOST = KeyOptions(raw=True, reads_bare=True, ridge=0.0)
