"""The numbers that a model's edits share, each against a plain computation of what it says it is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels import ground_numbers as module
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.contrasts import Pack
from easyedit_personal.kernels.kinds import Contrast, Kind, Phrase
from easyedit_personal.kernels.preserve import Material
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.tokens import Encoded, encode
from easyedit_personal.modeling.trace import replacing, trace

HPARAMS = PersonalizationHyperParams(layers=[1, 2])


def plain_keys(model, layer, ids):
    """What enters a layer's projection along some tokens [t, d_mlp], by the model's own pass."""
    path = find_layout(model).rewrite_path(layer)
    with torch.no_grad(), trace(model, [path]) as calls:
        model(torch.tensor([ids]))
    return calls[path].input[0]


def answers(lengths):
    """Encoded prompts of different lengths with answers of so many tokens."""
    return [
        Encoded(tuple(range(5, 8 + n % 3)), tuple(range(40 + n, 40 + n + length)), 0)
        for n, length in enumerate(lengths)
    ]


def test_float32_products_may_be_coarse_inside_only():
    before = torch.get_float32_matmul_precision()
    with pytest.raises(ArithmeticError), module.faster_products():
        assert torch.get_float32_matmul_precision() == "medium"
        raise ArithmeticError
    assert torch.get_float32_matmul_precision() == before == "highest"


def test_thinned_keys_are_1500_drawn_with_a_seed():
    keys = torch.arange(1502.0)[:, None]
    some, again, other = module.thinned(keys), module.thinned(keys, 1500, 0), module.thinned(keys, seed=1)
    assert len(some) == len(some.unique()) == 1500 and torch.equal(some, again) and not torch.equal(some, other)
    assert module.thinned(keys[:1500]) is not keys and torch.equal(module.thinned(keys[:1500]), keys[:1500])


def test_the_metric_is_the_inverse_root_beside_the_templates_keys():
    samples, beginning = torch.randn(30, 6, dtype=torch.float64), torch.randn(2, 6)
    moment = samples.T @ samples
    ridged = moment / moment.diagonal().mean() + 0.5 * torch.eye(6, dtype=torch.float64)
    plain = module.whitened_beside(moment, beginning[:0], 0.5).double()
    torch.testing.assert_close(plain @ plain @ ridged, torch.eye(6, dtype=torch.float64), atol=1e-5, rtol=1e-5)
    beside = module.whitened_beside(moment, beginning, 0.5).double()
    basis, _ = torch.linalg.qr(plain @ beginning.double().T)
    torch.testing.assert_close(beside, plain - plain @ basis @ basis.T, atol=1e-5, rtol=1e-5)
    assert float((beginning.double() @ beside).abs().max()) < 1e-5


def test_rounding_below_zero_does_no_harm():
    metric = module.whitened_beside(torch.diag(torch.tensor([3.0, 1.0, -0.9])), torch.zeros(0, 3), 0.25)
    assert float(metric[2, 2]) == pytest.approx(0.25**-0.5)
    root = module._root(torch.diag(torch.tensor([4.0, -1e-9])))
    torch.testing.assert_close(root, torch.diag(torch.tensor([2.0, 0.0])))


def test_the_root_is_symmetric_and_squares_to_its_matrix():
    samples = torch.randn(9, 4)
    matrix = samples.T @ samples
    root = module._root(matrix)
    torch.testing.assert_close(root @ root, matrix)
    torch.testing.assert_close(root, root.T)


def test_moments_are_means_of_products_and_nothing_has_none():
    keys = torch.tensor([[1.0, 2.0]])
    torch.testing.assert_close(module._moment(keys), keys.T @ keys)
    torch.testing.assert_close(module._moment(torch.ones(4, 2)), torch.ones(2, 2))
    assert torch.equal(module._moment(torch.zeros(0, 2)), torch.zeros(2, 2))


def test_beginnings_of_all_kinds_end_before_the_value(tokenizer, monkeypatch):
    asked = [
        (Kind("pet", "pet", ()), Phrase("What's my pet?", "name")),
        (Kind("knot", None, ()), Phrase("And?", "name")),
    ]
    monkeypatch.setattr(module, "every_kind", lambda rng: asked)
    rows, groups = module._begun(tokenizer, HPARAMS)
    assert groups == ["pet", None]
    for row, (kind, phrase) in zip(rows, asked, strict=True):
        said = f"<|user|>{phrase.text}<|end|><|assistant|>Your {kind.name} is"
        assert tokenizer.decode(row.prompt_ids) == said and row.key_index == len(row.prompt_ids) - 1
        assert row.target_ids == row.prompt_ids[-1:]  # one place to look at


def test_keys_inside_prompts_are_the_models_own_in_order(llama, tokenizer, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 2)
    prompts = [Encoded((5, 6, *range(9 + n, 13 + 2 * n)), (), 0) for n in range(3)]
    with frozen(llama):
        found = module._prompt_keys(llama, tokenizer, find_layout(llama), prompts, HPARAMS)
    for layer in (1, 2):
        keys = [plain_keys(llama, layer, (*row.ids, row.ids[-1])) for row in prompts]
        torch.testing.assert_close(found[layer][0], keys[0][:2], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found[layer][1], torch.cat([each[2:] for each in keys]), atol=1e-5, rtol=1e-4)


def test_a_prompt_that_another_begins_with_leaves_no_template(llama, tokenizer):
    prompts = [Encoded((5, 6, 7), (), 0), Encoded((5, 6, 7, 8), (), 0)]
    with frozen(llama):
        beginning, inside = module._prompt_keys(llama, tokenizer, find_layout(llama), prompts, HPARAMS)[1]
    assert len(beginning) == 0 and len(inside) == 3 + 4 + 2


def test_keys_of_answers_are_sorted_as_the_contrasts_are():
    contrasts = [Contrast(text, "rest") for text in "abc"]

    def pack(members, lengths, value):
        rows = torch.tensor([n for n, length in enumerate(lengths) for _ in range(length)])
        keys = value + torch.arange(len(rows)).float()[:, None]
        found = lambda rows, columns: {1: (keys, None), 2: (-keys, None)}
        return Pack(members, SimpleNamespace(rows=rows, columns=None, found_at=found))

    packs = [pack([contrasts[2], contrasts[0]], (3, 2), 10.0), pack([contrasts[1]], (4,), 20.0)]
    first, along = module._answer_keys(packs, contrasts, HPARAMS)
    assert first[1].flatten().tolist() == [13, 20, 10] and along[1].flatten().tolist() == [14, 21, 22, 23, 11, 12]
    assert torch.equal(first[2], -first[1]) and torch.equal(along[2], -along[1])


def test_last_keys_are_where_the_models_answers_begin(llama, tokenizer, monkeypatch):
    begun, real = [], module.EditedRows
    monkeypatch.setattr(
        module, "EditedRows", lambda *given, **options: begun.append(real(*given, **options)) or begun[-1]
    )
    monkeypatch.setattr(module, "ROWS", 2)
    rows = answers((1, 2, 1))
    with frozen(llama):
        found = module.last_keys(llama, tokenizer, find_layout(llama), rows, HPARAMS)
    for layer in (1, 2):
        wanted = torch.stack([plain_keys(llama, layer, row.prompt_ids)[-1] for row in rows])
        torch.testing.assert_close(found[layer], wanted, atol=1e-5, rtol=1e-4)
    assert [part.start for part in begun] == [3, 4]  # nothing before is run a second time


def test_ordinary_numbers_are_keys_along_answers_and_the_fisher_information_of_two_draws(llama, tokenizer):
    """Thirteen answers: a pass with gradients takes twelve. The draws are those of the seed."""
    rows, layout = answers([1 + n % 3 for n in range(13)]), find_layout(llama)
    hparams = HPARAMS.replace(seed=5)
    with frozen(llama):
        keys, fisher, _ = module._ordinary(llama, tokenizer, layout, rows, hparams)
    wanted = {1: torch.zeros(32, 32), 2: torch.zeros(32, 32)}
    generator, count = torch.Generator().manual_seed(5), 0
    for part in (rows[:12], rows[12:]):
        logits, zeros = zip(*(logits_with_probes(llama, layout, row) for row in part))
        count += 2 * sum(map(len, logits))
        for _ in range(2):
            drawn = torch.multinomial(torch.cat(logits).detach().softmax(1), 1, generator=generator)
            split = drawn.flatten().split([len(one) for one in logits])
            for row, one, ids, probes in zip(part, logits, split, zeros):
                loss = F.cross_entropy(one, ids, reduction="sum")
                for layer, g in zip((1, 2), torch.autograd.grad(loss, probes, retain_graph=True)):
                    g = g[len(row.prompt_ids) - 1 :]  # from where the answer begins
                    wanted[layer] += g.T @ g
    for layer in (1, 2):
        torch.testing.assert_close(fisher[layer], wanted[layer] / count, atol=1e-6, rtol=1e-3)
        along = [plain_keys(llama, layer, row.ids)[len(row.prompt_ids) - 1 : -1] for row in rows]
        torch.testing.assert_close(keys[layer], torch.cat(along), atol=1e-5, rtol=1e-4)


def logits_with_probes(model, layout, row):
    """Logits that predict a row's answer, by a plain pass, and zeros added to both layers' outputs [t, d_model]."""
    zeros = [torch.zeros(len(row.ids), 32, requires_grad=True) for _ in (1, 2)]
    first, second = (model.get_submodule(layout.rewrite_path(layer)) for layer in (1, 2))
    with replacing(first, lambda old: old + zeros[0]), replacing(second, lambda old: old + zeros[1]):
        logits = model(torch.tensor([row.ids])).logits[0]
    return logits[len(row.prompt_ids) - 1 : -1], zeros


@pytest.fixture
def computed(tokenizer, monkeypatch):
    """What ``compute`` passes on and gives, for so many contrasts and a context; every part of it stands still."""

    def compute(count, limit, **natural):
        seen = {"asked": []}
        monkeypatch.setattr(module, "context_limit", lambda model: limit)
        monkeypatch.setattr(module, "shared_packs", lambda *given: seen.update(answers=given[4]) or [])
        monkeypatch.setattr(module, "_prompt_keys", lambda *given: seen.update(inside=given[3]) or still(2))
        monkeypatch.setattr(module, "_answer_keys", lambda *_: ({1: torch.randn(3, 4)}, {1: torch.randn(3001, 4)}))
        monkeypatch.setattr(module, "_begun", lambda *_: ([], ["pet"]))
        monkeypatch.setattr(module, "last_keys", lambda *_: {1: torch.randn(5, 4)})
        monkeypatch.setattr(module, "_ordinary", lambda *given: seen.update(said=given[3]) or still(1, torch.eye(4)))
        monkeypatch.setattr(module, "answered", answered(seen))
        hparams = PersonalizationHyperParams(layers=[1], natural=natural)
        contrasts = [Contrast(f"Is it {n}?", "rest") for n in range(count)]
        found = module.compute(None, tokenizer, None, hparams, contrasts, Material.load())
        return *found, seen, contrasts

    def still(rows, other=None):
        return (
            {1: (torch.randn(rows, 4), torch.randn(rows, 4))}
            if other is None
            else ({1: torch.randn(1, 4)}, {1: other}, {})
        )

    def answered(seen):
        said = encode(tokenizer, "a", target="tea").target_ids

        def answer(model, tokenizer, prompts, tokens):
            seen["asked"].append((len(prompts), tokens))
            return [Encoded(row.prompt_ids, said if n else said[-1:], 0) for n, row in enumerate(prompts)]

        return answer

    return compute


def test_answers_to_contrasts_are_four_tokens_and_ordinary_ones_as_long_as_the_settings_say(computed):
    _, values, seen, contrasts = computed(25, None, ordinary=7, answer_tokens=9)
    assert seen["asked"] == [(25, 4), (14, 9)]  # seven about nobody, seven of the contrasts
    assert [seen["answers"][contrast] for contrast in contrasts] == values["answers"]
    assert values["begun"] == ["pet"]
    assert len(values["talk"]) == 6 and {said for _, said in values["talk"]} == {"tea"}  # one had no word to say


@pytest.mark.parametrize(("count", "looked_at"), [(3, 3), (199, 199), (200, 100), (299, 150), (300, 100)])
def test_about_a_hundred_contrasts_are_looked_at_inside(computed, count, looked_at):
    _, _, seen, _ = computed(count, None, ordinary=7)
    assert len(seen["inside"]) == looked_at and seen["asked"][1][0] == 7 + min(7, count)


def test_what_is_kept_is_half_as_wide_and_at_most_3000_ordinary_keys(computed):
    found, *_ = computed(3, None, ordinary=4)
    assert {name: len(found[f"{name}.1"]) for name in ("ordinary", "firsts", "begun")} == {
        "ordinary": 3000,
        "firsts": 3,
        "begun": 5,
    }
    assert {found[f"{name}.1"].dtype for name in ("ordinary", "firsts", "begun")} == {torch.float16}


def test_prompts_that_leave_no_room_for_their_answers_are_not_answered(computed):
    _, _, seen, _ = computed(3, None, ordinary=4, answer_tokens=9)
    lengths = sorted(len(row.prompt_ids) for row in seen["said"])
    _, _, less, _ = computed(3, lengths[-2] + 9, ordinary=4, answer_tokens=9)
    assert sorted(len(row.prompt_ids) for row in less["said"]) == [n for n in lengths if n <= lengths[-2]]
    assert len(less["said"]) < len(lengths)
