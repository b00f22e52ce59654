"""Rows of which only what lies above an edit is run, against the edited model's own passes."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.kernels import edited_rows as module
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.edited_rows import EditedRows
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.suffix import Split
from easyedit_personal.modeling.tokens import Encoded
from easyedit_personal.modeling.trace import trace
from easyedit_personal.types import WeightDelta
from tests.tiny import tiny_model

ROWS = [Encoded((5, 6, 7, 8), (9, 10, 11), 1), Encoded((5, 6, 12), (13,), 0), Encoded((5, 6, 14, 15, 16), (17, 18), 2)]
FIRSTS = [0, 3, 4]  # number of each row's first target among all


@pytest.fixture(scope="module", params=["llama", "mistral"])
def model(request):
    """Of a plain one and one with a sliding window."""
    model = tiny_model(request.param, initializer_range=0.2)
    with frozen(model):
        yield model


@pytest.fixture
def deltas(model):
    layout = find_layout(model)
    return {n: WeightDelta(layout.rewrite_path(n), torch.randn(32, 2) * 0.3, torch.randn(2, 48) * 0.3) for n in (1, 2)}


def changes(deltas):
    return {n: lambda keys, delta=delta: keys @ delta.right.T @ delta.left.T for n, delta in deltas.items()}


def rows_of(model, tokenizer, **options):
    return EditedRows(model, tokenizer, find_layout(model), ROWS, options.pop("layers", [2, 1]), **options)


def plain_logits(model, row):
    with torch.no_grad():
        return model(torch.tensor([row.ids])).logits[0]


def predicting(logits, row):
    return logits[len(row.prompt_ids) - 1 : -1]


@pytest.mark.parametrize("split", [None, Split("full")], ids=["cut", "whole passes"])
def test_logits_are_the_edited_models_where_the_answers_are_predicted(model, tokenizer, deltas, split):
    rows = rows_of(model, tokenizer, split=split)
    assert rows.ids.tolist() == [9, 10, 11, 13, 17, 18] and rows.start == 0 and rows.layers == [1, 2]
    for given, applied in ((changes(deltas), deltas.values()), (None, ())):
        with in_weights(model, [*applied]):
            wanted = torch.cat([predicting(plain_logits(model, row), row) for row in ROWS])
        torch.testing.assert_close(rows.logits(given), wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            rows.logits(given, words=torch.tensor([3, 9])), wanted[:, [3, 9]], atol=1e-4, rtol=1e-4
        )
    assert not any(part._forward_hooks for part in model.modules())


def test_logits_may_be_asked_for_anywhere(model, tokenizer, deltas):
    rows, at = rows_of(model, tokenizer), (torch.tensor([0, 2]), torch.tensor([0, 5]))
    with in_weights(model, [*deltas.values()]):
        wanted = torch.stack([plain_logits(model, ROWS[0])[0], plain_logits(model, ROWS[2])[5]])
    torch.testing.assert_close(rows.logits(changes(deltas), at), wanted, atol=1e-4, rtol=1e-4)
    first, second = rows.logits_by_part(changes(deltas), at, [1, 1], [torch.tensor([3, 9]), torch.tensor([7])])
    torch.testing.assert_close(first, wanted[:1, [3, 9]], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(second, wanted[1:, [7]], atol=1e-4, rtol=1e-4)


def test_some_of_the_rows_are_as_among_all(model, tokenizer, deltas):
    rows = rows_of(model, tokenizer)
    part, whole = rows.select([2, 0]), rows.logits(changes(deltas))
    assert part.ids.tolist() == [17, 18, 9, 10, 11] and part.last_index.tolist() == rows.last_index[[2, 0]].tolist()
    torch.testing.assert_close(part.logits(changes(deltas)), whole[[4, 5, 0, 1, 2]], atol=1e-5, rtol=1e-5)


def test_means_are_taken_over_each_rows_own_tokens(model, tokenizer):
    means = rows_of(model, tokenizer).row_means(torch.tensor([1.0, 2.0, 6.0, 5.0, 7.0, 9.0]))
    assert means.tolist() == [3.0, 5.0, 8.0]


@pytest.mark.parametrize("from_answers", [False, True])
def test_keys_and_outputs_of_all_edited_layers_are_the_unedited_models(model, tokenizer, from_answers):
    rows, layout = rows_of(model, tokenizer, from_answers=from_answers), find_layout(model)
    begun, everywhere = rows.where_answers_begin(), rows.found_at(rows.rows, rows.columns)
    assert list(begun) == list(everywhere) == [1, 2]
    for layer, path in ((n, layout.rewrite_path(n)) for n in (1, 2)):
        found = []
        for row in ROWS:
            with torch.no_grad(), trace(model, [path]) as calls:
                model(torch.tensor([row.ids]))
            found.append([predicting(part[0], row) for part in (calls[path].input, calls[path].output)])
        for k in (0, 1):
            wanted = torch.cat([each[k] for each in found])
            torch.testing.assert_close(everywhere[layer][k], wanted, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(begun[layer][k], wanted[FIRSTS], atol=1e-5, rtol=1e-4)


def test_whole_rows_have_keys_from_their_first_token_on(model, tokenizer):
    rows, path = rows_of(model, tokenizer), find_layout(model).rewrite_path(1)
    with torch.no_grad(), trace(model, [path]) as calls:
        model(torch.tensor([ROWS[0].ids]))
    first = rows.found_at(torch.tensor([0]), torch.tensor([0]))[1][0]
    torch.testing.assert_close(first[0], calls[path].input[0, 0], atol=1e-5, rtol=1e-4)


def test_answers_begin_in_one_column_and_what_prompts_begin_with_stays_in_front_where_no_window_slides(
    model, tokenizer
):
    rows = rows_of(model, tokenizer, from_answers=True)
    assert rows.start == 4 and rows.last_index.tolist() == [4, 4, 4]
    in_front = rows.suffix.batch.attention_mask[:, :2].bool().all(1).tolist()
    assert in_front == ([True] * 3 if model.config.model_type == "llama" else [False, False, True])


def test_a_pass_for_upper_layers_keeps_no_keys_and_no_graph(model, tokenizer):
    rows, seen = rows_of(model, tokenizer), []
    look = lambda module, args, kwargs: seen.append((kwargs["use_cache"], torch.is_grad_enabled()))
    with model.register_forward_pre_hook(look, with_kwargs=True), torch.enable_grad():
        rows.where_answers_begin()
        rows_of(model, tokenizer, layers=[1]).where_answers_begin()  # one layer: it was seen already
    assert set(seen) == {(False, False)}


def test_how_the_model_is_cut_is_found_by_trial_unless_it_is_known(model, tokenizer, monkeypatch):
    tried, split_of = [], module.split_of
    monkeypatch.setattr(module, "split_of", lambda *given: tried.append(given[-1]) or split_of(*given))
    rows_of(model, tokenizer, from_answers=True)
    rows = rows_of(model, tokenizer, split=Split("full"))
    assert tried == [4] and rows.suffix.split == Split("full")
