"""Preferences over HTTP: told in plain words or spelled out, learned, listed, undone, forgotten."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from easyedit_personal.errors import HealthError
from easyedit_personal.store.records import WORDS
from easyedit_personal.types import Preference
from tests.service.conftest import USERS, wanted
from tests.waiting import PATIENCE

CHAT = "/v1/chat/completions"
HOSTILE = [
    "../../etc/passwd",
    "a/b",
    "a/preferences/1",
    "x y",
    "'; DROP TABLE edits; --",
    "\u96ea\U0001f600",
    "%2F",
    "?",
]


def of(user, rest="preferences"):
    return f"/v1/users/{quote(user, safe='')}/{rest}"


def put(client, user, body, **more):
    """Tell something, and wait until it is learned."""
    return client.put(of(user) + "?wait=300", json=body, **more)


def learned(response):
    """What came of it."""
    return response.json()["result"]["data"]


def answer(client, user, question="What is my hobby?"):
    response = client.post(CHAT, json=wanted(question, f"tiny@{user}"))
    return response.json()["choices"][0]["message"]["content"]


@pytest.fixture
def learning(place):
    """A client of a service whose tiny model really learns."""
    return place.client(finetune={"lr": 0.02, "steps": 60})


def test_an_undo_of_words_says_what_is_back(place, learning):
    (one,) = learned(put(learning, "eve", {"text": "My hobby is hiking."}))
    golf = Preference("hobby", "What is my hobby?", "golf", "eve")
    place.store.put("eve", (), preference=golf, kernel=WORDS, instead=[one["edit"]])
    found = learning.post(of("eve", "undo")).json()
    assert [edit["where"] for edit in found["data"]] == ["words"]
    assert [edit["edit"] for edit in found["restored"]] == [one["edit"]]
    assert answer(learning, "eve") == one["after"]


def test_what_is_told_is_answered_undone_and_forgotten(place, learning):
    before = answer(learning, "dora")
    told = put(learning, "dora", {"text": "My hobby is hiking."})
    (one,) = learned(told)
    assert told.status_code == 201 and (one["subject"], one["target"]) == ("hobby", "hiking")
    assert one["before"].startswith(before) and one["after"] == answer(learning, "dora") == "hiking"
    (listed,) = learning.get(of("dora")).json()["data"]
    assert (
        listed["edit"] == one["edit"] and listed["live"] and listed["preferences"][0]["text"] == "My hobby is hiking."
    )

    (undone,) = learning.post(of("dora", "undo")).json()["data"]
    assert undone["edit"] == one["edit"] and not undone["live"]
    assert answer(learning, "dora") == before and learning.get(of("dora")).json()["data"] == []
    assert [e["live"] for e in learning.get(of("dora") + "?all=1").json()["data"]] == [False]
    assert learning.post(of("dora", "undo")).json()["data"] == []

    assert learning.delete(of("dora")).json() == {"object": "user.forgotten", "edits": 1}
    assert learning.get(of("dora") + "?all=1").json()["data"] == [] and place.store.history("dora") == []


def test_forgetting_reaches_the_memory(place, client):
    answer(client, "bob")
    kept = place.last.cache.nbytes
    assert client.delete(of("bob")).status_code == 200
    assert place.last.cache.nbytes < kept - 4 * 32 * 4 and place.last.cache.get("bob") == {}
    assert answer(client, "bob") == answer(client, "nobody")


def test_preferences_spelled_out(client):
    spelled = {"subject": "pet", "question": "What is the name of my pet?", "target": "Rex"}
    (one,) = learned(put(client, "dora", spelled))
    assert {name: one[name] for name in spelled} == spelled
    (other,) = learned(put(client, "dora", {"subject": "music", "target": "fado"}))
    assert other["question"].lower().startswith("what") and "music" in other["question"]


def test_several_statements_are_several_edits(client):
    told = learned(put(client, "dora", {"text": "My hobby is chess and my favorite food is soup."}))
    assert [one["target"] for one in told] == ["chess", "soup"]
    assert len(client.get(of("dora")).json()["data"]) == 2


@pytest.mark.parametrize("text", ["What's my hobby?", "blorp", "I like falcons", "My hobby is chess. I love griffins."])
def test_what_is_not_understood_is_asked_back_and_nothing_is_learned(shared, reader, text):
    response = reader.put(of("dora"), json={"text": text})
    error = response.json()["error"]
    assert response.status_code == 422 and error["code"] == "not_understood"
    assert all(ask["question"] and ask["question"] in error["message"] for ask in error["ask"])
    assert shared.store.history("dora") == []


def test_a_guess_is_offered_and_can_be_sent_back(client):
    error = client.put(of("dora"), json={"text": "My left shoe is Rupert"}).json()["error"]
    suggestion = error["ask"][0]["suggestion"]
    assert suggestion["target"] == "Rupert"
    assert put(client, "dora", suggestion).status_code == 201


FAULTY = [
    {},
    {"text": ""},
    {"text": "My hobby is chess.", "subject": "hobby", "target": "chess"},
    {"subject": "hobby"},
    {"target": "chess"},
    {"subject": "hobby", "target": "chess", "question": "What do I do?"},
    {"subject": "hobby", "target": "x" * 121},
    {"subject": "x" * 61, "target": "chess"},
    {"text": "x" * 1001},
    {"text": "My hobby is chess. " * 5},
    {"subject": "hobby", "target": "che\u0000ss"},
    {"subject": "hobby", "target": "\u001b[2Jchess"},
    {"subject": "hobby", "target": 7},
    {"text": "My hobby is chess.", "unknown": 1},
    [],
]


@pytest.mark.parametrize("body", FAULTY, ids=str)
def test_bodies_that_are_no_preference(shared, reader, body):
    assert reader.put(of("dora"), json=body).status_code == 400 and shared.store.history("dora") == []


@pytest.mark.parametrize("user", HOSTILE)
def test_hostile_ids_are_just_ids(place, client, user):
    had = len(place.store.history(user))
    assert put(client, user, {"subject": "pet", "target": "a cat"}).status_code == 201
    assert [e.user for e in place.store.history(user)][had:] == [user]
    assert client.post(of(user, "undo")).json()["data"][0]["live"] is False
    assert client.delete(of(user)).json()["edits"] == had + 1
    assert {len(place.store.history(other)) for other in USERS if other != user} == {1}


@pytest.mark.parametrize("path", ["a/b/preferences", "/preferences", "a%FF/preferences", "x" * 1025 + "/preferences"])
def test_addresses_that_are_no_users(reader, path):
    assert reader.get(f"/v1/users/{path}").status_code in (400, 404)
    assert reader.delete(f"/v1/users/{path}").status_code in (400, 404)


@pytest.mark.parametrize("edit", ["0", "-1", "99999", "1" * 400, "abc", "1e3", "\u0661"])
def test_edits_that_are_not_the_users(shared, reader, edit):
    assert reader.delete(of("alice", f"preferences/{quote(edit)}")).status_code == 404
    (bobs,) = shared.store.history("bob")
    assert reader.delete(of("alice", f"preferences/{bobs.id}")).status_code == 404
    assert shared.store.history("bob")[0].live


def test_one_edit_by_its_number(place, client):
    first, second = (learned(put(client, "dora", {"subject": s, "target": "x"}))[0] for s in ("pet", "job"))
    (undone,) = client.delete(of("dora", f"preferences/{first['edit']}")).json()["data"]
    assert undone["edit"] == first["edit"]
    assert [one.subject for one in place.store.preferences("dora")] == ["job"]
    assert client.post(of("dora", "undo"), json={"edit": 12345}).status_code == 404
    assert second["edit"] != first["edit"]


def test_the_same_key_again_does_nothing_again(place, client):
    tell = lambda key, text: learned(put(client, "dora", {"text": text}, headers={"Idempotency-Key": key}))
    first, again = tell("k1", "My hobby is chess."), tell("k1", "My hobby is chess.")
    assert [one["edit"] for one in first] == [one["edit"] for one in again] and len(place.store.history("dora")) == 1
    tell("k2", "My hobby is chess.")
    assert len(place.store.history("dora")) == 1, "the same fact is one edit, whatever the key"
    response = client.put(of("dora"), json={"text": "My hobby is chess."}, headers={"Idempotency-Key": "x" * 257})
    assert response.status_code == 400


def test_an_edit_that_would_do_damage_is_refused(place, client, monkeypatch):
    def sick(*args, **kwargs):
        raise HealthError("The edit would damage the model.", got="/secret/path")

    monkeypatch.setattr(place.last.learner, "learn", sick)
    response = put(client, "dora", {"text": "My hobby is chess."})
    assert response.status_code == 422 and response.json()["error"]["code"] == "unhealthy_edit"
    assert "/secret" not in response.text


def test_answers_are_the_same_while_others_learn(place, learning):
    users = [*USERS] * 6
    alone = {user: answer(learning, user) for user in USERS}
    with ThreadPoolExecutor(8) as pool:
        told = pool.submit(put, learning, "dora", {"text": "My hobby is hiking."})
        found = list(pool.map(lambda user: (user, answer(learning, user)), users))
        assert told.result().status_code == 201
    assert all(text == alone[user] for user, text in found)


def test_no_more_changes_than_can_wait(place):
    client = place.client(max_edits=1)
    release, unlearn = threading.Event(), place.last.learner.unlearn
    place.last.learner.unlearn = lambda *a: release.wait(PATIENCE) and unlearn(*a)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, of("alice", "undo"))
        while not place.last._pending:
            assert not first.done()
        refused = client.post(of("bob", "undo"))
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        release.set()
        assert first.result().status_code == 200
    assert client.post(of("bob", "undo")).status_code == 200


def test_the_name_of_a_user_s_adapter_follows_their_edits(place):
    client = place.client({"x" * 32: ["alice", "../../etc/passwd"]})
    head = {"Authorization": "Bearer " + "x" * 32}
    version = place.store.version("alice")
    answer = client.get("/v1/users/alice/adapter", headers=head)
    assert answer.json() == {"object": "adapter", "revision": version, "model": f"alice@{version}"}
    place.store.undo("alice")
    assert client.get("/v1/users/alice/adapter", headers=head).json()["model"] == "base"
    place.store.forget("alice")
    assert client.get("/v1/users/alice/adapter", headers=head).status_code == 404
    assert client.get("/v1/users/bob/adapter", headers=head).status_code == 403
    odd = client.get("/v1/users/..%2F..%2Fetc%2Fpasswd/adapter", headers=head).json()
    assert odd["model"] == f"..%2F..%2Fetc%2Fpasswd@{odd['revision']}"
