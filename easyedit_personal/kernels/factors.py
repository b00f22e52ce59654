"""Updates as pairs of factors in the coordinates in which they are optimised, and the form that restrains them.

Shared by everything that learns low-rank updates: a layer's update is ``unit * left @ right @ metric.T``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..progress import counted
from ..types import WeightDelta
from .carried import Cells, Pair


@dataclass(slots=True)
class Space:
    """Where one matrix's update lives: it is ``unit * M @ metric.T``, M being what the optimiser moves.

    Notation: P the metric, M the coordinates [d_out, d_in], u a number; the update is u M P^T. A step of Adam changes
    every entry of M alike, so that it moves outputs most for keys that P makes long (see ``metric``).

    Attributes:
        metric: P [d_in, d_in]; None is the identity.
        unit: u; with it a step of size 1 changes outputs by about their own size, whatever the model's activations.
    """

    metric: Tensor | None
    unit: float = 1.0

    def whitened(self, keys: Tensor) -> Tensor:
        """k^T P for keys k [..., d_in]."""
        return keys if self.metric is None else keys @ self.metric


@dataclass(slots=True)
class Update(ABC):
    """An update of one layer on its way.

    Attributes:
        space: where it lives.
        left: [d_out, r].
        right: [r, d_in], in the space's coordinates.
    """

    space: Space
    left: Tensor
    right: Tensor

    def __call__(self, keys: Tensor) -> Tensor:
        """What the update adds for keys [..., d_in]: [..., d_out]."""
        return self.acts(keys) @ self.left.T * self.space.unit

    @abstractmethod
    def acts(self, keys: Tensor) -> Tensor:
        """How much of each column of ``left`` is added for keys [..., d_in]: [..., r]."""

    @abstractmethod
    def kept(self) -> Pair | Cells:
        """What is kept of it, without gradients."""

    @property
    def plain_right(self) -> Tensor:
        """right P^T [r, d_in]: what the right factor is for keys as the model gives them."""
        return self.right if self.space.metric is None else self.right @ self.space.metric.T

    def groups(self, left_lr: float, right_lr: float) -> list[dict[str, Any]]:
        """What an optimiser moves, and how fast; right factors by shares of their own size."""
        size = float(self.right.square().mean().sqrt())
        return [
            {"params": [self.left.requires_grad_()], "lr": left_lr},
            {"params": [self.right.requires_grad_()], "lr": right_lr * size},
        ]

    def settle(self) -> None:
        """No more gradients."""
        self.left, self.right = self.left.detach(), self.right.detach()


@dataclass(slots=True)
class Factors(Update):
    """A linear update, with M = left @ right."""

    def acts(self, keys: Tensor) -> Tensor:
        """What the right factors give for keys [..., d_in]: [..., r]."""
        return keys @ self.plain_right.T

    def kept(self) -> Pair:
        """Both factors, for keys as the model gives them."""
        return self.space.unit * self.left.detach(), self.plain_right.detach().contiguous()

    def delta(self, path: str) -> WeightDelta:
        """The update as the record that is stored."""
        return WeightDelta(path, *self.kept())


@dataclass(frozen=True, slots=True)
class Quiet:
    """Keys at which an update is to add nothing that matters.

    Attributes:
        keys: [n, d_in], as the model gives them: whitening r factors is cheaper than whitening n keys.
        root: G^(1/2) [d_out, d_out], G the Fisher information of the layer's output.
    """

    keys: Tensor
    root: Tensor

    def __call__(self, update: Update) -> Tensor:
        """mean over keys of |G^(1/2) D k|^2 / 2: the KL divergence that the update causes there, to second order."""
        left, acts = update.space.unit * (self.root @ update.left), update.acts(self.keys)
        return 0.5 * (acts @ (left.T @ left) * acts).sum(1).mean()


def towards(roles: Tensor, away_from: Tensor) -> Tensor:
    """Right factors [r, d_in] that tell keys of each role from others: whitened differences of means (Fisher, 1936).

    Args:
        roles: the mean whitened key of every role [r, d_in].
        away_from: that of what is to be told apart from each [r, d_in].

    Returns:
        One row per role; it gives 1 more on the role's mean than on the others'.
    """
    means = roles - away_from
    return means / means.square().sum(1, keepdim=True).clamp(min=torch.finfo(means.dtype).tiny)


def adam(
    updates: Collection[Update],
    loss: Callable[[int], Tensor],
    steps: int,
    left_lr: float,
    right_lr: float,
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Adam on all factors, in place, until ``enough``; right factors move by shares of their own size.

    Args:
        loss: of the step with this number; an update that it does not depend on stays as it is.
    """
    groups = [group for update in updates for group in update.groups(left_lr, right_lr)]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in counted(range(steps)):
        total = loss(step)
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * decayed(step, steps)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if enough():
            break
    for update in updates:
        update.settle()


def decayed(step: int, steps: int) -> float:
    """Share of the learning rate at a step: a cosine that ends at a tenth, so that the last steps still count."""
    return 0.55 + 0.45 * math.cos(math.pi * step / max(1, steps - 1))
