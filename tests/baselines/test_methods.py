"""The baselines really hold the preference, and whatever they do to the model is undone."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.baselines.base import statement
from easyedit_personal.baselines.find import check_method, find_method, find_methods, method_names
from easyedit_personal.baselines.lora import Lora
from easyedit_personal.baselines.retrieval import Retrieval
from easyedit_personal.clustering.embed import TfidfEmbedder
from easyedit_personal.errors import ConfigError, RegistryError
from easyedit_personal.hparams import LoraParams, RetrievalParams
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.modeling.layout import weights_digest
from tests.evaluate.people import people, person, quick_hparams
from tests.tiny import tiny_model

QUESTION = "What should I do this weekend?"
TURNS = [{"role": "user", "content": "How high is Everest?"}, {"role": "assistant", "content": "8849 m"}]


def talk(name, model, tokenizer, preferences=None):
    """The conversation that a method makes of a question."""
    method = find_method(name, quick_hparams())
    method.prepare(people(), 0)
    with method.personalize(model, tokenizer, preferences or [person()], 1) as session:
        return session.conversation(QUESTION, TURNS)


def test_zero_shot_knows_nothing(llama, tokenizer):
    assert talk("zero_shot", llama, tokenizer) == [*TURNS, {"role": "user", "content": QUESTION}]


def test_in_prompt_states_the_value_first(llama, tokenizer):
    said = talk("in_prompt", llama, tokenizer, people()[:2])
    assert [turn["role"] for turn in said] == ["user", "assistant"] * 3 + ["user"]
    assert "hiking" in said[0]["content"] and "a degu" in said[2]["content"]
    assert said[4:6] == TURNS and said[-1]["content"] == QUESTION


def test_reminder_states_it_again_where_it_is_needed(llama, tokenizer):
    said = talk("reminder", llama, tokenizer)
    assert "hiking" in said[0]["content"]
    assert "hiking" in said[-1]["content"] and said[-1]["content"].endswith(QUESTION)


def test_statement_holds_the_persona_and_the_target():
    assert statement(person()) == "Everybody knows that I love hiking. My hobby is hiking."


def test_retrieval_finds_the_right_preference_among_others(llama, tokenizer):
    method = Retrieval(RetrievalParams(top_k=1), embedder=TfidfEmbedder())
    method.prepare(people(), 0)
    with method.personalize(llama, tokenizer, [person()], 1) as session:
        assert "hiking" in session.conversation("What's my hobby?")[-1]["content"]
        assert "degu" in session.conversation("What's my pet?")[-1]["content"]
        everything = sum(len(statement(item)) for item in people())
        assert session.nbytes == everything


def test_retrievals_other_preferences_are_about_other_things_and_reproducible():
    method = Retrieval(RetrievalParams(memory=3), embedder=TfidfEmbedder())
    method.prepare([*people(), person("hobby", "chess")], 1)
    others = method._others([person()])
    assert len(others) == 2 and all(item.subject != "hobby" for item in others)
    assert others == method._others([person()])


@pytest.mark.parametrize("name", ["in_prompt", "retrieval", "lora", "ft_m", "ft_l", "lowrank", "finetune@sequential"])
def test_the_model_is_bit_for_bit_as_before(name, tokenizer):
    model = tiny_model("llama")
    before, flags = weights_digest(model), [p.requires_grad for p in model.parameters()]
    method = find_method(name, quick_hparams())
    method.prepare(people(), 0)
    with method.personalize(model, tokenizer, [person()], 2) as session:
        assert (weights_digest(session.model) != before) == method.edits
    with pytest.raises(ZeroDivisionError), method.personalize(model, tokenizer, [person()], 2):
        raise ZeroDivisionError
    assert weights_digest(model) == before
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not any("lora" in path or "base_layer" in path for path, _ in model.named_modules())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_lora_as_factors_answers_as_peft_itself(family, tokenizer):
    from peft import LoraConfig, get_peft_model

    model, twin = tiny_model(family), tiny_model(family)
    method = Lora(quick_hparams(), LoraParams(rank=2, alpha=8, steps=15))
    deltas = method.train(model, tokenizer, person().requests(2))
    assert all(delta.rank == 2 for delta in deltas) and len(deltas) >= 4
    wrapped = get_peft_model(
        twin, LoraConfig(r=2, lora_alpha=8, task_type="CAUSAL_LM", fan_in_fan_out=family == "gpt2")
    )
    with torch.no_grad():
        for delta in deltas:
            module = wrapped.get_base_model().get_submodule(delta.layer)
            module.lora_B["default"].weight.copy_(delta.left / 4)
            module.lora_A["default"].weight.copy_(delta.right)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad(), in_weights(model, deltas):
        assert torch.allclose(model(ids).logits, wrapped(ids).logits, atol=1e-5)
    assert not torch.allclose(model(ids).logits, wrapped(ids).logits, atol=1e-3)


def test_lora_is_reproducible_and_leaves_the_random_state(llama, tokenizer):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = Lora(quick_hparams(), LoraParams(steps=3)).train(llama, tokenizer, person().requests(1))
    assert torch.equal(torch.rand(1), expected)
    second = Lora(quick_hparams(), LoraParams(steps=3)).train(llama, tokenizer, person().requests(1))
    assert all(torch.equal(a.left, b.left) and torch.equal(a.right, b.right) for a, b in zip(first, second))


def test_baselines_read_their_sections_of_the_settings():
    told = quick_hparams().replace(baselines={"lora": {"rank": 2}, "retrieval": {"top_k": 1}})
    lora, retrieval = find_methods(["lora", "retrieval"], told)
    assert (lora.settings, lora.hparams) == (LoraParams(rank=2), told)
    assert retrieval.settings == RetrievalParams(top_k=1)
    assert find_method("lora", quick_hparams()).settings == LoraParams()
    with pytest.raises(
        ConfigError, match=r"lora\.rnk: unknown key\. Did you mean 'rank'(.|\n)*in_prompt: .*no settings"
    ):
        quick_hparams().replace(baselines={"lora": {"rnk": 2}, "in_prompt": {"rank": 1}})


def test_names_are_resolved_without_guessing():
    assert {"zero_shot", "lora", "rome", "ft_m"} <= set(method_names())
    assert find_method("ft_l", quick_hparams()).hparams.finetune.objective == "prompt_last"
    assert find_method("rome@sequential", quick_hparams()).hparams.strategy == "sequential"
    assert [m.name for m in find_methods(["in_prompt", "in_prompt"], quick_hparams())] == ["in_prompt"]
    with pytest.raises(RegistryError, match="Did you mean 'reminder'"):
        check_method("remindr")
    with pytest.raises(RegistryError, match="strategy"):
        check_method("rome@together")
    with pytest.raises(RegistryError, match="no method"):
        check_method("in_prompt@joint")


def test_a_foreign_editor_is_counted_by_the_weights_that_it_changed(llama, tokenizer):
    from contextlib import contextmanager

    from easyedit_personal.baselines.host import HostEditor

    asked = []

    @contextmanager
    def editor(model, tokenizer, requests, hparams):
        asked.extend(requests)
        weight = model.model.layers[1].mlp.down_proj.weight
        before = weight.detach().clone()
        weight.data[0, 0] += 1
        try:
            yield model
        finally:
            weight.data.copy_(before)

    before = weights_digest(llama)
    method = HostEditor("easyedit:X", editor, quick_hparams())
    with method.personalize(llama, tokenizer, [person()], 2) as session:
        assert session.nbytes == 32 * 48 * 4 and session.model is llama
    assert [request.target_new for request in asked] == ["hiking", "hiking"]
    assert weights_digest(llama) == before
