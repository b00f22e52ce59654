"""PhraseService against a stub endpoint that behaves, and that misbehaves in every way endpoints do."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from easyedit_personal.clustering import Phrase, PhraseService
from easyedit_personal.clustering.expand import expand
from easyedit_personal.errors import MissingDependencyError, ServiceError

GOOD = {
    "phrases": [
        {"subject": "pastime", "question": "What's my pastime?"},
        {"subject": "spare-time thing", "question": "What do I do for fun?"},
        {"subject": "My Hobby", "question": "What is My Hobby?"},
        {"subject": "pastime", "question": "Which pastime is mine?"},
    ]
}


def completion(content: object, **message: object) -> tuple[int, str]:
    """A chat completion with this content (objects become JSON)."""
    text = content if isinstance(content, str | None) else json.dumps(content)
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **message}}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "stub", "choices": [choice]}
    return 200, json.dumps(body)


class Stub(ThreadingHTTPServer):
    """Gives the scripted answers in turn, the last one for ever; remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list = []
        self.asked: list[tuple[str, str | None, dict]] = []
        self.released = threading.Event()

    def service(self, *script, **options) -> PhraseService:
        self.script = list(script)
        defaults = {"model": "stub-7b", "api_key": "secret-key", "timeout": 5.0}
        return PhraseService(base_url=f"http://127.0.0.1:{self.server_port}/v1", **{**defaults, **options})

    def handle_error(self, request, client_address) -> None:
        """A client that gave up waiting is part of the test."""


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers.get("Authorization"), body))
        script = self.server.script
        step = script.pop(0) if len(script) > 1 else script[0]
        if step == "slow":
            self.server.released.wait(10)
            step = completion(GOOD)
        if step == "hang up":
            self.close_connection = True
            return
        status, text = step[:2]
        self.send_response(status)
        self.send_header("Content-Type", step[2] if len(step) > 2 else "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        self.send_header("retry-after-ms", "1")  # the client would wait half a second otherwise
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_) -> None:
        """Quiet."""


@pytest.fixture
def stub(monkeypatch):
    pytest.importorskip("openai", reason="the llm extra is not installed")
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


ERROR = json.dumps({"error": {"message": "not now", "type": "x"}})
ASK = ("hobby", "What's my hobby?", 5)


def test_good_phrases_come_back_without_repetitions(stub):
    phrases = stub.service(completion(GOOD)).phrases(*ASK)
    assert phrases == [("pastime", "What's my pastime?"), ("spare-time thing", "What's my spare-time thing?")]
    path, key, body = stub.asked[0]
    assert path == "/v1/chat/completions" and key == "Bearer secret-key" and body["model"] == "stub-7b"
    assert json.loads(body["messages"][1]["content"]) == {
        "subject": "hobby",
        "question": "What's my hobby?",
        "count": 5,
    }


def test_users_text_travels_as_data(stub):
    subject = 'pet"} ignore {this} \n {0}'
    stub.service(completion(GOOD)).phrases(subject, "What's my pet?", 1)
    assert json.loads(stub.asked[0][2]["messages"][1]["content"])["subject"] == subject


def test_no_more_than_asked_for(stub):
    assert len(stub.service(completion(GOOD)).phrases("hobby", "What's my hobby?", 1)) == 1


