"""The loss of an edit: the targets of all phrases jointly, plus what must stay as it was.

    L(D) = mean over phrases of -1/T sum_t log p_D(y_t | prompt, y_<t)                    (FT-M's objective)
         + w * mean over kinds k of a_k * mean over prompts of KL_first + mean KL_rest    (preservation)

KL is KL(p_0 || p_D) between the unedited model and the edited one, at the position where the answer begins (first)
and along the unedited model's own greedy answer (rest). D is the change of the down projections' outputs; only the
layers above the lowest edited one are run.

Where memory is short, both terms hold ``most`` rows at a time: the backward pass computes each group's activations
again, one group after the other.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..generation.base_answers import with_answers
from ..generation.shared_prefix import slides
from ..hparams import PersonalizationHyperParams
from ..modeling.layout import Layout, get_module
from ..modeling.suffix import Split, Suffix, split_of
from ..modeling.tokens import Encoded, Side, collate
from ..modeling.trace import hidden_of, trace
from ..types import EditRequest
from .carried import Carried
from .preserve import preserve_prompts

Change = Callable[[Tensor], Tensor]  # keys [..., d_mlp] -> what is added to the projection's output [..., d_model]
WIDEST = 2.0


class EditedRows:
    """Rows of tokens, and the logits at their target positions when the down projections of some layers change.

    Args:
        model: frozen and in evaluation mode.
        layout: its layout.
        rows: prompts with targets.
        layers: the edited layers; those below the lowest are run once.
        split: how the model is cut, from other rows of the same model and layer; found by trial when None.
        from_answers: run nothing before the first column that predicts a target. Exact where the change vanishes on
            the prompts before it; a third of the cost.
        carried: updates that the rows have already, prompts included.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        layout: Layout,
        rows: Sequence[Encoded],
        layers: Sequence[int],
        split: Split | None = None,
        *,
        from_answers: bool = False,
        carried: Carried | None = None,
    ) -> None:
        self.model, self.layout, self.layers = model, layout, sorted(layers)
        self.carried = carried or Carried()
        side: Side = ("around" if slides(model) else "inside") if from_answers else "right"
        batch = collate(rows, tokenizer, side=side, device=next(model.parameters()).device)
        self.rows, self.columns, self.ids = batch.targets()
        self.start = int(self.columns.min()) if from_answers else 0
        lowest, mine = self.layers[0], self.carried
        split = split or split_of(model, layout, batch, lowest, self.start)  # before any hooks
        with mine.attached(model, layout, self.layers):
            self.suffix = Suffix(
                model,
                layout,
                batch,
                lowest,
                start=self.start,
                split=split,
                set_rows=mine.set_rows,
                owners=mine.owners,
            )
        self.last_index = self._first_columns()

    def _first_columns(self) -> Tensor:
        """The column of each row's last prompt token, [n]."""
        return self.columns[self.rows.diff(prepend=self.rows.new_tensor([-1])) > 0]

    def on(self, model: Any) -> EditedRows:
        """The same for another model with the same weights; None keeps no model alive."""
        other = copy.copy(self)
        other.model, other.suffix = model, self.suffix.on(model)
        return other

    def select(self, numbers: Sequence[int]) -> EditedRows:
        """Some of the rows, without another pass."""
        part = copy.copy(self)
        part.suffix, part.carried = self.suffix.select(numbers), self.carried.select(numbers)
        part.rows, part.columns, part.ids = part.suffix.batch.targets()
        part.last_index = part._first_columns()
        return part

    def logits(
        self,
        changes: Mapping[int, Change] | None = None,
        at: tuple[Tensor, Tensor] | None = None,
        words: Tensor | None = None,
    ) -> Tensor:
        """[m, vocab], float32: what predicts ``ids``, or what stands ``at`` (rows, columns); of ``words`` if given."""
        with self._changed(changes or {}) as output:
            return self.suffix.logits(output, at=at or (self.rows, self.columns), words=words)

    def logits_by_part(
        self,
        changes: Mapping[int, Change],
        at: tuple[Tensor, Tensor],
        counts: Sequence[int],
        words: Sequence[Tensor],
    ) -> list[Tensor]:
        """Logits ``at`` (rows, columns), of the words ``words[0]`` at the first ``counts[0]`` places, and so on."""
        with self._changed(changes) as output:
            return self.suffix.logits_by_part(output, at, counts, words)

    @contextmanager
    def _changed(self, changes: Mapping[int, Change]) -> Iterator[Tensor]:
        """The lowest layer's output; inside the block the layers above it are changed by hooks."""
        above, lowest = self.layers[1:], self.layers[0]
        self.carried.set_rows(range(len(self.last_index)))
        with self.carried.attached(self.model, self.layout, above), ExitStack() as hooks:
            for layer in above if changes else ():
                module = get_module(self.model, self.layout.rewrite_path(layer))
                hooks.enter_context(_adding(module, changes[layer]))
            output = self.suffix.base_output
            yield output.float() + changes[lowest](self.suffix.keys.float()) if changes else output

    def row_means(self, values: Tensor) -> Tensor:
        """Means of ``values`` [m] over each row's target positions, [n]."""
        sums = values.new_zeros(len(self.last_index)).index_add(0, self.rows, values)
        return sums / torch.bincount(self.rows, minlength=len(self.last_index))

    def where_answers_begin(self) -> dict[int, tuple[Tensor, Tensor]]:
        """By edited layer: the projection's keys [n, d_mlp] and outputs [n, d_model] at rows' last prompt tokens."""
        row = torch.arange(len(self.last_index), device=self.last_index.device)
        return self.found_at(row, self.last_index)

    def found_at(self, rows: Tensor, columns: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """By edited layer: the unedited projection's keys [m, d_mlp] and outputs [m, d_model] at m places.

        Those of the layers above the lowest come from one more pass of the unedited model.
        """
        keys, outputs = self.suffix.keys, self.suffix.base_output
        found = {self.layers[0]: (keys[rows, columns - self.start], outputs[rows, columns - self.start])}
        paths = {layer: self.layout.rewrite_path(layer) for layer in self.layers[1:]}
        if paths:
            self.carried.set_rows(range(len(self.last_index)))
            hooks = self.carried.attached(self.model, self.layout, self.layers)
            with hooks, torch.no_grad(), trace(self.model, list(paths.values())) as calls:
                self.model(**self.suffix.batch.model_inputs(), use_cache=False)
            shape = self.suffix.batch.input_ids.shape
            for layer, path in paths.items():
                call = calls[path]
                key, output = call.input.reshape(*shape, -1), hidden_of(call.output).reshape(*shape, -1)
                found[layer] = (key[rows, columns], output[rows, columns])
        return {layer: (key.float(), output.float()) for layer, (key, output) in found.items()}


@contextmanager
def _adding(module: nn.Module, change: Change) -> Iterator[None]:
    """Inside the block the module's output is what it was plus ``change(its input)``."""

    def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + change(args[0].float()).to(output.dtype)

    handle = module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


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
                    base = F.log_softmax(edited.logits(), -1)
                share = torch.tensor([shares[i] * count for i in group], device=base.device)
                groups.append(_Group(edited, base, _position_shares(edited, share)))
            self.parts.append(groups)

    def __call__(self, changes: Mapping[int, Change], step: int) -> Tensor:
        """An estimate of the loss from the part whose turn it is."""
        part = self.parts[step % len(self.parts)]
        return torch.stack([_lightly(self.thrifty, _divergence, group, changes) for group in part]).sum()


def _divergence(group: _Group, changes: Mapping[int, Change]) -> Tensor:
    edited = F.log_softmax(group.rows.logits(changes), -1)
    divergence = F.kl_div(edited, group.base, log_target=True, reduction="none").sum(-1)
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
