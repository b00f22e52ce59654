"""Kinds of attributes: which questions a gate learns and which it leaves alone, on a small world of our own."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import pytest

from easyedit_personal.clustering.lexicon import Entry
from easyedit_personal.data.beginnings import Contrasts, contrasts
from easyedit_personal.data.phrasings import attributes
from easyedit_personal.kernels import kinds
from easyedit_personal.kernels.kinds import (
    BegunAnswer,
    Contrast,
    Kind,
    Phrase,
    begun_answers,
    kind_of,
    kind_phrases,
    own_contrasts,
    sample_values,
)
from easyedit_personal.kernels.preserve import Material
from easyedit_personal.types import EditRequest

PET = Kind("pet", "pet", ("animal",))  # one more name only: no chance decides which
MATERIAL = Material(
    neutral=("neutral 1", "neutral 2"),
    open=("open",),
    own=("own 1 {n}", "own 2 {n}", "own 3 {n}"),
    negated=("negated {n}",),
    somebody_else=("of {who} {n}",),
    yourself=("yours {n}",),
    people=("Ann",),
    circles=(),
    indirect={"pet": ("whom to feed",)},
)
NEAR = Contrasts(
    tasks=("task",),
    small_talk=("hello",),
    negated=("near negated {n}",),
    somebody_else=("near of {who} {n}",),
    general=("any {n}",),
    begun_else=("{who}'s {n} is", "their {n} is"),
    begun_not=("your {n} is not", "no {n} of yours is"),
    stated=("mine is {v}, a {n}",),
    heard=("good: {v}, a {n}",),
    remarks=("fine",),
)
SHIPPED = {"pet": {"name": ("asked pet",), "implicit": ("indirect pet",), "product": ()}}
PLAINLY = ("What isn't my", "What is not my", "What's surely not my", "What's never my")


def about(*subjects):
    return [EditRequest(f"What is my {subject}?", "x", subject) for subject in subjects]


@pytest.fixture
def world(monkeypatch):
    """One kind, with one of everything."""
    entries = (Entry("pet", "pet", ("animal",)),)
    monkeypatch.setattr(kinds, "Lexicon", SimpleNamespace(load=lambda: SimpleNamespace(entries=entries)))
    monkeypatch.setattr(kinds, "contrasts", lambda: NEAR)
    monkeypatch.setattr(kinds, "_shipped", lambda: SHIPPED)
    monkeypatch.setattr(kinds, "world_facts", lambda: [{"questions": [f"is fact {i}?", "?"]} for i in range(300)])
    monkeypatch.setattr(kinds, "sample_values", lambda kind: ["a newt"])
    monkeypatch.setattr(kinds, "BEHIND_TALK", 0.0)


def test_the_asked_questions_subject_decides_and_known_ones_go_first():
    assert kind_of(about("pet", "hobby")) == kind_of(about("hobby")) != kind_of(about("pet"))
    assert kind_of(about("hobby", "shoe size")).name == "hobby"
    assert kind_of(about("Boot Size", "shoe size", "boot size")) == Kind("boot size", None, ("boot size", "shoe size"))
    assert kind_of(about()) is None


def test_a_kinds_questions_are_the_plainest_then_templates_in_turn_then_what_ships(world):
    texts = ("What's my pet?", "own 1 pet", "own 2 animal", "own 3 pet", "own 1 animal", "own 2 pet")
    named = [Phrase(text, "name") for text in texts]
    shipped = [Phrase("asked pet", "name"), Phrase("indirect pet", "implicit"), Phrase("whom to feed", "implicit")]
    assert kind_phrases(PET, MATERIAL, 5, Random(0)) == [*named, *shipped]
    assert len(kind_phrases(PET, MATERIAL, 50, Random(0))) == 1 + 6 + 3  # nothing twice: templates by names
    assert kind_phrases(Kind("knot", None, ("knot",)), MATERIAL, 0, Random(0)) == [Phrase("What's my knot?", "name")]


def test_values_of_an_unknown_kind_are_two_of_every_known_one():
    assert sample_values(Kind("knot", None, ("knot",)))[:4] == [
        value for attribute in attributes()[:2] for value in attribute.train["values"][:2]
    ]


def test_what_a_gate_keeps_quiet_at_about_its_own_kind(world):
    found = own_contrasts(PET, MATERIAL, Random(0))
    assert {contrast.pool for contrast in found} == {"own"} and {contrast.group for contrast in found} == {None}
    alone = [contrast for contrast in found if not contrast.history]
    beginnings = ("Negated", "Near negated", "Of Ann", "Near of Ann", "Yours", "What's Ann's", "Any", "Hello")
    beginnings += PLAINLY
    counts = Counter(next(text for text in beginnings if c.text.startswith(text)) for c in alone)
    assert counts["Negated"] + counts["Near negated"] == 50 and [counts[text] for text in PLAINLY] == [6] * 4
    assert counts["Of Ann"] + counts["Near of Ann"] + counts["Yours"] == 30 and counts["What's Ann's"] == 20
    assert counts["Any"] == 8 and counts["Hello"] == 10
    plainest = {c.text for c in alone if c.text.startswith(PLAINLY)}  # every form with the kind's name and another
    assert plainest == {f"{form} {name}?" for form in PLAINLY for name in ("pet", "animal")}
    stated = [contrast for contrast in found if contrast.history]
    assert {contrast.history for contrast in stated} == {(("mine is a newt, a pet", "good: a newt, a pet"),)}
    assert [contrast.text == "What's my pet?" for contrast in stated] == [False, True] * 6
    assert all(contrast.text.startswith("own ") and contrast.text.endswith(" pet") for contrast in stated[::2])


def test_the_forms_that_ask_for_a_kind_by_name_ask_for_others_that_are_not_close_to_it(world, monkeypatch):
    entries = [Entry(name, name, (name,)) for name in ("pet", "kennel", "drink")]
    monkeypatch.setattr(kinds, "Lexicon", SimpleNamespace(load=lambda: SimpleNamespace(entries=entries)))
    material = replace(MATERIAL, circles=(frozenset({"pet", "kennel"}),))
    asked = lambda kind: Counter(
        (c.text, c.group) for c in own_contrasts(kind, material, Random(0)) if c.group and not c.history
    )
    forms = [f"own {i} drink" for i in (1, 2, 3)]
    assert set(asked(PET)) == {(form, "drink") for form in forms} and asked(PET).total() == 40
    assert {group for _, group in asked(Kind("knot", None, ("knot",)))} == {"pet", "kennel", "drink"}


def test_beginnings_that_a_value_does_not_follow_are_sixteen_of_somebody_and_sixteen_of_nobody(world):
    stated, alone = Contrast("And now?", "own", history=(("Mine is tea.", "Good."),)), Contrast("Whose?", "own")
    found = begun_answers(PET, [alone, stated], MATERIAL, Random(0))
    assert len(found) == 16 + 16 + 5 + 1 and found[-1] == BegunAnswer(stated, "Your pet is")
    opened = [BegunAnswer(Contrast(f"{form} pet?", "own"), "Your pet is") for form in PLAINLY]
    assert found[32:-1] == [*opened, BegunAnswer(Contrast("Near negated pet", "own"), "Your pet is")]
    assert {answer.contrast.pool for answer in found} == {"own"}
    texts, said = [[answer.contrast.text for answer in found], [answer.begun for answer in found]]
    assert said[:16] == ["Ann's pet is", "Their pet is"] * 8
    assert said[16:32] == ["Your pet is not", "No pet of yours is"] * 8
    assert texts[1:16:2] == ["What's Ann's pet?"] * 8 and texts[17:32:2] == ["What isn't my pet?"] * 8
    assert set(texts[:16]) == {"What's Ann's pet?", "Near of Ann pet"}
    assert set(texts[16:32]) <= {*(f"{form} pet?" for form in PLAINLY), "Near negated pet"}


def test_the_user_s_people_are_the_model_s_your_people_or_go_by_their_name_alone(world, monkeypatch):
    monkeypatch.setattr(
        kinds, "contrasts", lambda: replace(NEAR, begun_else=("{who} has:",), begun_not=("none of {n}",))
    )
    for who, bare in (("my uncle Bo", "Uncle Bo has:"), ("Tommy", "Tommy has:")):
        people = replace(MATERIAL, people=(who,))
        found = begun_answers(PET, [], people, Random(0))[:16]
        yours = "Your uncle Bo has:" if who.startswith("my ") else bare
        assert [answer.begun for answer in found] == [bare, bare, yours, yours] * 4
        assert found[1].contrast.text == f"What's {who}'s pet?"


def test_shipped_beginnings_leave_the_name_open_once_and_end_before_a_value():
    near = contrasts()
    for text in (*near.begun_else, *near.begun_not):
        assert text.count("{n}") == 1 and "{v}" not in text and text[-1].isalpha(), text
    assert any("{who}" in text for text in near.begun_else)
    assert not any("{who}" in text for text in near.begun_not)
    every = (*near.begun_else, *near.begun_not)
    assert len({text.lower() for text in every}) == len(every)


def test_what_all_gates_keep_quiet_at(world):
    found = kinds.shared_contrasts(MATERIAL, 1000)
    named = [contrast.text for contrast in found if contrast.pool == "named"]
    assert named[0] == "What's my pet?" and named[1].endswith(" pet") and len(named) <= 4
    assert all(text.endswith(" animal") for text in named[2:]) and {c.group for c in found[: len(named)]} == {"pet"}
    indirect = [contrast for contrast in found if contrast.pool == "indirect"]
    assert {c.text for c in indirect} == {"asked pet", "indirect pet", "whom to feed"} and len(indirect) == 3
    assert {c.group for c in indirect} == {"pet"}
    rest = [contrast.text for contrast in found if contrast.pool == "rest"]
    assert rest[:2] == ["Negated pet", "Of Ann pet"] and rest[2:6] == ["neutral 1", "neutral 2", "open", "task"]
    facts, small_talk = rest[6:-1], rest[-1]
    assert small_talk == "hello"
    assert len(set(facts)) == 100 and all(fact.startswith("Is fact ") for fact in facts)
    assert {contrast.group for contrast in found if contrast.pool == "rest"} == {None}


def test_small_talk_is_not_left_to_the_draw_but_takes_no_more_than_a_tenth(world, monkeypatch):
    many = replace(NEAR, small_talk=tuple(f"hello {i}" for i in range(5)))
    monkeypatch.setattr(kinds, "contrasts", lambda: many)
    for limit, count in ((60, 5), (30, 3), (9, 0)):
        found = [c.text for c in kinds.shared_contrasts(MATERIAL, limit) if not c.history]
        assert [text for text in found if text.startswith("hello")] == [f"hello {i}" for i in range(count)]


def test_some_of_them_come_again_behind_one_to_three_exchanges_and_before_what_was_said(world, monkeypatch):
    plain = kinds.shared_contrasts(MATERIAL, 1000)
    monkeypatch.setattr(kinds, "BEHIND_TALK", 0.01)
    found = kinds.shared_contrasts(MATERIAL, 1000)
    talked = found[len(plain) :]
    assert found[: len(plain)] == plain and len(talked) == 10 and len(kinds.shared_contrasts(MATERIAL, 100)) <= 100
    assert {len(contrast.history) for contrast in talked} == {1, 2, 3}
    assert {replace(contrast, history=()) for contrast in talked} <= set(plain)
    stated = Contrast("And now?", "own", history=(("Mine is tea.", "Good."),))
    (again,) = kinds.behind_talk([stated], 5, Random(0))
    assert again.history[-1:] == stated.history and len(again.history) == 2 and again.text == stated.text


def test_four_questions_by_name_and_more_without_of_kinds_that_are_asked_for_in_more_ways(world, monkeypatch):
    many = {"pet": {part: tuple(f"{part} {i}" for i in range(17)) for part in ("name", "implicit", "product")}}
    monkeypatch.setattr(kinds, "_shipped", lambda: many)
    own = tuple(f"own {i} {{n}}" for i in range(1000))
    material = Material(**{**{f: getattr(MATERIAL, f) for f in Material.__slots__}, "own": own})
    found = kinds.shared_contrasts(material, 1000)
    pools, parts = Counter(c.pool for c in found), Counter(c.text.split()[0] for c in found)
    assert pools["named"] == 4 and pools["indirect"] == 3 + 3 + 6 + 1  # one in eight, eight and three, and the kept one
    assert (parts["name"], parts["implicit"], parts["product"]) == (3, 3, 6)


def test_a_limit_draws_from_every_pool_by_its_share_and_what_just_fits_stays_in_order(world):
    everything = kinds.shared_contrasts(MATERIAL, 1000)
    assert kinds.shared_contrasts(MATERIAL, len(everything)) == everything
    some = kinds.shared_contrasts(MATERIAL, 10)
    counts = Counter(contrast.pool for contrast in some)
    assert counts == {"named": 1, "indirect": 3, "rest": 3}  # five without a name, if there were
    assert set(some) < set(everything) and len(set(some)) == len(some)
    assert kinds.shared_contrasts(MATERIAL, 1000, seed=0) == everything
    assert kinds.shared_contrasts(MATERIAL, 1000, seed=1) != everything


def test_a_few_facts_are_all_of_them(world, monkeypatch):
    monkeypatch.setattr(kinds, "world_facts", lambda: [{"questions": ["is it so?"]}])
    assert "Is it so?" in {contrast.text for contrast in kinds.shared_contrasts(MATERIAL, 1000)}


def test_every_kind_is_asked_by_name_and_in_its_other_ways(world, monkeypatch):
    assert kinds.every_kind(Random(0)) == [
        (Kind("pet", "pet", ("pet", "animal")), Phrase("What's my pet?", "name")),
        (Kind("pet", "pet", ("pet", "animal")), Phrase("indirect pet", "implicit")),
    ]


def test_prompts_about_nobody_are_drawn_with_a_seed(world):
    texts = {"neutral 1", "neutral 2", "open", "task", "hello"}
    assert set(kinds.neutral_prompts(MATERIAL, 9)) == texts and len(kinds.neutral_prompts(MATERIAL, 3)) == 3
    orders = [kinds.neutral_prompts(MATERIAL, 4, seed) for seed in (-1, 0, 1)]
    assert kinds.neutral_prompts(MATERIAL, 4) == orders[1] and orders[0] != orders[1] != orders[2]


def test_templates_take_turns_and_sentences_begin_with_a_capital():
    found = kinds._about(PET, ("is {n} ours?", "has {who} a {n}?"), ("Ann",), 4, Random(0))
    assert {contrast.pool for contrast in found} == {"own"}
    texts = [contrast.text for contrast in found]
    assert sorted(texts) == ["Has Ann a animal?", "Has Ann a pet?", "Is animal ours?", "Is pet ours?"]
    assert texts[0].split()[0] == texts[2].split()[0] != texts[1].split()[0] == texts[3].split()[0]


def test_a_template_that_comes_once_or_always_is_asked_with_either_name_in_turn():
    for templates in (("whose {n}?",), tuple(f"{i} {{n}}" for i in range(8))):
        texts = [contrast.text for contrast in kinds._about(PET, templates, ("Ann",), 8, Random(0))]
        assert ["pet" in text for text in texts] == [True, False] * 4


def test_what_ships_of_a_kind_is_what_its_attributes_train_on_read_once():
    shipped = kinds._shipped()
    assert shipped is kinds._shipped()
    for asks, part in (("name", "questions"), ("implicit", "implicit"), ("product", "product")):
        wanted = [text for a in attributes() if a.group == "hobby" for text in (*a.train[part], *a.wide.get(part, ()))]
        assert [*shipped["hobby"][asks]] == wanted and wanted


def test_a_contrast_asks_for_no_kind_and_stands_alone_unless_said():
    assert Contrast("Hello!", "rest") == Contrast("Hello!", "rest", None, ())
