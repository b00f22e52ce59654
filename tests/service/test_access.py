"""Who may come in, for whom, how often, and with how much; and that nothing leaks to those who may not."""

from __future__ import annotations

import hashlib
import logging
import signal

import pytest
from starlette.testclient import TestClient

from easyedit_personal.errors import ConfigError
from easyedit_personal.service.access import Access
from easyedit_personal.service.api_errors import ApiError
from easyedit_personal.service.app import create_app
from easyedit_personal.service.limits import MAX_KEYS, Rate
from easyedit_personal.service.run import read_access, reload_on_hangup
from easyedit_personal.service.settings import Settings, check_exposed, is_loopback
from tests.service.conftest import wanted

ALICE, BOTH, ALL = "token-of-alice-0001", "token-of-both-00002", "token-of-all-000003"
TOKENS = {ALICE: ["alice"], BOTH: ["alice", "bob"], ALL: "*"}
PATH = "/v1/chat/completions"


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def guarded(shared):
    return shared.client(TOKENS)


ASKED = {
    "base": ("post", PATH, wanted(max_tokens=1), None),
    "alice": ("post", PATH, wanted(model="tiny@alice", max_tokens=1), "alice"),
    "bob": ("post", PATH, wanted(model="base@bob", max_tokens=1, stream=True), "bob"),
    "alice's list": ("get", "/v1/users/alice/preferences", None, "alice"),
    "bob's list": ("get", "/v1/users/bob/preferences", None, "bob"),
    "bob's undo": ("post", "/v1/users/bob/undo", None, "bob"),
    "bob's edit": ("delete", "/v1/users/bob/preferences/999", None, "bob"),
    "eve's": ("get", "/v1/users/eve/preferences", None, "eve"),
    "figures": ("get", "/metrics", None, "everybody"),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("token", [None, "wrong-token-0000000", ALICE[:-1], ALICE, BOTH, ALL])
def test_every_token_on_every_door(guarded, token, asked):
    method, path, body, user = ASKED[asked]
    response = guarded.request(method, path, json=body, headers=bearer(token) if token else {})
    if token not in TOKENS:
        assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["type"] == "authentication_error"
    elif user is None or TOKENS[token] == "*" or user in TOKENS[token]:
        assert response.status_code == (404 if asked == "bob's edit" else 200)
    else:
        assert response.status_code == 403 and response.json()["error"]["type"] == "permission_error"


@pytest.mark.parametrize("method", ["put", "delete"])
def test_nobody_changes_or_forgets_others(shared, guarded, method):
    body = {"text": "My hobby is chess."} if method == "put" else None
    response = guarded.request(method, "/v1/users/bob/preferences", json=body, headers=bearer(ALICE))
    assert response.status_code == 403 and len(shared.store.history("bob")) == 1


def test_the_header_does_not_get_around_it(guarded):
    headers = [("X-User", "bob"), ("Authorization", f"Bearer {ALICE}")]
    assert guarded.post(PATH, json=wanted(), headers=headers).status_code == 403
    assert guarded.post(PATH, json=wanted(model="tiny@alice"), headers=bearer(ALICE)).status_code == 200


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", ALICE, f"Basic {ALICE}", f"Bearer {ALICE}x", "Bearer \u00fc"]
)
def test_headers_that_are_no_token(header):
    with pytest.raises(ApiError) as caught:
        Access(TOKENS).caller(header)
    assert caught.value.status == 401 and ALICE not in str(caught.value)


def test_strangers_learn_nothing_of_what_there_is(guarded):
    answers = {guarded.get(path).text for path in ("/v1/models", "/nothing", "/v1/users/alice/preferences", "/docs")}
    assert len(answers) == 1
    assert guarded.get("/healthz").json()["status"] == "ok"
    assert all(guarded.get(path, headers=bearer(ALL)).status_code == 404 for path in ("/docs", "/openapi.json", "/x"))


def test_a_digest_stands_for_a_token():
    access = Access({f"sha256:{hashlib.sha256(ALICE.encode()).hexdigest()}": ["alice"]})
    assert access.caller(f"bearer {ALICE}").users == {"alice"}
    with pytest.raises(ApiError):
        access.caller(f"Bearer sha256:{hashlib.sha256(ALICE.encode()).hexdigest()}")


FAULTY = {
    "short": ({"secret": "*"}, "16 characters"),
    "a number": ({123: "*"}, "quotes"),
    "a blank": ({"a token with blanks": "*"}, "blanks"),
    "half a digest": ({"sha256:00112233445566": "*"}, "64 hexadecimal"),
    "no users": ({ALICE: []}, "list"),
    "users as text": ({ALICE: "alice"}, "list"),
    "a numeric user": ({ALICE: [7]}, "quotes"),
    "a star in a list": ({ALICE: ["*"]}, "stands alone"),
    "nobody": ({}, "nobody could come in"),
}


@pytest.mark.parametrize(("tokens", "fault"), FAULTY.values(), ids=FAULTY)
def test_faulty_tokens_are_refused_and_not_shown(tokens, fault):
    with pytest.raises(ConfigError, match=fault) as caught:
        Access(tokens)
    assert not any(str(token) in str(caught.value) for token in tokens)


