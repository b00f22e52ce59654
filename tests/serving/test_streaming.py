"""Streams: written together at the price of one, joined and left at any time, each saying what it says alone."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from itertools import zip_longest

import pytest

from easyedit_personal.modeling.tokens import encode
from easyedit_personal.serving.personalized import PersonalizedModel
from easyedit_personal.serving.streaming import Stream
from tests.serving.test_personalized import PROMPTS, RANKS, Shelf, alone
from tests.tiny import tiny_model
from tests.waiting import PATIENCE

USERS = ["alice", "bob", None, "carol"]


@pytest.fixture
def pm(llama, tokenizer):
    return PersonalizedModel(llama, tokenizer, Shelf(llama, RANKS))


def counted(pm, monkeypatch):
    """The shapes [rows, columns] of all forward passes from now on."""
    shapes, forward = [], pm.model.forward

    def count(*args, **kwargs):
        shapes.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(pm.model, "forward", count)
    return shapes


def taken_in_turn(streams):
    """One piece of every stream, again and again, as listeners take them."""
    said = [""] * len(streams)
    for pieces in zip_longest(*streams, fillvalue=""):
        said = [old + piece for old, piece in zip(said, pieces)]
    return said


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gptj"])
def test_streams_at_the_same_time_say_what_each_says_alone(family, tokenizer):
    model = tiny_model(family)
    pm = PersonalizedModel(model, tokenizer, Shelf(model, RANKS))
    streams = [pm.stream_for(user, prompt, max_new_tokens=12) for user, prompt in zip(USERS, PROMPTS)]
    assert taken_in_turn(streams) == [alone(pm, user, prompt).text for user, prompt in zip(USERS, PROMPTS)]


def test_one_forward_pass_writes_a_token_of_every_stream(pm, monkeypatch):
    shapes = counted(pm, monkeypatch)
    streams = [pm.stream_for(user, PROMPTS[0], max_new_tokens=10) for user in USERS]
    taken_in_turn(streams)
    steps = [shape for shape in shapes if shape[1] == 1]
    assert [shape[0] for shape in shapes if shape not in steps] == [4]  # prompts are read together
    assert steps == [(4, 1)] * 9


def test_who_comes_later_joins(pm):
    first = pm.stream_for("alice", PROMPTS[1], max_new_tokens=14)
    said = next(first) + next(first) + next(first)
    second = pm.stream_for("bob", PROMPTS[3], max_new_tokens=14)
    start = next(second)
    assert len(pm._streams.lanes) == 1
    rest, other = taken_in_turn([first, second])
    assert said + rest == alone(pm, "alice", PROMPTS[1], 14).text
    assert start + other == alone(pm, "bob", PROMPTS[3], 14).text


def test_who_leaves_is_not_written_any_longer(pm, monkeypatch):
    staying = pm.stream_for("alice", PROMPTS[0], max_new_tokens=20)
    leaving = pm.stream_for("bob", PROMPTS[3], max_new_tokens=20)
    said = next(staying)
    next(leaving)
    (lane,) = pm._streams.lanes
    width = lane.state.width
    leaving.close()
    shapes = counted(pm, monkeypatch)
    said += "".join(staying)
    assert said == alone(pm, "alice", PROMPTS[0], 20).text
    assert (1, 1) in shapes and (2, 1) not in shapes
    assert lane.state.width < width  # the longer row's columns have gone
    pm._streams.step()
    assert pm._streams.lanes == []


def test_the_cache_shrinks_when_long_rows_have_left(pm):
    """A chain of streams that always overlap: the width stays that of the longest, not of all together."""
    widths, current = [], pm.stream_for("alice", PROMPTS[0], max_new_tokens=8)
    next(current)
    for number in range(12):
        user = USERS[number % 4]
        following = pm.stream_for(user, PROMPTS[0], max_new_tokens=8)
        text = next(following)
        list(current)
        widths.append(max(lane.state.width for lane in pm._streams.lanes))
        current = following
    assert text + "".join(current) == alone(pm, user, PROMPTS[0], 8).text
    assert max(widths) <= min(widths) + 8


def test_a_stream_that_nobody_can_listen_to_is_not_written(pm, monkeypatch):
    forgotten, closed = (pm.stream_for(user, PROMPTS[0]) for user in ("alice", "bob"))
    shapes = counted(pm, monkeypatch)
    closed.close()
    del forgotten, closed
    list(pm.stream_for("carol", PROMPTS[0], max_new_tokens=3))
    assert {shape[0] for shape in shapes} == {1}


def test_a_failing_model_is_told_to_every_listener_and_forgotten(pm, monkeypatch):
    streams = [pm.stream_for(user, PROMPTS[0], max_new_tokens=12) for user in USERS[:2]]
    for stream in streams:
        next(stream)

    def crash(*args, **kwargs):
        raise RuntimeError("out of order")

    monkeypatch.setattr(pm.model, "forward", crash)
    for stream in streams:
        with pytest.raises(RuntimeError, match="out of order"):
            list(stream)
    monkeypatch.undo()
    assert "".join(pm.stream_for("bob", PROMPTS[0], max_new_tokens=6)) == alone(pm, "bob", PROMPTS[0], 6).text


def test_many_threads_listen(pm):
    jobs = [(user, PROMPTS[i % 4]) for i, user in enumerate(USERS * 4)]
    wanted = {(user, str(prompt)): alone(pm, user, prompt, 10).text for user, prompt in jobs}
    said, start = {}, threading.Barrier(len(jobs))

    def listen(number, user, prompt):
        start.wait()
        said[number] = "".join(pm.stream_for(user, prompt, max_new_tokens=10))

    threads = [threading.Thread(target=listen, args=(number, *job)) for number, job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert said == {number: wanted[user, str(prompt)] for number, (user, prompt) in enumerate(jobs)}


def test_pieces_are_whole_characters_without_outer_blanks(tokenizer):
    """Scripted tokens: the bytes of an emoji come one by one, blanks at both ends are never said."""
    ids = tokenizer("  hi \U0001f9d7 you \n", add_special_tokens=False)["input_ids"]
    stream = Stream(encode(tokenizer, "hello"), {}, frozenset({1}), limit=99)
    for token in [*ids, 1]:
        stream.take(token, tokenizer)
    assert stream.done and "".join(stream.pieces) == "hi \U0001f9d7 you" and len(stream.pieces) > 3
    assert not any("\ufffd" in piece for piece in stream.pieces)


def test_bytes_that_never_become_a_character_are_said_at_the_end(tokenizer):
    ids = tokenizer("ok \U0001f9d7", add_special_tokens=False)["input_ids"]
    stream = Stream(encode(tokenizer, "hello"), {}, frozenset({1}), limit=len(ids) - 1)
    for token in ids[:-1]:
        stream.take(token, tokenizer)
    assert "".join(stream.pieces) == tokenizer.decode(ids[:-1]).strip() and stream.done


def test_a_stream_may_draw_its_tokens_beside_greedy_ones(pm, tokenizer):
    row, ends = encode(tokenizer, PROMPTS[0]), frozenset()
    drawn = Stream(row, {}, ends, 6, draw=lambda logits: int(logits.argmin()))
    greedy = Stream(row, {}, ends, 6)
    for stream in (drawn, greedy):
        pm._streams.add(stream, nullcontext)
    while not (drawn.done and greedy.done):
        pm._streams.step()
    alone = pm.generate_for([None], [PROMPTS[0]], max_new_tokens=6)[0].tokens
    assert tuple(greedy.tokens)[: len(alone)] == alone and drawn.tokens[0] != greedy.tokens[0]
    assert len(drawn.tokens) == 6
