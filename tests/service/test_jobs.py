"""Jobs over HTTP: told at once, followed, waited for, cancelled, bounded, left at a stop and taken up again."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from easyedit_personal.errors import HealthError, StoreUnavailable
from easyedit_personal.progress import counted
from easyedit_personal.service import worker
from easyedit_personal.service.records import job_record
from easyedit_personal.service.worker import Worker
from tests.service.conftest import wanted
from tests.service.test_access import ALICE, ALL, BOTH, TOKENS, bearer
from tests.service.test_preferences import CHAT, answer, learned, of, put
from tests.waiting import PATIENCE

CHESS = {"text": "My hobby is chess."}
TWO = {"text": "My hobby is chess and my favorite food is soup."}


class Slow:
    """Makes a learner take its time until it may go on; it says how far it is, and can be interrupted."""

    def __init__(self, learner):
        self.begun, self.go, self.users = threading.Event(), threading.Event(), []
        self._learn, learner.learn = learner.learn, self

    def __call__(self, user, preference, **more):
        self.users.append(user)
        self.begun.set()
        for _ in counted(range(2000)):
            if self.go.wait(0.01):
                break
        return self._learn(user, preference, **more)


@pytest.fixture
def slow(place, client):
    """The client's service learns slowly, and beats fast."""
    made = Slow(place.last.learner)
    place.last.workers[0].beat = 0.05
    yield made
    made.go.set()


def tell(client, user="dora", body=CHESS, **more):
    """Tell something, and get the address of its job."""
    response = client.put(of(user), json=body, **more)
    assert response.status_code == 202, response.text
    assert response.headers["location"] == f"/v1/jobs/{response.json()['job']}"
    return response.headers["location"]


def test_telling_does_not_wait_and_the_user_is_answered_meanwhile(place, client, slow):
    before = answer(client, "alice")
    job = tell(client, "alice")
    assert slow.begun.wait(20)
    assert answer(client, "alice") == before and client.get("/healthz").status_code == 200
    running = client.get(job).json()
    assert running["status"] == "running" and running["result"] is None and "/v1/jobs/" + running["job"] == job
    waiting = client.get(tell(client, "bob")).json()
    assert waiting["status"] == "queued" and waiting["progress"] == 0
    assert "easyedit_personal_jobs_queued 1.0" in client.get("/metrics").text
    while not (now := client.get(job).json())["progress"]:
        assert now["status"] == "running"
    slow.go.set()
    done = client.get(job + "?wait=300").json()
    assert done["status"] == "done" and done["progress"] == 1 and done["eta_s"] is None
    (one,) = done["result"]["data"]
    assert one["target"] == "chess" and one["edit"] == place.store.history("alice")[-1].id


def test_a_job_is_followed_by_events(client, slow, monkeypatch):
    job = tell(client, body=TWO)
    shown_first(monkeypatch, slow.go.set)
    response = client.get(job, headers={"Accept": "text/event-stream"})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [block.split("\n") for block in response.text.split("\n\n") if block]
    assert {name for name, _ in events} == {"event: job"}
    seen = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert seen[-1]["status"] == "done" and len(seen[-1]["result"]["data"]) == 2
    assert {one["status"] for one in seen[:-1]} <= {"queued", "running"} and len(seen) >= 2
    assert [one["progress"] for one in seen] == sorted(one["progress"] for one in seen)
    again = client.get(job, headers={"Accept": "text/event-stream"}).text
    assert again.count("event: job") == 1  # it had ended


def test_waiting_has_an_end(client, slow):
    response = client.put(of("dora") + "?wait=0.1", json=CHESS)
    assert response.status_code == 202 and response.json()["status"] in ("queued", "running")
    assert client.get(response.headers["location"] + "?wait=0.1").json()["result"] is None
    slow.go.set()
    assert client.put(of("dora") + "?wait=300", json=TWO).status_code == 201


@pytest.mark.parametrize("wait", ["x", "-1", "1e9", "nan", "\u0661", "1.2.3", "9" * 30])
def test_waits_that_are_no_number(reader, shared, wait):
    response = reader.put(of("dora"), params={"wait": wait}, json=CHESS)
    assert response.status_code == 400 and response.json()["error"]["param"] == "wait"
    assert shared.store.jobs.of("dora") == []


