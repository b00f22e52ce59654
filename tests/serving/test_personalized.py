"""Many users, one model: together they say what each says alone, and the model is nobody's afterwards."""

from __future__ import annotations

import threading

import pytest
import torch

from easyedit_personal.errors import ModelError, RequestError
from easyedit_personal.generation.generate import generate
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.kernels.beside import edited
from easyedit_personal.kernels.carried import Cells
from easyedit_personal.kernels.neurons import as_updates
from easyedit_personal.modeling.layout import find_layout, weights_digest
from easyedit_personal.serving.personalized import PersonalizedModel
from easyedit_personal.types import WeightDelta
from tests.tiny import tiny_model

PROMPTS = [
    "What's my hobby?",
    "Who is your doctor and where do they live? In a small town by the sea?",
    "hi",
    [
        {"role": "user", "content": "I like music. " * 9},
        {"role": "assistant", "content": "I do not know."},
        {"role": "user", "content": "What music?"},
    ],
]


class Shelf:
    """The least that a store is: users' updates and a number that grows."""

    def __init__(self, model, ranks=None):
        self.model, self.versions, self.reads = model, {}, 0
        self.edits = {
            user: [random_delta(model, rank, seed)] for seed, (user, rank) in enumerate((ranks or {}).items())
        }

    def deltas(self, user):
        self.reads += 1
        return list(self.edits.get(user, []))

    def version(self, user):
        return self.versions.get(user, 0)

    def put(self, user, *deltas):
        self.edits.setdefault(user, []).extend(deltas)
        self.versions[user] = self.version(user) + 1


def random_delta(model, rank=2, seed=0, layer=2, scale=0.6):
    """A random update large enough to change what a tiny model says."""
    layout = find_layout(model)
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(layout.d_model, rank, generator=generator) * scale
    right = torch.randn(rank, layout.d_mlp, generator=generator)
    return WeightDelta(layout.rewrite_path(layer), left, right)


RANKS = {"alice": 2, "bob": 5, "carol": 1}


@pytest.fixture(params=["llama", "gpt2"])
def pm(request, tokenizer):
    model = tiny_model(request.param)
    return PersonalizedModel(model, tokenizer, Shelf(model, RANKS))


def alone(pm, user, prompt, limit=12):
    with in_weights(pm.model, pm.store.deltas(user) if user else []) as model:
        return generate(model, pm.tokenizer, [prompt], max_new_tokens=limit)[0]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mixed_batch_says_what_each_user_says_alone(pm, side, monkeypatch):
    monkeypatch.setattr(pm.tokenizer, "padding_side", side)
    users = ["alice", "bob", None, "carol", "alice", "nobody"]
    pairs = [(user, prompt) for user in users for prompt in PROMPTS]
    before = weights_digest(pm.model)
    together = pm.generate_for(*zip(*pairs), max_new_tokens=12)
    assert together == [alone(pm, user, prompt) for user, prompt in pairs]
    assert weights_digest(pm.model) == before
    firsts = {user: together[pairs.index((user, PROMPTS[0]))].tokens for user in users}
    assert len(set(firsts.values())) == 4 and firsts["nobody"] == firsts[None]


def test_a_stream_is_the_batch_piece_by_piece(pm):
    for user in ("alice", None):
        pieces = list(pm.stream_for(user, PROMPTS[0], max_new_tokens=12))
        assert "".join(pieces) == pm.generate_for([user], PROMPTS[:1], max_new_tokens=12)[0].text


def test_as_user_edits_in_place_and_restores(pm):
    before = weights_digest(pm.model)
    with pytest.raises(KeyboardInterrupt), pm.as_user("alice") as model:
        assert model is pm.model and weights_digest(model) != before
        raise KeyboardInterrupt
    assert weights_digest(pm.model) == before


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_one_user_inside_another_is_refused(pm):
    with pm.as_user("alice") as model:
        inside = weights_digest(model)
        with pytest.raises(RequestError, match=r"generate_for.*while the model is somebody's"):
            pm.generate_for(["bob"], PROMPTS[:1])
        with pytest.raises(RequestError, match="as_user"), pm.as_user("bob"):
            pytest.fail("the block was entered")
        with pytest.raises(RequestError, match="stream_for"):
            pm.stream_for("bob", PROMPTS[0])
        assert weights_digest(model) == inside
    assert pm.generate_for(["bob"], PROMPTS[:1], max_new_tokens=4) == [alone(pm, "bob", PROMPTS[0], 4)]


def test_as_user_answers_like_the_batch(pm):
    for user in ("bob", None, "nobody"):
        with pm.as_user(user) as model:
            inside = generate(model, pm.tokenizer, PROMPTS, max_new_tokens=8)
        assert inside == pm.generate_for([user] * len(PROMPTS), PROMPTS, max_new_tokens=8)


