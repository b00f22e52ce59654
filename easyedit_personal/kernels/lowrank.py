"""The ``lowrank`` kernel: fine-tuning's objective in the metric of the model's keys, with preservation, cut to rank r.

As general as fine-tuning one matrix (FT-M), since it is the same objective; gentler, since a direction costs what the
model's own text uses it (ROME's metric) and other answers are held in place; a few kilobytes, since only the leading
directions are kept. See ``objective`` for the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..hparams import LowRankParams, PersonalizationHyperParams
from ..modeling.layout import find_layout
from ..modeling.memory import with_fewer
from ..progress import counted, log
from ..types import EditRequest, WeightDelta
from .base import context_limit, encode_requests, frozen, group_by_cluster
from .edited_rows import Change
from .factors import Factors, Space, decayed
from .metric import key_metrics
from .natural import by_kind, merged, natural_for_many
from .objective import PreserveLoss, TargetLoss, preserve_loss, target_loss
from .training_prompts import training_phrases

TINY = 1e-9


@dataclass(slots=True)
class Whole:
    """An update with all of M free."""

    space: Space
    matrix: Tensor

    def __call__(self, keys: Tensor) -> Tensor:
        """What the update adds for keys [..., d_in]: [..., d_out]."""
        return (self.space.whitened(keys) @ self.matrix.T) * self.space.unit

    def cut(self, rank: int) -> Factors:
        """The leading ``rank`` directions of M.

        Cutting M and not the update keeps what matters on the model's own keys (Eckart and Young 1936, in the metric).
        """
        matrix = self.matrix.detach()
        if not bool(matrix.isfinite().all()):
            return Factors(self.space, matrix, torch.eye(matrix.shape[1], device=matrix.device))
        left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
        roots = sizes[:rank].sqrt()
        return Factors(self.space, left[:, :rank] * roots, roots[:, None] * right[:rank])


def lowrank(
    model: nn.Module, tokenizer: Any, requests: Sequence[EditRequest], hparams: PersonalizationHyperParams
) -> list[WeightDelta]:
    """Low-rank updates of the down projections of ``hparams.layers`` that make the model state the preferences.

    ``answers: natural`` teaches beginnings that the model goes on from by itself (see ``natural``); preferences whose
    attribute has no name, and all with ``answers: short``, are taught as bare values (see ``bare_values``).

    Args:
        model: a causal language model; bit for bit the same afterwards, also when this raises.
        tokenizer: its tokenizer.
        requests: the phrases; those of one preference share ``cluster`` and target.
        hparams: ``layers``, ``answers``, ``natural``, ``lowrank``, ``preserve``; equal seeds give equal factors.

    Returns:
        One ``WeightDelta`` per layer, in float32; and beside it the gates of natural answers, which all users share.

    Raises:
        RequestError: a request cannot be carried out; nothing was computed.
        ModelError: the model has no such layer, or the optimisation diverged.
        ConfigError, DataError: the preservation file is missing or malformed.
    """
    return lowrank_for_many(model, tokenizer, [requests], hparams)[0]


def lowrank_for_many(
    model: nn.Module,
    tokenizer: Any,
    requests: Sequence[Sequence[EditRequest]],
    hparams: PersonalizationHyperParams,
) -> list[list[WeightDelta]]:
    """Every user's own ``lowrank`` edit of the same base model; natural answers of all users are learned together.

    Nobody's edit sees another's: each is that of a call of its own, but for rounding. Bare values are learned user by
    user.

    Args:
        model, tokenizer, hparams: as for ``lowrank``.
        requests: each user's.

    Returns:
        Each user's deltas, in the order given.

    Raises:
        RequestError, ModelError, ConfigError, DataError: as ``lowrank``.
    """
    limit = context_limit(model)
    for own in requests:
        encode_requests(tokenizer, own, hparams, limit)  # faults are told before any work starts
    parts = [by_kind(own) if hparams.answers == "natural" else ({}, list(own)) for own in requests]
    named = [kinds for kinds, _ in parts]
    deltas = natural_for_many(model, tokenizer, named, hparams) if any(named) else [[] for _ in requests]
    for some, (_, bare) in zip(deltas, parts):
        some += bare_values(model, tokenizer, bare, hparams) if bare else []
    return [[d for d in some if d.shared] + merged([d for d in some if not d.shared]) for some in deltas]


def bare_values(
    model: nn.Module, tokenizer: Any, requests: Sequence[EditRequest], hparams: PersonalizationHyperParams
) -> list[WeightDelta]:
    """Low-rank updates of the down projections of ``hparams.layers`` that make every phrase's answer its target.

    All phrases of all preferences are optimised together, in float32 whatever the model's type, with Adam. The
    targets are those of FT-M in arXiv 2512.13676 (all target tokens), plus the end-of-turn token; the metric is that
    of ROME's closed form (arXiv 2202.05262, eq. 2).

    Args:
        model: a causal language model; bit for bit the same afterwards, also when this raises.
        tokenizer: its tokenizer.
        requests: the phrases; those of one preference share ``cluster`` and target.
        hparams: ``layers``, ``lowrank``, ``preserve``, and ``mom2_*`` for the metric (``mom2_adjustment: false`` is
            plain fine-tuning, cut); equal seeds give equal factors.

    Returns:
        One ``WeightDelta`` per layer, in float32, of rank ``lowrank.rank`` times the number of preferences (at most the
        matrix's smaller side).

    Raises:
        RequestError: a request cannot be carried out; nothing was computed.
        ModelError: the model has no such layer, or the optimisation diverged.
        ConfigError, DataError: the preservation file is missing or malformed.
    """
    layout, params = find_layout(model, hparams), hparams.lowrank
    several = len(group_by_cluster(requests))  # as many times the directions, and steps of polish
    wider, longer = effort(several)
    paths = {layer: layout.rewrite_path(layer) for layer in hparams.layers}
    with frozen(model):
        phrases = training_phrases(model, tokenizer, requests, hparams)
        rows = encode_requests(tokenizer, phrases, hparams, context_limit(model))
        metrics = key_metrics(model, tokenizer, hparams)

        def learned(most: int | None) -> tuple[dict[int, Factors], Tensor]:
            target = target_loss(model, tokenizer, layout, rows, hparams.layers, wider * params.batch, most)
            preserve = preserve_loss(model, tokenizer, layout, phrases, hparams, target.split, most)
            dense = at_zero(target, metrics)
            whole = [{"params": [update.matrix for update in dense.values()], "lr": params.lr}]
            descend(target, preserve, dense, whole, longer * params.steps, hparams)
            cut = {layer: update.cut(several * params.rank) for layer, update in dense.items()}
            return cut, descend(target, preserve, cut, _polishing(cut, params), 1 + several * params.polish, hparams)

        widest = max(wider * params.batch, hparams.preserve.batch)
        updates, losses = with_fewer(learned, widest, "phrases", model)
    _warn_if_unlearned(phrases, losses, params)
    return [update.delta(paths[layer]) for layer, update in sorted(updates.items())]


def effort(preferences: int) -> tuple[int, int]:
    """How many times the phrases per step, and how many times the steps before the cut, so many preferences take.

    Up to four need as much of either as there are; twenty are all recalled after the steps of four, and more steps
    only cost time and perplexity (benchmarks/LOG.md). Beyond twenty the steps grow with the number.
    """
    few = min(preferences, 4)
    return few, max(few, preferences // 5)


def at_zero(target: TargetLoss, metrics: Mapping[int, Tensor]) -> dict[int, Whole]:
    """Updates that change nothing yet, in units of the phrases' keys and outputs where their answers begin."""
    updates = {}
    for layer, (keys, outputs) in target.where_answers_begin().items():
        space = Space(metrics[layer].to(keys.device) if layer in metrics else None)
        reach = space.whitened(keys).abs().sum(1).mean().clamp(min=TINY)
        space.unit = float(outputs.square().mean().sqrt().clamp(min=TINY) / reach)
        updates[layer] = Whole(space, torch.zeros(outputs.shape[1], keys.shape[1], device=keys.device))
        updates[layer].matrix.requires_grad_()
    return updates


def _polishing(updates: Mapping[int, Factors], params: LowRankParams) -> list[dict[str, Any]]:
    """Adam's groups for what is left after the cut: a step changes a factor's entries by a share of their size."""
    groups = []
    for update in updates.values():
        for tensor in (update.left, update.right):
            size = float(tensor.square().mean().sqrt())
            groups.append({"params": [tensor.requires_grad_()], "lr": params.polish_lr * size})
    return groups


def descend(
    target: TargetLoss,
    preserve: PreserveLoss | None,
    changes: Mapping[int, Change],
    groups: list[dict[str, Any]],
    steps: int,
    hparams: PersonalizationHyperParams,
) -> Tensor:
    """Adam on the tensors of ``groups``, in place; each phrase's loss when last seen, [n] in nats per token.

    Stops early once every phrase was below ``stop_loss`` when last seen, and the preservation term, averaged over one
    round of its groups, below ``stop_kl``.
    """
    params, weight = hparams.lowrank, hparams.preserve.weight
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    rates = [group["lr"] for group in optimizer.param_groups]
    recent: list[float] = []
    latest = torch.full((target.count,), math.inf)
    for step in counted(range(steps)):
        seen, losses = target.at(step, changes)
        latest[seen] = losses.detach().cpu()
        total = losses.mean()
        if preserve is not None:
            kept = preserve(changes, step)
            total = total + weight * kept
            recent = [*recent, float(kept.detach())][-len(preserve.parts) :]
        if float(latest.max()) < params.stop_loss and _is_kept(preserve, recent, hparams):
            break
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * decayed(step, steps)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return latest


def _is_kept(preserve: PreserveLoss | None, recent: Sequence[float], hparams: PersonalizationHyperParams) -> bool:
    if preserve is None:
        return True
    return len(recent) == len(preserve.parts) and sum(recent) / len(recent) < hparams.preserve.stop_kl


def _warn_if_unlearned(requests: Sequence[EditRequest], losses: Tensor, params: LowRankParams) -> None:
    """Say which preferences were not learned: above one nat per token the target is unlikely to be the answer."""
    failed = {request.target_new for request, loss in zip(requests, losses.tolist()) if not loss < 1.0}
    if failed:
        log.warning(
            "not learned within %d steps per preference: %s (raise lowrank.steps or lr, or lower preserve.weight)",
            params.steps,
            ", ".join(sorted(failed)),
        )
