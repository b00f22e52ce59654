"""From the last decoder layer's output to logits: final norm, head, and the scalings that some families apply."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layout import Layout, get_module


def logits_of(model: nn.Module, layout: Layout, hidden: Tensor, words: Tensor | None = None) -> Tensor:
    """Logits [..., vocab], float32, of the last layer's output [..., d_model]; of ``words`` alone if given."""
    norm = get_module(model, layout.final_norm) if layout.final_norm else nn.Identity()
    logits = _words(get_module(model, layout.head), norm(hidden), words).float()
    config = getattr(model, "config", None)
    scale, divisor = (getattr(config, name, None) or 1.0 for name in ("logit_scale", "logits_scaling"))
    cap = getattr(config, "final_logit_softcapping", None)
    logits = logits if scale == divisor else logits * (scale / divisor)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _words(head: nn.Module, normed: Tensor, words: Tensor | None) -> Tensor:
    """The head's products, with the rows of ``words`` only where it is a plain matrix."""
    if words is None or type(head) is not nn.Linear or head._forward_hooks or head._forward_pre_hooks:
        logits: Tensor = head(normed)
        return logits if words is None else logits[..., words]
    return F.linear(normed, _picked(head.weight, words), None if head.bias is None else head.bias[words])


_PICKED: dict[int, tuple[object, Tensor]] = {}


def _picked(weight: Tensor, words: Tensor) -> Tensor:
    """The rows of ``words``, picked once for as long as the words live: an optimisation wants them at every step."""
    if weight.requires_grad:
        return weight[words]
    state = (weight.data_ptr(), weight._version, weight.dtype, weight.shape, words._version)
    kept = _PICKED.get(id(words))
    if kept is None:
        weakref.finalize(words, _PICKED.pop, id(words), None)
    if kept is None or kept[0] != state:
        kept = _PICKED[id(words)] = (state, weight[words])
    return kept[1]
