"""UPQADataset: shapes, EasyEdit's keys, what `edit` gets, and the official files where they are at hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from torch.utils.data import DataLoader

from easyedit_personal import UPQADataset
from easyedit_personal.data.upqa import UNKNOWN, collate_fn, edit_request
from easyedit_personal.editing.requests import prepare_requests
from easyedit_personal.errors import DataError
from tests.data.samples import CLUSTERED, FLAT, PREFEVAL, write
from tests.hosts import host_or_skip

REQUEST_KEYS = {"prompt", "target_new", "ground_truth", "subject", "rephrase_prompt", "portability", "locality"}


@pytest.fixture
def flat(tmp_path):
    return UPQADataset(write(tmp_path, [FLAT, {**FLAT, "target": "oud", "question": "What do I play well?"}]))


@pytest.fixture
def clustered(tmp_path):
    return UPQADataset(write(tmp_path, [CLUSTERED, {**CLUSTERED, "id": "mine"}], "clustered.json"))


def test_flat_items_have_the_host_s_keys(flat):
    row = flat[0]
    assert row.keys() >= REQUEST_KEYS
    assert (row["prompt"], row["target_new"], row["subject"]) == ("What's my instrument?", "harp", "instrument")
    assert row["rephrase_prompt"] == "What do I play?"
    assert row["portability"] == {
        "implicit": {"prompt": FLAT["implicit_question"], "ground_truth": "harp"},
        "product": {"prompt": FLAT["product_recommendation_question"], "ground_truth": "harp"},
    }
    assert row["locality"].keys() == {"neighborhood", "unrelated"}
    assert row["locality"]["neighborhood"]["prompt"] == row["other_user"]
    assert row["locality"]["neighborhood"]["ground_truth"] == UNKNOWN
    assert row["locality"]["unrelated"] == row["facts"][0]
    assert (row["user"], row["persona"]) == ("user-000", "I play the harp.")
    assert row["cluster"] == [{"subject": "instrument", "prompt": "What's my instrument?", "target": "harp"}]
    json.dumps(row)


def test_clustered_items_keep_all_phrases_with_the_original_target(clustered):
    item, row = clustered.items[0], clustered[0]
    assert (item.subject, item.question, item.target) == ("instrument", "What's my instrument?", "harp")
    assert [phrase["subject"] for phrase in row["cluster"]] == CLUSTERED["attribute_type"]
    assert [phrase["prompt"] for phrase in row["cluster"]] == CLUSTERED["question"]
    assert {phrase["target"] for phrase in row["cluster"]} == {"harp"}
    assert item.variants == ("concert harp", "the harp")
    assert clustered[1]["user"] == "mine"


def test_given_probes_win_over_derived_ones(tmp_path):
    given = {
        "negated_question": "What is no instrument of mine?",
        "other_question": "What does Ida play?",
        "unrelated": ["How are you?"],
        "locality": [{"question": "How many legs has a cow?", "answer": "four"}],
    }
    row = UPQADataset(write(tmp_path, [{**FLAT, **given}]))[0]
    assert (row["negated"], row["other_user"]) == (given["negated_question"], given["other_question"])
    assert row["unrelated"] == given["unrelated"]
    assert row["facts"] == [{"prompt": "How many legs has a cow?", "ground_truth": "four"}]


def test_derived_probes_are_the_same_every_time(flat, tmp_path):
    again = UPQADataset(tmp_path / "data.json")
    assert again.items == flat.items
    assert flat.items[0].other != flat.items[1].other
    assert flat.items[0].negated == "What's not my instrument?"
    assert len(flat.items[0].locality) == 3 and len(flat.items[0].unrelated) == 3


def test_size_len_iteration_and_slices(clustered, tmp_path):
    path = tmp_path / "clustered.json"
    assert len(clustered) == 2 and len(UPQADataset(path, size=1)) == 1
    assert list(clustered) == [clustered[0], clustered[1]]
    assert clustered[-1] == clustered[1] == clustered[np.int64(1)]
    part = clustered[1:]
    assert isinstance(part, UPQADataset) and part.items == clustered.items[1:]
    assert len(clustered[:0]) == 0 and clustered[:0].edit_kwargs()["prompts"] == []
    assert "2 items, 1 attribute types" in repr(clustered)


@pytest.mark.parametrize("size", [0, -1, 3, 2.0, True, "1"])
def test_impossible_sizes_are_refused(clustered, tmp_path, size):
    with pytest.raises(DataError, match="from 1 to 2"):
        UPQADataset(tmp_path / "clustered.json", size=size)


@pytest.mark.parametrize("index", [2, -3])
def test_index_beyond_the_end_is_both_errors(clustered, index):
    with pytest.raises(DataError) as ours:
        clustered[index]
    assert isinstance(ours.value, IndexError)
    with pytest.raises(DataError):
        clustered.requests(index)


def test_index_of_a_wrong_type_is_refused(clustered):
    with pytest.raises(DataError, match="no index"):
        clustered["first"]


def test_edit_kwargs_have_the_host_s_nested_shapes(clustered):
    kwargs = clustered.edit_kwargs()
    for key in ("prompts", "target_new", "ground_truth", "subject", "rephrase_prompts", "user"):
        assert len(kwargs[key]) == 2
    assert "cluster" not in kwargs
    assert all(subject in prompt for subject, prompt in zip(kwargs["subject"], kwargs["prompts"]))
    for argument, names in (
        ("portability_inputs", ("implicit", "product")),
        ("locality_inputs", ("neighborhood", "unrelated")),
    ):
        assert tuple(kwargs[argument]) == names
        for columns in kwargs[argument].values():
            assert [len(columns[key]) for key in ("prompt", "ground_truth")] == [2, 2]


def test_edit_kwargs_name_a_span_where_the_attribute_is_not_named(flat):
    assert flat[1]["subject"] is None
    assert flat.edit_kwargs()["subject"] == ["instrument", "well"]


def test_edit_kwargs_with_clusters_leave_the_original_to_the_prompt(clustered):
    kwargs = clustered.edit_kwargs(cluster_size=2)
    assert [[phrase["prompt"] for phrase in own] for own in kwargs["cluster"]] == [CLUSTERED["question"][:1]] * 2
    assert kwargs["prompts"] == ["What's my instrument?"] * 2
    with pytest.raises(DataError, match="from 1 to 3"):
        clustered.edit_kwargs(cluster_size=9)


def test_edit_kwargs_feed_our_own_editor(clustered):
    requests = prepare_requests(**clustered.edit_kwargs(cluster_size=3))
    for request, row in zip(requests, clustered):
        assert {key: request[key] for key in REQUEST_KEYS} == {key: row[key] for key in REQUEST_KEYS}
        assert request["cluster"] == row["cluster"][:-1]


@pytest.mark.easyedit
def test_edit_kwargs_feed_the_host(clustered, tmp_path):
    prepare = host_or_skip().module("editors.utils")._prepare_requests
    mixed = UPQADataset.from_items([*clustered.items, *UPQADataset(write(tmp_path, [PREFEVAL])).items])
    rows = prepare(**mixed.edit_kwargs())
    for request, row in zip(rows, mixed):
        assert {key: request[key] for key in REQUEST_KEYS} == {key: row[key] for key in REQUEST_KEYS}
    assert rows[2]["portability"].keys() == {"implicit"}


def test_prefeval_items_without_product_question_get_none(clustered, tmp_path):
    mixed = UPQADataset.from_items([*clustered.items, *UPQADataset(write(tmp_path, [PREFEVAL])).items])
    assert mixed.edit_kwargs()["portability_inputs"]["product"]["prompt"][2] is None
    assert prepare_requests(**mixed.edit_kwargs())[2]["portability"].keys() == {"implicit"}


def test_requests_of_a_flat_item_are_one(flat):
    (request,) = flat.requests(0)
    assert (request.prompt, request.subject, request.target_new) == ("What's my instrument?", "instrument", "harp")
    with pytest.raises(DataError, match="flat file has one phrase"):
        flat.requests(0, cluster_size=9)


def test_collate_fn_makes_lists(clustered):
    (batch,) = DataLoader(clustered, batch_size=2, collate_fn=UPQADataset.collate_fn)
    assert batch == collate_fn([clustered[0], clustered[1]])
    assert batch["prompt"] == ["What's my instrument?"] * 2 and batch.keys() == clustered[0].keys()
    with pytest.raises(DataError):
        collate_fn([])
    with pytest.raises(DataError):
        collate_fn([clustered[0], {}])


def test_official_flat_and_clustered_files_agree(official_data):
    flat = UPQADataset(official_data / "upqa" / "balanced_subset.json")
    clustered = UPQADataset(str(official_data / "upqa" / "balanced_subset_cluster9.json"))
    assert len(flat) == len(clustered) == 100
    for plain, item in zip(flat.items, clustered.items):
        assert (plain.subject, plain.question, plain.target) == (item.subject, item.question, item.target)
        assert (plain.negated, plain.other, plain.locality) == (item.negated, item.other, item.locality)
        assert len(plain.cluster) == 1 and len(item.cluster) == 9 and item.cluster[-1] == plain.cluster[0]


def test_every_official_phrase_holds_its_subject(official_data):
    dataset = UPQADataset(official_data / "upqa" / "balanced_subset_cluster9.json")
    for index in range(100):
        for size in range(1, 10):
            requests = dataset.requests(index, size)
            assert len(requests) == size and len({request.target_new for request in requests}) == 1
            assert all(request.subject and request.subject in request.prompt for request in requests)
    assert len(dataset.edit_kwargs(cluster_size=9)["cluster"]) == 100


def test_official_probes_leave_the_user_alone(official_data):
    dataset = UPQADataset(official_data / "upqa" / "balanced_subset.json")
    for item in dataset.items:
        assert item.negated != item.question and ("not" in item.negated or "n't" in item.negated)
        assert item.other != item.question and not item.other.startswith(("My ", "my "))
        assert item.subject in item.other and "'s" in item.other
        assert all(answer.lower() not in item.target.lower() for _, answer in item.locality)


def test_official_sizes(official_data):
    path = official_data / "upqa" / "balanced_subset.json"
    assert len(UPQADataset(path, size=7)) == 7
    with pytest.raises(DataError, match="from 1 to 100"):
        UPQADataset(path, size=101)


def test_edit_request_is_what_indexing_gives(flat):
    assert edit_request(flat.items[1]) == flat[1]
