"""The plugin for vLLM, against a stub of vLLM (vllm_stub.py), so that it was never run with the real one here."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import sys
import tomllib
from pathlib import Path

import pytest

from easyedit_personal.errors import ConfigError, StoreError
from easyedit_personal.integrations import vllm as plugin
from easyedit_personal.store import EditStore
from easyedit_personal.store.adapter_cache import adapter_name
from tests.integrations.vllm_stub import Registry, Server, modules
from tests.store.test_adapter_cache import put
from tests.store.vllm_rules import check_vllm


@pytest.fixture
def registry(monkeypatch, tmp_path):
    """vLLM's modules as stubs, and an environment that names a store."""
    found = Registry()
    for name, module in modules(found).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("EASYEDIT_PERSONAL_STORE", str(tmp_path / "edits.db"))
    monkeypatch.setenv("EASYEDIT_PERSONAL_ADAPTERS", str(tmp_path / "adapters"))
    plugin.adapters.cache_clear()
    yield found
    plugin.adapters.cache_clear()


@pytest.fixture
def store(registry, tmp_path):
    with EditStore.open(tmp_path / "edits.db") as opened:
        yield opened


def resolve(registry, name):
    [resolver] = registry.resolvers.values()
    return asyncio.run(resolver.resolve_lora("my-org/my-model", name))


def post(app, body, *, headers=(), parts=1, kind="http", method="POST"):
    """One request; (status, text)."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    size = -(-len(data) // parts) or 1
    pieces = [data[i : i + size] for i in range(0, len(data), size)] or [b""]
    messages = [{"type": "http.request", "body": one, "more_body": n < len(pieces) - 1} for n, one in enumerate(pieces)]
    sent = []

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "method": method, "path": "/v1/chat/completions"}
    scope["headers"] = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data)), *headers]
    asyncio.run(app(scope, receive, send))
    return (sent[0]["status"], sent[1]["body"].decode()) if sent else None


def test_the_entry_point_is_declared():
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    [(name, value)] = project["project"]["entry-points"]["vllm.general_plugins"].items()
    point = importlib.metadata.EntryPoint(name, value, "vllm.general_plugins")
    assert name == "easyedit-personal" and point.load() is plugin.register


def test_without_a_store_in_the_environment_nothing_is_registered(registry, monkeypatch):
    monkeypatch.delenv("EASYEDIT_PERSONAL_STORE")
    plugin.register()
    assert registry.resolvers == {}


def test_registering_twice_is_harmless_and_opens_nothing(registry, tmp_path):
    """vLLM loads its plugins in each of its processes."""
    plugin.register()
    plugin.register()
    assert list(registry.resolvers) == ["easyedit-personal"] and list(tmp_path.iterdir()) == []


def test_a_user_s_present_revision_is_resolved(registry, store, tmp_path):
    plugin.register()
    revision = put(store, "alice")
    found = resolve(registry, f"alice@{revision}")
    assert (found.lora_name, found.lora_int_id) == (f"alice@{revision}", revision)
    assert found.lora_path.startswith(str(tmp_path / "adapters") + "/")
    assert check_vllm(tmp_path / "adapters" / found.lora_path.rpartition("/")[2], "llama") == []


@pytest.mark.parametrize(
    "name",
    ["alice", "base@alice", "bob@1", "alice@999", "../../etc/passwd", "%2e%2e@1", "my-org/my-model", "x" * 10_000],
)
def test_everything_else_is_not_resolved(registry, store, name):
    plugin.register()
    put(store, "alice")
    assert resolve(registry, name) is None


def test_the_undone_and_the_forgotten_are_not_resolved(registry, store):
    plugin.register()
    names = [f"alice@{put(store, 'alice')}"]
    store.undo("alice")
    names.append(f"alice@{store.version('alice')}")
    assert [resolve(registry, name) for name in names] == [None, None]
    store.forget("alice")
    assert [resolve(registry, name) for name in names] == [None, None]


def test_alone_the_resolver_cannot_keep_a_forgotten_user_from_answering(registry, store):
    """Why there is a router: vLLM does not ask for names that it knows."""
    plugin.register()
    name = f"alice@{put(store, 'alice')}"
    server = Server(registry)
    assert post(server, {"model": name})[0] == 200
    store.forget("alice")
    assert post(server, {"model": name})[0] == 200
    assert post(plugin.Router(server), {"model": name}) == (404, "no model base@alice")


def test_the_router_follows_a_user_through_their_life(registry, store):
    plugin.register()
    server = Server(registry)
    app = plugin.Router(server)
    assert post(app, {"model": "base@alice"})[0] == 404
    first = f"alice@{put(store, 'alice')}"
    assert post(app, {"model": "base@alice"}) == (200, server.loaded[first].lora_path)
    second = f"alice@{put(store, 'alice', 1)}"
    assert post(app, {"model": "base@alice", "messages": []}) == (200, server.loaded[second].lora_path)
    assert post(app, {"model": first}) == (404, "no model base@alice")
    assert post(app, {"model": second})[0] == 200
    for _ in range(2):
        store.undo("alice")
    assert post(app, {"model": "base@alice"}) == (200, "base")
    store.forget("alice")
    for name in ("base@alice", first, second):
        assert post(app, {"model": name})[0] == 404


def test_an_adapter_that_the_bounded_folder_lost_is_there_again_before_vllm_reads_it(registry, store, monkeypatch):
    """vLLM reads a folder again when it has thrown the adapter out of its memory, and asks nobody."""
    monkeypatch.setenv("EASYEDIT_PERSONAL_MAX_ADAPTERS", "1")
    monkeypatch.setattr("easyedit_personal.store.adapter_cache.IN_USE_SECONDS", -1.0)
    plugin.register()
    app = plugin.Router(Server(registry))
    for user in ("alice", "bob"):
        put(store, user)
    paths = [post(app, {"model": f"base@{user}"})[1] for user in ("alice", "bob", "alice")]
    assert paths[0] == paths[2] != paths[1]
    assert check_vllm(Path(paths[2]), "llama") == [] and not Path(paths[1]).exists()


def test_bodies_arrive_whole_and_otherwise_as_they_were(registry, store):
    plugin.register()
    server = Server(registry)
    app = plugin.Router(server)
    asked = {
        "messages": [{"role": "user", "content": "ünïcode 🎈 \ud800"}],
        "temperature": 0.1,
        "n": None,
        "model": "base",
    }
    assert post(app, asked, parts=5) == (200, "base") and json.loads(server.asked[-1]) == asked
    for odd in (b"", b"{", b"[1]", b'"base"', b'{"model": 5}', b"\xff\xfe", b"[" * 100_000):
        assert post(app, odd)[0] == 400
    assert post(app, b'{"model": "base@nobody", "model": "base"}') == (200, "base")
    assert json.loads(server.asked[-1]) == {"model": "base"} and server.asked[-1].count(b"model") == 1


def test_only_posts_are_looked_at(registry, store):
    plugin.register()
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    router = plugin.Router(app)
    post(router, b"", kind="websocket")
    post(router, b"", method="GET")
    post(router, b"", kind="lifespan", method=None)
    assert seen == ["websocket", "http", "lifespan"]


def test_a_client_that_leaves_is_not_passed_on(registry, store):
    plugin.register()

    async def gone():
        return {"type": "http.disconnect"}

    server = Server(registry)
    asyncio.run(plugin.Router(server)({"type": "http", "method": "POST", "headers": []}, gone, None))
    assert server.asked == []


def test_the_router_does_not_tell_strangers_who_is_a_user(registry, store):
    """vLLM's own check of the key stands behind the router: what it refuses, vLLM answers."""
    plugin.register()
    put(store, "alice")
    app = plugin.Router(Server(registry, key="secret"))
    assert {post(app, {"model": f"base@{user}"}) for user in ("alice", "nobody")} == {(401, "Unauthorized")}
    assert post(app, {"model": "base@alice"}, headers=[(b"authorization", b"Bearer secret")])[0] == 200


