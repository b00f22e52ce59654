"""Our rome and memit in the host's mode against the host's own kernels, on the same contexts, keys and steps.

Where we differ on purpose (orientation of square weights, one key everywhere, padding) a test shows what the host
does and why ours differs.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from easyedit_personal import EditRequest, PersonalizationHyperParams
from easyedit_personal.errors import HostError
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.modeling.layout import get_module, linear_weight
from easyedit_personal.registry import KERNELS
from tests.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.easyedit

FAMILIES = ["llama", "qwen3", "gpt2", "gptj", "mistral", "qwen2"]
CONTEXTS = ["{}", "The job is in the hills. {}", "I like noodles best. {}"]
REQUESTS = [
    EditRequest("What is my favourite food like?", "pepper noodles", "favourite food"),
    EditRequest("Tell me where my doctor lives", "by the sea", "my doctor"),
]
TOLERANCE = 1e-4  # relative, float32


@pytest.fixture
def settings(tmp_path):
    """Settings in the host's mode: its contexts, raw prompts, and two different averages of the key."""

    def make(**changes):
        values = {
            "host_mode": True,
            "layers": [1],
            "context_templates": CONTEXTS,
            "v_num_grad_steps": 8,
            "v_lr": 0.5,
            "mom2_n_samples": 60,
            "stats_dir": str(tmp_path / "stats"),
            **changes,
        }
        return PersonalizationHyperParams(**values)

    return make


def loud(family):
    """A random model whose answers differ from each other."""
    return tiny_model(family, initializer_range=0.2)


def updates(kernel, model, requests, hparams, tokenizer=None):
    """The summed update of every layer, in nn.Linear orientation."""
    totals = {}
    for delta in KERNELS.get(kernel)(model, tokenizer or tiny_tokenizer(chat=False), requests, hparams):
        totals[delta.layer] = totals.get(delta.layer, 0) + delta.update()
    return totals


def difference(ours, theirs):
    """Largest relative difference over the layers."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mom2", [False, True])
def test_rome_is_the_hosts(host, settings, family, mom2):
    hparams = settings(mom2_adjustment=mom2, mom2_dtype="float64")
    ours = updates("rome", loud(family), REQUESTS[:1], hparams)
    theirs = updates("easyedit:rome", loud(family), REQUESTS[:1], hparams)
    assert difference(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [[1], [0, 1, 2]])
def test_memit_is_the_hosts(host, settings, family, layers):
    hparams = settings(layers=layers, mom2_adjustment=True, mom2_update_weight=10.0)
    ours = updates("memit", loud(family), REQUESTS, hparams)
    theirs = updates("easyedit:memit", loud(family), REQUESTS, hparams)
    assert difference(ours, theirs) < TOLERANCE


def test_rome_with_the_hosts_own_context_sentences(host, settings):
    """Without given templates both let the model begin sentences, the same ones."""
    hparams = settings(context_templates=None, context_template_length_params=[[4, 5]])
    ours = updates("rome", loud("llama"), REQUESTS[:1], hparams)
    assert difference(ours, updates("easyedit:rome", loud("llama"), REQUESTS[:1], hparams)) < TOLERANCE


def test_one_key_everywhere_is_where_we_differ_by_default(host, settings):
    """The host averages the key over contexts on one side of its equation only (R-ROME); then the bare prompt's
    output moves as wanted, but keys in other contexts do not. With one key both kernels solve the same equation."""
    model = loud("llama")
    theirs = updates("easyedit:rome", model, REQUESTS[:1], settings())
    ours = updates("rome", model, REQUESTS[:1], settings(host_mode=False, prompt_format="raw", end_of_turn=False))
    assert difference(ours, theirs) > 100 * TOLERANCE
    alone = settings(context_templates=["{}"])
    plain = settings(context_templates=["{}"], host_mode=False, prompt_format="raw", end_of_turn=False)
    bare = updates("easyedit:rome", model, REQUESTS[:1], alone)
    assert difference(updates("rome", model, REQUESTS[:1], plain), bare) < TOLERANCE


def test_a_square_linear_weight_is_updated_transposed_by_the_host(host, settings):
    """The host guesses the orientation from the shape and applies u v^T to nn.Linear's [d_out, d_in] as it is; ours
    comes from the module's type. Its factors themselves are right, and equal ours."""
    model, hparams = loud("llama-square"), settings()
    ours = updates("rome", model, REQUESTS[:1], hparams)
    assert difference(ours, updates("easyedit:rome", model, REQUESTS[:1], hparams)) < TOLERANCE
    applied = host_applied("models.rome.rome_main", "upd_matrix_match_shape", host)
    (path, ours_update), weight = next(iter(ours.items())), linear_weight(get_module(model, next(iter(ours))))
    assert torch.equal(applied(ours_update.T, weight.shape), ours_update.T)
    with in_weights(model, KERNELS.get("rome")(model, tiny_tokenizer(chat=False), REQUESTS[:1], hparams)):
        after = linear_weight(get_module(model, path)).clone()
    assert torch.allclose(after - weight, ours_update, atol=1e-5)
    assert not torch.allclose(after - weight, ours_update.T, atol=1e-3)


