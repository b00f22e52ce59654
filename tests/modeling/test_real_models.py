"""The real models by name: they are what the catalogue says, are edited fast and undone bit for bit, and write text."""

from __future__ import annotations

import pytest

from easyedit_personal.generation.generate import generate
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.rome import rome
from easyedit_personal.modeling.catalog import MODELS
from easyedit_personal.modeling.layout import find_layout, weights_digest
from easyedit_personal.modeling.loading import load_model
from easyedit_personal.modeling.prepare import at_hand
from easyedit_personal.modeling.suffix import Split, Suffix
from easyedit_personal.modeling.tokens import collate, encode, end_of_turn_id
from easyedit_personal.types import EditRequest

pytestmark = pytest.mark.real
LAYER = {"smollm2": 5, "gemma3-270m": 4}
FRANCE = {"smollm2": "What is the capital of France?", "gemma3-270m": "The capital of France is"}


@pytest.fixture(scope="module", params=sorted(LAYER))
def real(request):
    """Name, model, tokenizer and settings."""
    if request.param == "smollm2":
        request.getfixturevalue("smollm2_folder")
    elif at_hand(MODELS[request.param]) is None:
        pytest.skip(f"`easyedit-personal models get {request.param} --accept-licence` was not run here")
    layers = [LAYER[request.param]]
    hparams = PersonalizationHyperParams(
        model_name=request.param, device="cpu", kernel="rome", layers=layers, v_num_grad_steps=2, mom2_adjustment=False
    )
    return request.param, *load_model(hparams), hparams


def test_what_the_catalogue_says(real):
    name, model, tokenizer, _ = real
    assert sum(weight.numel() for weight in model.parameters()) == MODELS[name].parameters
    assert {str(weight.dtype) for weight in model.parameters()} == {"torch.float32"}
    ends = {"smollm2": "<|im_end|>", "gemma3-270m": "<eos>"}
    assert tokenizer.convert_ids_to_tokens(end_of_turn_id(tokenizer)) == ends[name]
    assert bool(tokenizer.chat_template) == (name == "smollm2")


def test_only_what_lies_above_an_edit_runs(real):
    name, model, tokenizer, hparams = real
    rows = [
        encode(tokenizer, prompt, target="Falconry") for prompt in ("What's my hobby?", "Tell me what my hobby is.")
    ]
    batch = collate(rows, tokenizer, side="left")
    with frozen(model):
        split = Suffix(model, find_layout(model), batch, hparams.layers[0], start=int(batch.key_index.min())).split
    assert split == Split("post_norm" if name.startswith("gemma") else "additive", prefix=True)


def test_an_edit_comes_and_goes(real):
    name, model, tokenizer, hparams = real
    before = weights_digest(model)
    ask = ["What is my hobby?", FRANCE[name]]
    clean = [answer.text for answer in generate(model, tokenizer, ask, max_new_tokens=8)]
    deltas = rome(model, tokenizer, [EditRequest("What is my hobby?", "Falconry", "hobby")], hparams)
    assert weights_digest(model) == before and [delta.rank for delta in deltas] == [1]
    with in_weights(model, deltas):
        assert [answer.text for answer in generate(model, tokenizer, ask[:1], max_new_tokens=8)] != clean[:1]
    assert weights_digest(model) == before
    assert [answer.text for answer in generate(model, tokenizer, ask, max_new_tokens=8)] == clean
    assert "capital of" in clean[1]
