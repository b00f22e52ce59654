"""What a decoder layer still does with its down projection's output before it reaches the residual stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layout import Layout, get_module


@dataclass(frozen=True, slots=True)
class Tail:
    """What a decoder layer does with the down projection's output y before adding it to the residual stream.

    Attributes:
        norm: the norm that y passes through (Gemma 2 and 3, OLMo 2); None where y is added as it is.
    """

    norm: nn.Module | None = None

    @classmethod
    def of(cls, model: nn.Module, layout: Layout, layer: int) -> Tail:
        """The tail of decoder layer ``layer``."""
        return cls(get_module(model, f"{layout.layer_path(layer)}.{layout.post_norm}") if layout.post_norm else None)

    def __call__(self, y: Tensor) -> Tensor:
        """What is added to the residual stream for y."""
        if self.norm is None:
            return y
        return self.norm(y.to(next(self.norm.parameters()).dtype)).to(y.dtype)

    def pull_back(self, y: Tensor, change: Tensor) -> Tensor:
        """The change of y [..., d_model] that changes the layer's output h by ``change``, to first order.

        The identity where y is added as it is. After a norm o = w * y / rms(y), the factor y / o undoes the scaling;
        the norm's own reaction to a longer y is neglected: a norm can turn its output, not lengthen it.
        """
        if self.norm is None:
            return change
        normed = self(y)
        tiny = normed.abs() < 1e-6
        return change * torch.where(tiny, 0.0, y / torch.where(tiny, 1.0, normed))
