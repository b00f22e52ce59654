"""Neurons of edits beside those of the model, so that nothing of what it could do is lost.

In weights, and in an adapter for them, an update by neurons takes the places of quiet ones (``neurons``): a matrix has
no others. Whoever runs the model need not do so: an MLP with some neurons more gives what it gives without them, plus
what they give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling.layout import get_module
from ..types import WeightDelta
from .apply import check_fit, in_weights
from .neurons import DOWN, GATE, UP

# Of what its directions would add up to if none was another's opposite: an update and its opposite leave less, also
# where both were rounded to bfloat16 or cut by an SVD. Beside the model's own, such a rest would double the neuron.
PRESENT = 2.0**-6


@dataclass(frozen=True, slots=True)
class Beside:
    """Neurons that an MLP has more.

    Attributes:
        rows, ups: of the gate and up projections [r, d_model].
        columns: of the down projection [d_model, r].
        act: the MLP's activation.
    """

    rows: Tensor
    ups: Tensor
    columns: Tensor
    act: Any

    @property
    def rank(self) -> int:
        """How many there are."""
        return len(self.rows)

    def __call__(self, inputs: Tensor) -> Tensor:
        """What they add for the MLP's inputs [..., d_model]: [..., d_model]."""
        rows, ups, columns = (part.to(inputs) for part in (self.rows, self.ups, self.columns))
        return F.linear(self.act(F.linear(inputs, rows)) * F.linear(inputs, ups), columns)


def beside(model: nn.Module, deltas: Sequence[WeightDelta]) -> tuple[dict[str, Beside], list[WeightDelta]]:
    """Updates by neurons as neurons, by the path of their MLP, and all other updates as they are.

    Where something else changes the same MLP, a linear update of its down projection, all of that go into the weights.

    Args:
        model: the base model, whose matrices these are updates of.
        deltas: several per matrix allowed; they fit the model.
    """
    inside: dict[str, dict[str, list[WeightDelta]]] = {}
    for delta in deltas:
        path, _, name = delta.layer.rpartition(".")
        inside.setdefault(path, {}).setdefault(name, []).append(delta)
    found: dict[str, Beside] = {}
    others: list[WeightDelta] = []
    for path, parts in inside.items():
        neurons = _neurons(get_module(model, path), parts) if set(parts) == {GATE, UP, DOWN} else None
        if neurons is None:
            others += [delta for some in parts.values() for delta in some]
        elif neurons.rank:
            found[path] = neurons
    return found, others


@contextmanager
def edited(model: nn.Module, deltas: Sequence[WeightDelta]) -> Iterator[nn.Module]:
    """``with edited(model, deltas):`` the model is edited inside, and bit for bit as before outside.

    Neurons stand beside its own, all other updates are in its weights; ``apply.in_weights`` puts neurons there, too.

    Raises:
        ModelError: an update does not fit the model; nothing was changed.
    """
    check_fit(model, deltas)
    neurons, others = beside(model, deltas)
    with in_weights(model, others), ExitStack() as hooks:
        for path, some in neurons.items():
            handle = get_module(model, path).register_forward_hook(
                lambda _, args, output, some=some: output + some(args[0])
            )
            hooks.callback(handle.remove)
        yield model


def _neurons(block: nn.Module, parts: Mapping[str, Sequence[WeightDelta]]) -> Beside | None:
    """The neurons that updates of a gated MLP's matrices change; None where they are no updates by neurons."""
    matrices = [getattr(block, name, None) for name in (GATE, UP, DOWN)]
    if not all(type(matrix) is nn.Linear and matrix.bias is None for matrix in matrices):
        return None
    act = getattr(block, "act_fn", None)
    sides = [delta.left for name in (GATE, UP) for delta in parts[name]] + [delta.right.T for delta in parts[DOWN]]
    places = torch.stack([(side != 0).any(1).cpu() for side in sides]).any(0).nonzero()[:, 0]
    if not callable(act) or len(places) > len(sides[0]) // 2:
        return None
    gate, up, down = (matrix.weight.detach() for matrix in matrices)  # type: ignore[union-attr]
    places = places.to(gate.device)
    wide = {name: [delta.to(gate.device, torch.float32) for delta in parts[name]] for name in parts}
    total = lambda found: torch.stack(found).sum(0)
    rows, ups = (total([delta.left[places] @ delta.right for delta in wide[name]]) for name in (GATE, UP))
    columns = total([delta.left @ delta.right[:, places] for delta in wide[DOWN]])
    apart = total([delta.left[places].abs() @ delta.right.norm(dim=1) for delta in wide[GATE]])
    there = rows.norm(dim=1) > PRESENT * apart
    rows, ups, columns = gate[places].float() + rows, up[places].float() + ups, down[:, places].float() + columns
    return Beside(rows[there], ups[there], columns[:, there], act)
