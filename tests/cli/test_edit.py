"""The edit command: what it learns, what it says, what it asks, and when it leaves everything alone."""

from __future__ import annotations

import json
import sys
import warnings

import pytest

from easyedit_personal.cli.main import main
from easyedit_personal.errors import DataError, PersonalizationError
from easyedit_personal.serving.personalized import PersonalizedModel
from tests.clustering.test_service import completion, stub  # noqa: F401 - a fixture

WORDS = "My hobby is falconry"


def answers(desk, user, *questions):
    """What the user's model says."""
    with desk.store() as store:
        model = PersonalizedModel(desk.model, desk.tokenizer, store)
        return [answer.text for answer in model.generate_for([user] * len(questions), questions)]


def live(desk, user):
    """Targets by edit, live ones only."""
    with desk.store() as store:
        return {one.id: [said.target for said in one.preferences] for one in store.history(user) if one.live}


def test_plain_words_are_learned_and_it_says_what_changed(desk):
    (before,) = answers(desk, "ann", "What is my hobby?")
    shown = desk.run("edit", WORDS, "-u", "ann").output
    assert answers(desk, "ann", "What is my hobby?") == ["falconry"] != [before]
    assert live(desk, "ann") == {1: ["falconry"]}
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.splitlines()}
    assert shown.startswith("ann: hobby = falconry\n") and lines["edit"] == "1"
    assert lines["question"] == "What is my hobby?" and lines["after"] == "falconry" and lines["where"] == "weights"
    assert "falconry" in lines["self_test"]  # fine-tuning says it everywhere, and the self-test notices
    assert lines["warnings"] == "the edited model says it where something else is asked"
    assert lines["bytes"] == f"{32 * 48 * 4:,}" and float(lines["seconds"]) > 0
    assert "perplexity ratio" in lines["health"] and "relative norm" in lines["health"]
    with desk.store() as store:
        (kept,) = store.history("ann")
    assert (
        kept.preference.text == WORDS
        and kept.kernel == "finetune"
        and set(kept.health) == {"perplexity_ratio", "relative_norm", "natural_stops", "surprise"}
    )


def test_the_same_again_does_nothing_until_it_was_undone_overruled_or_is_to_be_made_otherwise(desk):
    desk.run("edit", WORDS, "-u", "ann")
    again = desk.run("edit", "falconry is my hobby", "-u", "ann").output
    assert "learned before" in again and "edit      1" in again and live(desk, "ann") == {1: ["falconry"]}
    with desk.store() as store:
        store.undo("ann")
    desk.run("edit", WORDS, "-u", "ann")
    assert list(live(desk, "ann").values()) == [["falconry"]] and 1 not in live(desk, "ann")
    overruling = desk.run("edit", "my hobby is origami", "-u", "ann").output
    assert "overrules hobby: falconry" in overruling
    assert "learned before" not in desk.run("edit", WORDS, "-u", "ann").output
    assert list(live(desk, "ann").values()) == [["falconry"], ["origami"], ["falconry"]]
    assert answers(desk, "ann", "What is my hobby?") == ["falconry"]
    other = desk.run("edit", WORDS, "-u", "ann", "--kernel", "lowrank").output
    assert "learned before" not in other and len(live(desk, "ann")) == 4


def test_two_processes_that_are_told_the_same_leave_one_edit(desk, monkeypatch):
    from easyedit_personal.learning import session as telling

    first = desk.run("edit", WORDS, "-u", "ann", "--json").output
    # The second one looked before the first had put its edit.
    monkeypatch.setattr(telling, "believed", lambda *_: None)
    with desk.store() as store:
        monkeypatch.setattr(type(store), "version", lambda *_: 0)
    second = desk.run("edit", WORDS, "-u", "ann", "--json").output
    assert json.loads(second)["edit"] == json.loads(first)["edit"] == 1 and len(live(desk, "ann")) == 1


def test_statements_are_undone_one_by_one_or_together(desk):
    both = "My hobby is falconry and I play the oboe"
    desk.run("edit", both, "-u", "ann")
    assert list(live(desk, "ann").values()) == [["falconry"], ["oboe"]]
    desk.run("edit", both, "-u", "ben", "--together")
    assert list(live(desk, "ben").values()) == [["falconry", "oboe"]]


def test_what_is_not_understood_is_an_error_and_nothing_is_edited(desk):
    result = desk.run("edit", WORDS, "I love flying hawks", "-u", "ann", fails=3)
    assert "nothing was edited" in result.stderr and 'What is "flying hawks" to you' in result.stderr
    assert "hobby" not in result.stdout and desk.loads == 0 and not desk.path.exists()


