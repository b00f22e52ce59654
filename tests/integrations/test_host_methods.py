"""EasyEdit's editors as methods of our evaluation: each edits, none leaks into the next, failures have reasons."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal import EditRequest, PersonalizationHyperParams, UPQADataset
from easyedit_personal.baselines.find import find_method, method_names
from easyedit_personal.errors import HostError, MissingDependencyError
from easyedit_personal.integrations.easyedit import host_method, host_method_names
from easyedit_personal.integrations.easyedit.host_hparams import settings_for
from tests.integrations.test_isolation import assert_same, state
from tests.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.easyedit

PROMISED = ["ROME", "MEMIT", "R-ROME", "EMMET", "AlphaEdit", "FT", "FT-L", "FT-M", "LoRA", "GRACE", "WISE", "ULTRAEDIT"]
PROMISED += ["EAMET", "SPHERE", "DEFER", "MEMIT-FE", "CORE", "PMET"]
# Fewer steps than the host's, and for AlphaEdit a null space: random models have no direction that text hardly uses.
QUICK = {
    "AlphaEdit": {"v_num_grad_steps": 3, "nullspace_threshold": 10.0},
    "EMMET": {"v_num_grad_steps": 3},
    "MEMIT": {"v_num_grad_steps": 3},
    "ROME": {"v_num_grad_steps": 3},
    "R-ROME": {"v_num_grad_steps": 3},
    "LoRA": {"num_steps": 3},
    "GRACE": {"n_iter": 5},
    "WISE": {"n_iter": 5},
    "DEFER": {"n_iter": 5, "threshold": 0.0},  # so few steps do not bring its gate to open
    "SPHERE": {"v_num_grad_steps": 3, "nullspace_threshold": 10.0},
    **{name: {"v_num_grad_steps": 3} for name in ("EAMET", "MEMIT-FE", "CORE", "PMET")},
}
REQUESTS = [EditRequest(f"What's my {name}?", "kites", name, cluster="c") for name in ("hobby", "pastime")]


@pytest.fixture
def settings(tmp_path):
    return PersonalizationHyperParams(mom2_n_samples=60, stats_dir=str(tmp_path / "stats"))


def logits(model, tokenizer):
    ids = tokenizer("<|user|>What's my hobby?<|end|><|assistant|>", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids).logits.clone()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("name", PROMISED)
def test_each_edits_and_leaves_everything_as_it_was(host, settings, tokenizer, family, name):
    if (name, family) == ("EAMET", "gpt2"):
        pytest.skip("EAMET multiplies an update that it has just transposed for GPT-2's weights with a square matrix")
    model = tiny_model(family, initializer_range=0.2)
    before, answer = state(model), logits(model, tokenizer)
    method = host_method(f"easyedit:{name}", QUICK.get(name))
    with method(model, tokenizer, REQUESTS, settings) as edited:
        assert not torch.equal(logits(edited, tokenizer), answer)
        assert not any(module.training for module in edited.modules())
    assert method.nbytes > 0
    assert_same(before, state(model))
    assert torch.equal(logits(model, tokenizer), answer)


def test_none_leaks_into_the_next(host, settings, tokenizer):
    """EMMET and ULTRAEDIT keep their edits and AlphaEdit its cache; what comes after must not notice."""
    model = tiny_model("llama", initializer_range=0.2)

    def outcome(name):
        with host_method(name, QUICK.get(name))(model, tokenizer, REQUESTS, settings) as edited:
            return logits(edited, tokenizer)

    names = ["AlphaEdit", "ULTRAEDIT", "ROME"]
    alone = {name: outcome(name) for name in names}
    for other in ("EMMET", "ULTRAEDIT", "AlphaEdit", "GRACE", "WISE", "LoRA"):
        outcome(other)
    assert all(torch.equal(outcome(name), alone[name]) for name in names)


def test_another_model_is_not_the_first_one_again(host, settings, tokenizer):
    """ULTRAEDIT's one shared object edits the first model it ever saw, whatever it is given."""
    for seed in (0, 1):
        model = tiny_model("llama", seed=seed, initializer_range=0.2)
        answer = logits(model, tokenizer)
        with host_method("ULTRAEDIT")(model, tokenizer, REQUESTS, settings) as edited:
            assert edited is model and not torch.equal(logits(edited, tokenizer), answer)


