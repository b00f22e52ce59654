"""Rows that carry updates of their own are computed as by models that have them in their weights."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.carried import Carried, Cells, part_of, tensors_of
from easyedit_personal.kernels.edited_rows import EditedRows
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.tokens import encode
from easyedit_personal.types import WeightDelta
from tests.tiny import FAMILIES, tiny_model, tiny_tokenizer

PROMPTS = ("What's my hobby?", "What's my hobby?", "Who is your doctor and where do they live?", "What's my pet?")
OWNERS = (0, 0, 0, 1)


def pairs(seed, layers):
    torch.manual_seed(seed)
    return {layer: (torch.randn(32, 2) * 0.3, torch.randn(2, 48) * 0.3) for layer in layers}


@pytest.mark.parametrize("layers", [[1], [1, 2]])
@pytest.mark.parametrize("family", sorted(name for name in FAMILIES if not name.startswith("gpt") and "-" not in name))
def test_rows_are_those_of_edited_models(family, layers):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    layout = find_layout(model, PersonalizationHyperParams(layers=layers))
    rows = [encode(tokenizer, text, target=said) for text, said in zip(PROMPTS, ("tea", "in a town", "no", "a cat"))]
    updates = [pairs(seed, layers) for seed in range(2)]
    carried = Carried([updates[owner] for owner in OWNERS])
    with frozen(model), torch.no_grad():
        together = EditedRows(model, tokenizer, layout, rows, layers, from_answers=True, carried=carried)
        change = {layer: lambda keys: keys[..., :32] * 0.1 for layer in layers}
        logits, changed = together.logits(), together.logits(change)
        found = together.found_at(together.rows, together.columns)
        some = together.select([2, 3]).logits(change)
        for owner, numbers in ((0, [0, 1, 2]), (1, [3])):
            mine = torch.isin(together.rows, torch.tensor(numbers))
            deltas = [WeightDelta(layout.rewrite_path(n), left, right) for n, (left, right) in updates[owner].items()]
            with in_weights(model, deltas):
                alone = EditedRows(model, tokenizer, layout, [rows[n] for n in numbers], layers, from_answers=True)
                torch.testing.assert_close(logits[mine], alone.logits(), atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(changed[mine], alone.logits(change), atol=1e-4, rtol=1e-4)
                own = alone.found_at(alone.rows, alone.columns)
                for layer in layers:
                    torch.testing.assert_close(found[layer][1][mine], own[layer][1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(some, changed[torch.isin(together.rows, torch.tensor([2, 3]))], atol=1e-5, rtol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


def test_what_a_file_keeps_of_updates_is_found_again_by_layer():
    pair = (torch.randn(2, 1), torch.randn(1, 3))
    cells = Cells(torch.randn(2, 3), torch.randn(3), torch.randn(3, 2))
    kept = tensors_of(pair, 7) | tensors_of(cells, 8)
    assert set(kept) == {"left.7", "right.7", "rows.8", "const.8", "columns.8"}
    for found, part in zip(part_of(kept, 7), pair, strict=True):
        assert torch.equal(found, part) and found.data_ptr() != part.data_ptr()
    again = part_of(kept, 8)
    assert all(torch.equal(getattr(again, name), getattr(cells, name)) for name in Cells.__slots__)
