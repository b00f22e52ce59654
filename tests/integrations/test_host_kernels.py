"""``kernel: easyedit:rome`` and ``easyedit:memit``: the host's kernels inside our algorithm."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal import EditRequest, PersonalizationEditor, PersonalizationHyperParams, edited
from easyedit_personal.errors import HostError, RequestError
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.registry import KERNELS
from easyedit_personal.store.factors import load_factors, save_factors
from tests.integrations.test_isolation import assert_same, state
from tests.tiny import tiny_model

pytestmark = pytest.mark.easyedit

NAMES = ("hobby", "pastime")
REQUESTS = [EditRequest(f"What's my {name}?", "kite flying", name, cluster="c") for name in NAMES]


def settings(tmp_path, kernel, **changes):
    values = {
        "kernel": kernel,
        "layers": [1],
        "context_templates": ["{}", "Good. {}"],
        "v_num_grad_steps": 15,
        "clamp_norm_factor": 20.0,
        "mom2_n_samples": 60,
        **({"mom2_update_weight": 0.1} if kernel.endswith("memit") else {}),
        "stats_dir": str(tmp_path / "stats"),
        "health": {"on_unhealthy": "ignore"},
        "cluster": {"size": 1},
        **changes,
    }
    return PersonalizationHyperParams(**values)


@pytest.fixture(params=["llama", "gpt2", "gptj"])
def loud_model(request):
    return tiny_model(request.param, initializer_range=0.2)


def loss(model, tokenizer, request, deltas):
    from easyedit_personal.modeling.tokens import collate, encode

    row = encode(tokenizer, request.prompt, target=request.target_new, subject=request.subject)
    batch = collate([row], tokenizer)
    rows, columns, ids = batch.targets()
    with edited(model, deltas), torch.no_grad():
        return float(torch.nn.functional.cross_entropy(model(**batch.model_inputs()).logits[rows, columns], ids))


@pytest.mark.parametrize("kernel", ["easyedit:rome", "easyedit:memit"])
def test_factors_come_back_and_the_model_is_as_it_was(host, loud_model, tokenizer, tmp_path, kernel):
    before = state(loud_model)
    deltas = KERNELS.get(kernel)(loud_model, tokenizer, REQUESTS, settings(tmp_path, kernel))
    assert_same(before, state(loud_model))
    layout = find_layout(loud_model)
    assert {delta.shape for delta in deltas} == {(layout.d_model, layout.d_mlp)}
    assert {delta.layer for delta in deltas} == {layout.rewrite_path(1)}
    assert sum(delta.rank for delta in deltas) == len(REQUESTS)
    assert all(float(delta.update().norm()) > 0 for delta in deltas)


@pytest.mark.parametrize("strategy", ["joint", "sequential"])
def test_clusters_strategies_and_the_factors_file_work_on_them(host, tokenizer, tmp_path, strategy):
    model = tiny_model("llama", initializer_range=0.2)
    hparams = settings(tmp_path, "easyedit:rome", strategy=strategy, cluster={"size": 2}, model_name=(model, tokenizer))
    editor = PersonalizationEditor.from_hparams(hparams)
    cluster = [{"prompt": REQUESTS[1].prompt, "subject": NAMES[1]}]
    editor.edit(REQUESTS[0].prompt, REQUESTS[0].target_new, subject=NAMES[0], cluster=[cluster])
    deltas = editor.results[0].deltas
    assert len(deltas) == 2
    assert loss(model, tokenizer, REQUESTS[0], deltas) < loss(model, tokenizer, REQUESTS[0], [])
    save_factors(tmp_path / "user.safetensors", deltas, fingerprint="f")
    loaded, _ = load_factors(tmp_path / "user.safetensors", fingerprint="f")
    assert all(torch.equal(a.update(), b.update()) for a, b in zip(deltas, loaded))


def test_models_do_not_share_caches(host, tokenizer, tmp_path):
    """The host keys its caches by a name that all models in memory have in common: none."""
    hparams = settings(tmp_path, "easyedit:memit", context_templates=None)
    kernel = KERNELS.get("easyedit:memit")
    first, second = (tiny_model("llama", seed=seed, initializer_range=0.2) for seed in (0, 1))
    alone = kernel(second, tokenizer, REQUESTS, hparams)
    kernel(first, tokenizer, REQUESTS, hparams)
    after = kernel(second, tokenizer, REQUESTS, hparams)
    assert all(torch.equal(a.update(), b.update()) for a, b in zip(alone, after))
    main = host.module("models.memit.memit_main")
    assert main.CONTEXT_TEMPLATES_CACHE is None and main.COV_CACHE == {}


AWKWARD = [
    EditRequest("What's my {x} hobby {}?", "a {} kite", "hobby"),
    EditRequest("Is my hobby a hobby?", "hiking", "hobby"),
    EditRequest("What's my hobby?", " hiking", "hobby"),
]


@pytest.mark.parametrize("request_", AWKWARD)
@pytest.mark.parametrize("kernel", ["easyedit:rome", "easyedit:memit"])
@pytest.mark.parametrize("prompt_format", ["chat", "raw"])
def test_inputs_that_crash_or_mislead_the_bare_host(host, tokenizer, tmp_path, request_, kernel, prompt_format):
    model = tiny_model("llama", initializer_range=0.2)
    hparams = settings(tmp_path, kernel, prompt_format=prompt_format)
    (delta,) = KERNELS.get(kernel)(model, tokenizer, [request_], hparams)
    assert float(delta.update().norm()) > 0


def test_bad_requests_are_refused_with_their_number(host, llama, tokenizer, tmp_path):
    before = state(llama)
    bad = [REQUESTS[0], EditRequest("What's my hobby?", "hiking", "pet")]
    for kernel in ("easyedit:rome", "easyedit:memit"):
        with pytest.raises(RequestError, match="request 1"):
            KERNELS.get(kernel)(llama, tokenizer, bad, settings(tmp_path, kernel))
    assert_same(before, state(llama))


def test_the_hosts_own_failure_becomes_ours_with_its_reason(host, llama, tokenizer, tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise IndexError("out of layers")

    before = state(llama)
    monkeypatch.setattr(host.module("models.rome.rome_main"), "compute_u", fails)
    with pytest.raises(HostError, match="execute_rome failed: IndexError: out of layers"):
        KERNELS.get("easyedit:rome")(llama, tokenizer, REQUESTS, settings(tmp_path, "easyedit:rome"))
    assert_same(before, state(llama))
