"""The value that an edit writes: optimised once for ROME and MEMIT, for many preferences at a time.

Only the layers above the edit run, only from the first key position on, and logits are made only where they count.

    min over d of  mean over rows of  -1/T sum_t log p(y_t | prompt, y_<t; y(key) + d)
                 + kl_factor * KL( p(. | "{subject} is a"; y(key) + d) || p(. | "{subject} is a") )
                 + v_weight_decay * |d| / |v_0|^2                          subject to |d| <= clamp_norm_factor * |v_0|

ROME, equation 4 (arXiv 2202.05262), with the weight decay and the ball of its published code. d is the shift of the
down projection's output at the subject's last token, v_0 that output before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..hparams import PersonalizationHyperParams
from ..modeling.layout import Layout, input_device
from ..modeling.memory import in_halves
from ..modeling.suffix import Suffix
from ..modeling.tokens import Encoded, collate
from ..progress import counted
from .key_options import KeyOptions
from .keys import Cluster, Reading, all_rows
from .packing import packed

LOOK_EVERY = {"cpu": 1, "cuda": 5}  # steps between looks at who is done: a look makes the host wait for the device
FEW = 0.5  # once so few of the clusters are left, the others' rows go


@dataclass(frozen=True, slots=True)
class Values:
    """What was found for some clusters.

    Attributes:
        shifts: d, one per cluster, shared by all its phrases: [clusters, d_model], float32. Sharing the shift (and
            not the whole value) leaves each phrase its own output beside it, and makes the update of a cluster of any
            size a matrix of rank one.
        seen: what the model had at the key positions, in the order of ``keys.all_rows``.
    """

    shifts: Tensor
    seen: Reading


def optimise_values(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    clusters: Sequence[Cluster],
    layer: int,
    hparams: PersonalizationHyperParams,
    options: KeyOptions,
) -> Values:
    """The shift of every cluster, all of them together as far as memory goes; each is as it would be alone.

    Args:
        model: frozen, see ``kernels.base.frozen``.
        layer: the decoder layer whose down projection's output is shifted.
        hparams: ``v_lr``, ``v_num_grad_steps``, ``v_stop_loss``, ``v_weight_decay``, ``kl_factor``,
            ``clamp_norm_factor``.
        options: ``in_stream`` says what v_0 is.
    """
    shifts: dict[int, Tensor] = {}
    seen: dict[int, Reading] = {}

    def optimise(pack: Sequence[int]) -> None:
        problem = _Problem(model, tokenizer, layout, [clusters[i] for i in pack], layer, hparams, options)
        readings = problem.readings()
        shifts.update(zip(pack, _descend(problem, hparams)))
        seen.update(zip(pack, readings))

    for pack in packed(model, layout, clusters, layer):
        in_halves(optimise, pack, "clusters", model)
    order = range(len(clusters))
    readings = [seen[i] for i in order]
    columns = (torch.cat([getattr(r, name) for r in readings]) for name in Reading.__slots__)
    return Values(torch.stack([shifts[i] for i in order]), Reading(*columns))


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a problem: whose it is, where its key stands, and what its last columns are to predict.

    Attributes:
        targets: empty for a drift row, whose distribution at the key is to stay.
    """

    owner: int
    key: int
    targets: tuple[int, ...]


