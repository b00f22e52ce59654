"""Errors, records and the registry: what everything else stands on."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.errors import ModelError, PersonalizationError, RegistryError, RequestError, did_you_mean, shorten
from easyedit_personal.registry import Registry
from easyedit_personal.types import EditRequest, Preference, WeightDelta


def test_error_says_got_needed_cause_and_remedy():
    error = RequestError("It broke.", got="x" * 1000, needed="less", cause="size", remedy="cut it")
    text = str(error)
    assert [line.split(":")[0].strip() for line in text.splitlines()[1:]] == ["got", "needed", "cause", "remedy"]
    assert len(text) < 400 and "1,002 characters" in text
    assert isinstance(error, PersonalizationError) and isinstance(error, ValueError)


def test_shorten_keeps_short_values():
    assert shorten("abc") == "'abc'"


def test_a_hint_names_the_nearest_only():
    assert did_you_mean("lowrnk", ["rome", "lowrank"]) == " Did you mean 'lowrank'?"
    assert did_you_mean("nothing like it", ["rome"]) == did_you_mean(3, ["3"]) == did_you_mean("x" * 201, ["x"]) == ""


def test_registry_names_the_nearest():
    registry = Registry("fruit")
    registry.register("apple")(object())
    registry.register_lazy("ordered", "collections:OrderedDict")
    assert registry.names() == ["apple", "ordered"] and registry.get("ordered").__name__ == "OrderedDict"
    with pytest.raises(RegistryError, match=r"Did you mean 'apple'"):
        registry.get("aple")
    registry.unregister("apple")
    registry.unregister("apple")
    assert "apple" not in registry


def test_preference_becomes_requests_with_one_cluster():
    preference = Preference("hobby", "What's my hobby?", "chess", "ann", phrases=(("pastime", "What's my pastime?"),))
    requests = preference.requests()
    assert [request.prompt for request in requests] == ["What's my hobby?", "What's my pastime?"]
    assert len({request.cluster for request in requests}) == 1 and requests[0].subject == "hobby"
    assert preference.requests(1) == requests[:1]


def test_request_is_frozen():
    with pytest.raises(AttributeError):
        EditRequest("a", "b").prompt = "c"


def test_delta_knows_its_shape_rank_and_bytes():
    delta = WeightDelta("l", torch.ones(6, 2), torch.ones(2, 4))
    assert (delta.rank, delta.shape, delta.nbytes) == (2, (6, 4), 2 * (6 + 4) * 4)
    assert torch.equal(delta.update(), torch.full((6, 4), 2.0))


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_dense_delta_is_exact_and_counts_the_matrix(shape):
    update = torch.randn(shape)
    delta = WeightDelta.dense("l", update)
    assert torch.equal(delta.update(), update) and delta.shape == shape
    assert delta.nbytes == update.numel() * 4


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (torch.ones(6, 2), torch.ones(3, 4)),
        (torch.ones(6), torch.ones(1, 4)),
        (torch.full((6, 2), float("nan")), torch.ones(2, 4)),
        (torch.ones(6, 2), torch.full((2, 4), float("inf"))),
    ],
)
def test_bad_factors_are_refused(left, right):
    with pytest.raises(ModelError, match=r"model\.layers\.1"):
        WeightDelta("model.layers.1", left, right)
