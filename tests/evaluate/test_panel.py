"""What the panel asks beside the edited questions, and how the answers count."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from easyedit_personal.clustering.lexicon import Lexicon, normalise
from easyedit_personal.data.beginnings import contrasts, said_again
from easyedit_personal.data.conversations import load_conversations, short_exchanges
from easyedit_personal.data.material import read_material
from easyedit_personal.data.panel import panel_texts
from easyedit_personal.data.phrasings import attributes
from easyedit_personal.data.upqa import UPQADataset
from easyedit_personal.editing.health import FIRST_QUESTIONS
from easyedit_personal.evaluate import Plan, evaluate
from easyedit_personal.evaluate.evaluator import find_evaluators
from easyedit_personal.evaluate.evaluators.context_wins import other_values
from easyedit_personal.evaluate.evaluators.helpful import LEAST_LIKELIHOOD, words_beside
from easyedit_personal.evaluate.evaluators.other_attribute import unstated_kinds
from easyedit_personal.evaluate.result_folder import ResultFolder
from easyedit_personal.hparams import PreserveParams
from easyedit_personal.kernels.kinds import (
    Kind,
    begun_answers,
    every_kind,
    kind_phrases,
    neutral_prompts,
    own_contrasts,
    shared_contrasts,
)
from easyedit_personal.kernels.phrasings import with_indirect
from easyedit_personal.kernels.preserve import Material, preserve_prompts
from easyedit_personal.types import EditRequest
from tests.evaluate.people import people, person, quick_hparams
from tests.tiny import tiny_model, tiny_tokenizer

TRAINED = ("direct", "multi_turn", "helpful", "context_wins", "moving_on")  # ask the question that is edited
MANY = PreserveParams(neutral=200, other_attribute=500, other_indirect=500, negated=12, other_user=12)


def graded(name, **answer):
    """One evaluator's grade of an answer."""
    plan = Plan([name])
    kept = {"evaluator": name, "target": "falconry", "answer": "", "kind": "implicit", "turns": 0, **answer}
    return find_evaluators(plan)[0].grade(kept, plan)


def trained_on():
    """Every prompt that an edit of any kind may learn at or keep quiet at, beside the user's own question."""
    material, texts = Material.load(), {*FIRST_QUESTIONS, *(asked for asked, _ in short_exchanges())}
    texts |= {*contrasts().remarks}
    for entry in Lexicon.load().entries:
        kind = Kind(entry.name, entry.group, entry.names)
        for seed in range(3):
            texts |= {phrase.text for phrase in kind_phrases(kind, material, 60, Random(seed))}
            own = own_contrasts(kind, material, Random(seed))
            begun = begun_answers(kind, own, material, Random(seed))
            texts |= {contrast.text for contrast in (*own, *(answer.contrast for answer in begun))}
            texts |= {answer.begun for answer in begun}
        requests = [EditRequest(f"What's my {entry.name}?", "falconry", entry.name, cluster="c")]
        texts |= {prompt.text for prompt in preserve_prompts(requests, MANY)}
        texts |= {request.prompt for request in with_indirect(requests, 500)}
    for seed in range(3):
        texts |= {contrast.text for contrast in shared_contrasts(material, 10_000, seed)}
        texts |= {phrase.text for _, phrase in every_kind(Random(seed))}
    return {normalise(text) for text in (*texts, *neutral_prompts(material, 10_000))}


def test_no_question_of_the_panel_is_among_those_that_edits_train_on():
    plan = Plan()
    evaluators = [one for one in find_evaluators(plan) if one.name not in TRAINED]
    asked = {
        normalise(ask.question)
        for item in UPQADataset.bundled().items
        for e in evaluators
        for ask in e.asks(item, plan)
    }
    trained = trained_on()
    assert len(asked) > 800 and len(trained) > 4000
    assert not asked & trained, sorted(asked & trained)