def test_what_is_not_understood_is_asked_back(desk):
    result = desk.run("edit", "I love flying hawks", "-u", "ann", "--ask", said="no idea at all\nhobby\ny\n")
    assert result.output.count('What is "flying hawks" to you') == 2
    assert answers(desk, "ann", "What is my hobby?") == ["flying hawks"]
    left = desk.run("edit", "I love flying hawks", WORDS, "-u", "ben", "--ask", said="\n\n").output
    assert "ben: hobby = falconry" in left and list(live(desk, "ben").values()) == [["falconry"]]
    desk.run("edit", "I love flying hawks", "-u", "cleo", "--ask", said="", fails=3)
    assert live(desk, "cleo") == {}


def test_a_dry_run_needs_no_model_and_makes_no_store(desk):
    shown = desk.run("edit", "I prefer aisle seats", "-u", "ann", "--dry-run").output
    assert "plane seat = aisle seats" in shown and "What is my plane seat?" in shown and "dry run" in shown
    record = json.loads(desk.run("edit", WORDS, "-u", "ann", "--dry-run", "--json").output)
    assert record["target"] == "falconry" and record["phrases"] == 8
    assert desk.loads == 0 and not desk.path.exists()
    desk.run("edit", "hm?", "-u", "ann", "--dry-run", fails=3)


def record(target, **changes):
    """One record of UPQA's flat layout."""
    made = {
        "input_attribute": f"I love {target}",
        "attribute_type": "hobby",
        "question": "What's my hobby?",
        "question_paraphrased": "What do I do for fun?",
        "implicit_question": "What should I do this weekend?",
        "product_recommendation_question": "What should I buy?",
        "target": target,
    }
    return {**made, **changes}


def test_a_file_goes_to_the_users_it_names_or_to_the_one_who_is_given(desk, tmp_path):
    file = tmp_path / "some.json"
    pet = {"attribute_type": "pet", "question": "What's my pet?"}
    file.write_text(json.dumps([record("falconry", id="ann"), record("gecko", id="ben", **pet)]))
    shown = desk.run("edit", "--data", str(file)).output
    assert "ann: hobby = falconry" in shown and "ben: pet = gecko" in shown
    assert answers(desk, "ann", "What's my hobby?") == ["falconry"] and answers(desk, "ben", "What's my pet?") == [
        "gecko"
    ]
    desk.run("edit", "--data", str(file), "-u", "cleo")
    assert list(live(desk, "cleo").values()) == [["falconry", "gecko"]]
    assert desk.run("edit", "--data", str(file), "-u", "cleo").output.count("learned before") == 2
    file.write_text(json.dumps([record("falconry")]))
    with pytest.raises(DataError, match="does not say whose"):
        desk.run("edit", "--data", str(file))


def test_a_file_of_users_as_personalize_takes_it(desk, tmp_path):
    file = tmp_path / "users.jsonl"
    lines = [{"user": user, "preferences": [{"subject": "hobby", "target": "origami"}]} for user in ("ann", "ben")]
    file.write_text("\n".join(map(json.dumps, lines)))
    shown = desk.run("edit", "--data", str(file), "--json").output
    assert [json.loads(line)["user"] for line in shown.splitlines()] == ["ann", "ben"]
    assert answers(desk, "ben", "What's my hobby?") == ["origami"]
    renamed = tmp_path / "users.json"
    renamed.write_text(file.read_text() + '\n{"user": "", "preferences": []}')
    with pytest.raises(DataError, match="1 of 3 lines"):
        desk.run("edit", "--data", str(renamed))


@pytest.mark.filterwarnings("ignore:.*SSL.*")
def test_a_language_model_reads_what_no_rule_covers(desk, stub, monkeypatch):  # noqa: F811
    pytest.importorskip("openai", reason="openai is not installed (extra `llm`)")
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    stub.service(completion({"subject": "hobby", "target": "falconry"}))
    at = f"http://127.0.0.1:{stub.server_port}/v1"
    words = ["I spend every free minute with hawks", "I play the oboe"]
    shown = desk.run("edit", *words, "-u", "ann", "--endpoint", at, "--endpoint-model", "m", "--dry-run").output
    assert "hobby = falconry" in shown and "instrument = oboe" in shown
    (asked,) = stub.asked  # the rules read the other
    assert asked[2]["model"] == "m" and "hawks" in asked[2]["messages"][1]["content"]
    stub.service(completion({"ask": "Which bird?"}), completion({"subject": "pet", "target": "hawk"}))
    options = ["-u", "ann", "--endpoint", at, "--endpoint-model", "m", "--dry-run", "--ask"]
    assert "pet = hawk" in desk.run("edit", "It has wings, my bird", *options, said="a hawk\n").output


def test_an_edit_that_does_not_take_is_said(desk):
    health = {"on_unhealthy": "warn", "self_test": "warn", "max_relative_norm": 1e-9}
    desk.configure(finetune={"lr": 0.02, "steps": 1}, health=health)
    record = json.loads(desk.run("edit", WORDS, "-u", "ann", "--json").output)
    assert any("above the limit" in line for line in record["warnings"])
    assert any("does not hold" in line for line in record["warnings"]) and "falconry" not in record["after"]


