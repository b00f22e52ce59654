"""The request log: a line per request that says what was asked for, and never what was said or by whom."""

from __future__ import annotations

import json

import pytest

from easyedit_personal.errors import ConfigError
from easyedit_personal.service.request_log import RequestLog
from tests.service.conftest import wanted

CHAT = "/v1/chat/completions"
SECRET = "My grandmother's maiden name is Zwetschgenbaum."


@pytest.fixture
def logged(place, tmp_path):
    """A client, and its lines; ids are in them where it is made with ``users=True``."""

    def make(**options):
        log = RequestLog(str(tmp_path / "requests"), users=options.pop("users", False))
        place.stack.callback(log.close)
        client = place.client(request_log=log, **options)
        return client, lambda: [json.loads(line) for line in (tmp_path / "requests").read_text().splitlines()]

    return make


@pytest.mark.parametrize("stream", [True, False])
def test_a_line_says_what_was_answered(logged, stream):
    client, lines = logged()
    answer = client.post(CHAT, json=wanted(model="tiny@alice", max_tokens=3, stream=stream))
    (line,) = lines()
    assert line["id"] == answer.headers["x-request-id"] and line["status"] == 200
    assert (line["method"], line["path"]) == ("POST", CHAT)
    assert line["completion_tokens"] <= 3 < line["prompt_tokens"] and line["ms"] > 0
    assert list(line) == ["time", "id", "method", "path", "status", "ms", "prompt_tokens", "completion_tokens"]


def test_neither_words_nor_users_are_in_it(logged, tmp_path):
    token = "token-of-alice-0001"
    client, lines = logged(tokens={token: ["alice"]})
    head = {"Authorization": f"Bearer {token}"}
    client.post(CHAT, json=wanted(SECRET, model="tiny@alice"), headers=head)
    client.get("/v1/users/alice/preferences?note=Zwetschgenbaum", headers=head)
    client.get("/v1/users/bob/preferences", headers=head)
    client.get("/alice/Zwetschgenbaum", headers=head)
    client.get("/v1/models", headers={"Authorization": f"Bearer {token}x"})
    client.request("ALICE", "/v1/models", headers=head)
    assert [line["status"] for line in lines()] == [200, 200, 403, 404, 401, 405]
    assert {line["path"] for line in lines()} >= {"/v1/users/{user:path}/preferences", "other"}
    text = (tmp_path / "requests").read_text().casefold()
    assert not any(word in text for word in ("alice", "bob", "zwetschgen", token, "note", "maiden"))


def test_users_are_named_where_that_is_asked_for(logged):
    client, lines = logged(users=True)
    client.post(CHAT, json=wanted(model="tiny@alice", max_tokens=1))
    client.get("/v1/users/..%2F..%2Fetc%2Fpasswd/preferences")
    client.get("/v1/models")
    assert [line.get("user") for line in lines()] == ["alice", "../../etc/passwd", None]


def test_a_file_that_was_moved_away_is_begun_anew(logged, tmp_path):
    client, lines = logged()
    client.get("/healthz")
    (tmp_path / "requests").rename(tmp_path / "requests.1")
    client.get("/readyz")
    assert [line["path"] for line in lines()] == ["/readyz"]


def test_standard_output_and_places_that_cannot_be_written(capsys, tmp_path):
    RequestLog("-").write("1", "GET", "/", 200, 0.0125, {})
    assert json.loads(capsys.readouterr().out)["ms"] == 12.5
    with pytest.raises(ConfigError, match="cannot be written"):
        RequestLog(str(tmp_path / "missing" / "requests"))
