"""Updates that are silent below a threshold: a few quiet neurons of a gated MLP, given to an edit.

    update(x) = sum_i h_i d_i,    h_i = act(s (r_i x + b_i c x)) (c x)

x is the MLP's input, act its activation (SiLU, GELU), r_i a direction that tells a role from everything else, and c
one along which x is nearly constant, so that c x is 1 and b_i a threshold. A linear update adds something to every
token; here act(s z) vanishes where z < 0. As weights, a neuron's row of the gate projection becomes s (r_i + b_i c), of
the up projection c, and its column of the down projection d_i: an update of rank one of each, as any LoRA adapter's.

In weights what a neuron did before is lost, so the quietest are taken, and every preference of a user needs neurons of
its own. Whoever runs the model can keep the old ones, too: ``beside``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError, ModelError
from ..hparams import PersonalizationHyperParams
from ..modeling.layout import Layout, find_layout, get_module, weight_of
from ..types import WeightDelta
from .carried import Cells, Pair
from .factors import Space, Update, towards

# s: what the activation sees where a role is met is half of it, elsewhere minus that. Just below a threshold SiLU dips
# below zero, by .28 / s. With s = 8 that is heard in ordinary text, and changes every second answer to a question about
# the world.
SHARPNESS = 64.0
SOFT = 8.0  # s of the gradients: of a closed neuron whose threshold is sharp there are none
THRESHOLD = 0.5  # of the way from what is to be told apart to the role
GATE, UP, DOWN = "gate_proj", "up_proj", "down_proj"


@dataclass(slots=True)
class Neurons(Update):
    """An update by neurons: one per role, which adds nothing below a threshold. Keys are the MLP's inputs.

    Attributes:
        bias: [r]; how far the role has to be met.
        const: c [d_model].
        act: the MLP's activation.
    """

    bias: Tensor
    const: Tensor
    act: Any

    @classmethod
    def towards(cls, space: Space, roles: Tensor, others: Tensor, width: int, const: Tensor, act: Any) -> Neurons:
        """One neuron per role, open where it is met and closed at what it is told apart from; they add nothing yet.

        Args:
            roles: the mean whitened input of every role [r, d_model].
            others: that of what is to be told apart from each [r, d_model].
            width: d_model of the output.
        """
        right = towards(roles, others)
        bias = -(others * right).sum(1) - THRESHOLD
        return cls(space, right.new_zeros(width, len(right)), right, bias, const.to(right), act)

    def acts(self, keys: Tensor) -> Tensor:
        """How far each neuron is open [..., r]: about 1 where its role is met, 0 elsewhere.

        Gradients are those of a softer threshold that never falls (softplus), so that a closed neuron may open.
        """
        const = (keys @ self.const)[..., None]
        met = keys @ self.plain_right.T + self.bias * const
        opened = self.act(SHARPNESS * met) * const / (SHARPNESS * (1 - THRESHOLD))
        soft = F.softplus(SOFT * met) * const / (SOFT * (1 - THRESHOLD))
        return soft + (opened - soft).detach()

    def groups(self, left_lr: float, right_lr: float) -> list[dict[str, Any]]:
        """What an optimiser moves, and how fast; thresholds by shares of their own size, too."""
        groups = super(Neurons, self).groups(left_lr, right_lr)
        return [*groups, {"params": [self.bias.requires_grad_()], "lr": right_lr * THRESHOLD}]

    def settle(self) -> None:
        """No more gradients."""
        super(Neurons, self).settle()
        self.bias = self.bias.detach()

    def kept(self) -> Cells:
        """The neurons' rows and columns, without gradients."""
        rows = SHARPNESS * (self.plain_right + self.bias[:, None] * self.const)
        columns = self.space.unit * self.left.detach() / (SHARPNESS * (1 - THRESHOLD))
        return Cells(rows.detach(), self.const, columns)


def takes_neurons(hparams: PersonalizationHyperParams) -> bool:
    """Whether edits with these settings change neurons of an MLP, and not its down projection alone."""
    return hparams.kernel == "lowrank" and hparams.answers == "natural" and hparams.natural.through == "neurons"