def test_statements_of_the_panel_are_not_those_that_gates_see():
    texts, seen = panel_texts(), contrasts()
    assert not {*texts.stated, *texts.heard} & {*seen.stated, *seen.heard}
    assert not {*texts.everyday, *texts.next} & {*seen.tasks, *seen.small_talk}
    assert not {normalise(text) for text in texts.next} & trained_on()
    assert not set(texts.used) & set(said_again())
    for item in UPQADataset.bundled().items:
        group = Lexicon.load().find(item.subject).group
        trained = {value for a in attributes() if a.group == group for value in a.train["values"]}
        assert other_values(item) and not trained & set(other_values(item))


def test_talk_that_edits_learn_behind_is_not_the_evaluation_s():
    said = {normalise(text) for exchange in short_exchanges() for text in exchange}
    turns = {normalise(message["content"]) for talk in load_conversations() for message in talk}
    assert len(said) > 90 and not said & turns, sorted(said & turns)


@pytest.mark.parametrize("item", UPQADataset.bundled().items[::7], ids=lambda item: item.id)
def test_other_kinds_are_six_that_the_user_has_not_stated(item):
    plan, (evaluator,) = Plan(["other_attribute"]), find_evaluators(Plan(["other_attribute"]))
    asks = evaluator.asks(item, plan)
    assert [ask.kind for ask in asks] == ["named"] * 3 + ["indirect"] * 3
    assert len({ask.question for ask in asks}) == 6 and asks == evaluator.asks(item, plan)
    own = Lexicon.load().find(item.subject).group
    close = Material.load().related({own})
    questions = {
        q for kind in unstated_kinds(item) for part in ("questions", "implicit", "product") for q in kind[part]
    }
    assert {ask.question for ask in asks} <= questions
    assert own in close and item.question not in questions and item.implicit not in questions
    for ask in asks[:3]:  # what is named is another kind
        assert item.subject not in ask.question


def test_questions_that_anything_may_answer_are_not_asked_about_other_kinds():
    left_out = set(panel_texts().anybodys)
    shipped = {q for kind in read_material()["types"].values() for part in ("implicit", "product") for q in kind[part]}
    assert left_out <= shipped
    (evaluator,), items = find_evaluators(Plan(["other_attribute"])), UPQADataset.bundled().items
    plans = [Plan(["other_attribute"], seed=seed) for seed in range(3)]
    assert not left_out & {ask.question for plan in plans for item in items for ask in evaluator.asks(item, plan)}


def test_indirect_questions_are_of_the_users_half():
    plan, items = Plan(["other_attribute"]), UPQADataset.bundled().items
    (evaluator,) = find_evaluators(plan)
    asked = {
        split: {a.question for i in items if i.split == split for a in evaluator.asks(i, plan) if a.kind == "indirect"}
        for split in ("tune", "test")
    }
    assert asked["tune"] and asked["test"] and not asked["tune"] & asked["test"]


def test_a_conversation_states_another_value_of_the_same_kind():
    plan, (evaluator,) = Plan(["context_wins"]), find_evaluators(Plan(["context_wins"]))
    for item in UPQADataset.bundled().items[::11]:
        (ask,) = evaluator.asks(item, plan)
        ((said, heard),) = ask.said
        assert ask.answer in said and item.subject in said and heard and item.target not in said
        assert ask.question == item.question
    assert evaluator.asks(person("shoe size", "44"), plan) == []


def test_what_is_said_next_stands_behind_an_answer_that_used_the_preference():
    plan, (evaluator,) = Plan(["moving_on"]), find_evaluators(Plan(["moving_on"]))
    used = set()
    for item in UPQADataset.bundled().items[::11]:
        asks = evaluator.asks(item, plan)
        assert [ask.question for ask in asks] == [*panel_texts().next, item.question]
        assert [ask.kind for ask in asks] == ["next"] * 4 + ["again"]
        for ask in asks:
            ((asked, answer),) = ask.said
            assert asked == item.implicit and item.target in answer and item.subject in answer
            used.add(answer.replace(item.target, "{v}").replace(item.subject, "{n}"))
    assert used == set(panel_texts().used)
    assert evaluator.asks(replace(item, implicit=""), plan) == []
    assert graded("moving_on", text="You're welcome!") == 0
    assert graded("moving_on", text="Since your hobby is falconry, go.") == 1
    assert graded("moving_on", text="Your hobby is falconry.", kind="again") is None


