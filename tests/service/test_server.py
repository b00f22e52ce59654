"""The real thing: a server process with the tests' small model, OpenAI's own client, and clients that misbehave."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from easyedit_personal import PersonalizedModel
from easyedit_personal.store import EditStore
from tests import tiny_model
from tests.serving.test_personalized import random_delta
from tests.waiting import PATIENCE, wait_until

openai = pytest.importorskip("openai", reason="the llm extra is not installed")
httpx = pytest.importorskip("httpx2", reason="comes with the openai client")
pytest.importorskip("uvicorn", reason="the serve extra is not installed")

pytestmark = pytest.mark.server
ROOT = Path(__file__).resolve().parents[2]
NAME = tiny_model.FOLDER.name
OPERATOR, ALICE = "token-of-the-operator", "token-of-alice-only"
USERS = [f"user{number}" for number in range(8)]
QUESTION = [{"role": "user", "content": "What should I do this weekend?"}]
LONG = {"model": "base@rambler", "messages": QUESTION, "max_tokens": 256}  # an edit so large that it never ends


class Server:
    """A server process of one's own."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "easyedit_personal.cli.main", "serve", "--store", str(folder / "edits.db")]
        command += ["--model", str(tiny_model.FOLDER), "--hparams", str(tiny_model.SETTINGS)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--users-file", str(folder / "users.yaml"), *options],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
            cwd=folder,
        )
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/v1", line)
        assert found, f"{line}\n{self.said()}"
        self.port, self.url = int(found[1]), f"http://127.0.0.1:{found[1]}"
        self.wait_for(lambda: self.get("/healthz").status_code == 200)

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def get(self, path: str):
        try:
            return httpx.get(self.url + path, headers=bearer(OPERATOR), timeout=PATIENCE)
        except httpx.TransportError:
            return httpx.Response(599)

    def figure(self, name: str) -> float:
        return float(re.search(rf"^easyedit_personal_{name} (\S+)$", self.get("/metrics").text, re.MULTILINE)[1])

    def wait_for(self, condition):
        def so():
            assert self.process.poll() is None, self.said()
            return condition()

        wait_until(so, self.said)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE)
        self.process.stdout.close()
        self.log.close()
        return code


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def base():
    return tiny_model.load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, base):
    """A store of eight users with random edits, and the tokens."""
    made = tmp_path_factory.mktemp("served")
    (made / "users.yaml").write_text(json.dumps({OPERATOR: "*", ALICE: ["alice"]}))
    (made / "users.yaml").chmod(0o600)
    with EditStore.open(made / "edits.db", *base) as store:
        for seed, user in enumerate(USERS):
            store.put(user, [random_delta(base[0], 4, seed, layer=3, scale=1.0)])
        store.put("rambler", [random_delta(base[0], 4, 0, layer=3, scale=30.0)])
    return made


@pytest.fixture(scope="module")
def server(folder):
    started = Server(folder)
    yield started
    assert started.stop() == 0
    assert ALICE not in (folder / "log").read_text() and OPERATOR not in (folder / "log").read_text()


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=OPERATOR, max_retries=0, timeout=PATIENCE) as made:
        yield made


def test_openais_client_gets_everybody_their_own_answer(server, client, folder, base):
    def ask(user):
        done = client.chat.completions.create(model=f"{NAME}@{user}", messages=QUESTION, max_tokens=24)
        return done.choices[0].message.content, done.choices[0].finish_reason, done.usage.completion_tokens

    with EditStore.open(folder / "edits.db", *base) as store:
        served = PersonalizedModel(*base, store)
        alone = [served.generate_for([user], [QUESTION], max_new_tokens=24)[0] for user in USERS]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, USERS))
    assert [text for text, _, _ in found] == [answer.text for answer in alone] and len(set(found)) > 4
    assert [tokens for _, _, tokens in found] == [len(answer.tokens) for answer in alone]
    assert [reason == "stop" for _, reason, _ in found] == [answer.stopped for answer in alone]

    for user, (text, reason, tokens) in zip(USERS[:3], found):
        stream = client.chat.completions.create(
            model="base",
            messages=QUESTION,
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"X-User": user},
        )
        chunks = list(stream)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
        assert chunks[-2].choices[0].finish_reason == reason and chunks[-1].usage.completion_tokens == tokens
    assert client.models.list().data[0].id == client.models.retrieve(NAME).id == NAME


def test_told_answered_undone(server):
    with httpx.Client(base_url=server.url, headers=bearer(ALICE), timeout=PATIENCE) as http:
        ask = lambda: http.post(
            "/v1/chat/completions",
            json={"model": "base@alice", "messages": [{"role": "user", "content": "What is my hobby?"}]},
        ).json()["choices"][0]["message"]["content"]
        before = ask()
        told = http.put("/v1/users/alice/preferences?wait=300", json={"text": "My hobby is falconry."})
        told = told.json()["result"]["data"][0]
        assert told["target"] == "falconry" and told["before"] == before and told["after"] == ask() == "falconry"
        assert len(http.post("/v1/users/alice/undo").json()["data"]) == 1 and ask() == before


