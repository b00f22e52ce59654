"""Keys around a kind's answers: which places they come from, and what the model writes after a beginning."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels import quiet_keys as module
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.contrasts import Pack
from easyedit_personal.kernels.kinds import BegunAnswer, Contrast, Kind, Phrase
from easyedit_personal.kernels.quiet_keys import (
    QuietKeys,
    closed_of,
    quiet_keys,
    said_elsewhere,
    tails_of,
    value_starts,
)
from easyedit_personal.kernels.spoken import Spoken, speak
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.tokens import Encoded
from easyedit_personal.modeling.trace import trace

PET = Kind("pet", "pet", ("pet",))
HPARAMS = PersonalizationHyperParams(layers=[1, 2])
BEHIND = (("Hi.", "Hello."),)


def said(asks, roles, ids=None, history=()):
    """An answer with these roles, one letter each; its prompt has two tokens."""
    names = {"s": "say", "v": "value", "k": "keep"}
    ids = tuple(range(10, 10 + len(roles))) if ids is None else ids
    return Spoken(Encoded((5, 6), ids, 1), tuple(names[letter] for letter in roles), Phrase("What?", asks, history))


class Group:
    """Rows of two places each; the key of a place is its row's number and its own, tenfold in the second layer."""

    def __init__(self, numbers):
        self.numbers = list(numbers)
        self.rows = torch.arange(len(self.numbers)).repeat_interleave(2)
        self.columns = torch.tensor([0, 1] * len(self.numbers))

    def found_at(self, rows, columns):
        keys = torch.stack([torch.tensor(self.numbers)[rows], columns], 1).float()
        return {1: (keys, None), 2: (10 * keys, None)}

    def where_answers_begin(self):
        return self.found_at(torch.arange(len(self.numbers)), torch.zeros(len(self.numbers), dtype=torch.long))

    def select(self, numbers):
        return Group(self.numbers[number] for number in numbers)


def pack(first, *alone):
    """Contrasts, some of them behind other turns."""
    contrasts = [Contrast(f"{first + n}", "own", history=() if flag else BEHIND) for n, flag in enumerate(alone)]
    return Pack(contrasts, Group(range(first, first + len(alone))))


def test_keys_are_kept_by_part_and_layer_and_found_again():
    parts = [{n: torch.full((2, 3), 0.5 * n + part) for n in (1, 2)} for part in range(3)]
    kept = QuietKeys(*parts).tensors()
    assert sorted(kept) == sorted(f"{part}.{n}" for part in ("near", "closed", "begun") for n in (1, 2))
    assert {keys.dtype for keys in kept.values()} == {torch.float16}
    found = QuietKeys.of({**kept, "left.1": torch.ones(1)}, [1, 2])
    for part, expected in zip((found.near, found.closed, found.begun), parts):
        assert set(part) == {1, 2} and all(torch.equal(part[n], expected[n]) for n in (1, 2))
        assert {keys.dtype for keys in part.values()} == {torch.float32}


@pytest.fixture
def around(monkeypatch):
    """Keys around two answers: their own places are 0 to 5, what they go on with is told apart."""
    monkeypatch.setattr(module, "_begun_row", lambda tokenizer, answer, hparams: answer)
    monkeypatch.setattr(module, "last_keys", lambda model, tokenizer, layout, rows, hparams: {1: rows})
    monkeypatch.setattr(module, "thinned", lambda keys: {"thinned": keys})

    def run(own, begun=()):
        keys = {n: n * torch.arange(6.0)[:, None] + torch.tensor([[100.0, 0.0]]) for n in (1, 2)}
        tails = {n: torch.full((1, 2), -float(n)) for n in (1, 2)}
        spoken = [said("name", "svv"), said("implicit", "vsk")]
        places = {n: (found, None) for n, found in keys.items()}
        return quiet_keys(None, None, None, spoken, places, tails, own, begun, HPARAMS), keys, tails

    return run