class _Problem:
    """The losses of some clusters as a function of their shifts.

    Notation: c clusters, R rows (phrases in contexts, then drift rows), s columns from the first key on, d the width
    of the residual stream.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        layout: Layout,
        clusters: Sequence[Cluster],
        layer: int,
        hparams: PersonalizationHyperParams,
        options: KeyOptions,
    ) -> None:
        self.hparams, self.options, self.n, self.clusters = hparams, options, len(clusters), clusters
        rows = [*all_rows(clusters), *(row for cluster in clusters for row in cluster.drift)]
        # Padded on the left, rows end together: what follows the keys is short, and all before the first key is
        # cached. Nothing is predicted from a target's last token: it is not read.
        read = [Encoded(row.prompt_ids, row.target_ids[:-1], row.key_index) for row in rows]
        batch = collate(read, tokenizer, side="left", device=input_device(model))
        keys = batch.key_index.tolist()
        self.suffix = Suffix(model, layout, batch, layer, start=min(keys))
        owners = _owners(clusters)
        self.rows = [_Row(owner, key, row.target_ids) for owner, key, row in zip(owners, keys, rows)]
        self._index()
        self.norms = self._norms()
        self.undisturbed = self._undisturbed()

    def _index(self) -> None:
        """Where things stand, as tensors."""
        device, start = self.suffix.base_output.device, self.suffix.start
        width = self.suffix.batch.input_ids.shape[1]
        self.base = self.suffix.base_output.float()
        at = [(n, width - len(r.targets) + k) for n, r in enumerate(self.rows) for k in range(len(r.targets))]
        drift = [(n, row.key) for n, row in enumerate(self.rows) if not row.targets]
        make = lambda values: torch.tensor(values, dtype=torch.long, device=device)
        self.ids = make([token for row in self.rows for token in row.targets])
        self.target_rows = make([n for n, _ in at])
        self.at = (make([n for n, _ in [*at, *drift]]), make([column for _, column in [*at, *drift]]))
        self.place = (make(range(len(self.rows))), make([row.key - start for row in self.rows]))
        self.owner = make([row.owner for row in self.rows])
        self.row_owner = make([row.owner for row in self.rows if row.targets])
        self.drift_owner = make([row.owner for row in self.rows if not row.targets])
        self.token_shares = _shares(self.target_rows)
        self.row_shares, self.drift_shares = _shares(self.row_owner), _shares(self.drift_owner)

    def _norms(self) -> Tensor:
        """|v_0| of each cluster [c]: of the bare prompts, their mean."""
        in_stream = self.options.in_stream and self.suffix.tail.norm is None
        origin = self.suffix.base_layer.float() if in_stream else self.base
        norms = origin[self.place].norm(dim=1)
        counts = [len(phrase) for cluster in self.clusters for phrase in cluster.rows]
        first = torch.tensor([sum(counts[:i]) for i in range(len(counts))], device=norms.device)
        return _per_cluster(norms[first], _shares(self.owner[first]), self.owner[first], self.n)

    def _undisturbed(self) -> Tensor:
        """Logarithms of the drift rows' distributions before the edit, [rows, vocab]."""
        return self._logits(self.base)[1].log_softmax(1)

    def readings(self) -> list[Reading]:
        """Keys, outputs and hidden states at the key positions, of each cluster's rows without drift rows."""
        counts = [len(all_rows([cluster])) for cluster in self.clusters]
        device = self.base.device
        tensors = (self.suffix.keys, self.suffix.base_output, self.suffix.base_layer)
        columns = [t[self.place][: sum(counts)].float().to(device).split(counts) for t in tensors]
        return [Reading(*parts) for parts in zip(*columns)]

    def only(self, kept: Sequence[int]) -> _Problem:
        """The problem of some of the clusters."""
        part = object.__new__(_Problem)
        numbers = [n for n, row in enumerate(self.rows) if row.owner in kept]
        part.hparams, part.options, part.n = self.hparams, self.options, len(kept)
        part.clusters = [self.clusters[i] for i in kept]
        part.suffix = self.suffix.select(numbers)
        renumbered = {old: new for new, old in enumerate(kept)}
        part.rows = [
            _Row(renumbered[row.owner], row.key, row.targets) for row in (self.rows[number] for number in numbers)
        ]
        part._index()
        part.norms = self.norms[list(kept)]
        drift = [owner in kept for owner in self.drift_owner.tolist()]
        part.undisturbed = self.undisturbed[torch.tensor(drift, dtype=torch.bool)]
        return part

    def _logits(self, output: Tensor) -> tuple[Tensor, ...]:
        """At the target positions [m, vocab], and at the drift rows' keys [rows, vocab]."""
        logits = self.suffix.logits(output, at=self.at)
        return logits.split([len(self.ids), len(self.drift_owner)])

    def losses(self, shifts: Tensor) -> Tensor:
        """The three terms' sum for every cluster, [c]."""
        output = self.base.index_put(self.place, self.base[self.place] + shifts[self.owner])
        at_targets, at_drift = self._logits(output)
        device = shifts.device
        each = F.cross_entropy(at_targets, self.ids.to(at_targets.device), reduction="none").to(device)
        by_row = _per_cluster(each, self.token_shares, self.target_rows, len(self.row_owner))
        total = _per_cluster(by_row, self.row_shares, self.row_owner, self.n)
        now = at_drift.log_softmax(1)
        divergence = (now.exp() * (now - self.undisturbed)).sum(1).to(device)
        drift = _per_cluster(divergence, self.drift_shares, self.drift_owner, self.n)
        decay = self.hparams.v_weight_decay * shifts.norm(dim=1) / self.norms**2
        return total + self.hparams.kl_factor * drift + decay


