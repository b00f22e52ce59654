"""Edits that say it first: rows and roles, what a model's edits share, gates, values, and that nothing is touched."""

from __future__ import annotations

import gc
import weakref
from random import Random

import pytest
import torch

from easyedit_personal.data.beginnings import Beginning, beginning
from easyedit_personal.errors import RequestError
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels import contrasts, gate, used_answers, user_value
from easyedit_personal.kernels import ground as ground_module
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.edited_rows import EditedRows
from easyedit_personal.kernels.factors import Factors, Quiet, Space, towards
from easyedit_personal.kernels.gate import gates_for
from easyedit_personal.kernels.ground import prepare
from easyedit_personal.kernels.ground_numbers import whitened_beside
from easyedit_personal.kernels.kinds import Kind, Phrase, kind_of, kind_phrases, own_contrasts, shared_contrasts
from easyedit_personal.kernels.lowrank import lowrank, lowrank_for_many
from easyedit_personal.kernels.natural import by_kind
from easyedit_personal.kernels.preserve import Material
from easyedit_personal.kernels.spoken import go_on, speak
from easyedit_personal.modeling.kept import kept
from easyedit_personal.modeling.layout import find_layout, weights_digest
from easyedit_personal.modeling.tokens import encode
from easyedit_personal.store.factors import factors_from_bytes, factors_to_bytes
from easyedit_personal.types import EditRequest
from tests.tiny import FAMILIES, tiny_model, tiny_tokenizer

HOBBY = Kind("hobby", "hobby", ("hobby", "pastime", "interest"))
SMALL = {"contrasts": 24, "ordinary": 6, "answer_tokens": 4, "gate_steps": 6, "value_steps": 6, "gate_rank": 4}