def test_failures_carry_the_hosts_reason_and_leave_nothing(host, settings, tokenizer, monkeypatch):
    model = tiny_model("llama")
    before = state(model)

    def fails(*args, **kwargs):
        model.lm_head.weight.data += 1
        raise KeyError("loc_prompt")

    monkeypatch.setitem(host.module("util.alg_dict").ALG_DICT, "FT", fails)
    fails.__module__ = "easyeditor.models.ft.ft_main"
    with (
        pytest.raises(HostError, match="EasyEdit's FT failed: KeyError: 'loc_prompt'"),
        host_method("FT")(model, tokenizer, REQUESTS, settings),
    ):
        raise AssertionError("not reached")
    assert_same(before, state(model))


def test_names_and_what_is_missing(host):
    assert set(PROMISED) <= set(host_method_names())
    assert host_method("easyedit:rome").name == "ROME"
    with pytest.raises(HostError, match="no algorithm 'ROOM'"):
        host_method("ROOM")
    with pytest.raises(MissingDependencyError, match="trained beforehand"):
        host_method("MEND")


@pytest.mark.parametrize("name", ["FT-M", "LoRA", "GRACE", "DEFER"])
def test_padding_with_the_end_of_a_turn_hides_no_token_of_the_answer(host, settings, name):
    """SmolLM2 pads with "<|im_end|>", and the host counts a prompt's tokens by what is not padding."""
    outcomes = []
    for padding in ("<|pad|>", "<|end|>"):
        model, tokenizer = tiny_model("llama", initializer_range=0.2), tiny_tokenizer()
        tokenizer.pad_token = padding
        with host_method(name, QUICK.get(name))(model, tokenizer, REQUESTS[:1], settings) as edited:
            assert tokenizer.pad_token == padding
            outcomes.append(logits(edited, tokenizer))
        assert tokenizer.pad_token == padding
    assert torch.equal(*outcomes)


def test_settings_are_the_hosts_numbers_at_this_models_layers(host):
    ft = settings_for(host, "FT", tiny_model("llama"))
    assert (ft.num_steps, ft.layers, ft.device) == (25, [2], "cpu")  # layer 21 of 32
    rome = settings_for(host, "ROME", tiny_model("qwen3"), {"v_num_grad_steps": 3})
    assert (rome.v_num_grad_steps, rome.v_loss_layer, rome.model_name) == (3, 3, "qwen3")
    assert rome.rewrite_module_tmp == "model.layers.{}.mlp.down_proj"
    assert settings_for(host, "WISE", tiny_model("llama")).inner_params == ["model.layers[3].mlp.down_proj.weight"]
    with pytest.raises(HostError, match="does not accept"):
        settings_for(host, "ROME", tiny_model("llama"), {"vlr": 1})


def test_the_evaluation_knows_them_by_name(host, settings, tokenizer):
    assert {f"easyedit:{name}" for name in PROMISED} <= set(method_names())
    method = find_method("easyedit:R-ROME", settings)
    assert (method.name, method.edits) == ("easyedit:R-ROME", True)
    own = settings.replace(baselines={"easyedit:FT-M": {"num_steps": 2, "lr": 0.5}})
    assert find_method("easyedit:FT-M", own).overrides == {"num_steps": 2, "lr": 0.5}
    items = UPQADataset.bundled("test")[:1].items
    model = tiny_model("llama", initializer_range=0.2)
    before = state(model)
    method.prepare(items, 0)
    with method.personalize(model, tokenizer, items, 2) as session:
        assert session.model is model and session.nbytes == model.model.layers[0].mlp.down_proj.weight.nbytes
    assert_same(before, state(model))
