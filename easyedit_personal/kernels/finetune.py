"""The ``finetune`` kernel: dense fine-tuning of the down projection, the comparison that ``lowrank`` has to meet.

FT-M ("target_new": loss on every target token) and FT-L ("prompt_last": every target token predicted at the
prompt's last position, the change clamped), as EasyEdit's FT does; nothing is preserved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..hparams import PersonalizationHyperParams
from ..modeling.layout import Layout, find_layout, get_module, matrix_shape, weight_of
from ..modeling.memory import with_fewer
from ..progress import counted
from ..types import EditRequest, WeightDelta
from .base import context_limit, encode_requests, frozen
from .edited_rows import Change, EditedRows
from .objective import TargetLoss, in_parts
from .training_prompts import training_phrases


@dataclass(slots=True)
class Dense:
    """One matrix's update [d_out, d_in], starting at zero."""

    update: Tensor

    def __call__(self, keys: Tensor) -> Tensor:
        """What the update adds for keys [..., d_in]: [..., d_out]."""
        return keys @ self.update.T


class PromptLastLoss(TargetLoss):
    """FT-L's loss: -log p of all target tokens, each at the prompt's last position."""

    def of_group(self, rows: EditedRows, changes: Mapping[int, Change] | None) -> Tensor:
        """Nats per token of every row, [n]."""
        logits = rows.logits(changes, at=(rows.rows, rows.last_index[rows.rows]))
        return rows.row_means(F.cross_entropy(logits, rows.ids, reduction="none"))


def finetune(
    model: nn.Module, tokenizer: Any, requests: Sequence[EditRequest], hparams: PersonalizationHyperParams
) -> list[WeightDelta]:
    """Dense updates of the down projections of ``hparams.layers``, by Adam on all phrases jointly.

    Args:
        model: a causal language model; bit for bit the same afterwards, also when this raises.
        tokenizer: its tokenizer.
        requests: the phrases of all preferences.
        hparams: ``layers`` and ``finetune``. FT-L trains no end-of-turn token: its tokens have no order.

    Returns:
        One full-rank ``WeightDelta`` per layer, in float32.

    Raises:
        RequestError: a request cannot be carried out; nothing was computed.
        ModelError: the model has no such layer, or the optimisation diverged.
    """
    layout = find_layout(model, hparams)
    paths = {layer: layout.rewrite_path(layer) for layer in hparams.layers}
    is_last = hparams.finetune.objective == "prompt_last"
    coding = hparams.replace(end_of_turn=False) if is_last else hparams
    limit = context_limit(model)
    encode_requests(tokenizer, requests, coding, limit)  # faults are told before any work starts
    with frozen(model):
        rows = encode_requests(tokenizer, training_phrases(model, tokenizer, requests, hparams), coding, limit)
        loss = PromptLastLoss if is_last else TargetLoss

        def learned(most: int | None) -> dict[int, Dense]:
            updates = {layer: _zero(model, layout, layer) for layer in hparams.layers}
            parts = in_parts(model, tokenizer, layout, rows, hparams.layers, most=most)
            _descend(loss(parts, most is not None), updates, hparams)
            return updates

        updates = with_fewer(learned, len(rows), "phrases", model)
    return [WeightDelta.dense(paths[layer], dense.update.detach()) for layer, dense in sorted(updates.items())]


def _zero(model: nn.Module, layout: Layout, layer: int) -> Dense:
    path = layout.rewrite_path(layer)
    module = get_module(model, path)
    return Dense(torch.zeros(matrix_shape(module, path), device=weight_of(module).device).requires_grad_())


def _descend(loss_of: TargetLoss, updates: Mapping[int, Dense], hparams: PersonalizationHyperParams) -> None:
    params = hparams.finetune
    parameters = [dense.update for dense in updates.values()]
    optimizer = torch.optim.Adam(parameters, lr=params.lr)
    for _ in counted(range(params.steps)):
        loss = loss_of(updates).mean()
        if float(loss.detach()) < params.stop_loss:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if params.norm_constraint is not None:
            for parameter in parameters:  # FT-L's limit: no entry moves further than this
                parameter.data.clamp_(-params.norm_constraint, params.norm_constraint)
