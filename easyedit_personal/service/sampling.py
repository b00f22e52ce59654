"""Tokens drawn at random: temperature, the nucleus of top_p, and a seed of one's own.

Each answer has its own generator, so that neighbours in the batch do not change what is drawn; only the rounding of its
logits depends on them, which is why a seed makes the same answer nearly always and not always.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Sampler:
    """Draws one answer's tokens.

    Args:
        temperature: above 0; lower is closer to the most likely token.
        top_p: keep the most likely tokens that have this much probability together (arXiv 1904.09751).
        seed: None is another one every time.
    """

    def __init__(self, temperature: float, top_p: float = 1.0, seed: int | None = None) -> None:
        self._temperature, self._top_p = temperature, top_p
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def __call__(self, logits: Tensor) -> int:
        """A token, from its logits [v]."""
        scores = logits.detach().to("cpu", torch.float64)
        # Below this the most likely token takes everything, and float64 would overflow.
        chances = torch.softmax((scores - scores.max()) / max(self._temperature, 1e-4), -1)
        if self._top_p < 1:
            chances, order = chances.sort(descending=True, stable=True)
            before = chances.cumsum(-1) - chances
            chances = chances.where(before < self._top_p, 0.0)
            return int(order[self._drawn(chances)])
        return int(self._drawn(chances))

    def _drawn(self, chances: Tensor) -> Tensor:
        return torch.multinomial(chances, 1, generator=self._generator)[0]
