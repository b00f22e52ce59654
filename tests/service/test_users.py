"""Who there is, and a user's model as a file to take away."""

from __future__ import annotations

import io
import json
import zipfile

from safetensors.torch import load

from tests.service.conftest import USERS

ALICE, ALL = "token-of-alice-0001", "token-of-all-000003"


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def test_a_token_is_told_of_its_own_users_only(shared):
    client = shared.client({ALICE: ["alice", "dora"], ALL: "*"})
    ask = lambda token, query="": client.get(f"/v1/users{query}", headers=bearer(token)).json()
    assert [user["id"] for user in ask(ALICE)["data"]] == ["alice", "dora"]
    assert {user["id"] for user in ask(ALL)["data"]} == set(USERS) and not ask(ALL)["has_more"]
    assert len(ask(ALL, "?limit=3")["data"]) == 3 and ask(ALL, "?limit=3")["has_more"]
    assert client.get("/v1/users").status_code == 401
    for limit in ("0", "1001", "-1", "x", "\u0663", "99999"):
        assert client.get("/v1/users", params={"limit": limit}, headers=bearer(ALL)).status_code == 400, limit


def test_the_adapter_is_the_one_that_is_exported(shared, reader, tmp_path):
    user = "../../etc/passwd"
    got = reader.get("/v1/users/..%2F..%2Fetc%2Fpasswd/lora")
    name = f"..%2F..%2Fetc%2Fpasswd@{shared.store.version(user)}"
    assert got.headers["content-disposition"] == f'attachment; filename="{name}.zip"'
    folder = shared.store.export_lora(user, tmp_path / "alice", base_model="tiny")
    with zipfile.ZipFile(io.BytesIO(got.content)) as packed:
        assert set(packed.namelist()) == {f"{name}/{file.name}" for file in folder.iterdir()}
        config, weights = (
            packed.read(f"{name}/{file}") for file in ("adapter_config.json", "adapter_model.safetensors")
        )
    assert json.loads(config) == json.loads((folder / "adapter_config.json").read_text())
    exported = load((folder / "adapter_model.safetensors").read_bytes())
    assert {key: value.tolist() for key, value in load(weights).items()} == {
        key: value.tolist() for key, value in exported.items()
    }


def test_nothing_to_take_away(shared):
    client = shared.client({ALICE: ["alice", "dora"]})
    assert client.get("/v1/users/dora/lora", headers=bearer(ALICE)).status_code == 404
    assert client.get("/v1/users/bob/lora", headers=bearer(ALICE)).status_code == 403
    assert client.get("/v1/users/alice/lora").status_code == 401
