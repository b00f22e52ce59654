"""The loss of an edit: the targets of all phrases jointly, plus what must stay as it was.

    L(D) = mean over phrases of -1/T sum_t log p_D(y_t | prompt, y_<t)                    (FT-M's objective)
         + w * mean over kinds k of a_k * mean over prompts of KL_first + mean KL_rest    (preservation)

KL is KL(p_0 || p_D) between the unedited model and the edited one, at the position where the answer begins (first)
and along the unedited model's own greedy answer (rest). D is the change of the down projections' outputs; see
``edited_rows``.

Where memory is short, both terms hold ``most`` rows at a time: the backward pass computes each group's activations
again, one group after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..generation.base_answers import with_answers
from ..hparams import PersonalizationHyperParams
from ..modeling.layout import Layout
from ..modeling.suffix import Split
from ..modeling.tokens import Encoded
from ..types import EditRequest
from .edited_rows import Change, EditedRows
from .preserve import preserve_prompts

WIDEST = 2.0


class TargetLoss:
    """Mean negative log-likelihood of each row's target tokens.

    Args:
        parts: what one step sees; each a list of rows of about equal length together, with their numbers among all
            rows, see ``in_parts``.
        thrifty: whether only one group's activations are held at a time.
    """

    def __init__(self, parts: Sequence[Sequence[tuple[Sequence[int], EditedRows]]], thrifty: bool = False) -> None:
        self.parts, self.thrifty = parts, thrifty

    @property
    def split(self) -> Split:
        """How the model was found to be cut."""
        return self.parts[0][0][1].suffix.split

    @property
    def count(self) -> int:
        """Number of rows."""
        return sum(len(numbers) for part in self.parts for numbers, _ in part)

    def at(self, step: int, changes: Mapping[int, Change] | None = None) -> tuple[list[int], Tensor]:
        """Numbers of the rows that a step sees, and their losses in nats per token."""
        part = self.parts[step % len(self.parts)]
        losses = torch.cat([_lightly(self.thrifty, self.of_group, rows, changes) for _, rows in part])
        return [number for numbers, _ in part for number in numbers], losses

    def __call__(self, changes: Mapping[int, Change] | None = None) -> Tensor:
        """Nats per token of every row, [n], in the order of the rows."""
        found = [self.at(step, changes) for step in range(len(self.parts))]
        numbers = torch.tensor([number for part, _ in found for number in part])
        losses = torch.cat([part for _, part in found])
        return losses[numbers.argsort().to(losses.device)]

    def of_group(self, rows: EditedRows, changes: Mapping[int, Change] | None) -> Tensor:
        """Nats per token of some rows."""
        return rows.row_means(F.cross_entropy(rows.logits(changes), rows.ids, reduction="none"))

    def where_answers_begin(self) -> dict[int, tuple[Tensor, Tensor]]:
        """As ``EditedRows.where_answers_begin``, of all rows."""
        found = [rows.where_answers_begin() for part in self.parts for _, rows in part]
        return {
            layer: (torch.cat([each[layer][0] for each in found]), torch.cat([each[layer][1] for each in found]))
            for layer in found[0]
        }


def in_parts(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    rows: Sequence[Encoded],
    layers: Sequence[int],
    size: int | None = None,
    most: int | None = None,
) -> list[list[tuple[list[int], EditedRows]]]:
    """Rows in parts of about ``size``, each part in groups of about equal length: padding costs as much as tokens do.

    A group's longest row has at most ``WIDEST`` times the tokens of its shortest, and it has at most ``most`` rows.
    """
    n_parts = 1 if size is None else -(-len(rows) // size)
    split: Split | None = None
    parts: list[list[tuple[list[int], EditedRows]]] = []
    for first in range(n_parts):
        part: list[tuple[list[int], EditedRows]] = []
        for group in _by_length(rows, range(first, len(rows), n_parts), most):
            part.append((group, EditedRows(model, tokenizer, layout, [rows[i] for i in group], layers, split)))
            split = part[-1][1].suffix.split
        parts.append(part)
    return parts


def _lightly(thrifty: bool, work: Callable[..., Tensor], *given: Any) -> Tensor:
    """What ``work`` gives; a thrifty graph keeps nothing of it and does the work again in its backward pass."""
    return checkpoint(work, *given, use_reentrant=False, preserve_rng_state=False) if thrifty else work(*given)


def _by_length(rows: Sequence[Encoded], numbers: Iterable[int], most: int | None) -> list[list[int]]:
    groups: list[list[int]] = []
    for number in sorted(numbers, key=lambda i: len(rows[i].ids)):
        similar = groups and len(rows[number].ids) <= WIDEST * len(rows[groups[-1][0]].ids)
        if similar and (most is None or len(groups[-1]) < most):
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


@dataclass(frozen=True, slots=True)
class _Group:
    """Some preserved prompts: their rows, p_0 [m, vocab] as logarithms, and each position's share of the loss [m]."""

    rows: EditedRows
    base: Tensor
    shares: Tensor