def test_values_keep_quiet_beside_values_along_near_questions_alone_and_along_tails(around):
    found, keys, tails = around([pack(20, True, False, True), pack(40, False)], ["begun"])
    for layer in (1, 2):
        own = keys[layer][[0, 4, 5]]  # not at the places of values
        alone = (1, 10)[layer - 1] * torch.tensor([[20.0, 0], [20, 1], [22, 0], [22, 1]])
        assert torch.equal(found.near[layer]["thinned"], torch.cat([own, alone, tails[layer]]))
    assert found.closed[1].tolist() == [[20, 0], [21, 0], [22, 0], [40, 0]] and found.begun == {1: ["begun"]}


def test_contrasts_behind_other_turns_alone_add_no_keys_along_their_answers(around):
    found, keys, tails = around([pack(40, False, False)])
    assert torch.equal(found.near[1]["thinned"], torch.cat([keys[1][[0, 4, 5]], tails[1]]))


def test_closed_keys_are_where_all_contrasts_begin():
    found = closed_of([pack(3, True, False), pack(7, True)])
    assert found[1].tolist() == [[3, 0], [4, 0], [7, 0]] and torch.equal(found[2], 10 * found[1])


@pytest.mark.parametrize(
    ("roles", "ids", "flags"),
    [
        ("ssvvskkk", (1, 2, 7, 8, 3, 4, 5, 6), "00000111"),
        ("ssvvskkk", (1, 2, 7, 8, 3, 4, 8, 6), "00000101"),  # a token of the value
        ("ssvskkkkk", (1, 2, 7, 3, 4, 1, 2, 9, 9), "000011101"),  # after what stands before the value, once more
        ("ssvskkkkk", (1, 2, 7, 3, 2, 1, 9, 2, 9), "000011111"),  # not after these tokens in another order, or alone
        ("sssvkkkkk", (0, 1, 2, 7, 0, 1, 9, 1, 2), "000011111"),  # the two last before the value count
        ("sssvkkkkk", (0, 1, 2, 7, 1, 2, 9, 1, 2), "000011011"),
        ("svkk", (1, 7, 1, 5), "0011"),  # a beginning of one token is not looked for
        ("ssv", (1, 2, 7), "000"),
    ],
)
def test_what_the_model_wrote_without_the_value_and_what_stands_before_it(roles, ids, flags):
    assert said_elsewhere(said("implicit", roles, ids)) == [flag == "1" for flag in flags]


def test_beginnings_are_said_alone_before_the_model_goes_on():
    bare = module._bare(said("implicit", "svskk"))
    assert bare.roles == ("say", "value", "say") and bare.row == Encoded((5, 6), (10, 11, 12), 1)
    whole = said("implicit", "svs")
    assert module._bare(whole) == whole


@pytest.fixture
def going_on(monkeypatch):
    """What the model goes on with is two tokens of its own; what is asked and run is noted."""
    noted = {}

    def go_on(model, tokenizer, spoken, tokens):
        noted.update(asked=list(spoken), tokens=tokens)
        return [said(s.phrase.asks, "".join(role[0] for role in s.roles) + "kk") for s in spoken]

    class Rows(Group):
        def __init__(self, model, tokenizer, layout, rows, layers, **options):
            noted.update(rows=rows, layers=layers, options=options)
            count = sum(len(row.target_ids) for row in rows)
            self.rows, self.columns, self.ids = torch.zeros(count, dtype=torch.long), torch.arange(count), torch.ones(1)
            self.numbers = [0]

    monkeypatch.setattr(module, "go_on", go_on)
    monkeypatch.setattr(module, "EditedRows", Rows)
    monkeypatch.setattr(module, "context_limit", lambda model: noted.get("limit"))
    monkeypatch.setattr(module, "input_device", lambda model: torch.device("cpu"))
    return noted


