"""From one user's weights to the next's in one product per matrix, with the originals kept meanwhile.

For weights that have to be changed in place (exported, compiled or fused models); batches of users are answered by
``serving.multi_adapter``, which swaps at the price of the factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from easyedit_personal.kernels.apply import check_fit, write_update
from easyedit_personal.modeling.layout import get_module, weight_of
from easyedit_personal.types import WeightDelta

Change = Callable[[Sequence[WeightDelta]], None]


@contextmanager
def swapping(model: nn.Module) -> Iterator[Change]:
    """``with swapping(model) as become: become(alice); ...; become(bob)``; bit for bit as before outside.

    ``become(deltas)`` gives the model these updates and no others; no deltas are the base model. What a user's model
    holds does not depend on who was there before. One copy of every matrix that anybody changed is kept meanwhile;
    nothing else may change these matrices inside the block.

    Raises:
        ModelError: (by ``become``) a delta does not fit the model; the weights stay as they were.
    """
    originals: dict[str, Tensor] = {}
    changed: set[str] = set()

    @torch.no_grad()
    def become(deltas: Sequence[WeightDelta]) -> None:
        check_fit(model, deltas)
        wanted = dict.fromkeys(delta.layer for delta in deltas)
        for path in wanted:
            if path not in originals:
                originals[path] = weight_of(get_module(model, path)).detach().clone()
            changed.add(path)
            module, some = get_module(model, path), [delta for delta in deltas if delta.layer == path]
            write_update(module, path, some, originals[path])
        for path in changed - set(wanted):
            weight_of(get_module(model, path)).copy_(originals[path])
            changed.discard(path)

    try:
        yield become
    finally:
        become([])