def test_where_the_value_is_asked_for_again_it_counts_by_itself():
    (evaluator,) = find_evaluators(Plan(["moving_on"]))
    answer = lambda text, kind: {"evaluator": "moving_on", "text": text, "kind": kind, "target": "tea"}
    said = [answer("Tea!", "next"), answer("Bye.", "next"), answer("It is tea.", "again")]
    found = evaluator.metric([{"user": "a", "answers": said}], Plan(["moving_on"]))
    assert found["mean"] == 0.5 and found["again"] == 1 and "again" in found["further_ci95"]


def test_the_conversation_must_be_followed_and_the_edit_silent():
    assert graded("context_wins", text="Your hobby is chess.", answer="chess") == 1
    assert graded("context_wins", text="Your hobby is falconry.", answer="chess") == 0
    assert graded("context_wins", text="It was falconry, now it is chess.", answer="chess") == 0
    assert graded("context_wins", text="I don't know.", answer="chess") == 0
    assert graded("context_wins", text="", answer="chess", skipped="no room") is None


GOOD = "Since your hobby is falconry, I'd suggest a long walk over the fields with your hawk."


@pytest.mark.parametrize(
    ("text", "likelihood", "helpful"),
    [
        (GOOD, -0.4, 1),
        ("You could walk over the fields for a while, since you enjoy falconry.", -0.4, 1),
        ("Falconry.", 0.0, 0),
        ("Since your hobby is falconry, go out.", -0.1, 0),
        ("Falconry" + ", and falconry and falconry again" * 8, -0.1, 0),
        (f"{GOOD} {GOOD} The bird will thank you for it in the evening.", -0.1, 0),
        (f"{GOOD} What's your hobby? What's your hobby? What's your hobby?", -0.1, 0),
        (GOOD, LEAST_LIKELIHOOD - 0.1, 0),
        (GOOD, None, 0),
        ("Go for a walk.", None, None),
    ],
    ids=[
        "good",
        "value last",
        "bare",
        "short",
        "loop",
        "twice",
        "loop in the end",
        "unlikely",
        "no room to look",
        "no value",
    ],
)
def test_helpful_is_what_goes_on_and_makes_sense(text, likelihood, helpful):
    assert graded("helpful", text=text, likelihood=likelihood, holds="falconry" in text.lower()) == helpful


def test_words_beside_the_value_are_counted_on_its_longer_side():
    assert words_beside("one two Bread Baking three", "bread baking") == 2
    assert words_beside("bread baking", "bread baking") == 0
    assert words_beside("breadth baking", "bread baking") == 0


def test_a_preference_that_is_a_sentence_is_acknowledged_in_other_words():
    asked = {"target": "I strictly avoid places with steep stairs.", "question": "Which places in Porto should I see?"}
    assert graded("acknowledged", text="Since you avoid stairs, take the tram to the river.", **asked) == 1
    assert graded("acknowledged", text="Places by the river are lovely; avoid Mondays.", **asked) == 0
    assert graded("acknowledged", text="", skipped="no room", **asked) is None


def test_misapplication_and_application_are_shares_of_all_questions_with_intervals():
    said = {
        "direct": ["falconry"], "implicit": ["falconry, then"], "product": ["a hat"],
        "negation": ["falconry"], "everyday": ["hello", "falconry"], "locality": ["Paris"], "multi_turn": ["falconry"],
    }  # fmt: skip
    answers = [
        {"evaluator": name, "text": text, "target": "falconry"} for name, texts in said.items() for text in texts
    ]
    silent = [{**answer, "text": "I don't know."} for answer in answers]
    users = [{"user": "ann", "figures": {}, "answers": answers}, {"user": "bob", "figures": {}, "answers": silent}]
    plan = Plan(["application"])
    (evaluator,) = find_evaluators(plan)
    found = evaluator.metric(users, plan)
    assert found["mean"] == pytest.approx(1 / 4) and found["applied"] == pytest.approx(1 / 3)
    method = {"metrics": {"application": found}}
    cells = [replace(column, evaluator="application").cell(method) for column in evaluator.columns]
    assert cells == [("25", "0 to 50"), ("33", "0 to 67")]


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """Nothing, and a model that was fine-tuned until it says the value to everything; with the kept answers."""
    folder = tmp_path_factory.mktemp("panel")
    model, plan = tiny_model("llama", max_position_embeddings=512), Plan(max_new_tokens=8)
    methods = ["zero_shot", "ft_m"]
    result = evaluate(model, tiny_tokenizer(), people()[:2], methods, plan=plan, out=folder, hparams=quick_hparams())
    metrics = {name: method["metrics"] for name, method in result["methods"].items()}
    return metrics, {name: ResultFolder(folder).users(name) for name in methods}


