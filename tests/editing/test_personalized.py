"""Many users, one model: together they say what each says alone, and the model is nobody's afterwards."""

from __future__ import annotations

import threading

import pytest
import torch

from easyedit_personal.editing.personalized import PersonalizedModel
from easyedit_personal.errors import ModelError, RequestError
from easyedit_personal.evaluate.generate import generate
from easyedit_personal.kernels.apply import edited
from easyedit_personal.modeling.layout import find_layout, weights_digest
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
    with edited(pm.model, pm.store.deltas(user) if user else []) as model:
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