def seen_by_edits(model: nn.Module, hparams: PersonalizationHyperParams) -> Layout:
    """A model's layout as natural answers see it, see ``by_neurons``.

    Raises:
        ModelError, ConfigError: see ``find_layout`` and ``by_neurons``.
    """
    layout = find_layout(model, hparams)
    return by_neurons(model, layout, hparams) if takes_neurons(hparams) else layout


def by_neurons(model: nn.Module, layout: Layout, hparams: PersonalizationHyperParams) -> Layout:
    """The layout in which a whole MLP stands for the down projection: a key is then the MLP's input.

    Raises:
        ConfigError: the MLP is none with a gate, or not made of plain linear layers.
    """
    for layer in hparams.layers:
        block = get_module(model, layout.mlp.replace("{}", str(layout.check_layer(layer))))
        plain = [isinstance(getattr(block, name, None), nn.Linear) for name in (GATE, UP, DOWN)]
        if not all(plain) or not callable(getattr(block, "act_fn", None)):
            raise ConfigError(
                f"The model {layout.name} ({layout.family}) has no neurons that an edit could take.",
                got=type(block).__name__,
                needed="an MLP with linear gate_proj, up_proj and down_proj",
                remedy="set natural: {through: projection}",
            )
    return replace(layout, rewrite=layout.mlp, d_mlp=layout.d_model)


def activation(model: nn.Module, layout: Layout, layer: int) -> Any:
    """The activation of an MLP; ``layout`` as ``by_neurons`` gives it."""
    return get_module(model, layout.rewrite_path(layer)).act_fn


def constant_direction(metric: Tensor, inputs: Tensor) -> Tensor:
    """c [d]: c x is 1 on average over the inputs [n, d], and varies least in the metric P (c = P P^T m, scaled)."""
    mean = inputs.mean(0)
    plain = metric @ (mean @ metric)
    return plain / (plain @ mean)


@torch.no_grad()
def importance(block: Any, inputs: Tensor, gradients: Tensor) -> Tensor:
    """sum of (h d^T g)^2 by neuron [d_mlp], h its value and d its column: what the model would lose without it.

    Args:
        block: the MLP.
        inputs: its inputs [n, d_model].
        gradients: g with respect to its outputs [n, d_model].
    """
    inputs = inputs.to(block.up_proj.weight)
    values = block.act_fn(block.gate_proj(inputs)) * block.up_proj(inputs)
    return (values * (gradients.to(values) @ block.down_proj.weight)).float().square().sum(0)


def edited_paths(layout: Layout, hparams: PersonalizationHyperParams) -> list[str]:
    """Paths of the matrices that edits with these settings change."""
    down = [layout.rewrite_path(layer) for layer in hparams.layers]
    if not takes_neurons(hparams):
        return down
    blocks = [layout.mlp.replace("{}", str(layer)) for layer in hparams.layers]
    return [*down, *(f"{block}.{name}" for block in blocks for name in (GATE, UP))]


def as_updates(
    model: nn.Module, block: str, cells: Cells, places: Sequence[int], shared: bool = False
) -> list[WeightDelta]:
    """The three updates that put neurons at their places in the MLP ``block``."""
    gate, up, down = (weight_of(get_module(model, f"{block}.{name}")).detach().float() for name in (GATE, UP, DOWN))
    index = torch.tensor(list(places), device=gate.device)
    one = torch.zeros(len(gate), len(index), device=gate.device)
    one[index, torch.arange(len(index))] = 1.0
    rows, columns = cells.rows.to(gate), cells.columns.to(gate)
    return [
        WeightDelta(f"{block}.{GATE}", one, rows - gate[index], shared=shared),
        WeightDelta(f"{block}.{UP}", one, cells.const.to(gate).expand_as(rows) - up[index], shared=shared),
        WeightDelta(f"{block}.{DOWN}", columns - down[:, index], one.T.contiguous(), shared=shared),
    ]