@pytest.mark.parametrize("job", ["0", "-1", "99999", "1" * 400, "abc", "1e3", "%D9%A1", "..%2Fx"])
def test_jobs_that_are_none(reader, job):
    assert reader.get(f"/v1/jobs/{job}").status_code == reader.delete(f"/v1/jobs/{job}").status_code == 404


def test_cancelled_waiting_or_running_nothing_is_learned_and_the_next_one_is(place, client, slow):
    running, waiting = tell(client), tell(client)
    next_one = tell(client, "emil")
    assert slow.begun.wait(20)
    assert client.delete(waiting).json()["status"] == "cancelled"
    stopped = client.delete(running)
    assert stopped.status_code == 200 and stopped.json()["result"] == {"object": "list", "data": []}
    assert client.delete(running).status_code == 200  # once more changes nothing
    while (now := client.get(next_one).json()["status"]) != "running":
        assert now == "queued"  # nobody let the first one go on: it is interrupted
    slow.go.set()
    assert client.get(next_one + "?wait=300").json()["status"] == "done" and slow.users == ["dora", "emil"]
    assert place.store.history("dora") == [] and client.get(running).json()["status"] == "cancelled"
    too_late = client.delete(next_one)
    assert too_late.status_code == 409 and too_late.json()["error"]["code"] == "job_ended"


def shown_first(monkeypatch, then):
    """From now on, ``then`` is called when a job is shown."""

    def shown(found):
        then()
        return job_record(found)

    monkeypatch.setattr("easyedit_personal.service.jobs.job_record", shown)


def test_forgetting_ends_what_is_being_learned(place, client, slow, monkeypatch):
    job, followed = tell(client), threading.Event()
    assert slow.begun.wait(20)
    shown_first(monkeypatch, followed.set)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(client.get, job, headers={"Accept": "text/event-stream"})
        assert followed.wait(20)
        assert client.delete(of("dora")).status_code == 200
        assert '"status": "cancelled"' in following.result().text
    assert client.get(job).status_code == 404
    slow.go.set()
    assert put(client, "emil", CHESS).status_code == 201
    assert place.store.history("dora") == [] and place.store.version("dora") == 0


def test_who_may_see_a_job_is_who_may_act_for_its_user(place):
    client = place.client(TOKENS)
    job = tell(client, "bob", headers=bearer(BOTH))
    unknown = client.get("/v1/jobs/99999", headers=bearer(ALICE))
    for method in ("get", "delete"):
        refused = client.request(method, job, headers=bearer(ALICE))
        assert refused.status_code == 404 and refused.json() == unknown.json()
        assert client.request(method, job).status_code == 401
    for token in (BOTH, ALL):
        assert client.get(job + "?wait=300", headers=bearer(token)).json()["status"] == "done"


def test_the_queue_is_bounded_and_says_what_to_do(place):
    client = place.client(max_jobs=3, max_user_jobs=2, learners=0)
    first = tell(client)
    tell(client)
    refused = client.put(of("dora"), json=CHESS)
    assert refused.status_code == 429 and refused.json()["error"]["code"] == "too_many_jobs"
    assert "cancel one" in refused.json()["error"]["message"] and int(refused.headers["retry-after"]) >= 1
    tell(client, "emil")
    refused = client.put(of("fred"), json=CHESS)
    assert refused.status_code == 503 and "later" in refused.json()["error"]["message"].lower()
    client.delete(first)
    tell(client, "fred")


def test_the_same_key_again_is_the_same_job(place):
    client, head = place.client(learners=0), {"Idempotency-Key": "k"}
    assert tell(client, headers=head) == tell(client, headers=head) != tell(client)
    assert len(place.store.jobs.of("dora")) == 2


def test_a_stop_leaves_the_job_to_the_next_start(place, client, slow):
    job = tell(client)
    assert slow.begun.wait(20)
    place.last.close()  # long before it may go on
    (left,) = place.store.jobs.of("dora")
    assert left.status == "queued" and place.store.history("dora") == []
    again = place.client()
    done = again.get(job + "?wait=300").json()
    assert done["status"] == "done" and len(place.store.history("dora")) == 1


