"""Doctor's list of architectures that are edited fast is found by trial, and says so when one is not."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.cli import doctor
from easyedit_personal.modeling import families
from easyedit_personal.modeling.families import FAMILIES, describe_splits, split_of
from easyedit_personal.modeling.suffix import Split
from tests.tiny import POST_NORM


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_named_family_is_split(family):
    before = torch.random.get_rng_state()
    mode = "post_norm" if family in POST_NORM else "additive"
    assert split_of(family) == Split(mode, True)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_doctor_names_what_cannot_be_split(monkeypatch):
    monkeypatch.setattr(families, "split_of", lambda family: Split("full" if family == "gptj" else "additive", True))
    fast, slow = describe_splits()
    assert slow == ["gptj"]
    assert "llama" in fast
    rows = doctor._fast()
    assert rows[0][0] == "fast edits"
    assert "gptj" in rows[1][1]
    assert "whole forward pass" in rows[1][2]