def test_neurons_stand_beside_the_model_s_own_however_it_is_asked(tokenizer):
    model = tiny_model("llama")
    shelf, path = Shelf(model, {"bob": 3}), "model.layers.3.mlp"
    torch.manual_seed(0)
    new = Cells(torch.randn(3, 32), torch.randn(32), torch.randn(32, 3) * 4)
    shelf.edits["alice"] = as_updates(model, path, new, [4, 7, 1])
    pm, digest = PersonalizedModel(model, tokenizer, shelf), weights_digest(model)
    together = pm.generate_for(["alice", "bob", None], [PROMPTS[1]] * 3, max_new_tokens=12)
    with pm.as_user("alice"):
        assert weights_digest(model) == digest  # no weight is changed for neurons
        assert generate(model, tokenizer, [PROMPTS[1]], max_new_tokens=12)[0].text == together[0].text
    assert "".join(pm.stream_for("alice", PROMPTS[1], max_new_tokens=12)) == together[0].text
    with edited(model, shelf.deltas("alice")):
        assert generate(model, tokenizer, [PROMPTS[1]], max_new_tokens=12)[0].text == together[0].text
    assert len({answer.text for answer in together}) == 3 and weights_digest(model) == digest
    pm.cache.clear()  # read anew while the model is another user's: bob's weights are not alice's neurons
    shelf.edits["bob"].append(random_delta(model, 3, 5, layer=3))
    with pm.as_user("bob"):
        pm.factors("alice")
    assert "".join(pm.stream_for("alice", PROMPTS[1], max_new_tokens=12)) == together[0].text


def test_bad_calls_are_refused_and_leave_nothing_behind(pm):
    with pytest.raises(RequestError, match="needs a user"):
        pm.generate_for(["alice"], PROMPTS)
    with pytest.raises(RequestError, match="needs a user"):
        pm.generate_for("alice", ["a", "b", "c", "d", "e"])
    with pytest.raises(RequestError, match="does not fit"):
        pm.generate_for(["alice", None], ["hi", "word " * 300])
    with pytest.raises(RequestError, match="does not fit"):
        pm.stream_for("alice", "word " * 300)
    with pytest.raises(RequestError, match="positive"):
        pm.stream_for("alice", "hi", max_new_tokens=0)
    assert pm.generate_for([], []) == []
    assert hooks(pm.model) == 0


def test_hooks_and_lock_are_gone_after_a_crash(pm, monkeypatch):
    calls = []

    def crash(*args, **kwargs):
        calls.append(hooks(pm.model))
        raise RuntimeError("device lost")

    monkeypatch.setattr(pm.model, "forward", crash)
    with pytest.raises(RuntimeError, match="device lost"):
        pm.generate_for(["alice", "bob"], ["hi", "hi"])
    with pytest.raises(RuntimeError, match="device lost"):
        next(pm.stream_for("alice", "hi"))
    assert calls == [1, 1] and hooks(pm.model) == 0
    monkeypatch.undo()
    worker = threading.Thread(target=pm.generate_for, args=(["alice"], ["hi"]))
    worker.start()
    worker.join(20)
    assert not worker.is_alive()


def test_a_stream_left_early_locks_nothing(pm):
    stream = pm.stream_for("alice", PROMPTS[0], max_new_tokens=12)
    next(stream)
    assert hooks(pm.model) == 0
    other = []
    worker = threading.Thread(target=lambda: other.extend(pm.generate_for(["bob"], PROMPTS[:1], max_new_tokens=4)))
    worker.start()
    worker.join(20)
    assert other == [alone(pm, "bob", PROMPTS[0], 4)]


def test_a_stream_keeps_the_edits_it_began_with(pm):
    wanted = pm.generate_for(["alice"], PROMPTS[:1], max_new_tokens=12)[0].text
    stream = pm.stream_for("alice", PROMPTS[0], max_new_tokens=12)
    first = next(stream)
    pm.store.put("alice", random_delta(pm.model, 3, seed=77))
    assert first + "".join(stream) == wanted


def test_a_stream_ends_where_the_answer_does(pm):
    said = pm.generate_for(["alice"], PROMPTS[:1], max_new_tokens=12)[0].tokens
    stop = next(token for token in said[3:] if token not in said[:3])
    pm.model.generation_config.eos_token_id = stop
    answer = pm.generate_for(["alice"], PROMPTS[:1], max_new_tokens=12)[0]
    assert answer.stopped and answer.tokens == said[: said.index(stop)]
    assert "".join(pm.stream_for("alice", PROMPTS[0], max_new_tokens=12)) == answer.text


def test_new_edits_are_seen_at_once(pm):
    before = pm.generate_for(["dave"], PROMPTS[:1], max_new_tokens=8)
    assert before == pm.generate_for([None], PROMPTS[:1], max_new_tokens=8)
    for seed in (41, 42):
        pm.store.put("dave", random_delta(pm.model, 2, seed=seed))
        after = pm.generate_for(["dave"], PROMPTS[:1], max_new_tokens=8)
        assert after == [alone(pm, "dave", PROMPTS[0], 8)] and after != before


def test_edits_of_another_model_are_refused(pm):
    pm.store.put("eve", WeightDelta(find_layout(pm.model).rewrite_path(0), torch.zeros(7, 1), torch.zeros(1, 7)))
    with pytest.raises(ModelError, match="another base model"):
        pm.generate_for(["alice", "eve"], ["hi", "hi"])
    with pytest.raises(ModelError, match="another base model"), pm.as_user("eve"):
        pytest.fail("the block was entered")
    assert hooks(pm.model) == 0