def _descend(problem: _Problem, hparams: PersonalizationHyperParams) -> Tensor:
    """Adam on the shifts; each cluster stops by itself when its loss is small enough.

    In ROME's code ``v_num_grad_steps`` counts evaluations, the last of which takes no step: it is left out here.
    """
    shifts = torch.zeros(problem.n, problem.base.shape[-1], device=problem.base.device, requires_grad=True)
    optimizer = torch.optim.Adam([shifts], lr=hparams.v_lr)
    radius = (hparams.clamp_norm_factor * problem.norms)[:, None]
    done = torch.zeros(problem.n, dtype=torch.bool, device=shifts.device)
    left = torch.arange(problem.n, device=shifts.device)  # the clusters that ``problem`` still holds
    look_every = LOOK_EVERY.get(shifts.device.type, LOOK_EVERY["cuda"])
    for step in counted(range(hparams.v_num_grad_steps - 1)):
        losses = problem.losses(shifts[left])
        done[left] |= losses.detach() < hparams.v_stop_loss
        looks = hparams.v_stop_loss > 0 and step % look_every == 0
        if looks and bool(done.all()):
            break
        (shifts.grad,) = torch.autograd.grad(losses.sum(), shifts)
        kept = shifts.detach().clone()
        optimizer.step()
        with torch.no_grad():
            norm = shifts.norm(dim=1, keepdim=True)
            scale = (radius / norm.clamp(min=torch.finfo(norm.dtype).tiny)).clamp(max=1.0)
            shifts.mul_(torch.where(norm.isfinite(), scale, torch.nan))  # radius / infinity: an empty edit, unnoticed
            shifts.copy_(torch.where(done[:, None], kept, shifts))
        if looks and int((~done).sum()) <= FEW * len(left):
            working = [k for k, ended in enumerate(done[left].tolist()) if not ended]
            problem, left = problem.only(working), left[working]
    return shifts.detach()


def _owners(clusters: Sequence[Cluster]) -> list[int]:
    """The number of each row's cluster: phrases' rows first, drift rows after."""
    phrases = [i for i, cluster in enumerate(clusters) for phrase in cluster.rows for _ in phrase]
    return phrases + [i for i, cluster in enumerate(clusters) for _ in cluster.drift]


def _shares(owner: Tensor) -> Tensor:
    """1 / (number of items with the same owner), for means per owner."""
    return 1.0 / torch.bincount(owner)[owner].float()


def _per_cluster(values: Tensor, shares: Tensor, owner: Tensor, n: int) -> Tensor:
    """Means of ``values`` by owner, [n]; 0 for an owner of nothing."""
    return values.new_zeros(n).index_add(0, owner, values * shares)
