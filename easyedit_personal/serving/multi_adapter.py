"""Many users' updates in one batch: forward hooks that add each row's own ``left (right x)`` to a projection's output.

The weights are not touched, so the base model and every user's copy of it answer side by side; what a row gets is
LoRA at scaling 1, or neurons beside those of an MLP (``kernels.beside``). Works on quantised projections too, whose
weights could not be edited in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..kernels.beside import Beside, beside
from ..modeling.layout import get_module, matrix_shape
from ..types import WeightDelta

Updates = Mapping[str, WeightDelta]  # module path -> the one update of that projection; empty is the base model
Factors = Mapping[str, WeightDelta | Beside]  # the same as it runs: neurons stand beside those of an MLP
WASTE = 2  # padding may at most double the work; picking rows out of a batch costs a copy of its output


def merged(deltas: Sequence[WeightDelta]) -> dict[str, WeightDelta]:
    """One update per projection: ranks are put side by side, which is exact.

    What then has more columns than a full-rank update needs is multiplied out, in float64.
    """
    paths = dict.fromkeys(delta.layer for delta in deltas)
    return {path: _merge([delta for delta in deltas if delta.layer == path]) for path in paths}


def _merge(parts: Sequence[WeightDelta]) -> WeightDelta:
    shapes = {part.shape for part in parts}
    if len(shapes) > 1:
        raise ModelError(f"The updates of {parts[0].layer!r} are of different sizes.", got=sorted(shapes))
    if sum(part.rank for part in parts) > min(parts[0].shape):
        total = torch.stack([part.to(torch.float64).update() for part in parts]).sum(0)
        return WeightDelta.dense(parts[0].layer, total.to(_widest(parts)))
    if len(parts) == 1:
        return parts[0]
    left = torch.cat([part.left.to(_widest(parts)) for part in parts], 1)
    right = torch.cat([part.right.to(_widest(parts)) for part in parts], 0)
    return WeightDelta(parts[0].layer, left, right)


def _widest(parts: Sequence[WeightDelta]) -> torch.dtype:
    return reduce(torch.promote_types, (part.left.dtype for part in parts))


class Group(NamedTuple):
    """Rows of one batch whose updates are computed together.

    Attributes:
        rows: [m] which rows of the batch; None means all of them, in order.
        into: what reads inputs, [m, d_in, r], or [d_in, r] where all rows are one user's; neurons have two of them.
        out: [m, r, d_out], or [r, d_out].
        act: of the neurons, whose first readings it takes and multiplies with the second ones; None for factors.
    """

    rows: Tensor | None
    into: tuple[Tensor, ...]
    out: Tensor
    act: Any = None

    def read(self, inputs: Tensor) -> Tensor:
        """[..., r] for inputs [..., d_in] of these rows."""
        first, *second = (inputs @ part for part in self.into)
        return self.act(first) * second[0] if self.act else first


class RowAdapters:
    """Who sits in which row of the batch that runs next.

    Args:
        factors: by the row's number; rows of the same user share one object. May change between forward passes, as
            long as a number is not given to somebody else.
    """

    def __init__(self, factors: Mapping[int, Factors]) -> None:
        self.factors = factors
        self.rows = list(factors)
        self._groups: dict[str, list[Group]] = {}

    def set_rows(self, rows: Sequence[int]) -> None:
        """The next forward pass has these rows, in this order."""
        if list(rows) != self.rows:
            self.rows = list(rows)
            self._groups.clear()

    def add(self, path: str, inputs: Tensor, output: Tensor) -> Tensor:
        """``output`` plus every row's own update of ``inputs``: [n, t, d], or [n t, d] where a model flattens it.

        Where n rows were announced and one came, it stands for all of them (a beginning that they share), and n rows
        leave: residual streams broadcast, so layers below the first edited one have read it once.
        """
        if path not in self._groups:
            self._groups[path] = self._group(path, inputs)
        groups, count = self._groups[path], len(self.rows)
        if not groups:
            return output
        if inputs.ndim == 2 and inputs.shape[0] % count == 0:
            flat = output.shape
            return _added(groups, inputs.unflatten(0, (count, -1)), output.unflatten(0, (count, -1))).reshape(flat)
        if inputs.shape[0] == 1 < count:
            inputs, output = inputs.expand(count, -1, -1), output.expand(count, -1, -1)
        if inputs.shape[0] != count:
            raise ModelError(
                "The batch has another number of rows than was announced.",
                got=inputs.shape[0],
                needed=f"{count} rows; call set_rows(rows) before the forward pass",
            )
        return _added(groups, inputs, output)

    def _group(self, path: str, like: Tensor) -> list[Group]:
        """All rows padded to one rank where that does not waste more than half; else rows of similar rank together."""
        found = [self.factors[row].get(path) for row in self.rows]
        ranks = [delta.rank if delta else 0 for delta in found]
        if not any(ranks):
            return []
        first = found[0]
        if first is not None and all(delta is first for delta in found):
            into, out, act = _parts(first)
            return [Group(None, tuple(part.to(like) for part in into), out.to(like), act)]
        if len(ranks) * max(ranks) <= WASTE * sum(ranks):
            return [_padded(None, found, like)]
        similar: dict[int, list[int]] = {}
        for row, rank in enumerate(ranks):
            if rank:
                similar.setdefault((rank - 1).bit_length(), []).append(row)
        return [_padded(rows, [found[row] for row in rows], like) for rows in similar.values()]


def _added(groups: Sequence[Group], inputs: Tensor, output: Tensor) -> Tensor:
    for group in groups:
        if group.rows is not None:
            output = output.index_add(0, group.rows, torch.bmm(group.read(inputs[group.rows]), group.out))
        elif group.out.ndim == 2:
            output = output + group.read(inputs) @ group.out
        else:
            output = torch.baddbmm(output, group.read(inputs), group.out)
    return output


def _parts(update: WeightDelta | Beside) -> tuple[tuple[Tensor, ...], Tensor, Any]:
    """What reads inputs [d_in, r], what is added for it [r, d_out], and the activation between them, if any."""
    if isinstance(update, Beside):
        return (update.rows.T, update.ups.T), update.columns.T, update.act
    return (update.right.T,), update.left.T, None


def _padded(rows: Sequence[int] | None, updates: Sequence[WeightDelta | Beside | None], like: Tensor) -> Group:
    """Updates of several rows in one tensor per part, zeros up to the largest rank; the base model's rows are zeros."""
    present = [_parts(update) for update in updates if update is not None]
    rank = max(len(out) for _, out, _ in present)
    (first, *more), last, act = present[0]
    into = tuple(like.new_zeros(len(updates), len(part), rank) for part in (first, *more))
    out = like.new_zeros(len(updates), rank, last.shape[1])
    for number, update in enumerate(updates):
        if update is not None:
            readers, written, _ = _parts(update)
            for part, reader in zip(into, readers):
                part[number, :, : reader.shape[1]] = reader
            out[number, : len(written)] = written
    return Group(None if rows is None else torch.tensor(rows, device=like.device), into, out, act)