def test_threads_get_their_own_answers(pm):
    """Batches, streams and in-place users at once; every answer is the one that its user gets alone."""
    wanted = {user: alone(pm, user, PROMPTS[0], 6).text for user in (*RANKS, None)}
    before, faults, start = weights_digest(pm.model), [], threading.Barrier(6)

    def batches():
        start.wait()
        for _ in range(6):
            answers = pm.generate_for(list(wanted), [PROMPTS[0]] * 4, max_new_tokens=6)
            faults.extend(u for u, answer in zip(wanted, answers) if answer.text != wanted[u])

    def streams(user):
        start.wait()
        for _ in range(6):
            faults.extend([user] if "".join(pm.stream_for(user, PROMPTS[0], max_new_tokens=6)) != wanted[user] else [])

    def in_place(user):
        start.wait()
        for _ in range(6):
            with pm.as_user(user) as model:
                answer = generate(model, pm.tokenizer, [PROMPTS[0]], max_new_tokens=6)[0]
            faults.extend([user] if answer.text != wanted[user] else [])

    def guarded(work, *args):
        try:
            work(*args)
        except BaseException as error:
            faults.append(error)

    jobs = [(batches,), (batches,), (streams, "alice"), (streams, None), (in_place, "bob"), (in_place, "carol")]
    threads = [threading.Thread(target=guarded, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert faults == [] and not any(thread.is_alive() for thread in threads)
    assert weights_digest(pm.model) == before and hooks(pm.model) == 0


TURNS = [{"role": "user", "content": "a b c " * 20}, {"role": "assistant", "content": "I do not know."}]
TALKS = [[*TURNS, {"role": "user", "content": text}] for text in ("What music?", "What pet?", "What food?", "hi")]


@pytest.mark.parametrize("owners", [("alice", "bob", None, "carol"), ("bob",) * 4, (None,) * 4, ("alice", None) * 2])
def test_a_shared_beginning_changes_no_answer(any_model, tokenizer, owners):
    pm = PersonalizedModel(any_model, tokenizer, Shelf(any_model, {"alice": 2, "bob": 30, "carol": 1}))
    together = pm.generate_for(owners, TALKS, max_new_tokens=8)
    assert together == [alone(pm, user, talk, 8) for user, talk in zip(owners, TALKS)]


def test_a_shared_beginning_is_read_once_below_the_edit(tokenizer):
    """Rows of 24 tokens and more that pass each layer's MLP: one up to the edited layer's, then one per user."""
    model = tiny_model("mistral", sliding_window=None)
    pm, seen = PersonalizedModel(model, tokenizer, Shelf(model, RANKS)), []
    paths = [find_layout(model).layer.replace("{}", str(number)) + ".mlp" for number in range(4)]
    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda _, args, __, path=path: seen.append((path, *args[0].shape[:2]))
        )
        for path in paths
    ]
    together = pm.generate_for(["alice", "bob", None, "carol"], TALKS, max_new_tokens=4)
    for handle in handles:
        handle.remove()
    assert [rows for path, rows, width in seen if width >= 24] == [1, 1, 1, 4]
    assert together == [alone(pm, user, talk, 4) for user, talk in zip(("alice", "bob", None, "carol"), TALKS)]


def test_with_a_real_store(llama, tokenizer, tmp_path):
    """Put, answer, undo, forget and export through EditStore."""
    from peft import PeftModel

    from easyedit_personal.store.store import EditStore

    with EditStore.open(tmp_path / "edits.db", llama, tokenizer) as store:
        pm = PersonalizedModel(llama, tokenizer, store)
        base = pm.generate_for([None], PROMPTS[:1], max_new_tokens=8)
        assert pm.generate_for(["alice"], PROMPTS[:1], max_new_tokens=8) == base
        store.put("alice", [random_delta(llama, 3)])
        once = pm.generate_for(["alice"], PROMPTS[:1], max_new_tokens=8)
        store.put("alice", [random_delta(llama, 2, seed=1), random_delta(llama, 2, seed=2, layer=1)])
        twice = pm.generate_for(["alice", "bob"], PROMPTS[:1] * 2, max_new_tokens=8)
        assert twice == [alone(pm, "alice", PROMPTS[0], 8), *base] and base != once != twice[:1]
        adapted = PeftModel.from_pretrained(tiny_model("llama"), store.export_lora("alice", tmp_path / "alice"))
        ids = tokenizer("What's my hobby?", return_tensors="pt").input_ids
        with pm.as_user("alice") as model, torch.no_grad():
            assert (adapted.eval()(ids).logits - model(ids).logits).abs().max() < 1e-5
        store.undo("alice")
        assert pm.generate_for(["alice"], PROMPTS[:1], max_new_tokens=8) == once
        store.forget("alice")
        assert pm.generate_for(["alice"], PROMPTS[:1], max_new_tokens=8) == base
