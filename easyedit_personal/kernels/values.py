"""The value that an edit writes: optimised once for ROME and MEMIT, for many preferences at a time.

Only the layers above the edit run, only from the first key position on, and logits are made only where they count.

    min over d of  mean over rows of  -1/T sum_t log p(y_t | prompt, y_<t; y(key) + d)
                 + kl_factor * KL( p(. | "{subject} is a"; y(key) + d) || p(. | "{subject} is a") )
                 + v_weight_decay * |d| / |v_0|^2                          subject to |d| <= clamp_norm_factor * |v_0|

ROME, equation 4 (arXiv 2202.05262), with the weight decay and the ball of its published code. d is the shift of the
down projection's output at the subject's last token, v_0 that output before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..hparams import PersonalizationHyperParams
from ..modeling.layout import Layout, input_device
from ..modeling.suffix import Split, Suffix
from ..modeling.tokens import collate
from ..progress import log
from .keys import Cluster, all_rows

ROWS_AT_ONCE = 96


def optimise_values(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    clusters: Sequence[Cluster],
    layer: int,
    hparams: PersonalizationHyperParams,
) -> Tensor:
    """One shift d per cluster, shared by all its phrases: [clusters, d_model], float32.

    Sharing the shift (and not the whole value) leaves each phrase its own output beside it, and makes the update of
    a cluster of any size a matrix of rank one.

    Args:
        model: frozen, see ``kernels.base.frozen``.
        layer: the decoder layer whose down projection's output is shifted.
        hparams: ``v_lr``, ``v_num_grad_steps``, ``v_stop_loss``, ``v_weight_decay``, ``kl_factor``,
            ``clamp_norm_factor``. With ``kernel`` "memit", v_0 is the decoder layer's output, as in MEMIT.
    """
    shifts: list[Tensor] = []
    split: Split | None = None
    for group in _groups(clusters):
        problem = _Problem(model, tokenizer, layout, group, layer, hparams, split)
        split = problem.suffix.split
        shifts.append(_descend(problem, hparams))
    return torch.cat(shifts)


def _groups(clusters: Sequence[Cluster]) -> Iterator[list[Cluster]]:
    """Consecutive clusters with at most ROWS_AT_ONCE rows together (a larger cluster stands alone)."""
    group: list[Cluster] = []
    for cluster in clusters:
        if group and len(all_rows([*group, cluster])) > ROWS_AT_ONCE:
            yield group
            group = []
        group.append(cluster)
    yield group


class _Problem:
    """The losses of some clusters as a function of their shifts.

    Notation: c clusters, R rows (phrases in contexts, then drift rows), d the width of the residual stream.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        layout: Layout,
        clusters: Sequence[Cluster],
        layer: int,
        hparams: PersonalizationHyperParams,
        split: Split | None,
    ) -> None:
        self.hparams, self.n = hparams, len(clusters)
        rows, drift = all_rows(clusters), [row for cluster in clusters for row in cluster.drift]
        # Padded on the left, rows end together: what follows the keys is short, and all before the first key is cached.
        batch = collate([*rows, *drift], tokenizer, side="left", device=input_device(model))
        start = int(batch.key_index.min())
        self.suffix = Suffix(model, layout, batch, layer, start=start, split=split)
        device = self.suffix.base_output.device
        self.owner = torch.tensor(_owners(clusters), device=device)
        self.place = (torch.arange(len(self.owner), device=device), batch.key_index.to(device) - start)
        self.base = self.suffix.base_output.float()
        self.target_rows, columns, self.ids = batch.targets()
        drift_rows = torch.arange(len(rows), len(self.owner), device=columns.device)
        self.at = (
            torch.cat([self.target_rows, drift_rows]),
            torch.cat([columns, batch.key_index[len(rows) :]]),
        )
        self.row_shares = _shares(self.owner[: len(rows)])
        self.drift_owner = self.owner[len(rows) :]
        self.drift_shares = _shares(self.drift_owner)
        self.norms = self._norms(clusters)
        with torch.no_grad():
            self.undisturbed = self._logits(self.base)[1].log_softmax(-1) if drift else None

    def _norms(self, clusters: Sequence[Cluster]) -> Tensor:
        """|v_0| of each cluster [c]: of the bare prompts, their mean."""
        memit = self.hparams.kernel == "memit" and self.suffix.tail.norm is None
        origin = self.suffix.layer_output(self.base).float() if memit else self.base
        norms = origin[self.place].norm(dim=-1)
        counts = [len(phrase) for cluster in clusters for phrase in cluster.rows]
        first = torch.tensor([sum(counts[:i]) for i in range(len(counts))], device=norms.device)
        return _per_cluster(norms[first], _shares(self.owner[first]), self.owner[first], self.n)

    def _logits(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """At the target positions [m, vocab], and at the drift rows' keys [rows, vocab]."""
        logits = self.suffix.logits(output, at=self.at)
        return logits[: len(self.ids)], logits[len(self.ids) :]

    def losses(self, shifts: Tensor) -> Tensor:
        """The three terms' sum for every cluster, [c]."""
        output = self.base.index_put(self.place, self.base[self.place] + shifts[self.owner])
        at_targets, at_drift = self._logits(output)
        device = shifts.device
        each = F.cross_entropy(at_targets, self.ids.to(at_targets.device), reduction="none").to(device)
        rows = self.target_rows.to(device)
        by_row = _per_cluster(each, _shares(rows), rows, len(self.row_shares))
        total = _per_cluster(by_row, self.row_shares, self.owner[: len(by_row)], self.n)
        if self.undisturbed is not None:
            now = at_drift.log_softmax(-1)
            divergence = (now.exp() * (now - self.undisturbed)).sum(-1).to(device)
            drift = _per_cluster(divergence, self.drift_shares, self.drift_owner, self.n)
            total = total + self.hparams.kl_factor * drift
        return total + self.hparams.v_weight_decay * _safe_norm(shifts) / self.norms**2


def _descend(problem: _Problem, hparams: PersonalizationHyperParams) -> Tensor:
    """Adam on the shifts; each cluster stops by itself when its loss is small enough. The last evaluation takes no
    step, as in ROME's code: ``v_num_grad_steps`` counts evaluations."""
    shifts = torch.zeros(problem.n, problem.base.shape[-1], device=problem.base.device, requires_grad=True)
    optimizer = torch.optim.Adam([shifts], lr=hparams.v_lr)
    radius = (hparams.clamp_norm_factor * problem.norms)[:, None]
    done = torch.zeros(problem.n, dtype=torch.bool, device=shifts.device)
    for step in range(hparams.v_num_grad_steps):
        losses = problem.losses(shifts)
        done |= losses.detach() < hparams.v_stop_loss
        if bool(done.all()) or step == hparams.v_num_grad_steps - 1:
            break
        (shifts.grad,) = torch.autograd.grad(losses.sum(), shifts)
        kept = shifts.detach().clone()
        optimizer.step()
        with torch.no_grad():
            norm = shifts.norm(dim=-1, keepdim=True)
            shifts.mul_(torch.where(norm > radius, radius / norm.clamp(min=1e-12), 1.0))
            shifts[done] = kept[done]
    log.debug("values of %d clusters after %d steps: losses %s", problem.n, step, losses.detach().tolist())
    return shifts.detach()


def _owners(clusters: Sequence[Cluster]) -> list[int]:
    """The number of each row's cluster: phrases' rows first, drift rows after."""
    phrases = [i for i, cluster in enumerate(clusters) for phrase in cluster.rows for _ in phrase]
    return phrases + [i for i, cluster in enumerate(clusters) for _ in cluster.drift]


def _shares(owner: Tensor) -> Tensor:
    """1 / (number of items with the same owner), for means per owner."""
    if not len(owner):
        return owner.float()
    return 1.0 / torch.bincount(owner)[owner].float()


def _per_cluster(values: Tensor, shares: Tensor, owner: Tensor, n: int) -> Tensor:
    """Means of ``values`` by owner, [n]; 0 for an owner of nothing."""
    return values.new_zeros(n).index_add(0, owner, values * shares)


def _safe_norm(shifts: Tensor) -> Tensor:
    """Norms [c] with gradient 0, not NaN, at zero."""
    squared = shifts.square().sum(-1)
    return torch.where(squared > 0, torch.where(squared > 0, squared, 1.0).sqrt(), 0.0)