def test_every_user_reaches_their_own_adapter_only(registry, store):
    plugin.register()
    users = ["alice", "Alice", "17", "base", "base@alice", "../../etc/passwd", "bob@example.com", "\u00e9", "e\u0301"]
    app = plugin.Router(Server(registry))
    for seed, user in enumerate(users):
        put(store, user, seed)
    paths = {user: post(app, {"model": f"base@{user}"}) for user in users}
    assert {status for status, _ in paths.values()} == {200} and len(set(paths.values())) == len(users)
    for user in users:
        assert post(app, {"model": adapter_name(user, store.version(user))}) == paths[user]
        assert store.tag(user) in paths[user][1]


@pytest.mark.parametrize(("name", "value"), [("STORE", ""), ("MAX_ADAPTERS", "0"), ("MAX_ADAPTERS", "many")])
def test_settings_that_cannot_be_used_are_said_at_the_start(registry, store, monkeypatch, name, value):
    monkeypatch.setenv(f"EASYEDIT_PERSONAL_{name}", value)
    with pytest.raises(ConfigError, match=f"EASYEDIT_PERSONAL_{name}={value!r}"):
        plugin.Router(None)


def test_a_store_that_is_encrypted_needs_its_key_in_vllm_too(registry, store, monkeypatch):
    pytest.importorskip("cryptography", reason="cryptography is not installed (extra `encryption`)")
    monkeypatch.setenv("EASYEDIT_PERSONAL_STORE_KEY", "A" * 43 + "=")
    with pytest.raises(StoreError, match="is not encrypted"):
        plugin.Router(None)
