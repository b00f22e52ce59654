"""Questions that must not get the target, made by rule from those that should."""

from __future__ import annotations

from random import Random

import pytest

from easyedit_personal.data.material import world_facts
from easyedit_personal.data.probes import about, negate, somebody, unrelated_questions, world_probes

WHO = "my dentist Imani"


@pytest.mark.parametrize(
    ("question", "negated", "other"),
    [
        ("What's my hobby?", "What's not my hobby?", "What's my dentist Imani's hobby?"),
        ("What is my hobby?", "What isn't my hobby?", "What is my dentist Imani's hobby?"),
        ("What's my family like?", "What isn't my family like?", "What's my dentist Imani's family like?"),
        ("Where is my family?", "Where isn't my family?", "Where is my dentist Imani's family?"),
        ("Where does my family live?", "Where doesn't my family live?", "Where does my dentist Imani's family live?"),
        ("Where do my sons live?", "Where don't my sons live?", "Where do my dentist Imani's sons live?"),
        ("What do I do for work?", "What don't I do for work?", "What does my dentist Imani do for work?"),
        (
            "What am I working toward in my job?",
            "What am I not working toward in my job?",
            "What is my dentist Imani working toward in their job?",
        ),
        ("Which hobby is mine?", "Which hobby isn't mine?", "Which hobby is my dentist Imani's?"),
        (
            "Can you name my hobby?",
            "Can you name something that is not my hobby?",
            "Can you name my dentist Imani's hobby?",
        ),
        ("Tell me my hobby.", "Tell me something that is not my hobby.", "Tell me my dentist Imani's hobby."),
        (
            "How would you describe my home?",
            "How wouldn't you describe my home?",
            "How would you describe my dentist Imani's home?",
        ),
        ("What can I play?", "What can't I play?", "What can my dentist Imani play?"),
        ("What's your trade?", "What's not your trade?", "What's my dentist Imani's trade?"),
        (
            "What kind of work do you do?",
            "What kind of work don't you do?",
            "What kind of work does my dentist Imani do?",
        ),
        ("Who raised me?", "Give me an answer that would be wrong: Who raised me?", "Who raised my dentist Imani?"),
        (
            "Do you know what my job is?",
            "Give me an answer that would be wrong: Do you know what my job is?",
            "Do you know what my dentist Imani's job is?",
        ),
        ("Hobby?", "Give me an answer that would be wrong: Hobby?", "My dentist Imani wonders: Hobby?"),
    ],
)
def test_rules(question, negated, other):
    assert negate(question) == negated
    assert about(question, WHO) == other


def test_braces_and_backslashes_in_names_are_text():
    assert about("What's my hobby?", r"{0} \1") == r"What's {0} \1's hobby?"


def test_somebody_varies_and_repeats_with_the_seed():
    people = {somebody(Random(seed)) for seed in range(100)}
    assert len(people) > 60 and all(person.startswith("my ") for person in people)
    assert somebody(Random(5)) == somebody(Random(5))


def test_world_probes_are_held_out_and_never_the_value():
    held = {q.lower(): str(f["answer"]) for f in world_facts() for q in f["heldout_phrasings"]}
    trained = {q.lower() for f in world_facts() for q in f["questions"]}
    for seed in range(50):
        probes = world_probes(Random(seed), "a green compass from Paris")
        assert len({question for question, _ in probes}) == 3
        for question, answer in probes:
            assert held[question.lower()] == answer and question.lower() not in trained
            assert question[0].isupper() and answer.lower() not in "a green compass from paris"


def test_unrelated_questions_differ():
    assert len(set(unrelated_questions(Random(0)))) == 3
