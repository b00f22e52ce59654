"""The ``lowrank`` kernel: fine-tuning's objective on rank-r factors of the down projection, with preservation.

As general as fine-tuning one matrix (FT-M), since it is the same objective; as local as ROME, since it is held to
the unedited model's answers; a few kilobytes, since only the factors are kept. See ``objective`` for the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..hparams import LowRankParams, PersonalizationHyperParams
from ..modeling.layout import Layout, find_layout, get_module, matrix_shape
from ..progress import log
from ..types import EditRequest, WeightDelta
from .base import context_limit, encode_requests, frozen
from .finetune import finetune
from .objective import Change, EditedRows, PreserveLoss, TargetLoss, preserve_loss, target_loss
from .phrasings import with_indirect

TINY = 1e-6
RIDGE = 1e-2  # of the mean squared preserved key; keeps the solve for "keys" well posed


@dataclass(slots=True)
class Factors:
    """One matrix's update ``scale * left @ right``, in units of the model's own keys and outputs.

    Attributes:
        left: [d_out, r]; starts at zero.
        right: [r, d_in]; starts where ``init`` says, of such a size that projections of the phrases' keys are about 1.
        scale: root mean square of what the projection gives where answers begin; so one learning rate fits models
            whose activations differ a hundredfold.
    """

    left: Tensor
    right: Tensor
    scale: float

    def __call__(self, keys: Tensor) -> Tensor:
        """What the update adds for keys [..., d_in]: [..., d_out]."""
        return (keys @ self.right.T) @ (self.scale * self.left.T)

    def delta(self, path: str) -> WeightDelta:
        """The update as the record that is stored."""
        return WeightDelta(path, self.scale * self.left.detach(), self.right.detach())


def lowrank(
    model: nn.Module, tokenizer: Any, requests: Sequence[EditRequest], hparams: PersonalizationHyperParams
) -> list[WeightDelta]:
    """Low-rank updates of the down projections of ``hparams.layers`` that make every phrase's answer its target.

    All phrases of all preferences are optimised together, in float32 whatever the model's type, with Adam. The
    targets are those of FT-M in arXiv 2512.13676 (all target tokens), plus the end-of-turn token.

    Args:
        model: a causal language model; bit for bit the same afterwards, also when this raises.
        tokenizer: its tokenizer.
        requests: the phrases; those of one preference share ``cluster`` and target.
        hparams: ``layers``, ``lowrank`` and ``preserve``; equal seeds give equal factors.

    Returns:
        One ``WeightDelta`` of rank ``lowrank.rank`` (or the matrix's smaller side) per layer, in float32.

    Raises:
        RequestError: a request cannot be carried out; nothing was computed.
        ModelError: the model has no such layer, or the optimisation diverged.
        ConfigError, DataError: the preservation file is missing or malformed.
    """
    if hparams.lowrank.solver == "truncated":
        return [truncated(delta, hparams.lowrank.rank) for delta in finetune(model, tokenizer, requests, hparams)]
    layout = find_layout(model, hparams)
    paths = {layer: layout.rewrite_path(layer) for layer in hparams.layers}
    requests = with_indirect(requests, hparams.cluster.indirect, hparams.seed)
    rows = encode_requests(tokenizer, requests, hparams, context_limit(model))
    with frozen(model):
        target = target_loss(model, tokenizer, layout, rows, hparams.layers)
        preserve = preserve_loss(model, tokenizer, layout, requests, hparams, target.rows.suffix.split)
        factors = initial_factors(model, layout, target.rows, preserve, hparams)
        losses = descend(target, preserve, factors, hparams)
    _warn_if_unlearned(requests, losses, hparams.lowrank)
    return [f.delta(paths[layer]) for layer, f in sorted(factors.items())]


def truncated(delta: WeightDelta, rank: int) -> WeightDelta:
    """The best approximation of an update by one of rank ``rank`` (Eckart and Young 1936).

    Fine-tuning with Adam spreads small changes over the whole matrix; what it means stands in a few directions.
    """
    left, sizes, right = torch.linalg.svd(delta.update(), full_matrices=False)
    return WeightDelta(delta.layer, left[:, :rank] * sizes[:rank], right[:rank].contiguous())


def initial_factors(
    model: nn.Module,
    layout: Layout,
    target: EditedRows,
    preserve: PreserveLoss | None,
    hparams: PersonalizationHyperParams,
) -> dict[int, Factors]:
    """Factors that change nothing yet, sized by the phrases' keys and outputs where their answers begin."""
    generator = torch.Generator().manual_seed(hparams.seed)
    factors = {}
    for layer, (keys, outputs) in target.where_answers_begin().items():
        module = get_module(model, layout.rewrite_path(layer))
        d_out, d_in = matrix_shape(module, layout.rewrite_path(layer))
        rank = min(hparams.lowrank.rank, d_out, d_in)
        right = torch.randn(rank, d_in, generator=generator).to(keys.device)
        right /= right.norm(dim=1, keepdim=True)
        if hparams.lowrank.init == "keys":
            other = [group.rows.where_answers_begin()[layer][0] for group in preserve.groups] if preserve else []
            right = _key_directions(keys, other, right)
        right /= (keys @ right.T).square().mean(0).sqrt().clamp(min=TINY)[:, None]
        left = torch.zeros(d_out, rank, device=right.device)
        scale = float(outputs.square().mean().sqrt().clamp(min=TINY))
        factors[layer] = Factors(left.requires_grad_(), right.requires_grad_(), scale)
    return factors


def _key_directions(keys: Tensor, preserved: Sequence[Tensor], right: Tensor) -> Tensor:
    """Unit rows that respond to the phrases' keys and little to preserved ones; random rows fill up.

    Rows of (C + ridge)^-1 K^T, K the phrases' keys [n, d_in] and C the second moment of the preserved keys, reduced
    to their leading directions: ROME's key direction (arXiv 2202.05262, eq. 2), with preserved prompts for a corpus.
    """
    if preserved:
        other = torch.cat(list(preserved))
        ridge = RIDGE * other.square().mean() * len(other)
        # Woodbury: (ridge + P^T P)^-1 K^T without a d_in x d_in matrix.
        small = other @ other.T + ridge * torch.eye(len(other), device=other.device)
        keys = keys - keys @ other.T @ torch.linalg.solve(small, other)
    directions = torch.linalg.svd(keys, full_matrices=False).Vh[: len(right)]
    return torch.cat([directions, right[len(directions) :]])


def descend(
    target: TargetLoss,
    preserve: PreserveLoss | None,
    factors: Mapping[int, Factors],
    hparams: PersonalizationHyperParams,
) -> Tensor:
    """Adam on the factors, in place; returns each phrase's loss at the last step, [n] in nats per token.

    Stops early once every phrase is below ``stop_loss`` and the preservation term, averaged over one round of its
    groups, below ``stop_kl``.
    """
    params, weight = hparams.lowrank, hparams.preserve.weight
    changes: Mapping[int, Change] = factors
    parameters = [tensor for f in factors.values() for tensor in (f.left, f.right)]
    optimizer = torch.optim.Adam(parameters, lr=params.lr, weight_decay=params.weight_decay)
    recent: list[float] = []
    for step in range(params.steps):
        losses = target(changes)
        total = losses.mean()
        if preserve is not None:
            kept = preserve(changes, step)
            total = total + weight * kept
            recent = [*recent, float(kept.detach())][-len(preserve.groups) :]
        if float(losses.detach().max()) < params.stop_loss and _is_kept(preserve, recent, hparams):
            break
        for group in optimizer.param_groups:
            group["lr"] = params.lr * _rate(step, params)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return losses.detach()


def _is_kept(preserve: PreserveLoss | None, recent: Sequence[float], hparams: PersonalizationHyperParams) -> bool:
    if preserve is None:
        return True
    return len(recent) == len(preserve.groups) and sum(recent) / len(recent) < hparams.preserve.stop_kl


def _rate(step: int, params: LowRankParams) -> float:
    """Share of the learning rate at a step; the cosine ends at a tenth, so that the last steps still count."""
    if params.schedule == "constant":
        return 1.0
    return 0.55 + 0.45 * math.cos(math.pi * step / max(1, params.steps - 1))


def _warn_if_unlearned(requests: Sequence[EditRequest], losses: Tensor, params: LowRankParams) -> None:
    """Say which preferences were not learned: above one nat per token the target is unlikely to be the answer."""
    failed = {request.target_new for request, loss in zip(requests, losses.tolist()) if not loss < 1.0}
    if failed:
        log.warning(
            "not learned within %d steps: %s (raise lowrank.steps, lr or rank, or lower preserve.weight)",
            params.steps,
            ", ".join(sorted(failed)),
        )
