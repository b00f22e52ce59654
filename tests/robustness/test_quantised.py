"""Bases in 8 and 4 bits, and bases whose weights lie elsewhere, by the libraries that people use for that."""

from __future__ import annotations

import copy

import pytest
import torch

from easyedit_personal.errors import ModelError
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.modeling.loading import load_model
from easyedit_personal.modeling.tokens import collate, encode
from easyedit_personal.registry import KERNELS
from easyedit_personal.serving.multi_adapter import merged, mixed
from easyedit_personal.types import EditRequest
from tests.serving.test_multi_adapter import last_logits, random_delta
from tests.tiny import tiny_model

WIDE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "initializer_range": 0.2}  # 4 bits come in blocks
HOBBY = EditRequest("What's my hobby?", "hiking", "hobby", cluster="a")
KERNEL_NAMES = ("rome", "memit", "lowrank", "finetune")


def hparams(kernel, tmp_path):
    return PersonalizationHyperParams(kernel=kernel, layers=[1], stats_dir=str(tmp_path), mom2_n_samples=20)


@pytest.fixture(params=["4 bits", "8 bits"])
def quantised(request, tmp_path):
    """A tiny model in so many bits, as bitsandbytes loads it."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    tiny_model("llama", **WIDE).save_pretrained(tmp_path / "model")
    bits = {"load_in_4bit": True} if request.param == "4 bits" else {"load_in_8bit": True}
    return AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", quantization_config=BitsAndBytesConfig(**bits), device_map="cpu"
    ).eval()


@pytest.mark.parametrize("kernel", KERNEL_NAMES)
def test_a_quantised_base_is_not_edited_and_it_is_said_why(quantised, tokenizer, kernel, tmp_path):
    before = {name: value.clone() for name, value in quantised.state_dict().items() if torch.is_tensor(value)}
    with pytest.raises(ModelError, match=r"(?s)quantised.*remedy"):
        KERNELS.get(kernel)(quantised, tokenizer, [HOBBY], hparams(kernel, tmp_path / "stats"))
    after = quantised.state_dict()
    assert before and all(torch.equal(value, after[name]) for name, value in before.items())


@torch.no_grad()
def test_a_quantised_base_is_served_with_everybodys_factors(quantised, tokenizer):
    """Factors that were made on the whole model are added beside the quantised weights."""
    user = merged([random_delta(tiny_model("llama", **WIDE), 2)])
    batch = collate([encode(tokenizer, text) for text in ("What's my hobby?", "hi")], tokenizer)
    base = last_logits(quantised, batch)
    with mixed(quantised, [user, {}]):
        found = last_logits(quantised, batch)
    ((path, delta),) = user.items()
    added = quantised.get_submodule(path).register_forward_hook(
        lambda _, args, output: output + (args[0].float() @ delta.update().T).to(output.dtype)
    )
    wanted = last_logits(quantised, batch)
    added.remove()
    torch.testing.assert_close(found[0], wanted[0], atol=1e-2, rtol=1e-2)
    # bitsandbytes picks the 8 bits' outliers over the whole batch: there, a row moves a little with its neighbours.
    others = (found[1] - base[1]).abs().max()
    assert others < 0.1 * (found[0] - base[0]).abs().max() and (others < 1e-3 or quantised.is_loaded_in_8bit)


def emptied(model):
    """Weights on the disk or in memory elsewhere, brought in by accelerate's hooks; on the device stands nothing."""
    accelerate = pytest.importorskip("accelerate")
    return accelerate.cpu_offload(model, execution_device="cpu")


@pytest.mark.parametrize("kernel", KERNEL_NAMES)
def test_offloaded_weights_are_refused_with_the_reason(llama, tokenizer, kernel, tmp_path):
    model = emptied(copy.deepcopy(llama))
    assert any(parameter.is_meta for parameter in model.parameters())
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids).logits
    with pytest.raises(ModelError, match=r"(?s)not loaded.*meta.*remedy"):
        KERNELS.get(kernel)(model, tokenizer, [HOBBY], hparams(kernel, tmp_path))
    assert torch.equal(model(ids).logits, before)  # accelerate's own hooks are where they were


@pytest.mark.parametrize("kernel", KERNEL_NAMES)
def test_a_single_layer_that_is_not_loaded_is_refused(llama, tokenizer, kernel, tmp_path):
    model = copy.deepcopy(llama)
    model.model.layers[1].mlp.to("meta")
    with pytest.raises(ModelError, match=r"(?s)3 weights of the model LlamaForCausalLM are not loaded.*layers\.1\.mlp"):
        KERNELS.get(kernel)(model, tokenizer, [HOBBY], hparams(kernel, tmp_path))


def test_a_device_map_on_one_device_is_edited_as_without_one(tmp_path, tokenizer):
    pytest.importorskip("accelerate")
    from easyedit_personal.kernels.rome import rome

    tiny_model("llama", initializer_range=0.2).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    found = []
    for parallel in (False, True):
        settings = PersonalizationHyperParams(
            model_name=str(tmp_path / "model"), model_parallel=parallel, device="cpu", kernel="rome", layers=[1]
        ).replace(mom2_adjustment=False, v_num_grad_steps=3)
        found += rome(*load_model(settings), [HOBBY], settings)
    assert torch.equal(found[0].update(), found[1].update())
