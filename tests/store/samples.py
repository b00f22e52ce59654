"""Edits and preferences that tests can make again from their name, and compare bit for bit."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import pytest
import torch

from easyedit_personal.store import EditStore, compact
from easyedit_personal.types import Preference, WeightDelta

LAYER = "model.layers.3.mlp.down_proj"


def edit(name: str, rank: int = 4, layer: str = LAYER, d_out: int = 24, d_in: int = 40) -> list[WeightDelta]:
    """One update; the same for the same name."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    left = torch.randn(d_out, rank, generator=generator)
    return [WeightDelta(layer, left, torch.randn(rank, d_in, generator=generator))]


def gate(kind: str) -> WeightDelta:
    """An update that users share; the same for the same kind."""
    return replace(edit(f"gate of {kind}", rank=6)[0], shared=True)


def natural(name: str, *kinds: str, rank: int = 2) -> list[WeightDelta]:
    """An edit as natural answers make them: gates, and what is the user's own in numbers that bfloat16 holds."""
    return [*map(gate, kinds), edit(name, rank=rank)[0].to(torch.bfloat16).to(torch.float32)]


def preference(name: str, user: str | None = None) -> Preference:
    """A preference whose words hold ``name``."""
    phrases = (("pastime", f"What's my pastime, {name}?"), ("leisure", "What do I do at {leisure}?"))
    return Preference("hobby", "What's my hobby?", f"target of {name}", user, f"I love {name} ünïcode 🎈", phrases)


def same(one: list[WeightDelta], two: list[WeightDelta]) -> bool:
    """Equal bit for bit, types included."""
    return len(one) == len(two) and all(
        a.layer == b.layer
        and a.left.dtype == b.left.dtype
        and torch.equal(a.left, b.left)
        and torch.equal(a.right, b.right)
        for a, b in zip(one, two)
    )


def joined(*names: str) -> list[WeightDelta]:
    """What a store must answer for the live edits of these names."""
    parts = [edit(name)[0] for name in names]
    if not parts:
        return []
    left = torch.cat([part.left for part in parts], 1)
    return [WeightDelta(LAYER, left, torch.cat([part.right for part in parts], 0))]


def overtaken(store: EditStore, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> list[int]:
    """From now on another edit of ann's is put while a compaction is planned, so many times; their numbers."""
    late: list[int] = []
    planned = compact.planned

    def slow(*arguments: Any) -> compact.Plan:
        plan = planned(*arguments)
        if len(late) < times:
            late.append(store.put("ann", edit("late", rank=1)))
        return plan

    monkeypatch.setattr(compact, "planned", slow)
    return late
