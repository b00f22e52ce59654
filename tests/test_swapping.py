"""Swapping users in place gives what editing afresh gives, whoever was there before, and leaves nothing behind."""

from __future__ import annotations

import pytest
import torch

from benchmarks.speed.swapping import swapping
from easyedit_personal import WeightDelta
from easyedit_personal.errors import ModelError
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.modeling.layout import find_layout, weights_digest
from tests.tiny import tiny_model


def deltas(model, layers, seed):
    layout, generator = find_layout(model), torch.Generator().manual_seed(seed)
    return [
        WeightDelta(
            layout.rewrite_path(layer),
            torch.randn(layout.d_model, 2, generator=generator),
            torch.randn(2, layout.d_mlp, generator=generator),
        )
        for layer in layers
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "llama-square", "gpt2", "gpt2-square"])
def test_every_user_gets_their_own_model(family, dtype):
    model = tiny_model(family, dtype)
    before = weights_digest(model)
    users = [deltas(model, [1], 0), deltas(model, [1, 2], 1), [*deltas(model, [2], 2), *deltas(model, [2], 3)], []]
    alone = []
    for user in users:
        with in_weights(model, user):
            alone.append(weights_digest(model))
    assert len(set(alone)) == 4
    with swapping(model) as become:
        for number in (0, 1, 2, 1, 3, 2, 0):
            become(users[number])
            assert weights_digest(model) == alone[number]
    assert weights_digest(model) == before


def test_what_does_not_fit_changes_nothing_and_an_error_restores(llama):
    before, good = weights_digest(llama), deltas(llama, [1], 0)
    bad = WeightDelta(good[0].layer, torch.ones(3, 1), torch.ones(1, 48))
    with swapping(llama) as become:
        become(good)
        inside = weights_digest(llama)
        with pytest.raises(ModelError, match="does not fit"):
            become([bad])
        assert weights_digest(llama) == inside
    with pytest.raises(KeyboardInterrupt), swapping(llama) as become:
        become(good)
        raise KeyboardInterrupt
    assert weights_digest(llama) == before
