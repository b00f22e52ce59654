"""What raises the words that an update is to say: directions of outputs that the Fisher information cannot see.

Where a model hardly ever says a word, making it ten times as likely costs next to no divergence, until it is said. So
quadratic forms count these directions by themselves, also where the word is not to be heard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .edited_rows import EditedRows

# Twice the divergence, in nats, that a change of one nat in a word's log-probability counts as.
ELSEWHERE_WEIGHT = 1e-3  # in ordinary text, and where other kinds are asked for
ALONG_WEIGHT = 5e-3  # along what the model writes after a beginning
NEAR_WEIGHT = 1e-2  # where a kind's own questions and answers are nearest


class Probe:
    """A change of nothing, to which gradients flow: they say what the layer's output is worth.

    Args:
        width: d_out.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.zeros = torch.zeros(0)

    def __call__(self, keys: Tensor) -> Tensor:
        """Zeros [..., d_out] for keys [..., d_in]."""
        self.zeros = keys.new_zeros((*keys.shape[:-1], self.width), requires_grad=True)
        return self.zeros


def target_gradients(rows: Sequence[EditedRows], roles: Sequence[Tensor], words: Tensor) -> dict[int, Tensor]:
    """By layer, what raises the words of each role most: [roles, d_out], in nats per unit of the output.

    Gradients with respect to the projection's output, averaged over a role's places: of log p(y) where y is predicted,
    and of what it does to the learned words that follow in the same answer.

    Args:
        roles: numbers of places among those of all rows, in their order.
        words: ids of the words that count, sorted; the rows' own are among them.
    """
    wanted = torch.zeros(sum(len(group.ids) for group in rows), dtype=torch.bool, device=words.device)
    wanted[torch.cat(list(roles))] = True
    found: dict[int, list[Tensor]] = {}
    for group, here in zip(rows, wanted.split([len(group.ids) for group in rows])):
        probes = {layer: Probe(group.layout.d_model) for layer in group.layers}
        logs = group.logits(probes, words=words).log_softmax(1)
        said = logs.gather(1, torch.searchsorted(words, group.ids)[:, None])[:, 0]
        gradients = torch.autograd.grad(said[here].sum(), [probes[layer].zeros for layer in group.layers])
        for layer, gradient in zip(group.layers, gradients):
            found.setdefault(layer, []).append(gradient[group.rows, group.columns - group.start])
    by_place = {layer: torch.cat(parts) for layer, parts in found.items()}
    return {layer: torch.stack([each[numbers].mean(0) for numbers in roles]) for layer, each in by_place.items()}


def with_gradients(root: Tensor, gradients: Tensor, weight: float) -> Tensor:
    """G^(1/2) with the gradients below it: |both @ change|^2 counts both, the gradients ``weight`` times."""
    return torch.cat([root.to(gradients), math.sqrt(weight) * gradients])