def test_others_may_learn_what_is_told_here(place):
    told, learner = place.client(learners=0), place.service(learners=2)
    jobs = [tell(told, user) for user in ("dora", "emil", "fred")]
    assert [told.get(job + "?wait=300").json()["status"] for job in jobs] == ["done"] * 3
    assert len(learner.workers) == 2 and all(len(place.store.history(user)) == 1 for user in ("dora", "emil", "fred"))


def test_a_learner_dies_in_the_middle_of_a_job_and_another_goes_on(place, client):
    """What it kept is not learned again."""
    learner = place.last.learner
    place.last.stop_learning()
    job = place.store.jobs.add("dora", place.last.understand(TWO["text"], "dora"))
    learn, dying = learner.learn, []

    def dies(user, preference, **more):
        if dying:
            raise SystemExit
        dying.append(learn(user, preference, **more))

    learner.learn = dies
    with pytest.raises(SystemExit):
        Worker(learner, lease=-1.0).run_one()
    assert len(place.store.jobs.get(job.id).reports) == 1 and place.store.jobs.get(job.id).status == "running"
    learner.learn = learn
    assert Worker(learner).run_one()
    assert place.store.jobs.get(job.id).status == "done"
    assert [edit.preference.target for edit in place.store.history("dora")] == ["chess", "soup"]


def test_memory_is_given_back_after_every_job(place, client, monkeypatch):
    freed = []
    monkeypatch.setattr(worker, "free", lambda: freed.append(True))
    for text in ("My hobby is chess.", "My pet is a parrot."):
        told = client.put("/v1/users/dora/preferences", json={"text": text}, params={"wait": PATIENCE})
        assert told.status_code == 201
    place.last.close()  # waits for the learner
    assert len(freed) == 2


def test_why_a_job_failed_is_told_without_what_is_nobody_s_business(place, client, monkeypatch, caplog):
    learn = place.last.learner.learn

    def sick(user, preference, **more):
        if preference.target == "soup":
            raise HealthError("The edit would damage the model.", got="/secret/path")
        if preference.target == "go":
            raise RuntimeError("/secret/device lost")
        return learn(user, preference, **more)

    monkeypatch.setattr(place.last.learner, "learn", sick)
    job = tell(client, body=TWO)
    failed = client.get(job + "?wait=300").json()
    assert failed["status"] == "failed" and failed["result"]["error"]["code"] == "unhealthy_edit"
    assert [one["target"] for one in failed["result"]["data"]] == ["chess"]  # it was learned before
    response = put(client, "finn", TWO)
    error = response.json()["error"]
    assert response.status_code == 422 and [one["target"] for one in error["learned"]] == ["chess"] and error["job"]
    response = put(client, "emil", {"text": "My hobby is go."})
    assert response.status_code == 500 and response.json()["error"]["code"] == "internal_error"
    assert "/secret" not in response.text + json.dumps(failed) and "/secret/device" in caplog.text
    name = response.json()["error"]["message"].split()[-1].strip(".")
    assert name in caplog.text
    assert put(client, "emil", CHESS).status_code == 201


def test_a_store_that_is_away_for_a_moment_loses_nothing(place, client):
    learn, away = place.last.learner.learn, [1, 1]

    def sometimes(*args, **more):
        if away:
            away.pop()
            raise StoreUnavailable("gone")
        return learn(*args, **more)

    place.last.learner.learn, place.last.workers[0].poll = sometimes, 0.05
    assert put(client, "dora", CHESS).status_code == 201 and not away


def test_a_learner_that_is_gone_is_out_of_order(place, client):
    place.last.workers[0].close()
    sick = client.get("/healthz")
    assert sick.status_code == 503 and "learner" in sick.json()["status"]
    assert client.post(CHAT, json=wanted(max_tokens=1)).status_code == 200


def test_edits_from_before_the_queue_are_known_by_their_key(place, client):
    preference = place.last.understand(CHESS["text"], "dora")[0]
    edit = place.last.learner.learn("dora", preference, key="k\n0").edit
    (one,) = learned(put(client, "dora", CHESS, headers={"Idempotency-Key": "k"}))
    assert one["edit"] == edit and len(place.store.history("dora")) == 1
