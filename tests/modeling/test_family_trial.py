"""Doctor's list of architectures that are edited fast is found by trial, and says so when one is not."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.cli import doctor
from easyedit_personal.modeling import family_trial
from easyedit_personal.modeling.families import Family, known_families
from easyedit_personal.modeling.family_trial import describe_splits, split_of
from easyedit_personal.modeling.suffix import Split
from easyedit_personal.registry import FAMILIES


@pytest.mark.parametrize("family", known_families(), ids=lambda family: family.name)
def test_every_named_family_is_split(family):
    before = torch.random.get_rng_state()
    assert split_of(family.name) == Split("post_norm" if family.post_norm else "additive", True)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_doctor_names_what_cannot_be_split(monkeypatch):
    monkeypatch.setattr(
        family_trial, "split_of", lambda family: Split("full" if family == "gptj" else "additive", True)
    )
    fast, slow = describe_splits()
    assert slow == ["gptj"]
    assert "llama" in fast
    rows = doctor._families()
    assert rows[0][0] == "fast edits"
    assert "gptj" in rows[1][1]
    assert "whole forward pass" in rows[1][2]


def test_doctor_lists_families_from_outside():
    FAMILIES.register("foreign")(Family("foreign", vllm=True))
    try:
        rows = {row[0]: row[1] for row in doctor._families()}
    finally:
        FAMILIES.unregister("foreign")
    assert rows["other families"] == "foreign" and "foreign" in rows["vLLM"]