def placed(
    model: nn.Module, path: str, part: Pair | Cells, order: Sequence[int], taken: set[int], shared: bool = False
) -> list[WeightDelta]:
    """What is kept of a layer's update, as updates of its matrices; neurons stand at the first free places.

    Args:
        path: of the down projection, or for neurons of the MLP.
        order, taken: see ``free_places``.
        shared: see ``WeightDelta``.
    """
    if isinstance(part, Cells):
        return as_updates(model, path, part, free_places(order, taken, len(part.rows)), shared)
    return [WeightDelta(path, *part, shared=shared)]


def free_places(order: Sequence[int], taken: set[int], count: int) -> list[int]:
    """The quietest neurons that nobody has, and from now on they are taken.

    Raises:
        ModelError: the MLP has not so many.
    """
    found = [place for place in order if place not in taken][:count]
    if len(found) < count:
        raise ModelError(
            "The MLP has no neurons left for another preference.",
            got=f"{len(taken)} of {len(order)} are taken",
            needed=f"{count} more",
            remedy="undo some of the user's preferences, or keep more of them in words",
        )
    taken.update(found)
    return found


def taken_in(model: nn.Module, block: str, const: Tensor) -> set[int]:
    """Numbers of the neurons that edits in the model's weights have: their rows of the up projection are c."""
    up = weight_of(get_module(model, f"{block}.{UP}")).detach().float()
    near = (up - const.to(up)).norm(dim=1) < 0.01 * const.norm()
    return set(near.nonzero()[:, 0].tolist())


def places_of(deltas: Sequence[WeightDelta], block: str) -> set[int]:
    """Numbers of the neurons of an MLP whose gates the updates change."""
    found: set[int] = set()
    for delta in deltas:
        if delta.layer == f"{block}.{GATE}" and delta.rank:
            sizes = delta.left.norm(dim=1) * delta.right.norm()
            found |= set((sizes > sizes.max() * 1e-4).nonzero()[:, 0].tolist())
    return found


def without_thresholds(deltas: Sequence[WeightDelta]) -> list[WeightDelta]:
    """The updates but for neurons' rows of gate projections, whose size only says how sharp thresholds are."""
    return [d for d in deltas if not (d.layer.endswith(GATE) and bool(((d.left != 0).sum(0) == 1).all()))]


def elsewhere(
    model: nn.Module, deltas: Sequence[WeightDelta], beside: Sequence[WeightDelta], order: Sequence[int], block: str
) -> list[WeightDelta]:
    """The same updates, their neurons moved where the updates ``beside`` have none.

    Args:
        model: the base model.
        deltas: as they were learned; each direction belongs to one neuron.
        order: neurons by how little they matter.
    """
    taken, own = places_of(beside, block), places_of(deltas, block)
    clash = sorted(own & taken, key=list(order).index)
    if not clash:
        return [*deltas]
    free = free_places(order, taken | own, len(clash))
    moved = dict(zip(clash, free))
    return [_moved(model, delta, block, moved) for delta in deltas]


def _moved(model: nn.Module, delta: WeightDelta, block: str, places: dict[int, int]) -> WeightDelta:
    """One update with its neurons at other places; what these and the old ones hold in the base model is seen to."""
    if delta.layer not in {f"{block}.{name}" for name in (GATE, UP, DOWN)}:
        return delta
    weight = weight_of(get_module(model, delta.layer)).detach().to(delta.left)
    is_down = delta.layer.endswith(DOWN)
    left, right = (delta.right.T, delta.left.T) if is_down else (delta.left, delta.right)
    weight = weight.T if is_down else weight
    left, right = left.clone(), right.clone()
    for old, new in places.items():
        for direction in left[old].nonzero()[:, 0].tolist():
            right[direction] += weight[old] - weight[new]
            left[new, direction], left[old, direction] = left[old, direction].clone(), 0.0
    pair = (right.T.contiguous(), left.T.contiguous()) if is_down else (left, right)
    return WeightDelta(delta.layer, *pair, shared=delta.shared)
