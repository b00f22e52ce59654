"""Updates that the rows of a batch carry already, each its own: rows of several kinds of attributes run together.

They are added by hooks, so the weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling.layout import Layout, get_module

Pair = tuple[Tensor, Tensor]  # left [d_out, r], right [r, d_in]


@dataclass(frozen=True, slots=True)
class Cells:
    """Neurons of an MLP as they are kept, see ``neurons``.

    Attributes:
        rows: of the gate projection, [r, d_model].
        const: the row of the up projection that all of them have, [d_model].
        columns: of the down projection, [d_model, r].
    """

    rows: Tensor
    const: Tensor
    columns: Tensor

    def __call__(self, inputs: Tensor, act: Any) -> Tensor:
        """What they add for the MLP's inputs [..., d_model]: [..., d_model]."""
        rows, const, columns = (part.to(inputs) for part in (self.rows, self.const, self.columns))
        return F.linear(act(F.linear(inputs, rows)) * (inputs @ const)[..., None], columns)


Pairs = Mapping[int, Pair | Cells]  # by layer
PAIR, CELLS = ("left", "right"), ("rows", "const", "columns")  # their parts, by name


def tensors_of(part: Pair | Cells, layer: int) -> dict[str, Tensor]:
    """A layer's update as named tensors, for a file."""
    named = {name: getattr(part, name) for name in CELLS} if isinstance(part, Cells) else dict(zip(PAIR, part))
    return {f"{name}.{layer}": tensor for name, tensor in named.items()}


def part_of(tensors: Mapping[str, Tensor], layer: int) -> Pair | Cells:
    """As ``tensors_of`` named it. Copies: a mapped file is not aligned, and products of it are rounded otherwise."""
    own = lambda names: (tensors[f"{name}.{layer}"].float().clone() for name in names)
    if f"{CELLS[0]}.{layer}" in tensors:
        return Cells(*own(CELLS))
    left, right = own(PAIR)
    return left, right


class Carried:
    """Which row carries what.

    Args:
        updates: every row's; rows that carry the same share one object, and stand side by side. Empty: nobody carries
            anything.
    """

    def __init__(self, updates: Sequence[Pairs] = ()) -> None:
        self.updates = list(updates)
        self._now: Sequence[int] = range(len(self.updates))

    @property
    def owners(self) -> list[int]:
        """One number per row, the same for rows that carry the same."""
        return [id(update) for update in self.updates]

    def select(self, rows: Sequence[int]) -> Carried:
        """The same for some of the rows."""
        return Carried([self.updates[row] for row in rows] if self.updates else ())

    def set_rows(self, rows: Sequence[int]) -> None:
        """The next forward pass has these rows, in this order."""
        self._now = rows

    @contextmanager
    def attached(self, model: nn.Module, layout: Layout, layers: Sequence[int]) -> Iterator[None]:
        """Inside the block the projections of these layers add what the rows carry."""
        with ExitStack() as hooks:
            for layer in layers if self.updates else ():
                module = get_module(model, layout.rewrite_path(layer))
                hooks.callback(module.register_forward_hook(self._hook(layer)).remove)
            yield

    def _hook(self, layer: int) -> Any:
        def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            keys = args[0].reshape(len(self._now), -1, args[0].shape[-1])
            change = self._change(layer, keys, getattr(module, "act_fn", None))
            return output + change.reshape(output.shape).to(output.dtype)

        return add

    def _change(self, layer: int, keys: Tensor, act: Any) -> Tensor:
        """What is added for keys [n, t, d_in]: [n, t, d_out]."""
        runs = [list(run) for _, run in groupby((self.updates[row] for row in self._now), key=id)]
        parts = []
        for (update, *_), part in zip(runs, keys.split([len(run) for run in runs])):
            own = update[layer]
            if isinstance(own, Cells):
                parts.append(own(part, act))
                continue
            left, right = (factor.to(part) for factor in own)
            parts.append(F.linear(F.linear(part, right), left))
        return torch.cat(parts)
