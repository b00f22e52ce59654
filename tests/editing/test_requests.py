"""EasyEdit's arguments become checked requests; every fault of a call is named before anything is edited."""

from __future__ import annotations

import pytest

from easyedit_personal.editing.requests import as_request, check_requests, prepare_requests
from easyedit_personal.errors import RequestError
from easyedit_personal.types import EditRequest, Preference


def test_single_strings_become_one_request():
    (request,) = prepare_requests("What's my hobby?", "chess", subject="hobby", user="ann")
    assert request["prompt"] == "What's my hobby?" and request["user"] == "ann"
    assert request["locality"] == {} == request["portability"]


def test_probes_reach_their_request():
    requests = prepare_requests(
        ["a?", "b?"],
        ["x", "y"],
        locality_inputs={"facts": {"prompt": ["c?", None], "ground_truth": ["z", None]}},
        portability_inputs={"implicit": {"prompt": ["d?", "e?"], "ground_truth": ["x", "y"]}},
    )
    assert requests[0]["locality"] == {"facts": {"prompt": "c?", "ground_truth": "z"}} and not requests[1]["locality"]
    assert requests[1]["portability"]["implicit"]["prompt"] == "e?"


def test_all_faults_are_named_together():
    with pytest.raises(RequestError) as caught:
        prepare_requests(["a?", "b?"], ["x"], subject=["a"], locality_inputs={"n": {"prompt": ["c?"]}})
    for part in ("target_new: 1 entries for 2", "subject: 1 entries", "locality_inputs['n']"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("request_", "part"),
    [
        ({"prompt": "", "target_new": "x"}, "prompt is ''"),
        ({"prompt": "a?", "target_new": "  "}, "target_new"),
        ({"prompt": "a?"}, "target_new is None"),
        ({"prompt": "a?", "target_new": 3}, "target_new is 3"),
        ({"prompt": "a?", "target_new": "x", "subject": "b"}, "does not stand"),
        ({"prompt": "a?", "target_new": "x", "cluster": [{"question": "?"}]}, "cluster phrase 0"),
        ({"prompt": "a?", "target_new": "x", "cluster": [{"prompt": "b?", "subject": 3}]}, "cluster phrase 0"),
    ],
)
def test_each_fault_names_its_request_and_user(request_, part):
    good = {"prompt": "a?", "target_new": "x"}
    with pytest.raises(RequestError, match="request 1 of user 'bob'") as caught:
        check_requests([good, {**request_, "user": "bob"}])
    assert part in str(caught.value)


def test_no_request_is_an_error():
    with pytest.raises(RequestError, match="nothing to edit"):
        check_requests([])


def test_requests_are_copied():
    given = {"prompt": "a?", "target_new": "x"}
    check_requests([given])[0]["prompt"] = "b?"
    assert given["prompt"] == "a?"


def test_records_become_requests():
    preference = Preference("hobby", "What's my hobby?", "chess", "ann", phrases=(("pastime", "What's my pastime?"),))
    request = as_request(preference)
    assert request["cluster"] == [{"subject": "pastime", "prompt": "What's my pastime?"}]
    assert as_request(EditRequest("a?", "x", cluster="c"))["cluster_id"] == "c"
    with pytest.raises(RequestError, match="no edit request"):
        as_request("What's my hobby?")