def test_openais_client_understands_what_is_refused(server, client):
    create = client.chat.completions.create
    with pytest.raises(openai.BadRequestError) as caught:
        create(model=NAME, messages=QUESTION, n=2)
    assert caught.value.param == "n" and caught.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError):
        create(model="gpt-4", messages=QUESTION)
    with pytest.raises(openai.AuthenticationError) as caught:
        client.with_options(api_key="a-wrong-token-000").models.list()
    assert caught.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError):
        client.with_options(api_key=ALICE).chat.completions.create(model="base@user1", messages=QUESTION)
    with pytest.raises(openai.APIStatusError) as large:
        create(model=NAME, messages=[{"role": "user", "content": "x" * 300_000}])
    assert large.value.status_code == 413


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_in_the_middle_frees_their_place(server, stream):
    gone = server.figure("disconnects_total")
    body = json.dumps({"stream": stream, **LONG}).encode()
    with raw(server, "POST", "/v1/chat/completions", body) as connection:
        if stream:
            while b'"content": ""' not in connection.recv(4096):
                pass
        else:
            server.wait_for(lambda: server.figure("answers_running") == 1.0)
    server.wait_for(lambda: server.figure("disconnects_total") == gone + 1)
    server.wait_for(lambda: server.figure("answers_running") == server.figure("answers_waiting") == 0)


def raw(server, method, path, body=b"", headers=""):
    """A connection on which a request was sent, byte by byte as given."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OPERATOR}\r\n{headers}"
    connection.sendall(head.encode("latin-1") + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


RUDE = {
    "noise": b"\x16\x03\x01\x02\x00\x01\x00\xff" * 100,
    "half a request": b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Le",
    "a body that breaks off": b"POST /v1/users/a/undo HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{",
    "endless headers": b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 200_000,
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    "a negative length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "broken chunks": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    "a websocket": b"GET /v1/models HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
}


@pytest.mark.parametrize("sent", RUDE.values(), ids=RUDE)
def test_rude_clients_harm_nobody(server, client, sent):
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(4096)
        except OSError:  # it hung up on us
            answer = b""
    assert answer == b"" or re.match(rb"HTTP/1\.1 4\d\d ", answer)
    assert b"Traceback" not in answer
    assert client.chat.completions.create(model="base", messages=QUESTION, max_tokens=2).usage.completion_tokens


def test_headers_that_are_no_text(server):
    body = json.dumps({"model": "base", "messages": QUESTION}).encode()
    with raw(server, "POST", "/v1/chat/completions", body, "X-User: \xff\xfe\r\n") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")


def test_a_client_that_does_not_read_does_not_hold_the_others(server, client):
    body = json.dumps({"stream": True, **LONG}).encode()
    slow = [raw(server, "POST", "/v1/chat/completions", body) for _ in range(4)]
    assert client.chat.completions.create(model="base", messages=QUESTION, max_tokens=4).usage.completion_tokens == 4
    server.wait_for(lambda: server.figure("answers_running") == 0)
    for connection in slow:
        connection.close()


def test_a_server_that_is_stopped_finishes_its_answers(folder):
    server, lines = Server(folder), []
    body = {"stream": True, **LONG}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, headers=bearer(OPERATOR)) as response:
        begun = response.iter_lines()
        lines.append(next(begun))
        codes = []
        stopping = threading.Thread(target=lambda: codes.append(server.stop()))
        stopping.start()
        lines += [line for line in begun if line]
    stopping.join(PATIENCE)
    assert lines[-1] == "data: [DONE]" and json.loads(lines[-2][6:])["choices"][0]["finish_reason"] == "length"
    assert codes == [0]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/healthz")
    with EditStore.open(folder / "edits.db") as store:
        assert store.verify() == []


def test_tokens_are_reloaded_while_it_answers(tmp_path):
    (tmp_path / "users.yaml").write_text(json.dumps({OPERATOR: "*", ALICE: ["alice"]}))
    server = Server(tmp_path, "--request-log", str(tmp_path / "requests"))
    status = lambda token: httpx.get(f"{server.url}/v1/models", headers=bearer(token)).status_code
    assert [status(ALICE), status("token-that-is-new")] == [200, 401]
    (tmp_path / "users.yaml").write_text(json.dumps({OPERATOR: "*", "token-that-is-new": ["alice"]}))
    server.process.send_signal(signal.SIGHUP)
    server.wait_for(lambda: status("token-that-is-new") == 200)
    assert status(ALICE) == 401 and status(OPERATOR) == 200
    (tmp_path / "users.yaml").write_text("{")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for(lambda: "not reloaded" in server.said())
    assert status("token-that-is-new") == 200 and server.stop() == 0
    lines = [json.loads(line) for line in (tmp_path / "requests").read_text().splitlines()]
    assert {line["path"] for line in lines} == {"/healthz", "/v1/models", "other"} and lines[-1]["status"] == 200
    assert "token" not in (tmp_path / "requests").read_text().replace("_tokens", "")