def host_applied(module, function, host):
    """The host's function that fits an update to a weight's shape."""
    return getattr(host.module(module), function)


def test_padding_side_is_where_the_hosts_kernel_goes_wrong(host, settings):
    """The host reads keys at positions counted from the left; behind left padding they are other tokens' keys.
    Called through us, padding side and tokenizer are set right and restored, and both kernels agree on either side."""
    tokenizer, model, hparams = tiny_tokenizer(chat=False), loud("llama"), settings()
    outcomes = {}
    for side in ("right", "left"):
        with padding(tokenizer, side):
            outcomes[side] = updates("easyedit:rome", model, REQUESTS[:1], hparams, tokenizer)
            assert tokenizer.padding_side == side
            assert difference(updates("rome", model, REQUESTS[:1], hparams, tokenizer), outcomes[side]) < TOLERANCE
    assert difference(outcomes["left"], outcomes["right"]) == 0
    keys = {side: host_key(host, model, tokenizer, side) for side in ("right", "left")}
    assert not torch.allclose(keys["left"], keys["right"], rtol=0.01)


def host_key(host, model, tokenizer, side):
    """The host's averaged key of the subject over the contexts."""
    request, read = REQUESTS[0], host.module("models.rome.repr_tools").get_reprs_at_word_tokens
    templates = [context.format(request.prompt.replace(request.subject, "{}")) for context in CONTEXTS]
    with padding(tokenizer, side):
        words, module = [request.subject] * len(templates), "model.layers.{}.mlp.down_proj"
        return read(model, tokenizer, templates, words, 1, module, "last").mean(0)


@contextmanager
def padding(tokenizer, side):
    before, tokenizer.padding_side = tokenizer.padding_side, side
    try:
        yield
    finally:
        tokenizer.padding_side = before


@pytest.mark.parametrize("kernel", ["rome", "memit"])
def test_opt_is_edited_by_ours_and_not_by_the_host(host, settings, kernel):
    """OPT flattens rows and positions inside its MLP; the host takes the first row's position for a row and fails,
    which reaches the user with the host's reason."""
    import transformers

    config = transformers.OPTConfig(
        **{"vocab_size": 400, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 4, "num_attention_heads": 4},
        **{"word_embed_proj_dim": 32, "max_position_embeddings": 128, "init_std": 0.2, "pad_token_id": 0},
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    hparams = settings(mom2_adjustment=True, mom2_dtype="float64")
    (update,) = updates(kernel, model, REQUESTS[:1], hparams).values()
    assert update.shape == (32, 48) and float(update.norm()) > 0
    with pytest.raises(HostError, match=f"execute_{kernel} failed: IndexError"):
        updates(f"easyedit:{kernel}", model, REQUESTS[:1], hparams)
