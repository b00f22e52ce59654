"""What a store promises to whoever uses it, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta

import pytest
import torch

from easyedit_personal.errors import ModelError, StoreError
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.modeling.layout import weights_digest
from easyedit_personal.store import EditStore
from easyedit_personal.store.entries import NewEdit
from easyedit_personal.types import WeightDelta
from tests.store.samples import LAYER, edit, joined, preference, same


def test_what_was_put_comes_back_with_all_that_was_said(store):
    said = preference("falconry", user="ann")
    number = store.put("ann", edit("a"), preference=said, kernel="rome", hparams={"v_lr": 0.5}, health={"norm": 0.25})
    (kept,) = store.history("ann")
    assert (kept.id, kept.user, kept.live, kept.kernel, kept.merged) == (number, "ann", True, "rome", None)
    assert kept.preference == said and kept.hparams == {"v_lr": 0.5} and kept.health == {"norm": 0.25}
    assert datetime.now(UTC) - kept.created < timedelta(minutes=5)
    assert kept.nbytes > 4 * 4 * (24 + 40)
    assert same(store.deltas("ann"), edit("a")) and store.preferences("ann") == [said]


def test_a_preference_of_nobody_or_of_another_user_stays_as_it_was(store):
    for said in (preference("a", user=None), preference("b", user="another")):
        store.put("ann", edit("a"), preference=said)
    assert store.preferences("ann") == [preference("a", user=None), preference("b", user="another")]


def test_edits_are_composed_exactly_and_per_matrix(store):
    other = edit("c", layer="model.layers.1.mlp.down_proj", rank=2)
    store.put("ann", [*edit("a"), *other])
    store.put("ann", edit("b"))
    found = {delta.layer: delta for delta in store.deltas("ann")}
    assert same([found[LAYER]], joined("a", "b")) and same([found[other[0].layer]], other)


def test_an_unknown_user_has_nothing(store):
    store.put("ann", edit("a"))
    assert store.deltas("bob") == store.history("bob") == store.preferences("bob") == store.undo("bob") == []
    assert store.version("bob") == store.forget("bob") == 0
    assert list(store.users()) == ["ann"]


def test_undo_takes_the_last_one_then_the_one_before(store):
    first, second = store.put("ann", edit("a"), preference=preference("a")), store.put("ann", edit("b"))
    (undone,) = store.undo("ann")
    assert undone.id == second and not undone.live
    assert same(store.deltas("ann"), edit("a"))
    assert [edit.id for edit in store.undo("ann")] == [first]
    assert store.deltas("ann") == store.preferences("ann") == store.undo("ann") == []
    assert [(edit.id, edit.live) for edit in store.history("ann")] == [(first, False), (second, False)]


def test_undo_by_id_and_to_a_version(store):
    ids = [store.put("ann", edit(name)) for name in "abcd"]
    assert [edit.id for edit in store.undo("ann", ids[1])] == [ids[1]]
    assert same(store.deltas("ann"), joined("a", "c", "d"))
    assert store.undo("ann", ids[1]) == []
    assert [edit.id for edit in store.undo("ann", to_version=ids[0])] == ids[2:]
    assert same(store.deltas("ann"), joined("a"))


def test_undo_of_an_edit_that_is_not_the_users_changes_nothing(store):
    number, version = store.put("ben", edit("b")), store.version("ben")
    store.put("ann", edit("a"))
    with pytest.raises(StoreError, match=f"no edit {number}"):
        store.undo("ann", number)
    with pytest.raises(StoreError, match="edit or a version"):
        store.undo("ann", 1, to_version=1)
    assert store.version("ben") == version and same(store.deltas("ben"), edit("b"))


def test_undo_gives_weights_bit_equal_to_never_having_edited(store, llama):
    sizes = {"d_out": 32, "d_in": 48}
    store.put("ann", edit("a", **sizes))
    with in_weights(llama, store.deltas("ann")):
        without = weights_digest(llama)
    number = store.put("ann", edit("b", **sizes))
    with in_weights(llama, store.deltas("ann")):
        assert weights_digest(llama) != without
    store.undo("ann", number)
    with in_weights(llama, store.deltas("ann")):
        assert weights_digest(llama) == without


def test_versions_change_with_every_change_and_never_come_back(store):
    seen = [store.version("ann")]

    def changed() -> None:
        assert store.version("ann") not in seen[1:] and store.version("ann") != seen[-1]
        seen.append(store.version("ann"))

    for name in "ab":
        assert store.put("ann", edit(name)) == store.version("ann")
        changed()
    store.undo("ann")
    changed()
    store.forget("ann")
    assert store.version("ann") == 0
    store.put("ann", edit("c"))
    changed()
    before = store.version("ann")
    store.put("ben", edit("d"))
    store.deltas("ann")
    assert store.undo("ann", to_version=before) == [] and store.version("ann") == before


def test_an_idempotency_key_counts_per_user_until_forgotten(store):
    number = store.put("ann", edit("a"), key="k1")
    version = store.version("ann")
    assert store.put("ann", edit("b"), key="k1") == number and store.version("ann") == version
    assert same(store.deltas("ann"), edit("a"))
    assert store.put("ben", edit("b"), key="k1") != number != store.put("ann", edit("b"), key="k2")
    store.undo("ann", number)
    assert store.put("ann", edit("a"), key="k1") == number and not store.history("ann")[0].live
    store.forget("ann")
    assert store.put("ann", edit("c"), key="k1") > number and same(store.deltas("ann"), edit("c"))


def test_undone_and_put_in_its_place_in_one_step(store):
    first, second, third = (store.put("ann", edit(name), preference=preference(name)) for name in "abc")
    store.put("ben", edit("z"))
    version = store.version("ann")
    new = [NewEdit(edit(name), preference=preference(name), kernel="lowrank", hparams={"lr": 1}) for name in "xy"]
    numbers = store.supersede("ann", version, second, new)
    assert numbers == sorted(numbers) and numbers[0] > third and store.version("ann") == numbers[-1]
    assert [one.id for one in store.history("ann") if one.live] == [first, *numbers]
    assert same(store.deltas("ann"), joined("a", "x", "y")) and same(store.deltas("ann", before=second), edit("a"))
    assert [one.target for one in store.preferences("ann")] == [preference(name).target for name in "axy"]
    assert same(store.deltas("ben"), edit("z")) and store.verify() == []
    with pytest.raises(StoreError, match="changed meanwhile"):
        store.supersede("ann", version, first, new)
    with pytest.raises(StoreError, match="nothing to keep"):
        store.supersede("ann", numbers[-1], first, [*new, NewEdit([])])
    with pytest.raises(StoreError, match="version 7"):
        store.supersede("nobody", 7, 1, new)
    assert same(store.deltas("ann"), joined("a", "x", "y")) and store.history("nobody") == []
    assert len(store.supersede("cleo", 0, 1, new)) == 2 and same(store.deltas("cleo"), joined("x", "y"))


def test_bfloat16_takes_half_the_room_and_rounds_as_torch_does(store):
    store.put("ann", edit("a"), dtype="bfloat16")
    assert same(store.deltas("ann"), [edit("a")[0].to(torch.bfloat16)])
    store.put("ann", edit("b"))
    (both,) = store.deltas("ann")  # of two types the wider one: nothing is rounded twice
    assert both.left.dtype == torch.float32 and torch.equal(both.left[:, 4:], edit("b")[0].left)
    narrow, wide = store.history("ann")
    assert narrow.nbytes < 0.7 * wide.nbytes


def test_forgetting_one_leaves_the_others(store):
    for user in ("ann", "ben"):
        store.put(user, edit(user), preference=preference(user), key="k")
    store.put("ann", edit("more"))
    assert store.forget("ann") == 2
    assert list(store.users()) == ["ben"] and same(store.deltas("ben"), edit("ben"))
    assert store.history("ann") == [] and store.verify() == [] and store.stats()["edits"] == 1
    assert store.forget("ann") == 0


def test_users_are_streamed_over_page_borders(store, monkeypatch):
    monkeypatch.setattr("easyedit_personal.store.reader.PAGE", 3)
    names = {f"user {number}" for number in range(10)}
    for name in sorted(names):
        store.put(name, edit("a", rank=1))
    store.put("user 3", edit("b", rank=1))
    found = list(store.users())
    assert set(found) == names and len(found) == 10
    stream = store.users()
    next(stream)
    store.put("late", edit("a", rank=1))  # writing while iterating neither blocks nor confuses
    assert names - set(found[:1]) <= {*stream}


def test_stats_count_what_is_there(store):
    empty = store.stats()
    assert [empty[name] for name in ("users", "edits", "live", "merged", "factor_bytes")] == [0] * 5
    store.put("ann", edit("a"))
    store.put("ann", edit("b"))
    store.put("ben", edit("b"))
    store.undo("ann")
    found = store.stats()
    assert (found["users"], found["edits"], found["live"], found["merged"]) == (2, 3, 2, 0)
    assert found["factor_bytes"] == sum(edit.nbytes for user in store.users() for edit in store.history(user))
    assert found["file_bytes"] > found["factor_bytes"] and found["model"] is None


def test_another_model_tokenizer_or_chat_template_is_refused_naming_both(url, llama, tokenizer):
    import copy

    from easyedit_personal.modeling.layout import fingerprint, tokenizer_fingerprint
    from tests.tiny import tiny_model

    with EditStore.open(url, llama, tokenizer) as store:
        store.put("ann", edit("a", d_out=32, d_in=48))
        assert store.base == {"model": fingerprint(llama), "tokenizer": tokenizer_fingerprint(tokenizer)}
    other, talk = tiny_model("llama", seed=1), copy.deepcopy(tokenizer)
    talk.chat_template += " "
    for arguments, made in ((other, fingerprint), (llama, fingerprint), (talk, tokenizer_fingerprint)):
        pair = (None, talk) if arguments is talk else (arguments, tokenizer)
        if arguments is llama:
            EditStore.open(url, *pair).close()
            continue
        known = made(llama if arguments is other else tokenizer)
        kind = "base model" if arguments is other else "tokenizer"
        with pytest.raises(StoreError, match=f"(?s)another {kind}.*{made(arguments)}.*{known}"):
            EditStore.open(url, *pair)
    with EditStore.open(url) as store:
        assert len(store.deltas("ann")) == 1


def test_models_are_called_by_name_and_source(url, llama, tmp_path):
    from easyedit_personal.modeling.catalog import Origin
    from tests.tiny import tiny_model

    def prepared(source, seed=0):
        Origin("tiny", source).write(tmp_path)
        model = tiny_model("llama", seed=seed)
        model.config._name_or_path = str(tmp_path)
        return model

    with EditStore.open(url, prepared("package tiny==1.0")) as store:
        assert store.stats()["model_name"] == "tiny (package tiny==1.0)" and "model_name" not in store.base
    EditStore.open(url, tiny_model("llama")).close()  # the same weights, whatever they are called
    for model, called in (
        (prepared("hub tiny", seed=1), r"tiny \(hub tiny\)"),
        (tiny_model("gpt2"), "GPT2LMHeadModel"),
    ):
        with pytest.raises(
            StoreError, match=rf"(?s)got: .*{called}; model .*needed: tiny \(package tiny==1.0\); model"
        ):
            EditStore.open(url, model)
    with EditStore.open(url) as store:
        assert store.stats()["model_name"] == "tiny (package tiny==1.0)"


def test_a_store_that_knows_no_name_learns_it_from_the_right_model_only(url, llama):
    from sqlalchemy import text

    from tests.tiny import tiny_model

    with EditStore.open(url, llama) as store, store._database.writing() as connection:
        connection.execute(text("DELETE FROM meta WHERE name = 'model_name'"))
    with pytest.raises(StoreError, match="needed: a model without a name; model"):
        EditStore.open(url, tiny_model("gpt2"))
    with EditStore.open(url) as store:
        assert store.stats()["model_name"] is None
    with EditStore.open(url, llama) as store:
        assert store.stats()["model_name"] == "LlamaForCausalLM"


def test_factors_that_do_not_fit_the_model_are_refused(url, llama):
    with EditStore.open(url, llama) as store:
        with pytest.raises(ModelError, match="does not fit"):
            store.put("ann", edit("a"))
        with pytest.raises(ModelError, match="no module"):
            store.put("ann", edit("a", layer="model.layers.9.mlp.down_proj"))
        assert store.history("ann") == []


def test_two_open_stores_see_each_other(store, url):
    with EditStore.open(url) as other:
        number = store.put("ann", edit("a"))
        assert same(other.deltas("ann"), edit("a")) and other.version("ann") == number
        other.undo("ann")
        assert store.deltas("ann") == []


def test_threads_share_a_store(store):
    faults = []

    def work(name: str) -> None:
        try:
            for number in range(10):
                store.put(name, edit(f"{name}{number}"), key=str(number))
                store.put("shared", edit("s"), key=str(number))
                if len(store.history(name)) != number + 1:
                    faults.append(f"{name} misses its own put {number}")
        except Exception as error:
            faults.append(repr(error))

    threads = [threading.Thread(target=work, args=(f"user {number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == [] and store.verify() == []
    assert len(store.history("shared")) == 10 and len(store.history("user 3")) == 10


def test_a_forked_child_uses_connections_of_its_own(store):
    store.put("ann", edit("a"))
    child = os.fork()
    if child == 0:
        try:
            store.put("ben", edit("b"))
            os._exit(0 if same(store.deltas("ann"), edit("a")) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    store.put("cleo", edit("c"))
    assert set(store.users()) == {"ann", "ben", "cleo"} and store.verify() == []


def test_export_is_peft_s_adapter_of_the_live_edits(store, tmp_path):
    from safetensors.torch import load_file

    store.put("ann", edit("a"))
    store.put("ann", edit("b"))
    store.undo("ann")
    store.export_lora("ann", tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    (left,) = [tensor for name, tensor in tensors.items() if "lora_B" in name]
    assert torch.equal(left[:, :4], edit("a")[0].left)
    assert (tmp_path / "adapter" / "adapter_config.json").exists()


def test_vacuum_keeps_what_is_there(store):
    for user in ("ann", "ben"):
        store.put(user, edit(user), preference=preference(user))
    store.forget("ann")
    store.vacuum()
    assert same(store.deltas("ben"), edit("ben")) and store.verify() == []
    assert isinstance(store.put("ann", edit("a")), int)


def test_edits_of_different_shapes_are_not_composed(store):
    store.put("ann", edit("a"))
    store.put("ann", edit("a", d_out=12))
    with pytest.raises(StoreError, match="do not fit together"):
        store.deltas("ann")


def test_a_dense_update_is_an_edit_too(store):
    update = torch.randn(24, 40)
    store.put("ann", [WeightDelta.dense(LAYER, update)])
    assert torch.equal(store.deltas("ann")[0].update(), update)


def test_what_can_be_undone_is_said(store):
    first, second = store.put("ann", edit("a")), store.put("ann", edit("b"))
    with pytest.raises(StoreError, match=rf"(?s)has no edit 99.*one of .{first}, {second}."):
        store.undo("ann", 99)
    with pytest.raises(StoreError, match=r"(?s)has no edit 99.*there are none"):
        store.undo("ben", 99)