@contextmanager
def mixed(model: nn.Module, factors: Sequence[Updates]) -> Iterator[RowAdapters]:
    """Inside the block, row i of a batch is answered with ``factors[i]``'s updates.

    Call ``set_rows(rows)`` before a forward pass whose batch holds other rows than all of them in order.

    Raises:
        ModelError: an update names no projection of the model, or does not fit it.
    """
    check_rows(model, factors)
    found = {id(row): with_neurons(model, row) for row in factors}  # one object for all rows of a user
    with attached(model, RowAdapters({i: found[id(row)] for i, row in enumerate(factors)})) as adapters:
        yield adapters


@contextmanager
def attached(model: nn.Module, adapters: RowAdapters) -> Iterator[RowAdapters]:
    """Inside the block, the model's projections add what the adapters says; its factors must fit the model."""
    with ExitStack() as hooks:
        for path in dict.fromkeys(path for row in adapters.factors.values() for path in row):
            hooks.enter_context(_adding(get_module(model, path), path, adapters))
        yield adapters


@contextmanager
def _adding(module: nn.Module, path: str, adapters: RowAdapters) -> Iterator[None]:
    def add(_: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:
        return adapters.add(path, args[0], output)

    handle = module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def with_neurons(model: nn.Module, updates: Updates) -> Factors:
    """The same updates, those by neurons as neurons beside the MLP's own.

    Args:
        model: the base model; the updates fit it.
    """
    neurons, others = beside(model, list(updates.values()))
    return {**neurons, **{update.layer: update for update in others}} if neurons else updates


def check_rows(model: nn.Module, factors: Sequence[Updates]) -> None:
    """Raise unless every update fits the projection that it names."""
    for row in {id(row): row for row in factors}.values():
        for path, delta in row.items():
            shape = projection_shape(model, path)
            if delta.shape != shape:
                raise ModelError(
                    f"The update of {path!r} does not fit this model.",
                    got=delta.shape,
                    needed=f"{shape} in nn.Linear orientation",
                    cause="the factors were made for another base model",
                )


def projection_shape(model: nn.Module, path: str) -> tuple[int, int]:
    """(d_out, d_in) of a projection, also of a quantised one, which only says what goes in and out."""
    module = get_module(model, path)
    sizes = getattr(module, "out_features", None), getattr(module, "in_features", None)
    if all(isinstance(size, int) for size in sizes):
        return sizes  # type: ignore[return-value]
    return matrix_shape(module, path)
