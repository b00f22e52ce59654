"""Composing edits exactly, and cutting the composition to a budget of rank when it has grown.

What users share stays shared where the budget has room for it: merged, it would be in every user's own factors.
Notation: L [d_out, r], R [r, d_in]; the update is L R. Nothing here ever forms the d_out x d_in matrix.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sqlalchemy import Connection, insert, update
from torch import Tensor

from ..errors import StoreError
from ..types import WeightDelta, as_kept, narrowed, shared_bytes
from .blobs import HEAD, size_of
from .encryption import Encryption
from .queries import add_edit, add_setting
from .rows import checksum, pack_factors, pack_record, pack_settings, sealed
from .schema import edits, merges
from .shared import SharedFactors


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What ``compact`` did to a user.

    Attributes:
        user: whose edits.
        edit: the new edit that stands for all; None where nothing had to be done.
        merged: ids of the edits whose factors it has replaced.
        rank_before, rank_after: by module path.
        error: by module path, |stored - exact| / |exact| in the Frobenius norm; what rounding costs included.
        bytes_before, bytes_after: of the user's own live factors in the store.
        shared_before, shared_after: bytes of those that they share with others.
    """

    user: str
    edit: int | None
    merged: tuple[int, ...]
    rank_before: Mapping[str, int]
    rank_after: Mapping[str, int]
    error: Mapping[str, float]
    bytes_before: int
    bytes_after: int
    shared_before: int = 0
    shared_after: int = 0

    @property
    def max_error(self) -> float:
        """The worst matrix's relative error."""
        return max(self.error.values(), default=0.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a user's live edits would become; ``factors`` is None where they are within the budget already.

    ``user``, ``record``, ``factors`` and ``shared`` are as the new rows hold them: encrypted, in an encrypted store.
    """

    report: CompactReport
    user: str
    record: bytes
    factors: bytes | None
    settings: tuple[bytes, str]
    shared: Mapping[bytes, bytes]


def planned(
    user: str,
    rows: Sequence[Any],
    parts: Sequence[WeightDelta],
    rank: int,
    fingerprint: str,
    shared: SharedFactors,
    encryption: Encryption | None = None,
) -> Plan:
    """Compute a compaction of live rows, whose factors are ``parts``, without writing."""
    exact = composed(parts)
    within = len(rows) <= 1 and all(delta.rank <= rank for delta in exact)
    smaller = list(parts) if within else cut(parts, rank)
    after = composed(smaller)
    narrow = all(delta.left.dtype == torch.bfloat16 for delta in smaller if not delta.shared)
    dtype = "bfloat16" if narrow else "float32"
    names, elsewhere = shared.packed(smaller)
    factors = b"" if within else pack_factors(smaller, fingerprint=fingerprint, dtype=dtype, names=names)
    before = sum(size_of(row.factors[:HEAD], len(row.factors)) for row in rows)
    report = CompactReport(
        user=user,
        edit=None,
        merged=() if within else tuple(row.id for row in rows),
        rank_before={delta.layer: delta.rank for delta in exact},
        rank_after={delta.layer: delta.rank for delta in after},
        error={a.layer: 0.0 if within else relative_error(a, b) for a, b in zip(exact, _like(exact, after))},
        bytes_before=before,
        bytes_after=before if within else len(factors),
        shared_before=shared_bytes(parts),
        shared_after=shared_bytes(smaller),
    )
    record = pack_record(user, None, {"error": report.max_error})
    key = encryption.user_key(rows[0].owner, rows[0].wrapped) if encryption and rows else None
    new = sealed({"user": user, "record": record, "factors": factors}, key)
    return Plan(
        report,
        user=new["user"],
        record=new["record"],
        factors=None if within else new["factors"],
        settings=pack_settings({"rank": rank}),
        shared=elsewhere,
    )


def merge(connection: Connection, tick: int, rows: Sequence[Any], plan: Plan, shared: SharedFactors) -> None:
    """Put the compacted edit in the place of ``rows``, which keep everything but their factors."""
    old = [row.id for row in rows]
    row = {
        "id": tick,
        "owner": rows[0].owner,
        "live": 1,
        "token": None,
        "created": time.time(),
        "kernel": "compact",
        "settings": plan.settings[0],
        "user": plan.user,
        "record": plan.record,
        "factors": plan.factors,
    }
    add_setting(connection, plan.settings)
    add_edit(connection, row)
    # What had been merged into one of them before follows it.
    connection.execute(update(merges).where(merges.c.target.in_(old)).values(target=tick))
    connection.execute(insert(merges), [{"edit": number, "target": tick} for number in old])
    for one in rows:
        emptied = {**one._asdict(), "factors": b"", "live": 0}
        values = {"factors": b"", "live": 0, "checksum": checksum(emptied)}
        connection.execute(update(edits).where(edits.c.id == one.id).values(**values))
    shared.keep(connection, tick, plan.shared)
    shared.drop(connection, old)


def cut(parts: Sequence[WeightDelta], rank: int) -> list[WeightDelta]:
    """The same updates within a budget of rank per matrix.

    Shared ones stay as they are, and the others are reduced to what they leave of the budget. Where they leave nothing,
    all are reduced together, and are the user's own from then on.

    Raises:
        StoreError: they take neurons, of which none can be left out.
    """
    shared, own = [part for part in parts if part.shared], composed([part for part in parts if not part.shared])
    taken = {delta.layer: delta.rank for delta in composed(shared)}
    if any(rank - taken.get(delta.layer, 0) < 1 for delta in own) or max(taken.values(), default=0) > rank:
        shared, own, taken = [], composed(parts), {}
    budgets = [rank - taken.get(delta.layer, 0) for delta in own]
    _check_neurons(own, budgets)
    smaller = [reduced(delta, budget) for delta, budget in zip(own, budgets)]
    if all(narrowed(factor).dtype == torch.bfloat16 for delta in own for factor in (delta.left, delta.right)):
        smaller = [delta.to(torch.bfloat16).to(delta.left.dtype) for delta in smaller]
    return [*shared, *smaller]


def _check_neurons(deltas: Sequence[WeightDelta], budgets: Sequence[int]) -> None:
    """Refuse to cut updates whose directions are neurons: each has its row or column in three matrices."""
    for delta, budget in zip(deltas, budgets):
        factors = (delta.left, delta.right)
        if delta.rank > budget and any(".at" in as_kept(factor) for factor in factors):
            raise StoreError(
                f"Edits that take neurons cannot be cut ({delta.layer!r}).",
                got=f"{delta.rank} neurons",
                needed=f"at most {budget}",
                remedy="give at least that rank, or undo some of the preferences",
            )


def composed(deltas: Sequence[WeightDelta]) -> list[WeightDelta]:
    """One update per matrix: left factors side by side, right ones below each other, so that updates add up exactly.

    Raises:
        StoreError: updates of one matrix have different shapes.
    """
    layers: dict[str, list[WeightDelta]] = defaultdict(list)
    for delta in deltas:
        layers[delta.layer].append(delta)
    return [parts[0] if len(parts) == 1 else _joined(layer, parts) for layer, parts in layers.items()]


def reduced(delta: WeightDelta, rank: int) -> WeightDelta:
    """The best approximation of at most ``rank`` (Eckart-Young), computed in float64, in the update's own type.

    Directions that are zero up to float64's rounding are dropped too; where none is to go, the update is left alone.
    The singular values' square roots go to either side, so that neither factor overflows or vanishes in a narrow type.
    """
    left_q, left_r = torch.linalg.qr(delta.left.double())
    right_q, right_r = torch.linalg.qr(delta.right.double().T)
    u, s, v = torch.linalg.svd(left_r @ right_r.T)
    kept = max(1, min(rank, int((s > _noise(s, delta.shape)).sum())))
    if kept == delta.rank:
        return delta
    root = s[:kept].sqrt()
    left, right = left_q @ (u[:, :kept] * root), (root[:, None] * v[:kept]) @ right_q.T
    return WeightDelta(delta.layer, left.to(delta.left.dtype), right.to(delta.right.dtype))


def relative_error(exact: WeightDelta, other: WeightDelta) -> float:
    """|other - exact| / |exact| in the Frobenius norm, computed from the factors in float64; 0 / 0 is 0."""
    norm = _norm(exact.left.double(), exact.right.double())
    left = torch.cat([other.left.double(), -exact.left.double()], dim=1)
    difference = _norm(left, torch.cat([other.right.double(), exact.right.double()], dim=0))
    return 0.0 if difference == 0.0 else difference / norm if norm else float("inf")


def check_budget(rank: int) -> None:
    """Refuse a rank that keeps nothing."""
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise StoreError("A budget of rank must be a whole number.", got=rank, needed="1 or more")


def check_error(report: CompactReport, rank: int, limit: float | None) -> None:
    """Refuse a compaction that changes some matrix by more than ``limit``; None allows everything."""
    if limit is not None and report.max_error > limit:
        raise StoreError(
            f"Rank {rank} is too small for user {report.user!r}.",
            got=f"a relative error of {report.max_error:.3g}",
            needed=f"{limit:.3g} or less",
            remedy="allow a larger rank",
        )


def _joined(layer: str, parts: Sequence[WeightDelta]) -> WeightDelta:
    shapes = sorted({part.shape for part in parts})
    if len(shapes) > 1:
        raise StoreError(
            f"Edits of {layer!r} do not fit together.", got=shapes, cause="they were made for different models"
        )
    left = torch.cat([part.left for part in parts], dim=1)
    return WeightDelta(layer, left, torch.cat([part.right for part in parts], dim=0))


def _like(order: Sequence[WeightDelta], deltas: Sequence[WeightDelta]) -> list[WeightDelta]:
    """The updates in another list's order of matrices."""
    found = {delta.layer: delta for delta in deltas}
    return [found[delta.layer] for delta in order]


def _norm(left: Tensor, right: Tensor) -> float:
    """Frobenius norm of left @ right."""
    return float(torch.linalg.norm(torch.linalg.qr(left)[1] @ torch.linalg.qr(right.T)[1].T))


def _noise(values: Tensor, shape: tuple[int, int]) -> float:
    """Below this, a singular value is float64's rounding."""
    largest = float(values[0]) if len(values) else 0.0
    return largest * max(shape) * torch.finfo(values.dtype).eps
