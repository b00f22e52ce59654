"""Our greedy loop says what the library's says, token by token, and says where it was cut."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from easyedit_personal.errors import RequestError
from easyedit_personal.generation.generate import encode_prompt, generate, packs
from easyedit_personal.modeling.tokens import Encoded, collate, stop_ids
from tests.tiny import tiny_model

TALK = [{"role": "user", "content": "a b c " * 20}, {"role": "assistant", "content": "I do not know."}]
PROMPTS = [
    "What's my hobby?",
    "Who is your doctor and where do they live? In a small town by the sea?",
    "hi",
    [*TALK, {"role": "user", "content": "What music?"}],
    [*TALK, {"role": "user", "content": "Which food do you like best?"}],
    [{"role": "user", "content": "x y z " * 18}, TALK[1], {"role": "user", "content": "What pet?"}],
]


def library_answers(model, tokenizer, prompts, limit):
    """What ``model.generate`` says, cut at the first end token."""
    ends = stop_ids(model, tokenizer)
    batch = collate([encode_prompt(tokenizer, prompt) for prompt in prompts], tokenizer, side="left")
    settings = GenerationConfig(do_sample=False, max_new_tokens=limit, eos_token_id=ends, pad_token_id=0)
    out = model.generate(input_ids=batch.input_ids, attention_mask=batch.attention_mask, generation_config=settings)
    answers = []
    for row in out[:, batch.input_ids.shape[1] :].tolist():
        stop = next((i for i, token in enumerate(row) if token in ends), len(row))
        answers.append(tuple(row[:stop]))
    return answers


def make_it_stop(model, tokenizer, prompts, limit=12):
    """Declare a token that some answers hold as an end of text, so that rows end at different times."""
    said = [answer.tokens for answer in generate(model, tokenizer, prompts, max_new_tokens=limit)]
    model.generation_config.eos_token_id = [said[0][3], said[-1][1]]


def test_same_tokens_as_the_library_in_every_architecture(any_model, tokenizer):
    make_it_stop(any_model, tokenizer, PROMPTS)
    answers = generate(any_model, tokenizer, PROMPTS, max_new_tokens=12)
    assert [answer.tokens for answer in answers] == library_answers(any_model, tokenizer, PROMPTS, 12)
    assert {answer.stopped for answer in answers} == {True, False} or all(answer.stopped for answer in answers)


def test_batching_changes_nothing(llama, tokenizer):
    make_it_stop(llama, tokenizer, PROMPTS)
    together = generate(llama, tokenizer, PROMPTS, max_new_tokens=12)
    alone = [generate(llama, tokenizer, [prompt], max_new_tokens=12)[0] for prompt in PROMPTS]
    tight = generate(llama, tokenizer, PROMPTS, max_new_tokens=12, batch_tokens=1)
    assert together == alone == tight


def test_the_tokenizers_padding_side_does_not_matter(llama, tokenizer, monkeypatch):
    before = generate(llama, tokenizer, PROMPTS, max_new_tokens=6)
    monkeypatch.setattr(tokenizer, "padding_side", "left" if tokenizer.padding_side == "right" else "right")
    assert generate(llama, tokenizer, PROMPTS, max_new_tokens=6) == before


def test_limits_are_kept_per_prompt_and_said(llama, tokenizer):
    answers = generate(llama, tokenizer, PROMPTS[:3], max_new_tokens=[1, 5, 3])
    assert [len(answer.tokens) for answer in answers] == [1, 5, 3]
    assert not any(answer.stopped for answer in answers)


def test_a_stopped_answer_has_no_end_token_in_it(llama, tokenizer):
    first = generate(llama, tokenizer, PROMPTS[:1], max_new_tokens=4)[0].tokens
    llama.generation_config.eos_token_id = first[2]
    answer = generate(llama, tokenizer, PROMPTS[:1], max_new_tokens=4)[0]
    assert answer.stopped and answer.tokens == first[: first.index(first[2])]


def test_what_does_not_fit_is_refused_not_cut(tokenizer):
    small = tiny_model("llama", max_position_embeddings=32)
    with pytest.raises(RequestError, match="does not fit"):
        generate(small, tokenizer, ["word " * 40], max_new_tokens=4)
    with pytest.raises(RequestError, match="user's turn"):
        generate(small, tokenizer, [TALK], max_new_tokens=4)


def test_every_row_is_packed_once_and_within_the_budget(tokenizer):
    rows = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS * 3]
    found = list(packs(rows, 200))
    assert sorted(i for pack in found for i in pack) == list(range(len(rows)))
    assert all(len(pack) == 1 or max(len(rows[i].ids) for i in pack) * len(pack) <= 200 for pack in found)


def test_questions_after_the_same_turns_read_them_once(llama, tokenizer):
    """Two, four and six turns, six questions each: every conversation is read once, not once per question."""
    questions = ["What's my hobby?", "What do you like to do?", "Tell me about my hobby", "hi", "What pet?", "Why?"]
    turns = [
        {"role": role, "content": f"{said} number {k}"}
        for k in range(3)
        for role, said in (("user", "Where is the sea and who lives there?"), ("assistant", "In a small town by it."))
    ]
    prompts = [[*turns[:n], {"role": "user", "content": question}] for n in (2, 4, 6) for question in questions]
    prompts += questions
    rows = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    found = list(packs(rows, 8192))
    assert sorted(map(sorted, found)) == [[*range(first, first + 6)] for first in (0, 6, 12, 18)]
    tokens = []
    with llama.get_input_embeddings().register_forward_hook(lambda module, args, out: tokens.append(args[0].numel())):
        together = generate(llama, tokenizer, prompts, max_new_tokens=1)
    assert sum(tokens) < sum(len(row.ids) for row in rows) / 2
    assert together == [generate(llama, tokenizer, [prompt], max_new_tokens=1)[0] for prompt in prompts]


def test_equal_rows_and_endless_forks_are_packed_too():
    rows = [Encoded((1,) * n, (), n - 1) for n in (*range(1, 300), 40, 40)]
    found = list(packs(rows, 100_000))
    assert sorted(i for pack in found for i in pack) == list(range(len(rows)))


def test_nothing_to_do_gives_nothing(llama, tokenizer):
    assert generate(llama, tokenizer, []) == []


def test_generation_keeps_no_gradients(llama, tokenizer):
    generate(llama, tokenizer, PROMPTS[:2], max_new_tokens=2)
    assert torch.is_grad_enabled() and all(parameter.grad is None for parameter in llama.parameters())