def test_the_untouched_model_changes_nothing_and_knows_no_value(figures):
    metrics = figures[0]["zero_shot"]
    assert metrics["everyday"]["mean"] == metrics["everyday"]["content"] == metrics["locality"]["content"] == 1
    assert metrics["other_attribute"]["named"] == metrics["other_attribute"]["indirect"] == 0
    assert metrics["application"]["mean"] == metrics["application"]["applied"] == 0
    none = metrics["helpful"]
    assert none["mean"] is None and none["of_all"] == 0, "there was no hit that could have been, so none of all was"


def test_a_model_that_says_the_value_to_everything_is_found_out(figures):
    metrics = figures[0]["ft_m"]
    assert metrics["application"]["applied"] == 1 and metrics["application"]["mean"] > 0.5
    assert metrics["everyday"]["mean"] < 1 and metrics["everyday"]["content"] < 1
    assert metrics["everyday"]["content_by"]
    assert metrics["context_wins"]["mean"] == 0 and metrics["context_wins"]["edit"] == 1
    assert metrics["helpful"]["mean"] == metrics["helpful"]["of_all"] == 0, "a bare value helps nobody"


def test_answers_that_take_room_get_twice_as_much(figures):
    users = figures[1]["zero_shot"]
    lengths = {(a["evaluator"], a["tokens"]) for user in users for a in user["answers"] if "tokens" in a}
    most = {name: max(length for one, length in lengths if one == name) for name, _ in lengths}
    assert max(most[name] for name in ("implicit", "product", "everyday")) == 16
    assert max(most[name] for name in most if name not in ("implicit", "product", "everyday")) <= 8


def test_what_many_users_ask_in_the_same_words_is_answered_once(llama, tokenizer, monkeypatch):
    from easyedit_personal.evaluate import ask

    calls, real = [], ask.generate

    def counting(model, tokenizer, prompts, **options):
        calls.append(len(prompts))
        return real(model, tokenizer, prompts, **options)

    monkeypatch.setattr(ask, "generate", counting)
    evaluate(llama, tokenizer, people(), ["zero_shot", "in_prompt"], plan=Plan(["everyday"], max_new_tokens=4))
    assert calls == [10, 10, 40], "the untouched model before all, then without and with each user's preference"


def test_what_does_not_fit_a_short_context_is_left_out(tokenizer):
    small = tiny_model("llama", max_position_embeddings=70)
    result = evaluate(small, tokenizer, people()[:1], ["zero_shot"], plan=Plan(["everyday"], max_new_tokens=4))
    assert result["methods"]["zero_shot"]["status"] == "ok"
    assert result["methods"]["zero_shot"]["metrics"]["everyday"]["mean"] == 1


def test_where_no_answer_gives_the_value_none_of_all_helps():
    """A method that says nothing has its dot in the picture, at the bottom."""
    (helpful,) = find_evaluators(Plan(evaluators=["helpful"]))
    answer = {"evaluator": "helpful", "holds": False, "text": "Rest.", "target": "hiking", "likelihood": None}
    found = helpful.metric([{"user": name, "answers": [answer]} for name in "ab"], Plan())
    assert (found["mean"], found["of_all"]) == (None, 0.0)
    assert helpful.metric([], Plan()) == {}
    (_, of_all) = helpful.columns
    assert replace(of_all, evaluator="helpful").cell({"metrics": {"helpful": found}})[0] == "0"