def test_tails_are_48_tokens_after_beginnings_without_a_name_that_stand_alone(going_on):
    spoken = [said("name", "svs"), said("implicit", "svkkk"), said("product", "svs", history=BEHIND)]
    spoken += [said("product", "svs")]
    found = tails_of(None, None, None, spoken, HPARAMS)
    assert going_on["tokens"] == 48 and [s.phrase.asks for s in going_on["asked"]] == ["implicit", "product"]
    assert [s.roles for s in going_on["asked"]] == [("say", "value"), ("say", "value", "say")]
    assert going_on["layers"] == [1, 2] and going_on["options"] == {"from_answers": True}
    # Of the places of both answers, 0-3 and 4-8, the two last of each are the model's own.
    assert found[1][:, 1].tolist() == [2, 3, 7, 8] and torch.equal(found[2], 10 * found[1])


def test_tails_are_of_twenty_beginnings_at_most(going_on):
    tails_of(None, None, None, [said("implicit", "sv")] * 21, HPARAMS)
    assert len(going_on["asked"]) == len(going_on["rows"]) == 20


def test_tails_that_do_not_fit_the_context_are_left_out_and_there_may_be_none(going_on):
    spoken = [said("implicit", "sv"), said("implicit", "svs")]  # with what follows, rows of 6 and 7 tokens
    for limit, count in ((None, 2), (7, 2), (6, 1)):
        going_on["limit"] = limit
        tails_of(None, None, None, spoken, HPARAMS)
        assert len(going_on["rows"]) == count
    layout = SimpleNamespace(d_mlp=48)
    for limit, some in ((5, spoken), (None, [said("name", "sv")])):
        going_on["limit"] = limit
        found = tails_of(None, None, layout, some, HPARAMS)
        assert set(found) == {1, 2} and {keys.shape for keys in found.values()} == {(0, 48)}


def test_tails_are_the_models_own_keys_where_it_writes_by_itself(loud_llama, tokenizer, monkeypatch):
    monkeypatch.setattr(module, "LONG", 5)
    spoken = [speak(tokenizer, Phrase("Whom do I feed?", "implicit"), PET, "a newt", HPARAMS)]
    with frozen(loud_llama):
        (long,) = module.go_on(loud_llama, tokenizer, spoken, 5)
        found = tails_of(loud_llama, tokenizer, find_layout(loud_llama), spoken, HPARAMS)
        flags = said_elsewhere(long)
        assert any(flags)
        for layer in (1, 2):
            path = find_layout(loud_llama).rewrite_path(layer)
            with torch.no_grad(), trace(loud_llama, [path]) as calls:
                loud_llama(torch.tensor([long.row.ids]))
            along = calls[path].input[0][len(long.row.prompt_ids) - 1 : -1]
            torch.testing.assert_close(found[layer], along[torch.tensor(flags)], atol=1e-5, rtol=1e-4)


def test_a_begun_answer_ends_before_the_value_would_follow(tokenizer):
    row = module._begun_row(
        tokenizer, BegunAnswer(Contrast("And mine?", "own", history=BEHIND), "Your pet is"), HPARAMS
    )
    text = "<|user|>Hi.<|end|><|assistant|>Hello.<|end|><|user|>And mine?<|end|><|assistant|>Your pet is"
    assert tokenizer.decode(row.prompt_ids) == text
    assert row.target_ids == row.prompt_ids[-1:] and row.key_index == len(row.prompt_ids) - 1


def test_a_value_begins_at_its_first_token_alone_and_behind_other_turns_apart():
    spoken = [said("name", "ssvvs"), said("implicit", "svs", history=BEHIND), said("product", "vk")]
    keys = torch.arange(10.0)[:, None]
    found = value_starts(spoken, {1: (keys, None), 2: (-keys, None)})
    assert {name: keys.flatten().tolist() for name, keys in found.items()} == {
        "starts0.1": [2, 8],
        "starts1.1": [6],
        "starts0.2": [-2, -8],
        "starts1.2": [-6],
    }
    assert {keys.dtype for keys in found.values()} == {torch.float16}
    assert value_starts(spoken[:1], {1: (keys, None)})["starts1.1"].shape == (0, 1)