def test_tokens_from_files(tmp_path, caplog):
    users, one = tmp_path / "users.yaml", tmp_path / "token"
    users.write_text(f'{ALICE}: [alice]\n"{BOTH}": "*"\n')
    one.write_text(f"{ALL}\n")
    users.chmod(0o644)
    with caplog.at_level(logging.WARNING, "easyedit_personal"):
        access = read_access("token-on-the-line-4", one, users)
    assert "chmod 600" in caplog.text and ALICE not in caplog.text
    given = [access.caller(f"Bearer {token}").users for token in (ALICE, BOTH, ALL, "token-on-the-line-4")]
    assert given == [{"alice"}, None, None, None]
    assert read_access(None, None, None).is_open
    users.write_text(f"{ALICE}: [alice\n")
    for path in (users, tmp_path / "missing", one):
        with pytest.raises(ConfigError) as caught:
            read_access(None, None, path)
        assert ALICE not in str(caught.value) and ALL not in str(caught.value)


def test_tokens_are_reloaded_and_bad_ones_change_nothing(shared, tmp_path, caplog, monkeypatch):
    handlers, users = {}, tmp_path / "users.yaml"
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    users.write_text(f"{ALICE}: [alice]\n")
    users.chmod(0o600)
    access = read_access(None, None, users)
    client = place_client(shared, access)
    reload_on_hangup(access, lambda: read_access(None, None, users))
    status = lambda token: client.get("/v1/models", headers=bearer(token)).status_code
    assert [status(ALICE), status(BOTH)] == [200, 401]
    users.write_text(f"{BOTH}: [alice, bob]\n")
    assert [status(ALICE), status(BOTH)] == [200, 401]  # not before it is asked for
    handlers[signal.SIGHUP](signal.SIGHUP, None)
    assert [status(ALICE), status(BOTH)] == [401, 200]
    for faulty in ("", "{}", f"{ALICE}: [", f"{ALICE}: []"):
        users.write_text(faulty)
        caplog.clear()
        handlers[signal.SIGHUP](signal.SIGHUP, None)
        assert "not reloaded" in caplog.text and ALICE not in caplog.text, faulty
        assert [status(ALICE), status(BOTH)] == [401, 200]
    with pytest.raises(ConfigError, match="without any"):
        access.replace(Access(None))
    assert status(BOTH) == 200 and not access.is_open


def place_client(place, access):
    """A client of a service with these tokens, which the test goes on holding."""
    app = create_app(place.service(), access)
    return place.stack.enter_context(TestClient(app, base_url="http://localhost", raise_server_exceptions=False))


LOCAL = ("127.0.0.1", "127.9.9.9", "::1", "localhost")
PUBLIC = ("0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", "", "::ffff:10.0.0.1")


@pytest.mark.parametrize("host", LOCAL + PUBLIC)
def test_a_public_address_needs_a_token(host):
    assert is_loopback(host) == (host in LOCAL)
    check_exposed(host, True)
    if host in LOCAL:
        check_exposed(host, False)
    else:
        with pytest.raises(ConfigError, match="token"):
            check_exposed(host, False)


def test_without_tokens_pages_of_others_are_not_answered(reader):
    assert reader.get("/v1/models", headers={"Host": "rebound.example.org"}).status_code == 403
    for origin in ("https://example.org", "null", "http://localhost.example.org", "http://[broken"):
        assert reader.post("/v1/users/alice/undo", headers={"Origin": origin}).status_code == 403, origin
    assert reader.get("/v1/models", headers={"Origin": "http://localhost:3000"}).status_code == 200


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_the_rate_is_per_token_and_says_when_to_come_back(place):
    clock = Clock()
    client = place.client(TOKENS, clock=clock, rate=6, edit_rate=2)
    get = lambda token: client.get("/v1/models", headers=bearer(token))
    assert [get(ALICE).status_code for _ in range(7)] == [200] * 6 + [429]
    refused = get(ALICE)
    assert refused.headers["retry-after"] == "10" and refused.json()["error"]["type"] == "rate_limit_error"
    assert get(BOTH).status_code == 200 and client.get("/healthz").status_code == 200
    clock.now += 9
    assert get(ALICE).status_code == 429
    clock.now += 2
    assert [get(ALICE).status_code for _ in range(2)] == [200, 429]
    undo = lambda: client.post("/v1/users/alice/undo", headers=bearer(ALL)).status_code
    assert [undo() for _ in range(3)] == [200, 200, 429]


def test_guessing_tokens_is_slowed_down(place):
    client = place.client(TOKENS, clock=Clock())
    codes = [client.get("/v1/models", headers=bearer(f"guess-{n:012}")).status_code for n in range(62)]
    assert codes == [401] * 60 + [429] * 2
    assert client.get("/v1/models", headers=bearer(ALICE)).status_code == 200


def test_buckets_do_not_fill_the_memory():
    rate = Rate(10, Clock())
    for number in range(MAX_KEYS + 50):
        rate.take(str(number))
    assert len(rate._buckets) == MAX_KEYS


def test_bodies_are_bounded_announced_or_not(place):
    client = place.client(max_body=2000)
    big = b'{"model": "' + b"x" * 3000
    pieces = iter([big[:1500], big[1500:]])
    for content in (big, pieces):
        response = client.post(PATH, content=content)
        assert response.status_code == 413 and response.json()["error"]["code"] == "request_too_large"
    assert client.put("/v1/users/alice/preferences", content=big).status_code == 413
    assert client.post(PATH, json=wanted("x" * 500)).status_code != 413


@pytest.mark.parametrize("setting", ["rate", "max_rows", "window", "name"])
def test_faulty_settings_are_named(setting):
    with pytest.raises(ConfigError, match=setting):
        Settings(**{setting: " " if setting == "name" else -1})