def test_an_edit_that_does_not_take_or_leaks_is_kept_in_words_unless_it_is_to_be_kept(desk):
    desk.configure(finetune={"lr": 0.02, "steps": 1}, health={"on_unhealthy": "warn"})
    record = json.loads(desk.run("edit", WORDS, "-u", "ann", "--json").output)
    assert record["where"] == "words" and "does not say it" in record["why"]
    again = json.loads(desk.run("edit", WORDS, "-u", "ann", "--json").output)
    assert again["edit"] == record["edit"] and again["where"] == "words" and "learned before" in again["known"]
    kept = json.loads(desk.run("edit", WORDS, "-u", "ben", "--json", "--keep").output)
    assert kept["where"] == "weights" and "self-test failed" in kept["why"]
    with desk.store() as store:
        assert store.deltas("ann") == [] and len(store.deltas("ben")) == 1
        assert [one.target for one in store.words("ann")] == ["falconry"]


def test_words_are_explained_and_derived_settings_are_named_as_what_may_be_wrong(desk):
    weak = {"finetune": {"lr": 0.02, "steps": 1}, "health": {"on_unhealthy": "warn"}}
    desk.configure(**weak, made_for={"family": "llama", "n_layers": 4, "status": "derived", "source": "smollm2.yaml"})
    shown = desk.run("edit", WORDS, "I don't drink alcohol", "-u", "ann").output
    assert shown.count("  where     words: the model reads it in its prompt") == 2
    assert shown.count("  remedy    the settings are derived") == 1  # a dislike is kept in words by any settings
    desk.configure(**weak)
    assert "remedy" not in desk.run("edit", WORDS, "-u", "ben").output


def test_what_was_understood_is_said_and_asked_first(desk):
    desk.run("edit", "My hobby is falconry", "-u", "ann")
    options = ["-u", "ann", "--ask"]
    shown = desk.run("edit", "I live in Porto and call me Sam", *options, said="n\n", fails=3).output
    assert "location: Porto  (in the weights)" in shown and "nickname: Sam  (in words: it is to be used" in shown
    assert "Nothing was edited." in shown and desk.loads == 1
    asked = desk.run("edit", "My hobby is origami", *options, said="a\ny\n").output
    assert "Your hobby is falconry so far" in asked and "hobby: falconry and origami" in asked
    replaced = desk.run("edit", "My hobby is chess", *options, said="r\n\n").output
    assert "replaces hobby: falconry and origami" in replaced
    left = desk.run("edit", "My hobby is golf", *options, said="l\n", fails=3).output
    assert "hobby stays as it is" in left
    assert "Shall I learn" not in desk.run("edit", "I live in Porto", "-u", "ann", "--ask", "--yes").output


def test_ctrl_c_says_what_was_kept(desk, monkeypatch):
    from easyedit_personal.learning import session as telling

    learn_once, calls = telling.learn_once, []

    def pressed(*given, **options):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return learn_once(*given, **options)

    monkeypatch.setattr(telling, "learn_once", pressed)
    result = desk.run("edit", WORDS, "I play the oboe", "-u", "ann", fails=130)
    assert "Kept: ann: hobby = falconry\nNot learned: ann: instrument = oboe" in result.stderr
    assert list(live(desk, "ann").values()) == [["falconry"]]


def test_a_terminal_gets_no_control_characters_of_strangers(desk):
    shown = desk.run("edit", "my hobby is \x1b[31mred {braces}", "-u", "ann\x1b[2J").output
    assert "\x1b" not in shown and "ann\\x1b[2J: hobby = \\x1b[31mred {braces}" in shown


BAD = {
    "nothing": ([], "--user ID and what they say"),
    "no user": ([WORDS], "--user ID"),
    "no words": (["-u", "ann"], "what they say"),
    "both": ([WORDS, "-u", "ann", "--data", "x.json"], "not both"),
    "empty user": ([WORDS, "-u", ""], "cannot be used"),
    "kernel": ([WORDS, "-u", "ann", "--kernel", "lowrnk"], "Did you mean 'lowrank'"),
    "no file": (["--data", "nowhere.json"], "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_before_the_model_is_loaded(name, desk):
    words, says = BAD[name]
    with pytest.raises(PersonalizationError, match=says):
        desk.run("edit", *words)
    assert desk.loads == 0 and not desk.path.exists()


def test_errors_end_with_2_without_a_traceback(tmp_path, monkeypatch, capfd):
    words = ["edit", WORDS, "-u", "ann", "--store", str(tmp_path / "e.db"), "--model", "nowhere"]
    monkeypatch.setattr(sys, "argv", ["easyedit-personal", *words])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr().err
    assert ended.value.code == 2 and "'nowhere' cannot be loaded" in said and "Traceback" not in said