class PreserveLoss:
    """KL(unedited || edited) on preserved prompts, a part of the prompts at each step.

    Args:
        rows: prompts with the unedited model's answers.
        kinds: their kinds; every kind counts the same, times its ``kind_weights``.
        hparams: ``preserve.batch`` prompts per step.
        model, tokenizer, layout, layers, split: as for ``EditedRows``.
        most: how many rows are held at a time; None means a step's.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        layout: Layout,
        rows: Sequence[Encoded],
        kinds: Sequence[str],
        hparams: PersonalizationHyperParams,
        split: Split | None = None,
        most: int | None = None,
    ) -> None:
        params, self.thrifty = hparams.preserve, most is not None
        counts = Counter(kinds)
        weights = {str(kind): weight for kind, weight in params.kind_weights.items()}
        shares = [weights.get(kind, 1.0) / (len(counts) * counts[kind]) for kind in kinds]
        order = Random(hparams.seed).sample(range(len(rows)), len(rows))
        count = -(-len(rows) // params.batch)
        self.parts: list[list[_Group]] = []
        for part in (order[i::count] for i in range(count)):
            groups = []
            for start in range(0, len(part), most or len(part)):
                group = part[start : start + (most or len(part))]
                edited = EditedRows(model, tokenizer, layout, [rows[i] for i in group], hparams.layers, split)
                with torch.no_grad():
                    base = F.log_softmax(edited.logits(), 1)
                share = torch.tensor([shares[i] * count for i in group], device=base.device)
                groups.append(_Group(edited, base, _position_shares(edited, share)))
            self.parts.append(groups)

    def __call__(self, changes: Mapping[int, Change], step: int) -> Tensor:
        """An estimate of the loss from the part whose turn it is."""
        part = self.parts[step % len(self.parts)]
        return torch.stack([_lightly(self.thrifty, _divergence, group, changes) for group in part]).sum()


def _divergence(group: _Group, changes: Mapping[int, Change]) -> Tensor:
    edited = F.log_softmax(group.rows.logits(changes), 1)
    divergence = F.kl_div(edited, group.base, log_target=True, reduction="none").sum(1)
    return (divergence * group.shares).sum()


def _position_shares(rows: EditedRows, row_shares: Tensor) -> Tensor:
    """Each position's weight: the first of a row counts once, the later ones together once."""
    first = rows.columns == rows.last_index[rows.rows]
    later = torch.bincount(rows.rows, minlength=len(row_shares)) - 1
    return row_shares[rows.rows] * torch.where(first, 1.0, 1.0 / later[rows.rows].clamp(min=1))


def target_loss(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    rows: Sequence[Encoded],
    layers: Sequence[int],
    size: int | None = None,
    most: int | None = None,
) -> TargetLoss:
    """The first term for encoded phrases, about ``size`` of them at each step, at most ``most`` held at a time."""
    return TargetLoss(in_parts(model, tokenizer, layout, rows, layers, size, most), most is not None)


def preserve_loss(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    requests: Sequence[EditRequest],
    hparams: PersonalizationHyperParams,
    split: Split | None = None,
    most: int | None = None,
) -> PreserveLoss | None:
    """The second term for an edit of ``requests``; None when nothing is to be preserved."""
    prompts = preserve_prompts(requests, hparams.preserve, hparams.seed) if hparams.preserve.weight else []
    if not prompts:
        return None
    rows = with_answers(model, tokenizer, [prompt.text for prompt in prompts], hparams)
    kinds = [prompt.kind for prompt in prompts]
    return PreserveLoss(model, tokenizer, layout, rows, kinds, hparams, split, most)
