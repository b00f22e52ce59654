"""From one user to the next: factor hooks and one fused update in place, against copying the edited matrix.

Copying is what keeping each user's edited matrix costs (EasyEdit's ``weights_copy``): nothing is computed, the matrix
is read and written once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.modeling.layout import find_layout, get_module, linear_weight
from easyedit_personal.serving.factor_cache import FactorCache
from easyedit_personal.serving.multi_adapter import mixed
from easyedit_personal.types import WeightDelta

from .options import Options
from .pairs import Side, compare, spread
from .shapes import edited_layers, model_of
from .swapping import swapping

USERS, RANK, TURNS = 8, 4, 40


class Memory:
    """A store of users' factors in memory, as ``FactorCache`` reads one."""

    def __init__(self, deltas: Sequence[WeightDelta]) -> None:
        self.kept = {str(number): [delta] for number, delta in enumerate(deltas)}

    def deltas(self, user: str) -> list[WeightDelta]:
        """A user's updates."""
        return self.kept[user]

    def version(self, user: str) -> int:
        """Nobody's updates change here."""
        return 1


@torch.no_grad()
def swap(options: Options) -> dict[str, Any]:
    """Seconds per change of user. ``ratio`` is copying over factor hooks; ``in_place`` and its ratio stand beside it.

    ``difference`` is that of the edited projection's output by hooks and with the weight changed in place.
    """
    model, _ = model_of(options.model, hparams=options.hparams)
    (layer,) = edited_layers(options.model, "rome", options.hparams)
    path = find_layout(model).rewrite_path(layer)
    weight = linear_weight(get_module(model, path))
    deltas = [_random(path, weight.shape, seed) for seed in range(USERS)]
    matrices = [(weight + delta.update()).contiguous() for delta in deltas]
    target = weight.contiguous().clone()
    cache = FactorCache(Memory(deltas), model)
    hooks = Side(lambda: _in_turn(lambda n: _hooked(model, cache, n)), TURNS)
    copies = Side(lambda: _in_turn(lambda n: target.copy_(matrices[n])), TURNS)
    outcome = compare(hooks, copies, options.pairs, model)
    with swapping(model) as become:
        fused = Side(lambda: _in_turn(lambda n: become([deltas[n]])), TURNS)
        in_place = compare(fused, copies, options.pairs, model)
    keys = torch.randn(64, weight.shape[1])
    with mixed(model, [{path: deltas[0]}]):
        by_hooks = get_module(model, path)(keys[None])[0]
    with in_weights(model, [deltas[0]]):
        by_weight = get_module(model, path)(keys)
    return {
        "case": options.case,
        "ratio": outcome.ratio,
        "ours": {**outcome.ours, "in_place_seconds": in_place.ours["seconds"], "in_place_ratio": in_place.ratio},
        "theirs": outcome.theirs,
        "difference": float((by_hooks - by_weight).norm() / by_weight.norm()),
        "model": options.model,
        "matrix": list(weight.shape),
        "rank": RANK,
        "extra_per_token": _hook_price(model, deltas[0], options.pairs),
        "seconds_are": "per change of user",
    }


def _random(path: str, shape: Sequence[int], seed: int) -> WeightDelta:
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(shape[0], RANK, generator=generator), torch.randn(RANK, shape[1], generator=generator)
    return WeightDelta(path, left * 0.01, right * 0.01)


def _in_turn(change: Callable[[int], Any]) -> None:
    for number in range(TURNS):
        change(number % USERS)


def _hooked(model: Any, cache: FactorCache, number: int) -> None:
    """The user's factors from the cache, and the model ready to answer with them; the user before is gone."""
    with mixed(model, [cache.get(str(number))]):
        pass


def _hook_price(model: Any, delta: WeightDelta, pairs: int) -> dict[str, Any]:
    """A forward pass of one token with the hook, relative to one without: what swapping by hooks costs later."""
    ids = torch.tensor([[5]])
    with ExitStack() as stack:
        model(ids)
        plain = [_seconds(lambda: model(ids)) for _ in range(4 * pairs)]
        stack.enter_context(mixed(model, [{delta.layer: delta}]))
        model(ids)
        hooked = [_seconds(lambda: model(ids)) for _ in range(4 * pairs)]
    return spread([b / a for a, b in zip(sorted(plain), sorted(hooked))])


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start