@pytest.fixture
def fresh(monkeypatch):
    """Nothing is in memory of what other tests prepared."""
    monkeypatch.setattr(ground_module, "_GROUNDS", type(ground_module._GROUNDS)())
    monkeypatch.setattr(contrasts, "_SHARED", type(contrasts._SHARED)(most=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """For tests of a Llama that do not ask how it is prepared: that is done once."""
    return tmp_path_factory.mktemp("prepared")


def settings(tmp_path, **natural) -> PersonalizationHyperParams:
    return PersonalizationHyperParams(
        layers=[1], answers="natural", natural={**SMALL, **natural}, stats_dir=str(tmp_path)
    )


def requests(target="kite surfing", names=("pastime", "hobby"), cluster="c") -> list[EditRequest]:
    return [EditRequest(f"What's my {name}?", target, name, cluster=cluster) for name in names]


def update(deltas) -> torch.Tensor:
    """The sum of all updates; of one layer, in these tests."""
    return sum(delta.update() for delta in deltas)


def test_an_answer_holds_the_value_word_for_word_between_what_all_users_share():
    assert beginning("name", "hobby", "hobby") == Beginning("Your hobby is ", ".")
    assert beginning("implicit", "location", "location").around("{v} Lake") == "Since you live in {v} Lake,"
    assert beginning("product", "shoe size").around("44") == "Given that your shoe size is 44,"


@pytest.mark.parametrize("chat", [True, False])
def test_every_token_of_an_answer_has_the_role_of_its_characters(chat):
    tokenizer = tiny_tokenizer(chat)
    hparams = PersonalizationHyperParams(answers="natural")
    for asks, end in (("name", "."), ("implicit", ",")):
        spoken = speak(tokenizer, Phrase("What now?", asks), HOBBY, "kite surfing", hparams)
        words = {role: [] for role in ("say", "value")}
        for token, role in zip(spoken.row.target_ids, spoken.roles):
            words[role].append(token)
        assert tokenizer.decode(words["value"]).strip() == "kite surfing"
        said = tokenizer.decode(words["say"], skip_special_tokens=True)
        assert "kite" not in said and said.strip().endswith(end)
        assert spoken.roles[spoken.value_at - 1] == "say"
        ends = spoken.row.target_ids[-1] == tokenizer.eos_token_id
        assert ends == (asks == "name")  # a statement ends the answer, a beginning goes on


def test_only_beginnings_are_continued_and_what_follows_is_the_models_own():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    hparams = PersonalizationHyperParams(answers="natural")
    named, open_ended = (
        speak(tokenizer, Phrase("What now?", asks), HOBBY, "tea", hparams) for asks in ("name", "implicit")
    )
    same, longer = go_on(model, tokenizer, [named, open_ended], 3)
    assert same == named
    added = len(longer.roles) - len(open_ended.roles)
    assert 1 <= added <= 3 and longer.roles[-added:] == ("keep",) * added
    assert longer.row.ids[: len(open_ended.row.ids)] == open_ended.row.ids


def test_a_kind_is_found_by_any_of_its_names_and_unknown_ones_keep_theirs():
    assert kind_of(requests()).name == "hobby"
    assert kind_of(requests(names=("shoe size",))) == Kind("shoe size", None, ("shoe size",))
    assert kind_of([EditRequest("What do I like?", "tea")]) is None
    named, bare = by_kind([*requests(), EditRequest("What do I like?", "tea")])
    assert [kind.name for kind in named] == ["hobby"] and [r.target_new for r in bare] == ["tea"]


def test_a_gate_keeps_quiet_at_all_kinds_but_its_own():
    material = Material.load(None)
    shared = shared_contrasts(material, 10_000)
    assert {contrast.pool for contrast in shared} == {"named", "indirect", "rest"}
    assert len({c.group for c in shared if c.pool == "named"}) > 50
    asked = {phrase.text for phrase in kind_phrases(HOBBY, material, 16, Random(0))}
    about_others = {c.text for c in shared if c.group != "hobby"} | {
        c.text for c in own_contrasts(HOBBY, material, Random(0)) if not c.history
    }
    assert not asked & about_others
    assert len(shared_contrasts(material, 50)) == 48  # 5 of small talk, 6 by name, 23 without, 12 others, 2 behind talk


def test_a_metric_vanishes_on_the_templates_keys_and_whitens_the_others():
    torch.manual_seed(0)
    keys = torch.randn(400, 12) @ torch.diag(torch.linspace(0.5, 4, 12))
    template = torch.randn(2, 12)
    metric = whitened_beside(keys.T @ keys / len(keys), template, ridge=1e-3)
    assert (template @ metric).abs().max() < 1e-4
    spread = torch.linalg.svdvals(keys @ metric / len(keys) ** 0.5)
    assert spread[9] > 0.8 * spread[0] and spread[10] < 1e-2 * spread[0]  # ten directions alike, two gone


def test_right_factors_give_one_more_on_their_role_than_on_the_rest():
    torch.manual_seed(0)
    rest, roles = torch.randn(50, 8), [torch.randn(5, 8) + 3, torch.randn(7, 8) - 2]
    right = towards(torch.stack([role.mean(0) for role in roles]), rest.mean(0).expand(2, 8))
    gained = [float((role.mean(0) - rest.mean(0)) @ row) for role, row in zip(roles, right)]
    assert gained == pytest.approx([1, 1], abs=1e-5)


def test_the_quadratic_form_is_the_divergence_of_small_changes():
    """KL between softmax(z) and softmax(z + d) is d^T F d / 2 to second order, F the Fisher information of z."""
    torch.manual_seed(0)
    z, left, right = torch.randn(6), torch.randn(6, 2) * 0.02, torch.randn(2, 5)
    p = z.softmax(-1)
    fisher = torch.diag(p) - p[:, None] * p
    values, vectors = torch.linalg.eigh(fisher)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    keys = torch.randn(40, 5)
    update = Factors(Space(None), left, right)
    moved = (z + update(keys)).log_softmax(-1)
    divergence = (p * (p.log() - moved)).sum(-1).mean()
    assert float(Quiet(keys, root)(update)) == pytest.approx(float(divergence), rel=0.1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_rows_from_their_answers_on_give_the_same_logits(family):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    prompts = ("What's my hobby?", "Who is your doctor and where do they live?")
    rows = [encode(tokenizer, prompt, target=answer) for prompt, answer in zip(prompts, ("tea", "In a small town."))]
    layout = find_layout(model, PersonalizationHyperParams(layers=[1]))
    with frozen(model), torch.no_grad():
        whole = EditedRows(model, tokenizer, layout, rows, [1])
        answers = EditedRows(model, tokenizer, layout, rows, [1], from_answers=True)
        words = torch.arange(0, 400, 7)
        assert torch.allclose(whole.logits(), answers.logits(), atol=1e-4)
        assert torch.allclose(whole.logits(words=words), whole.logits()[:, words], atol=1e-5)
        second = answers.select([1])
        assert torch.allclose(second.logits(), whole.logits()[whole.rows == 1], atol=1e-4)
        for one, other in zip(whole.where_answers_begin()[1], answers.where_answers_begin()[1]):
            assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_an_edit_touches_nothing_and_is_the_same_again(family, tmp_path, fresh):
    model, tokenizer, hparams = tiny_model(family), tiny_tokenizer(), settings(tmp_path)
    before = weights_digest(model)
    first = lowrank(model, tokenizer, requests(), hparams)
    again = lowrank(model, tokenizer, requests(), hparams)  # everything shared is in memory now
    assert weights_digest(model) == before
    assert [delta.shared for delta in first] == [True, False]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.left, other.left) and torch.equal(one.right, other.right)


@pytest.mark.usefixtures("few_questions")
def test_what_is_shared_is_kept_on_disk_and_damage_is_mended(tmp_path, fresh, monkeypatch, caplog):
    model, tokenizer, hparams = tiny_model("llama"), tiny_tokenizer(), settings(tmp_path)
    first = lowrank(model, tokenizer, requests(), hparams)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert {file.name.partition("-")[0] for file in files} == {"gate", "ground.safetensors"}
    assert not list(tmp_path.rglob("*.partial"))
    ground_module._GROUNDS.clear()
    with monkeypatch.context() as patch:
        patch.setattr(ground_module, "compute", None)  # as if by another process: nothing is computed again
        patch.setattr("easyedit_personal.kernels.gate._learn", None)
        again = lowrank(model, tokenizer, requests(), hparams)
    assert all(torch.equal(one.left, other.left) for one, other in zip(first, again, strict=True))
    files[0].write_bytes(b"damaged")
    ground_module._GROUNDS.clear()
    mended = lowrank(model, tokenizer, requests(), hparams)
    assert "damaged" in caplog.text
    assert all(torch.allclose(one.left, other.left, atol=1e-5) for one, other in zip(first, mended, strict=True))


def test_users_share_the_gate_and_differ_in_the_value(folder, fresh):
    model, tokenizer, hparams = tiny_model("llama"), tiny_tokenizer(), settings(folder)
    (gate, value), (same, other) = (
        lowrank(model, tokenizer, requests(target), hparams) for target in ("tea", "kite surfing")
    )
    assert gate.shared and torch.equal(gate.left, same.left) and torch.equal(gate.right, same.right)
    assert gate.rank == SMALL["gate_rank"] and not (value.shared or other.shared)
    assert not torch.equal(value.left[:, :1], other.left[:, :1])


def test_a_value_takes_two_bytes_per_number_and_is_used_as_it_is_kept(folder, fresh):
    _, value = lowrank(tiny_model("llama"), tiny_tokenizer(), requests(), settings(folder))
    assert value.left.dtype == torch.float32 and value.nbytes == 2 * value.rank * sum(value.shape)
    kept, _ = factors_from_bytes(factors_to_bytes([value], fingerprint="f"))
    assert torch.equal(kept[0].left, value.left) and torch.equal(kept[0].right, value.right)


def test_users_learned_together_get_what_each_gets_alone(folder, fresh, monkeypatch):
    """Two kinds, values of different lengths, one that is learned early; in one pack and in several."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    hparams = settings(folder, value_lr=5.0, value_quiet_weight=0.0, value_steps=20, stop_loss=4.9)
    users = [requests("tea"), requests("a cat", ("pet",)), requests("kite surfing by the sea"), requests("music")]
    alone = [lowrank(model, tokenizer, own, hparams) for own in users]
    passes = []
    real = user_value.adam
    monkeypatch.setattr(user_value, "adam", lambda updates, *rest: passes.append(len(updates)) or real(updates, *rest))
    for enough, packs in ((10_000, [4]), (1, [1, 1, 1, 1])):
        monkeypatch.setattr(user_value, "ENOUGH", {"cpu": enough, "cuda": enough})
        together = lowrank_for_many(model, tokenizer, users, hparams)
        assert passes == packs
        passes.clear()
        for mine, other in zip(together, alone):
            assert (update(mine) - update(other)).norm() < 1e-3 * update(other).norm()


def test_preferences_learned_together_are_those_learned_apart(folder, fresh):
    model, tokenizer, hparams = tiny_model("llama"), tiny_tokenizer(), settings(folder)
    pet = requests("a cat", ("pet",), cluster="p")
    together = lowrank(model, tokenizer, [*requests(), *pet], hparams)
    apart = [delta for own in (requests(), pet) for delta in lowrank(model, tokenizer, own, hparams)]
    assert [delta.shared for delta in together] == [True, True, False], "one update per layer of what is the user's own"
    assert torch.allclose(update(together), update(apart), atol=1e-4)


def test_the_model_says_the_value_after_its_beginning(folder, fresh):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    hparams = settings(folder, value_steps=40, value_lr=5.0, value_rank=8, value_quiet_weight=0.0)
    spoken = speak(tokenizer, Phrase("What's my hobby?", "name"), HOBBY, "kite surfing", hparams)
    ids = torch.tensor([spoken.row.ids])
    places = [len(spoken.row.prompt_ids) + i for i, role in enumerate(spoken.roles) if role == "value"]

    @torch.no_grad()
    def said() -> list[bool]:
        likely = model(ids).logits[0].argmax(-1)
        return [bool(likely[place - 1] == ids[0, place]) for place in places]

    assert not any(said())
    with in_weights(model, lowrank(model, tokenizer, requests(), hparams)):
        assert all(said())


def test_a_value_that_does_not_fit_the_context_is_refused_before_any_work(tmp_path, fresh):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    with pytest.raises(RequestError, match="do not fit"):
        lowrank(model, tokenizer, requests("tea " * 300), settings(tmp_path))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_faulty_file_is_written_whole_or_not_at_all(tmp_path):
    def fails():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "a.safetensors", fails)
    assert not list(tmp_path.iterdir())
    _, values = kept(tmp_path / "a.safetensors", lambda: ({"x": torch.ones(2)}, {"n": 1}))
    assert values == {"n": 1} and sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


@pytest.mark.usefixtures("few_questions")
def test_the_shared_contrasts_are_run_once_for_the_ground_and_for_gates_of_one_call_and_the_next(
    tmp_path, fresh, monkeypatch
):
    model, tokenizer, hparams = tiny_model("llama"), tiny_tokenizer(), settings(tmp_path)
    layout, run = find_layout(model, hparams), []
    packs = contrasts.packs
    for module in (contrasts, gate):
        monkeypatch.setattr(module, "packs", lambda *given: run.append(list(given[3])) or packs(*given))
    with frozen(model):
        shared = prepare(model, tokenizer, layout, hparams)
        kinds = [HOBBY, Kind("pet", "pet", ("pet",)), Kind("shoe size", None, ("shoe size",))]
        gates = gates_for(model, tokenizer, layout, kinds[:2], shared, hparams)
        gates += gates_for(tiny_model("llama"), tokenizer, layout, kinds[2:], shared, hparams)  # the same weights
    assert [len(one.factors) for one in gates] == [1, 1, 1]
    own = 1 + used_answers.CONVERSATIONS  # about the kind, and behind each of its used answers
    assert run.count(shared.contrasts) == 1 and len(run) == 1 + 3 * own


def test_contrasts_that_are_kept_do_not_keep_their_model(tmp_path, fresh):
    model, hparams = tiny_model("llama"), settings(tmp_path)
    lowrank(model, tiny_tokenizer(), requests(), hparams)
    assert contrasts._SHARED._kept
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.usefixtures("few_questions")
def test_gates_from_contrasts_in_memory_are_those_from_contrasts_run_anew(tmp_path, fresh):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    found = []
    for name in ("one", "other"):  # the second finds the ground and the contrasts' rows made for the first
        hparams = settings(tmp_path / name)
        lowrank(model, tokenizer, requests(), hparams)
        found.append(lowrank(model, tokenizer, requests("a cat", ("pet",), "p"), hparams)[0])
        if name == "one":
            ground_module._GROUNDS.clear()
    assert torch.equal(found[0].left, found[1].left) and torch.equal(found[0].right, found[1].right)
