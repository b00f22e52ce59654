"""Where edits of ours touch weights: apply factors, and take them back bit for bit.

EasyEdit's editors and PEFT change weights by themselves; ``integrations`` and ``baselines`` undo that. Undo here never
subtracts (in bf16, adding and subtracting an update changes 4 % of the entries): it puts the saved originals back.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..modeling.layout import get_module, is_transposed, matrix_shape, weight_of
from ..types import WeightDelta

Saved = dict[str, Tensor]


@torch.no_grad()
def apply_deltas(model: nn.Module, deltas: Sequence[WeightDelta]) -> Saved:
    """Add updates to a model's weights in place.

    Everything is checked before any weight moves. Updates of the same matrix are summed in float32 (or wider) and
    rounded to the weight's type once.

    Args:
        model: the model to change.
        deltas: updates, several per matrix allowed.

    Returns:
        The original weights by parameter name, as they lie in memory: what ``revert`` and EasyEdit's restore take.

    Raises:
        ModelError: a delta names no module of the model, or does not fit its weight.
    """
    check_fit(model, deltas)
    saved: Saved = {}
    try:
        for path in dict.fromkeys(delta.layer for delta in deltas):
            module = get_module(model, path)
            weight = weight_of(module)
            original = saved[parameter_name(model, weight)] = weight.detach().clone()
            write_update(module, path, [delta for delta in deltas if delta.layer == path], original)
    except BaseException:  # out of memory, or interrupted: all or nothing
        revert(model, saved)
        raise
    return saved


def write_update(module: nn.Module, path: str, deltas: Sequence[WeightDelta], original: Tensor) -> None:
    """Write ``original`` (as the weight lies in memory) plus all updates into the module's weight.

    One product, summed in float32 or wider, rounded once; the matrix is read and written once, no copy is made.
    """
    weight = weight_of(module).detach()
    wide = torch.promote_types(weight.dtype, torch.float32)
    moved = [delta.to(weight.device, wide) for delta in deltas]
    left, right = torch.cat([delta.left for delta in moved], 1), torch.cat([delta.right for delta in moved], 0)
    first, second = (right.T, left.T) if is_transposed(module, path) else (left, right)
    if weight.dtype == wide:
        torch.addmm(original, first, second, out=weight)
    else:
        weight.copy_(torch.addmm(original.to(wide), first, second))


@torch.no_grad()
def revert(model: nn.Module, saved: Saved) -> None:
    """Put back what ``apply_deltas`` returned; bit for bit."""
    parameters = dict(model.named_parameters())
    for name, original in saved.items():
        if name not in parameters:
            raise ModelError(f"The model has no parameter {name!r} to restore.", cause="another model was given")
        parameters[name].copy_(original)


@contextmanager
def in_weights(model: nn.Module, deltas: Sequence[WeightDelta]) -> Iterator[nn.Module]:
    """``with in_weights(model, deltas):`` the weights are edited inside, and bit for bit as before outside.

    For whoever goes on from these weights. Answers are better in ``beside.edited``, where updates by neurons cost the
    model nothing of its own.
    """
    saved = apply_deltas(model, deltas)
    try:
        yield model
    finally:
        revert(model, saved)


def edited_copy(model: nn.Module, deltas: Sequence[WeightDelta]) -> nn.Module:
    """A second model that carries the updates and shares every other weight with the first.

    Costs the memory of the edited matrices only; both models can be used side by side. Changing a shared weight
    in place changes both.
    """
    check_fit(model, deltas)
    twin = twin_of(model, [delta.layer for delta in deltas])
    apply_deltas(twin, deltas)
    return twin


def twin_of(model: nn.Module, layers: Collection[str]) -> nn.Module:
    """A second model that has weights of its own at the module paths ``layers``, and shares every other one."""
    own = {id(weight_of(get_module(model, layer))) for layer in layers}
    memo: dict[int, Any] = {id(p): p for p in model.parameters() if id(p) not in own}
    memo.update({id(buffer): buffer for buffer in model.buffers()})
    return copy.deepcopy(model, memo)


def check_fit(model: nn.Module, deltas: Sequence[WeightDelta]) -> None:
    """Raise unless every delta names a projection of the model and has its shape."""
    for delta in deltas:
        module = get_module(model, delta.layer)
        shape = matrix_shape(module, delta.layer)
        if delta.shape != shape:
            raise ModelError(
                f"The update of {delta.layer!r} does not fit this model.",
                got=delta.shape,
                needed=f"{shape} in nn.Linear orientation",
                cause="the factors were made for another base model",
            )
        if weight_of(module).is_meta:
            raise ModelError(f"The weight of {delta.layer!r} is not loaded (device 'meta').")


def parameter_name(model: nn.Module, weight: Tensor) -> str:
    """The name under which the model lists a parameter."""
    return next(name for name, parameter in model.named_parameters() if parameter is weight)


def relative_norm(model: nn.Module, deltas: Sequence[WeightDelta]) -> float:
    """max over matrices of ||update|| / ||weight||, Frobenius; computed from r x r products, not d x d ones."""
    ratios = [torch.zeros((), dtype=torch.float64)]
    for path in dict.fromkeys(delta.layer for delta in deltas):
        parts = [delta.to(torch.float64) for delta in deltas if delta.layer == path]
        left = torch.cat([part.left for part in parts], 1)
        right = torch.cat([part.right for part in parts], 0)
        squared = ((left.T @ left) * (right @ right.T)).sum().clamp(min=0)
        ratios.append((squared.sqrt() / weight_of(get_module(model, path)).detach().double().norm()).cpu())
    return float(torch.stack(ratios).max())  # unlike Python's, NaN is the largest
