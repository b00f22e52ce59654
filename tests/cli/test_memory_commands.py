"""The chat's /why, /compare and /more, conversations that outlive it, and what an export leaves out."""

from __future__ import annotations

import io
import json
import time

import pytest
from rich.console import Console
from typer.testing import CliRunner

from easyedit_personal import progress
from easyedit_personal.cli import chat_session
from easyedit_personal.cli.chat_commands import side_by_side
from easyedit_personal.cli.main import app
from easyedit_personal.cli.transcript import Transcript
from easyedit_personal.cli.understood import shortened
from easyedit_personal.errors import DataError
from easyedit_personal.serving.conversation import Exchange
from easyedit_personal.store.records import WORDS
from easyedit_personal.types import Preference
from tests.cli.test_chat import chat, session, teach


def test_why_names_the_memory_that_made_the_answer(desk):
    teach(desk)
    shown = chat(desk, "/why", "/learn keep it short", "What is my hobby?", "/why")
    assert "There was no answer yet." in shown and "Kept in words: answer style: short" in shown
    lines = [line for line in shown.splitlines() if "hobby: falconry (edit 1)" in line]
    assert lines and lines[-1].startswith("  * ") and '"keep it short." (in words)' in shown
    assert "None: nothing is known about you." in chat(desk, "hi", "/why", user="ben")


def test_compare_shows_both_answers_at_80_columns(desk):
    teach(desk)
    shown = chat(desk, "/compare", "/compare What is my hobby?")
    assert "What shall both answer?" in shown
    table = [line for line in shown.splitlines() if " | " in line]
    assert table[0].split(" | ")[0].strip() == "the base model" and table[2].endswith("| falconry")
    assert all(len(line) <= 80 for line in table)


def test_columns_wrap_and_end_where_their_texts_end():
    lines = side_by_side(("a", "one two three " * 9), ("b", "x"), width=41)
    assert len(lines) > 6 and all(len(line) <= 41 for line in lines) and lines[2].endswith("| x")


def test_an_answer_that_was_cut_says_so_and_more_goes_on(desk):
    shown = chat(desk, "/more", "hello", "/more", "/new", "/more")
    assert shown.count("There is nothing to go on with") == 2
    assert shown.count("(cut at 12 tokens; /more goes on)") >= 1


def test_a_conversation_goes_on_after_a_restart_if_asked(desk, tmp_path):
    file = tmp_path / "talk.jsonl"
    options = ("--history", str(file))
    chat(desk, "hello", options=options)
    assert "1 exchange so far" in chat(desk, "again", options=options)
    assert "exchange" not in chat(desk, "hi", user="ben", options=options).splitlines()[0]
    assert [json.loads(line)["user"] for line in file.read_text().splitlines()] == ["ann", "ann", "ben"]
    assert file.stat().st_mode & 0o077 == 0
    chat(desk, "/forget", "yes", options=options)
    assert [json.loads(line)["user"] for line in file.read_text().splitlines()] == ["ben"]


def test_a_file_of_something_else_is_refused_and_stays(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("my notes\n")
    with pytest.raises(DataError, match=r"Line 1 of .* is no exchange"):
        Transcript(file)
    assert file.read_text() == "my notes\n"
    kept = Transcript(tmp_path / "new")
    kept.keep("ann", [Exchange("a\nb", "c")])
    assert Transcript(tmp_path / "new").of("ann") == [Exchange("a\nb", "c")]


def test_an_export_says_what_it_leaves_out(desk, tmp_path):
    teach(desk)
    shown = chat(desk, "/learn call me Sam", f"/export {tmp_path / 'lora'}")
    assert "kept in words and not in weights: nickname: Sam" in shown
    shown = desk.run("edit", "I don't drink alcohol", "-u", "ann").output
    assert "where     words" in shown and "an edit of a dislike" in shown


@pytest.mark.parametrize("door", ["chat", "store undo"])
def test_an_undo_of_words_says_what_is_back(desk, door):
    teach(desk)
    with desk.store() as store:
        golf = Preference("hobby", "What is my hobby?", "golf", "ann", "my hobby is golf")
        store.put("ann", (), preference=golf, kernel=WORDS, why="its self-test failed", instead=[1])
    if door == "chat":
        shown = chat(desk, "/undo", "/prefs", "What is my hobby?")
        assert "Undone: hobby: golf" in shown and "Back again: hobby: falconry (edit 1)." in shown
        assert "What is my hobby?\nfalconry\n" in shown
    else:
        shown = CliRunner().invoke(app, ["store", "undo", "ann", "--store", str(desk.path)]).output
        assert "Back again, since they had given way to it" in shown and "falconry" in shown.split("Back again")[1]


def test_an_offer_says_what_it_replaces(desk):
    teach(desk)
    shown = chat(desk, "my hobby is golf", "n", "I'm allergic to nuts", "n")
    assert 'Shall I remember "hobby: golf" instead of "hobby: falconry"? [y/n]' in shown
    assert 'Shall I remember "allergy: nuts"? [y/n]' in shown


def test_ctrl_c_stops_all_that_was_to_be_learned(desk, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(chat_session, "learn_once", stopped)
    with session(desk) as made:
        made.teach([Preference("hobby", "What is my hobby?", "golf"), Preference("pet", "What is my pet?", "a cat")])
        assert [line.strip() for line in made.screen.said] == [
            "Stopped, nothing was learned.",
            "Not learned either: pet: a cat.",
        ]


def test_a_bar_has_a_time_left_inside_of_one_task(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(progress, "_terminal", lambda: Console(file=written, force_terminal=True, width=80))
    with progress.progress_within("Learning", 1, 2):
        for step in progress.counted(range(4)):
            time.sleep(0.2)  # more than one frame of the bar
            assert step < 4
    assert "Learning" in written.getvalue() and "1/2" in written.getvalue() and "0:00:" in written.getvalue()


def test_an_answer_that_was_cut_ends_in_dots():
    long = "Since your hobby is falconry, I would recommend to spend the whole day with your"
    assert shortened(long) == f"{long} ..." and shortened(f"{long} birds.") == f"{long} birds."
    assert shortened("falconry") == "falconry"
