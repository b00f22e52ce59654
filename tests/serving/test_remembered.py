"""What is kept in words reaches the model through the prompt, by every door, and leaves with an undo."""

from __future__ import annotations

import pytest

from easyedit_personal.modeling.tokens import render
from easyedit_personal.serving.active import shares
from easyedit_personal.serving.personalized import PersonalizedModel
from easyedit_personal.serving.remembered import LEAD, default_system, with_words
from easyedit_personal.store import EditStore
from easyedit_personal.store.records import WORDS
from easyedit_personal.types import Preference
from tests.serving.test_personalized import random_delta
from tests.tiny import tiny_model, tiny_tokenizer

SHORT = Preference("answer style", "What is my answer style?", "short", text="keep it short")
OWN = "{% if messages[0]['role'] != 'system' %}<|system|>You are Tiny.<|end|>{% endif %}"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"


def templated(before: str):
    """A tokenizer whose template begins with this."""
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = before + tokenizer.chat_template
    return tokenizer


@pytest.mark.parametrize(
    ("before", "begins"),
    [
        ("", f"<|system|>{LEAD}\n- a."),
        (OWN, f"<|system|>You are Tiny.\n\n{LEAD}\n- a."),
        (NO_SYSTEM, f"<|user|>{LEAD}"),
    ],
    ids=["silent", "default turn", "no system turn"],
)
def test_words_stand_in_the_system_turn_beside_the_models_own(before, begins):
    tokenizer = templated(before)
    told = with_words(tokenizer, "Hello", ["a.", "b.", "a."])
    shown = render(tokenizer, told)
    assert shown.startswith(begins) and shown.count("- a.") == 1 and "Hello<|end|>" in shown


def test_a_clients_system_turn_and_raw_prompts_keep_their_text():
    tokenizer = tiny_tokenizer()
    told = with_words(tokenizer, [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}], ["a."])
    assert told[0]["content"] == f"Be kind.\n\n{LEAD}\n- a." and told[1]["content"] == "Hi"
    assert with_words(tokenizer, "Hi", ["a."], "raw") == [{"role": "user", "content": f"{LEAD}\n- a.\n\nHi"}]
    assert with_words(tokenizer, "Hi", []) == "Hi" and default_system(tokenizer, "raw") is None


def test_of_more_words_than_fit_a_quarter_of_the_context_the_newest_stay(caplog):
    tokenizer = tiny_tokenizer()
    lead = len(tokenizer(LEAD)["input_ids"])
    told = with_words(tokenizer, "Hi", ["first one.", "second one."], context=4 * (lead + 12))
    assert "second" in told[0]["content"] and "first" not in told[0]["content"]
    assert "1 of 2 remembered sentences do not fit" in caplog.text


@pytest.fixture
def served(tmp_path):
    model, tokenizer = tiny_model("llama", max_position_embeddings=2048), tiny_tokenizer()
    with EditStore.open(tmp_path / "edits.db", model, tokenizer) as store:
        yield PersonalizedModel(model, tokenizer, store)


def test_the_model_reads_them_until_they_are_undone(served):
    (before,) = served.generate_for(["ann"], ["Hi"], max_new_tokens=8)
    number = served.store.put("ann", (), preference=SHORT, kernel=WORDS, why="a style")
    told = served.prompt_for("ann", "Hi")
    assert told[0]["role"] == "system" and told[0]["content"].endswith("- keep it short.")
    ann, base = served.generate_for(["ann", None], ["Hi", "Hi"], max_new_tokens=8)
    assert base == before != ann
    assert "".join(served.stream_for("ann", "Hi", max_new_tokens=8)) == ann.text
    served.store.undo("ann", number)
    assert served.prompt_for("ann", "Hi") == "Hi" and served.generate_for(["ann"], ["Hi"], max_new_tokens=8) == [before]


def test_an_answer_that_was_cut_says_so_and_goes_on_where_it_was(served):
    (whole,) = served.generate_for([None], ["Hi"], max_new_tokens=12)
    first = served.stream_for(None, "Hi", max_new_tokens=6)
    begun = "".join(first)
    rest = served.stream_for(None, "Hi", max_new_tokens=6, begun=begun)
    assert first.cut and begun + "".join(rest) == whole.text and rest.cut is not whole.stopped


def test_ablation_finds_the_memory_that_made_the_answer(served):
    loud, quiet = random_delta(served.model, 2, 1), random_delta(served.model, 2, 2)
    one = served.store.put("ann", [loud])
    other = served.store.put("ann", [type(quiet)(quiet.layer, quiet.left * 1e-6, quiet.right)])
    served.store.put("ann", (), preference=SHORT, kernel=WORDS)
    (answer,) = served.generate_for(["ann"], ["Hi"], max_new_tokens=8)
    sentences = served.cache.memory("ann")[1]
    found = shares(served, served.store.parts("ann"), sentences, "Hi", answer.text)
    by = {share.edit: share for share in found}
    assert set(by) == {one, other, None} and by[None].sentence == "keep it short."
    assert abs(by[other].nats) < 0.1 and not by[other].active and by[one].nats > by[other].nats
