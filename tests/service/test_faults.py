"""When things go wrong: full queues, a failing model or store, clients that leave; and what the outside is told."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from easyedit_personal.errors import ModelError, StoreError, StoreUnavailable
from easyedit_personal.service.batcher import Batcher, Closed, End, Full, Job
from easyedit_personal.service.stops import Stops
from easyedit_personal.serving.streaming import Stream
from tests.service.conftest import wanted
from tests.waiting import PATIENCE, wait_until

CHAT = "/v1/chat/completions"


class Listener:
    """What a job tells, and when it ended."""

    def __init__(self):
        self.text, self.end, self.over = "", None, threading.Event()

    def __call__(self, text, end):
        self.text += text
        if end:
            self.end = end
            self.over.set()


@pytest.fixture
def batcher(place):
    made = Batcher(place.model, place.tokenizer, max_rows=2, max_waiting=2, window=0.0)
    yield made
    place.held.release()
    assert made.close(PATIENCE)


def job(place, listener, limit=8, stops=()):
    return Job(place.last.prepare(None, [{"role": "user", "content": "hi there"}], limit)[0], listener, Stops(stops))


def test_seats_and_the_queue_are_bounded_and_freed_by_who_leaves(place, batcher):
    place.last = place.service()
    listeners = [Listener() for _ in range(4)]
    place.held.hold()
    jobs = [job(place, listener, 40) for listener in listeners]
    batcher.submit(jobs[0])
    assert place.held.entered.wait(PATIENCE)
    for one in jobs[1:3]:
        batcher.submit(one)
    with pytest.raises(Full):
        batcher.submit(jobs[3])
    batcher.cancel(jobs[1])
    batcher.submit(jobs[3])  # there is room again
    place.held.release()
    assert listeners[2].over.wait(PATIENCE) and listeners[3].over.wait(PATIENCE) and listeners[0].over.wait(PATIENCE)
    assert listeners[1].end is None and max(place.held.rows) == 2
    assert listeners[2].text == listeners[0].text


def test_who_leaves_in_the_middle_is_not_written_any_longer(place, batcher):
    place.last = place.service()
    listener = Listener()
    one = job(place, listener, 200)
    place.held.hold()
    batcher.submit(one)
    assert place.held.entered.wait(PATIENCE)
    batcher.cancel(one)
    place.held.release()
    wait_until(lambda: not batcher.running, "it is still being written")
    assert sum(place.held.rows) <= 2 and len(one.stream.tokens) <= 1


def test_closing_finishes_what_was_taken(place, batcher):
    place.last = place.service()
    listeners = [Listener() for _ in range(3)]
    place.held.hold()
    batcher.submit(job(place, listeners[0], 20))
    assert place.held.entered.wait(PATIENCE)  # it has its seat, so two more may wait
    for listener in listeners[1:]:
        batcher.submit(job(place, listener, 20))
    closing = threading.Thread(target=batcher.close)
    closing.start()
    place.held.release()
    closing.join(PATIENCE)
    assert [listener.end.tokens for listener in listeners] == [listeners[0].end.tokens] * 3
    assert listeners[0].text and not batcher.alive
    with pytest.raises(Closed):
        batcher.submit(job(place, Listener()))


def test_a_failing_step_ends_those_of_the_moment_only(place, batcher, monkeypatch, caplog):
    place.last = place.service()
    step, failing = batcher._streams.step, [True]

    def sometimes():
        if failing:
            failing.pop()
            raise_in = RuntimeError("/secret/device lost")
            batcher._streams._fail(raise_in)
            raise raise_in
        step()

    monkeypatch.setattr(batcher._streams, "step", sometimes)
    first, second = Listener(), Listener()
    batcher.submit(job(place, first))
    assert first.over.wait(PATIENCE) and isinstance(first.end.error, RuntimeError)
    batcher.submit(job(place, second))
    assert second.over.wait(PATIENCE) and second.end.error is None and second.text


def test_a_listener_that_fails_does_not_stop_the_others(place, batcher):
    place.last = place.service()

    def deaf(text, end):
        raise RuntimeError("the event loop is closed")

    heard = Listener()
    batcher.submit(job(place, deaf))
    batcher.submit(job(place, heard))
    assert heard.over.wait(PATIENCE) and heard.text


def test_stop_strings_over_any_split():
    text, stops = "one two three", ["two t", "e t", "zzz"]
    for size in range(1, 8):
        cut = Stops(stops)
        said = "".join(cut.feed(text[i : i + size]) for i in range(0, len(text), size)) + cut.rest()
        assert cut.hit and said == "on"  # "e t" ends first, wherever the pieces do
    kept = Stops(["two x"])
    assert kept.feed("one tw") == "one " and kept.feed("o") == "" and kept.feed("!") == "two!" and not kept.hit
    assert kept.feed(" tw") == " " and kept.rest() == "tw"


def test_the_answers_end_is_told(place, batcher):
    place.last = place.service()
    limited, stopped = Listener(), Listener()
    batcher.submit(job(place, limited, 3))
    assert limited.over.wait(PATIENCE) and limited.end == End("length", 3)
    batcher.submit(job(place, stopped, 20, [limited.text[0]]))
    assert stopped.over.wait(PATIENCE) and stopped.text == "" and stopped.end.reason == "stop"


def test_who_cannot_wait_is_told_to_come_back(place):
    client = place.client(max_rows=1, max_waiting=1, window=0.0)
    place.held.hold()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.post, CHAT, json=wanted())]
        assert place.held.entered.wait(PATIENCE)
        waiting.append(pool.submit(client.post, CHAT, json=wanted()))
        while not place.last.batcher.waiting:
            assert not waiting[1].done()
        for stream in (False, True):
            refused = client.post(CHAT, json=wanted(stream=stream))
            assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "overloaded"
        place.held.release()
        assert [one.result().status_code for one in waiting] == [200, 200]


FAULTS = {
    "a bug": (RuntimeError("/secret/path of alice"), 500, "internal_error"),
    "a damaged store": (StoreError("A factor is damaged.", got="/secret/path"), 500, "internal_error"),
    "a store that is away": (StoreUnavailable("No server at /secret/path."), 503, "overloaded"),
    "another base model": (
        ModelError("/secret/path", cause="the factors were made for another base model"),
        409,
        "wrong_base_model",
    ),
}


@pytest.mark.parametrize(("error", "status", "code"), FAULTS.values(), ids=FAULTS)
def test_faults_are_in_the_log_and_not_in_the_answer(place, client, monkeypatch, caplog, error, status, code):
    def broken(user):
        raise error

    monkeypatch.setattr(place.last.cache, "memory", broken)
    with caplog.at_level(logging.ERROR, "easyedit_personal"):
        response = client.post(CHAT, json=wanted(model="tiny@alice"))
    assert response.status_code == status and response.json()["error"]["code"] == code
    assert "secret" not in response.text and "Traceback" not in response.text
    if status == 500:
        name = response.headers["x-request-id"]
        assert name in response.json()["error"]["message"] and name in caplog.text and "/secret/path" in caplog.text
    assert client.post(CHAT, json=wanted()).status_code == 200  # the base model needs no store


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_fails_in_the_middle(place, client, monkeypatch, caplog, stream):
    take = Stream.take

    def breaking(self, token, tokenizer):
        if len(self.tokens) == 2:
            raise RuntimeError("/secret/device lost")
        take(self, token, tokenizer)

    with monkeypatch.context() as patched:
        patched.setattr(Stream, "take", breaking)
        response = client.post(CHAT, json=wanted(stream=stream))
    assert "internal_error" in response.text and "secret" not in response.text and "/secret/device" in caplog.text
    assert response.status_code == (200 if stream else 500)  # a stream had begun
    assert "[DONE]" not in response.text
    assert client.post(CHAT, json=wanted()).status_code == 200


def test_health_says_what_is_out_of_order(place, client, monkeypatch):
    assert client.get("/healthz").json()["status"] == client.get("/readyz").json()["status"] == "ok"
    with monkeypatch.context() as patched:
        patched.setattr(place.store, "version", lambda user: (_ for _ in ()).throw(StoreError("gone")))
        without = client.get("/readyz")
        assert without.status_code == 503 and "store" in without.json()["status"]
        assert client.get("/healthz").status_code == 200  # a restart would not bring the store back
    place.last.batcher.close()
    for sick in (client.get("/healthz"), client.get("/readyz")):
        assert sick.status_code == 503 and "model" in sick.json()["status"]
    assert client.post(CHAT, json=wanted()).status_code == 503


def test_figures_count_and_name_nobody(place, client):
    client.post(CHAT, json=wanted(model="tiny@alice", max_tokens=3))
    client.put("/v1/users/dora/preferences?wait=300", json={"text": "My hobby is chess."})
    client.get("/v1/users/dora/nothing")
    figures = client.get("/metrics").text
    prefix = "easyedit_personal_"
    assert f'{prefix}requests_total{{method="POST",route="{CHAT}",status="200"}} 1.0' in figures
    assert f'{prefix}edits_total{{kind="learn",outcome="done"}} 1.0' in figures
    assert f'{prefix}tokens_total{{kind="completion"}} 3.0' in figures
    assert f"{prefix}first_token_seconds_count 1.0" in figures and f"{prefix}batch_rows_count 3.0" in figures
    assert f"{prefix}cache_misses_total 1.0" in figures and f"{prefix}answers_running 0.0" in figures
    assert not any(word in figures for word in ("alice", "dora", "chess", "hobby"))