@pytest.mark.parametrize("fault", [(429, ERROR), (500, ERROR), (503, "<html>busy</html>", "text/html"), "hang up"])
def test_passing_faults_are_retried(stub, fault, monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    phrases = stub.service(fault, fault, completion(GOOD)).phrases(*ASK)
    assert phrases[0] == ("pastime", "What's my pastime?") and len(stub.asked) == 3


@pytest.mark.parametrize(
    ("status", "remedy"), [(429, "max_retries"), (500, "lexicon"), (401, "OPENAI_API_KEY"), (404, "base_url lacks /v1")]
)
def test_lasting_faults_end_in_a_clear_error(stub, status, remedy):
    with pytest.raises(ServiceError, match=f"status {status}") as caught:
        stub.service((status, ERROR), max_retries=2).phrases(*ASK)
    assert remedy in str(caught.value) and "secret-key" not in str(caught.value)
    assert len(stub.asked) == (3 if status in (429, 500) else 1)  # asking again cannot mend a wrong key


UNUSABLE = {
    "prose": completion("Sure! Here are some names: pastime, interest."),
    "prose around": completion("Sure! " + json.dumps(GOOD)),
    "cut off": completion(json.dumps(GOOD)[:-10]),
    "a list": completion([1, 2]),
    "wrong key": completion({"names": ["pastime"]}),
    "a key too many": completion({**GOOD, "comment": "hi"}),
    "no phrases": completion({"phrases": []}),
    "numbers": completion({"phrases": [{"subject": 1, "question": "What?"}]}),
    "a missing question": completion({"phrases": [{"subject": "pastime"}]}),
    "blank": completion({"phrases": [{"subject": " ", "question": "What?"}]}),
    "two lines": completion({"phrases": [{"subject": "a\nb", "question": "What is my a\nb?"}]}),
    "endless": completion({"phrases": [{"subject": "x" * 5000, "question": "What?"}]}),
    "only the old name": completion({"phrases": [{"subject": "Hobby", "question": "What's my Hobby?"}]}),
    "empty": completion(""),
    "nothing": completion(None),
    "another JSON": (200, json.dumps({"hello": "world"})),
    "no choices": (200, json.dumps({"id": "1", "object": "chat.completion", "choices": []})),
    "HTML": (200, "<html>Welcome</html>", "text/html"),
    "broken JSON": (200, '{"choices": ['),
}


@pytest.mark.parametrize("answer", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_answer_is_asked_for_again_and_then_an_error(stub, answer):
    assert stub.service(answer, completion(GOOD)).phrases(*ASK)[0].subject == "pastime"
    assert len(stub.asked) == 2
    with pytest.raises(ServiceError, match="no usable phrases for 'hobby' in 2 attempts") as caught:
        stub.service(answer, attempts=2).phrases(*ASK)
    assert len(stub.asked) == 4 and len(str(caught.value)) < 2000


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "```\n{}\n```", "\n {} \n"])
def test_a_code_fence_is_forgiven(stub, fence):
    answer = completion(fence.replace("{}", json.dumps(GOOD)))
    assert len(stub.service(answer, attempts=1).phrases(*ASK)) == 2


def test_a_slow_endpoint_times_out(stub):
    with pytest.raises(ServiceError, match=r"did not answer within 0\.1 s"):
        stub.service("slow", timeout=0.1, max_retries=0).phrases(*ASK)


def test_an_endpoint_that_is_not_there(stub):
    stub.server_close()
    with pytest.raises(ServiceError, match="cannot be reached"):
        stub.service(completion(GOOD), max_retries=0).phrases(*ASK)


def test_model_key_and_endpoint_may_come_from_the_environment(stub, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{stub.server_port}/v1")
    monkeypatch.setenv("OPENAI_MODEL", "env-model")
    stub.script = [completion(GOOD)]
    phrases = expand("hobby", "llm", 3)
    assert phrases == [
        ("hobby", "What is my hobby?"),
        ("pastime", "What's my pastime?"),
        ("spare-time thing", "What is my spare-time thing?"),
    ]
    assert stub.asked[0][2]["model"] == "env-model" and stub.asked[0][1] == "Bearer none"
    assert json.loads(stub.asked[0][2]["messages"][1]["content"])["count"] == 4


def test_missing_settings_are_named_before_anything_is_sent(stub):
    with pytest.raises(ServiceError, match="OPENAI_MODEL"):
        PhraseService(base_url="http://127.0.0.1:1/v1").phrases(*ASK)
    with pytest.raises(ServiceError, match="OPENAI_API_KEY"):
        PhraseService(model="m").phrases(*ASK)
    assert not stub.asked


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(MissingDependencyError, match=r"easyedit-personal\[llm\]"):
        PhraseService(model="m", api_key="k").phrases(*ASK)


def test_the_key_is_not_shown():
    assert "secret" not in repr(PhraseService(api_key="secret"))


def test_expand_keeps_the_original_first_and_stops_at_the_size(stub):
    phrases = expand(Phrase("hobby", "What's my hobby?"), "llm", 2, service=stub.service(completion(GOOD)))
    assert phrases == [("hobby", "What's my hobby?"), ("pastime", "What's my pastime?")]
