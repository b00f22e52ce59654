"""The suffix of a model gives the model's own logits and gradients for any change of one down projection's output."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.errors import ModelError
from easyedit_personal.kernels.base import frozen
from easyedit_personal.modeling.layout import find_layout, get_module, linear_weight
from easyedit_personal.modeling.suffix import Split, Suffix
from easyedit_personal.modeling.tokens import collate, encode
from easyedit_personal.modeling.trace import replacing
from tests.tiny import FAMILIES, POST_NORM, tiny_model, tiny_tokenizer

SHORT, LONG = "What's my hobby?", "Who is your doctor and where do they live? And the music that I like best?"


def lively(family, **changes):
    """A tiny model whose weights are large enough for logits that differ."""
    model = tiny_model(family, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    return model


def batch_of(prompts, side="right"):
    tokenizer = tiny_tokenizer()
    subjects = ["hobby" if prompt is SHORT else "doctor" for prompt in prompts]
    rows = [encode(tokenizer, p, target="hiking in the hills", subject=s) for p, s in zip(prompts, subjects)]
    return collate(rows, tokenizer, side=side)


def whole_forward(model, layout, batch, layer, output, start):
    """The model's own logits with the down projection's output replaced from column ``start`` on."""
    shape = (*batch.input_ids.shape, -1)

    def change(old):
        return torch.cat([old.reshape(shape)[:, :start], output], 1).reshape(old.shape)

    with replacing(get_module(model, layout.rewrite_path(layer)), change):
        return model(**batch.model_inputs(), use_cache=False).logits[:, start:]


@pytest.mark.parametrize("side", ["left", "right", "around", "inside"])
@pytest.mark.parametrize("prompts", [(SHORT, LONG), (SHORT, SHORT)], ids=["padded", "equal"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_logits_and_gradients_are_the_models_own(family, prompts, side):
    model = lively(family)
    layout, batch = find_layout(model), batch_of(prompts, side)
    with frozen(model):
        for layer, start in ((1, 0), (1, int(batch.key_index.min())), (3, int(batch.key_index.min()))):
            suffix = Suffix(model, layout, batch, layer, start=start)
            assert suffix.split == Split("post_norm" if family in POST_NORM else "additive", start > 0)
            output = (suffix.base_output + torch.randn_like(suffix.base_output)).requires_grad_()
            got, wanted = suffix.logits(output), whole_forward(model, layout, batch, layer, output, start)
            real = batch.attention_mask[:, start:].bool()
            torch.testing.assert_close(got[real], wanted[real], atol=1e-5, rtol=1e-5)
            rows, columns, ids = batch.targets()
            at_targets = suffix.logits(output, at=(rows, columns))
            torch.testing.assert_close(at_targets, wanted[rows, columns - start], atol=1e-5, rtol=1e-5)
            losses = [torch.nn.functional.cross_entropy(x, ids) for x in (at_targets, wanted[rows, columns - start])]
            grads = [torch.autograd.grad(loss, output)[0] for loss in losses]
            assert grads[0].isfinite().all()
            assert grads[0].abs().max() > 1e-6
            torch.testing.assert_close(grads[0][real], grads[1][real], atol=1e-6, rtol=1e-4)


def test_a_changed_weight_goes_through_the_keys(any_model):
    layout, batch = find_layout(any_model), batch_of((SHORT, LONG))
    module = get_module(any_model, layout.rewrite_path(1))
    with frozen(any_model):
        suffix = Suffix(any_model, layout, batch, 1)
        update = torch.randn(layout.d_model, layout.d_mlp)
        before = suffix.logits(suffix.base_output)
        got = suffix.logits(suffix.base_output + suffix.keys @ update.T)
        with torch.no_grad():
            linear_weight(module).add_(update)
            wanted = any_model(**batch.model_inputs()).logits
            linear_weight(module).sub_(update)
    real = batch.attention_mask.bool()
    assert (got - before)[real].abs().max() > 1e-3
    torch.testing.assert_close(got[real], wanted[real], atol=1e-5, rtol=1e-5)


def test_a_model_that_cannot_be_split_runs_whole_and_says_so(caplog):
    model = lively("llama")
    model.lm_head.register_forward_hook(lambda module, args, out: out * 2)  # still the head's own affair
    model.register_forward_hook(
        lambda module, args, out: setattr(out, "logits", out.logits + 1)
    )  # nobody can know this
    layout, batch = find_layout(model), batch_of((SHORT, LONG), "left")
    start = int(batch.key_index.min())
    with frozen(model):
        suffix = Suffix(model, layout, batch, 2, start=start)
        output = suffix.base_output.flip(-1)
        wanted = whole_forward(model, layout, batch, 2, output, start)
    assert suffix.split == Split("full")
    assert "cannot be split" in caplog.text
    real = batch.attention_mask[:, start:].bool()
    torch.testing.assert_close(suffix.logits(output)[real], wanted[real])


def test_a_known_split_is_taken_without_a_trial(llama):
    layout, batch = find_layout(llama), batch_of((SHORT, LONG))
    passes = []
    handle = llama.model.embed_tokens.register_forward_hook(lambda *_: passes.append(1))
    with frozen(llama):
        first = Suffix(llama, layout, batch, 1)
        tried = len(passes)
        second = Suffix(llama, layout, batch, 1, split=first.split)
    handle.remove()
    assert tried > 1
    assert len(passes) == tried + 1
    assert torch.equal(first.logits(first.base_output), second.logits(second.base_output))


def test_a_split_is_found_once_for_as_long_as_the_model_stays_as_it_is(llama):
    layout, batch, passes = find_layout(llama), batch_of((SHORT, LONG)), []
    handle = llama.model.embed_tokens.register_forward_hook(lambda *_: passes.append(1))
    with frozen(llama):
        counts = []
        for hook in (None, None, llama.model.layers[3]):
            if hook is not None:
                hook.register_forward_hook(lambda module, args, out: out * 1.0)
            passes.clear()
            Suffix(llama, layout, batch, 1)
            counts.append(len(passes))
    handle.remove()
    assert counts[0] == counts[2] > counts[1] == 1


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"mistral", "gemma2", "gemma3"}))  # windows count columns
def test_what_all_rows_begin_with_is_run_once_and_changes_nothing(family, monkeypatch):
    monkeypatch.setattr("easyedit_personal.modeling.read_once.PASS", 8)
    model, tokenizer = lively(family), tiny_tokenizer()
    rows = [
        encode(tokenizer, "Now tell me, what is " + text, target="hiking")
        for text in ("this?", "my favourite food?", "it?")
    ]
    shared = len(tokenizer("<|user|>Now tell me, what is")["input_ids"])
    layout, seen = find_layout(model), []
    handle = model.get_input_embeddings().register_forward_hook(lambda *given: seen.append(tuple(given[1][0].shape)))
    with frozen(model):
        batch = collate(rows, tokenizer, side="inside")
        start = int(batch.targets()[1].min())
        suffix = Suffix(model, layout, batch, 1, start=start)
        first, last = batch.input_ids.shape[1] - start, max(len(row.prompt_ids) for row in rows) - 1 - shared
        assert seen[-3:] == [(1, shared), (3, last), (3, first)]
        output = suffix.base_output + torch.randn_like(suffix.base_output)
        got, wanted = suffix.logits(output), whole_forward(model, layout, batch, 1, output, start)
        plain = collate(rows, tokenizer, side="left")
        there = Suffix(model, layout, plain, 1, start=int(plain.targets()[1].min()))
        own = [one.logits(one.base_output, at=one.batch.targets()[:2]) for one in (there, suffix)]
    handle.remove()
    real = batch.attention_mask[:, start:].bool()
    torch.testing.assert_close(got[real], wanted[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own[0], own[1], atol=1e-5, rtol=1e-5)


def test_a_suffix_without_its_model_is_put_on_another_of_the_same_weights():
    model, batch = lively("gemma3"), batch_of((SHORT, LONG), "left")
    with frozen(model):
        suffix = Suffix(model, find_layout(model), batch, 1, start=int(batch.key_index.min()))
        wanted = suffix.logits(suffix.base_output)
    kept = suffix.detached()
    assert not hasattr(kept, "model")
    twin = lively("gemma3")
    with frozen(twin):
        assert torch.equal(kept.on(twin).logits(suffix.base_output), wanted)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_above_a_last_layer_nothing_is_run_again_where_the_pass_was_kept(family, monkeypatch):
    model, batch = lively(family), batch_of((SHORT, LONG, SHORT), "inside")
    layout, start = find_layout(model), int(batch.key_index.min())
    with frozen(model):
        suffix = Suffix(model, layout, batch, layout.n_layers - 1, start=start)
        known = suffix.kept()
        assert not Suffix(model, layout, batch, 0, start=start).kept()  # layers above want more than this
        monkeypatch.setattr(Suffix, "_capture", None)
        again = Suffix(model, layout, batch, layout.n_layers - 1, start=start, split=suffix.split, known=known)
        output = suffix.base_output + torch.randn_like(suffix.base_output)
        real = batch.attention_mask[:, start:].bool()
        for got, wanted in ((again, suffix), (again.select([2, 1]), suffix.select([2, 1]))):
            numbers = [0, 1, 2] if got is again else [2, 1]
            assert torch.equal(got.keys, wanted.keys)
            assert torch.equal(got.logits(output[numbers]), wanted.logits(output[numbers]))
        for name in ("base_layer", "base_hidden"):
            torch.testing.assert_close(getattr(again, name)[real], getattr(suffix, name)[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_some_of_the_rows(family):
    model = lively(family)
    layout, batch = find_layout(model), batch_of((SHORT, LONG, SHORT), "left")
    start = int(batch.key_index.min())
    with frozen(model):
        suffix = Suffix(model, layout, batch, 1, start=start)
        output = suffix.base_output + torch.randn_like(suffix.base_output)
        part = suffix.select([2, 1])
        got, wanted = part.logits(output[[2, 1]]), suffix.logits(output)[[2, 1]]
        assert torch.equal(part.keys, suffix.keys[[2, 1]])
    real = batch.attention_mask[[2, 1], start:].bool()
    torch.testing.assert_close(got[real], wanted[real], atol=1e-5, rtol=1e-5)


def test_half_precision_is_split_too():
    model = tiny_model("llama", torch.bfloat16)
    batch = batch_of((SHORT, LONG), "left")
    with frozen(model):
        suffix = Suffix(model, find_layout(model), batch, 1, start=int(batch.key_index.min()))
        logits = suffix.logits(suffix.base_output)
    assert suffix.split == Split("additive", True)
    assert logits.dtype == torch.float32
    own = model(**batch.model_inputs()).logits[:, suffix.start :].float()
    real = batch.attention_mask[:, suffix.start :].bool()
    assert (logits - own)[real].abs().max() < 0.02 * own.abs().max()


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "olmo2", "llama"])
def test_pull_back_gives_the_layer_the_wanted_change(family):
    model = lively(family)
    layout, batch = find_layout(model), batch_of((SHORT,))
    with frozen(model):
        suffix = Suffix(model, layout, batch, 3)
        change = torch.randn_like(suffix.base_output) * 1e-3
        # A norm can turn its output, not lengthen it: ask for a change across it.
        along = torch.nn.functional.normalize(suffix.tail(suffix.base_output), dim=-1)
        change -= along * (change * along).sum(-1, keepdim=True)
        moved = suffix.base_output + suffix.tail.pull_back(suffix.base_output, change)
        difference = suffix.hidden(moved) - suffix.hidden(suffix.base_output)
    cosine = torch.nn.functional.cosine_similarity(difference, change, dim=-1)
    assert cosine.min() > 0.999


def test_a_layer_that_does_not_exist_is_refused(llama):
    with pytest.raises(ModelError, match="no layer 9"):
        Suffix(llama, find_layout(llama), batch_of((SHORT,)), 9)
