"""Models write by themselves from a seed, whatever their generation settings say, and disturb no random state."""

from __future__ import annotations

import torch

from easyedit_personal.modeling.sample import opening, sample
from tests.tiny import tiny_tokenizer


def test_a_chat_begins_where_the_user_would_speak(tokenizer):
    assert tokenizer.decode(opening(tokenizer).ids) == "<|user|>"
    plain = tiny_tokenizer(chat=False)
    assert opening(plain).ids == (plain.eos_token_id,)


def test_the_same_seed_gives_the_same_texts(any_model, tokenizer):
    state = torch.random.get_rng_state()
    starts = [opening(tokenizer)] * 5
    first = list(sample(any_model, tokenizer, starts, 12, seed=3, batch_size=2))
    assert first == list(sample(any_model, tokenizer, starts, 12, seed=3, batch_size=2))
    assert first != list(sample(any_model, tokenizer, starts, 12, seed=4, batch_size=2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len({tuple(row) for row in first}) == 5
    assert all(row[:1] == list(starts[0].ids) and len(row) == 13 for row in first)


def test_nothing_ends_a_text_early_or_makes_it_tame(llama, tokenizer):
    """The model's own settings (end tokens, temperature) would cut texts off, or repeat the likeliest one."""
    plain = list(sample(llama, tokenizer, [opening(tokenizer)] * 3, 12, seed=3))
    llama.generation_config.eos_token_id = list(range(1, 300))
    llama.generation_config.temperature, llama.generation_config.top_p = 0.01, 0.1
    llama.generation_config.do_sample = True
    assert list(sample(llama, tokenizer, [opening(tokenizer)] * 3, 12, seed=3)) == plain


def test_starts_of_different_length(llama, tokenizer):
    from easyedit_personal.modeling.tokens import encode_text

    starts = [encode_text(tokenizer, text) for text in ("I", "Because of the music")]
    rows = list(sample(llama, tokenizer, starts, 4, seed=0, top_k=1))
    assert [row[: len(start.ids)] == list(start.ids) for row, start in zip(rows, starts)] == [True, True]
    assert [len(row) - len(start.ids) for row, start in zip(rows, starts)] == [4, 4]
    alone = list(sample(llama, tokenizer, starts[:1], 4, seed=0, top_k=1))
    assert alone[0] == rows[0]
