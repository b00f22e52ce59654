"""Keys and values of beginnings: as if every row had been read by itself, and what is alike is read once."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from easyedit_personal.modeling import read_once
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.read_once import forward, read_before
from easyedit_personal.modeling.tokens import collate, encode
from tests.tiny import tiny_model, tiny_tokenizer

ROWS = (
    ("What's my hobby?", "hiking in the hills"),
    ("What's my hobby?", "tea"),
    ("Who is your doctor, where do they live, and which music do they like best?", "By the sea."),
    ("What's my hobby?", "music"),
)


@pytest.fixture
def batch():
    tokenizer = tiny_tokenizer()
    return collate([encode(tokenizer, text, target=said) for text, said in ROWS], tokenizer, side="inside")


def test_targets_begin_in_one_column_behind_what_all_prompts_share(batch):
    rows, columns, ids = batch.targets()
    firsts = [int(columns[rows == row].min()) for row in range(len(ROWS))]
    assert len(set(firsts)) == 1
    for number, (text, said) in enumerate(ROWS):
        row = encode(tiny_tokenizer(), text, target=said)
        real = batch.attention_mask[number].bool()
        assert batch.input_ids[number, real].tolist() == list(row.ids)
        assert batch.position_ids[number, real].tolist() == list(range(len(row.ids)))
        assert ids[rows == number].tolist() == list(row.target_ids)
        assert batch.input_ids[number, batch.last_index[number]] == row.ids[-1]
    assert batch.attention_mask[:, 0].all() and (batch.input_ids[:, 0] == batch.input_ids[0, 0]).all()


@pytest.mark.parametrize("least", [1, 10_000])
@pytest.mark.parametrize("side", ["left", "inside"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "olmo2", "gpt2", "gptj"])
def test_beginnings_are_those_of_one_whole_pass(family, side, least, monkeypatch):
    monkeypatch.setattr(read_once, "PASS", least)  # in several passes, and in one
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    batch = collate([encode(tokenizer, text, target=said) for text, said in ROWS], tokenizer, side=side)
    layout, start = find_layout(model), int(batch.targets()[1].min())
    whole, real = DynamicCache(), batch.attention_mask[:, :start].bool()[:, None, :, None]
    with torch.no_grad():
        forward(model, batch, range(start), 0, whole)
    seen = []
    for rows, found in read_before(model, batch, start, layout.layer_path(3), lambda rows: None, [0] * len(ROWS)):
        seen += rows
        for one, other in zip(found.layers, whole.layers):
            for name in ("keys", "values"):
                mine, theirs = getattr(one, name), getattr(other, name)[rows]
                torch.testing.assert_close(mine * real[rows], theirs * real[rows], atol=1e-5, rtol=1e-5)
    assert sorted(seen) == list(range(len(ROWS)))


@pytest.mark.parametrize("owners, told", [([0] * 4, [[0], [0], [2]]), ([0, 1, 0, 1], [[0, 1], [0, 1], [2]])])
def test_what_is_alike_is_read_once_and_short_prompts_without_the_padding_of_long_ones(
    batch, owners, told, monkeypatch
):
    monkeypatch.setattr(read_once, "PASS", 1)
    model = tiny_model("llama")
    layout, start = find_layout(model), int(batch.targets()[1].min())
    shapes, rows_told = [], []
    handle = model.get_input_embeddings().register_forward_hook(lambda _, args, out: shapes.append(args[0].shape))
    for _ in read_before(model, batch, start, layout.layer_path(3), rows_told.append, owners):
        pass
    handle.remove()
    assert rows_told == told, "rows of two owners are never alike"
    shared = shapes[0][1]
    own = [len(encode(tiny_tokenizer(), ROWS[row][0]).prompt_ids) - 1 - shared for row in (0, 2)]
    assert [shape[1] for shape in shapes[1:]] == own and shared > 0


def test_one_row_and_rows_that_begin_with_padding_only():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    layout, row = find_layout(model), encode(tokenizer, ROWS[0][0], target="tea")
    long = encode(tokenizer, ROWS[2][0], target="tea " * 20)
    for rows, start in (([row], len(row.prompt_ids) - 1), ([row, long], 4)):
        batch = collate(rows, tokenizer, side="left")
        for numbers, found in read_before(model, batch, start, layout.layer_path(3), lambda rows: None, [0, 0]):
            assert [tuple(layer.keys.shape[::2]) for layer in found.layers] == [(len(numbers), start)] * 4
