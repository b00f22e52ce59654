"""Models inside of PEFT's, DDP's and ``torch.compile``'s: the same factors, and the wrapper sees the edit."""

from __future__ import annotations

import copy

import pytest
import torch

from easyedit_personal.editing.algorithm import apply_personalization_to_model, personalize
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.modeling.wrappers import unwrapped
from easyedit_personal.store import EditStore
from tests.editing.test_editor import settings
from tests.tiny import tiny_model, tiny_tokenizer

REQUEST = {"prompt": "What's my hobby?", "target_new": "hiking", "subject": "hobby"}


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A process group of this process alone."""
    file = tmp_path_factory.mktemp("group") / "rendezvous"
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def wrap(kind, model):
    """What users do to their models."""
    if kind == "compile":
        return torch.compile(model)  # nothing is compiled before the first call
    if kind == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model)
    if kind == "both":
        return torch.compile(torch.nn.parallel.DistributedDataParallel(model))
    return torch.nn.DataParallel(model)


@pytest.mark.parametrize("kernel", ["finetune", "rome", "lowrank"])
@pytest.mark.parametrize("kind", ["compile", "ddp", "both", "parallel"])
def test_the_same_factors_and_the_wrapper_sees_them(kind, kernel, group, tmp_path):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    values = {"kernel": kernel, "finetune": {"lr": 0.02, "steps": 3}, "lowrank": {"rank": 1, "steps": 2, "polish": 1}}
    steps = {"v_num_grad_steps": 2} if kernel == "rome" else {}
    hparams = settings(model, tokenizer, **steps, **values)
    wrapped = wrap(kind, copy.deepcopy(model))
    assert unwrapped(model) is model and type(unwrapped(wrapped)) is type(model)
    (plain,), (inside,) = (personalize(one, tokenizer, [REQUEST], hparams).deltas for one in (model, wrapped))
    assert inside.layer == plain.layer and torch.equal(inside.update(), plain.update())
    changed, _ = apply_personalization_to_model(wrapped, tokenizer, [REQUEST], hparams)
    with in_weights(model, [plain]):
        assert changed is wrapped
        wanted = model.get_submodule(plain.layer).weight
        assert torch.equal(unwrapped(wrapped).get_submodule(plain.layer).weight, wanted)
    with EditStore.open(tmp_path / "edits.db", wrap(kind, model), tokenizer) as store:
        assert store.put("ann", [inside]) > 0
    EditStore.open(tmp_path / "edits.db", model, tokenizer).close()  # the same base model


def test_peft_wrapped_models_give_factors_under_their_own_names():
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    hparams = settings(model, tokenizer, finetune={"lr": 0.02, "steps": 3})
    (plain,) = personalize(model, tokenizer, [REQUEST], hparams).deltas
    adapter = peft.LoraConfig(r=1, target_modules=["q_proj"], task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(copy.deepcopy(model), adapter).eval()
    (inside,) = personalize(wrapped, tokenizer, [REQUEST], hparams).deltas
    torch.testing.assert_close(inside.update(), plain.update())  # a fresh adapter adds nothing
    assert inside.layer == f"base_model.model.{plain.layer}"
    with in_weights(wrapped, [inside]):
        weight = wrapped.get_submodule(inside.layer).weight
        assert not torch.equal(weight, model.get_submodule(plain.layer).weight)
    assert torch.equal(wrapped.get_submodule(inside.layer).weight, model.get_submodule(plain.layer).weight)
