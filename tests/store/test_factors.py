"""The factors file: exact round trip, and every kind of damage refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

from easyedit_personal.errors import StoreError
from easyedit_personal.store.factors import FORMAT, factors_from_bytes, factors_to_bytes, load_factors, save_factors
from easyedit_personal.types import WeightDelta


@pytest.fixture
def deltas():
    shared = torch.randn(4, 6)
    return [
        WeightDelta("a.down_proj", torch.randn(6, 2), shared[:2]),
        WeightDelta("b.c_proj", torch.randn(3, 1), shared[:1]),
    ]


def test_round_trip_is_exact(deltas, tmp_path):
    size = save_factors(tmp_path / "ann.safetensors", deltas, fingerprint="f00", text='my "hobby" {is} ünïcode')
    back, header = load_factors(tmp_path / "ann.safetensors", fingerprint="f00")
    assert size == (tmp_path / "ann.safetensors").stat().st_size < 1500
    assert header["text"] == 'my "hobby" {is} ünïcode'
    for one, two in zip(deltas, back, strict=True):
        assert one.layer == two.layer and torch.equal(one.left, two.left) and torch.equal(one.right, two.right)


def test_bfloat16_halves_the_factors(deltas):
    wide = factors_to_bytes(deltas, fingerprint="f")
    narrow = factors_to_bytes(deltas, fingerprint="f", dtype=torch.bfloat16)
    assert len(wide) - len(narrow) >= sum(d.nbytes for d in deltas) // 2 - 8


def test_numbers_that_bfloat16_holds_take_two_bytes_and_come_back_in_their_type(deltas):
    rounded = [delta.to(torch.bfloat16).to(torch.float32) for delta in deltas]
    wide, narrow = (len(factors_to_bytes(some, fingerprint="f")) for some in (deltas, rounded))
    assert wide - narrow >= sum(delta.nbytes for delta in rounded) - 40
    for some in (rounded, [deltas[0], rounded[1]]):
        back, _ = factors_from_bytes(factors_to_bytes(some, fingerprint="f"))
        for one, two in zip(some, back, strict=True):
            assert two.left.dtype == torch.float32 and torch.equal(one.left, two.left)
            assert torch.equal(one.right, two.right)


def test_zeros_take_no_bytes_and_places_outside_the_factor_are_refused():
    left = torch.zeros(500, 3)
    left[[7, 499, 0], [0, 1, 2]] = torch.tensor([1.0, -0.3, 2.0])
    placed = WeightDelta("a.gate_proj", left, torch.randn(3, 8))
    data = factors_to_bytes([placed], fingerprint="f")
    (back,), _ = factors_from_bytes(data)
    assert len(data) < 1000 and torch.equal(back.left, left) and torch.equal(back.right, placed.right)
    tensors = load(data)
    wrong_parts = {"at": torch.tensor([7, 1500, 0]), "shape": torch.tensor([2, 2]), "numbers": torch.ones(2)}
    for part, wrong in wrong_parts.items():
        broken = save(tensors | {f"0.left.{part}": wrong}, {"format": FORMAT, "fingerprint": "f", "layers": '["a"]'})
        with pytest.raises(StoreError, match="damaged"):
            factors_from_bytes(broken)


def test_another_base_model_is_refused_naming_both(deltas):
    with pytest.raises(StoreError, match=r"(?s)f00.*baa"):
        factors_from_bytes(factors_to_bytes(deltas, fingerprint="f00"), fingerprint="baa")
    with pytest.raises(StoreError, match=r"got: .*smollm2 \(hub\); fingerprint f00"):
        factors_from_bytes(factors_to_bytes(deltas, fingerprint="f00", model="smollm2 (hub)"), fingerprint="baa")


def test_damage_is_refused(deltas):
    data = factors_to_bytes(deltas, fingerprint="f")
    for bad in (b"", data[:7], data[:40], data[:-5], b"\xff" * 100, b"PK\x03\x04" + data[4:]):
        with pytest.raises(StoreError):
            factors_from_bytes(bad)


def test_a_file_of_somebody_else_is_refused():
    from safetensors.torch import save

    with pytest.raises(StoreError, match="no factors file"):
        factors_from_bytes(save({"x": torch.ones(2)}, {"format": "pt"}))


def test_nothing_is_left_behind_where_writing_fails(deltas, tmp_path):
    with pytest.raises(StoreError, match="cannot be written"):
        save_factors(tmp_path / "missing" / "x.safetensors", deltas, fingerprint="f")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "missing.safetensors"):
        with pytest.raises(StoreError, match=f"{path} cannot be read"):
            load_factors(path)
