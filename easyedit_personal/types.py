"""The frozen records that the packages hand to each other.

``WeightDelta`` is the one that carries everything: apply, undo, store, export and mixed-user batches all follow
from an update kept as two factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .errors import ModelError

SPARSE = 8  # a factor is mostly zeros if at most one in so many of its numbers is another


@dataclass(frozen=True, slots=True)
class EditRequest:
    """One phrase of one preference: after the edit, ``prompt`` is to be answered with ``target_new``.

    The phrases of a preference's cluster are several requests with the same ``cluster`` and the same target.

    Attributes:
        prompt: the question as the user types it, without any chat template.
        target_new: the answer to be learned, without leading space.
        subject: the part of ``prompt`` whose last token serves as the key's position; None means the prompt's end.
        cluster: identifies the preference that the phrase belongs to; None means that it stands alone.
        user: whose preference it is; only used in messages and by the store.
        ground_truth: what the model answers before; EasyEdit's key, used by its evaluation only.
        history: exchanges before the prompt, (user's turn, model's turn) each, the oldest first.
    """

    prompt: str
    target_new: str
    subject: str | None = None
    cluster: str | None = None
    user: str | None = None
    ground_truth: str | None = None
    history: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Preference:
    """What a user told us, and all the ways in which it may be asked for.

    Attributes:
        subject: the kind of thing, e.g. "hobby".
        question: the direct question, e.g. "What's my hobby?".
        target: the value, e.g. "falconry".
        user: whose preference it is.
        text: the user's own sentence ("I love flying hawks"), shown to prompting baselines.
        phrases: further (subject, question) pairs of the cluster.
    """

    subject: str
    question: str
    target: str
    user: str | None = None
    text: str = ""
    phrases: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class WeightDelta:
    """An update of one weight matrix as two factors.

    Notation: d_out, d_in are the matrix's sizes in ``nn.Linear`` orientation (y = W x), r the rank.

    Attributes:
        layer: module path of the edited projection, e.g. "model.layers.3.mlp.down_proj".
        left: [d_out, r]; LoRA's B.
        right: [r, d_in]; LoRA's A. ``left @ right`` is the update, LoRA's at scaling 1.
        shared: it is the same for every user of the base model, and made of nothing that any of them said; a store
            keeps it once for all of them.

    Raises:
        ModelError: the factors are not matrices, do not fit together, or hold NaN or infinity.
    """

    layer: str
    left: Tensor
    right: Tensor
    shared: bool = False

    def __post_init__(self) -> None:
        shapes = (tuple(self.left.shape), tuple(self.right.shape))
        if self.left.ndim != 2 or self.right.ndim != 2 or self.left.shape[1] != self.right.shape[0]:
            raise ModelError(
                f"The factors of {self.layer!r} do not fit together.",
                got=shapes,
                needed="[d_out, r] and [r, d_in]",
            )
        if not (bool(torch.isfinite(self.left).all()) and bool(torch.isfinite(self.right).all())):
            raise ModelError(
                f"The update of {self.layer!r} is not finite.",
                needed="factors without NaN or infinity",
                cause="the optimisation diverged (learning rate too high) or the weights overflow in half precision",
                remedy="lower v_lr or lowrank.lr, or edit in float32",
            )

    @classmethod
    def dense(cls, layer: str, update: Tensor) -> WeightDelta:
        """A full-rank update [d_out, d_in] in the same record: the smaller side's identity is the other factor."""
        d_out, d_in = update.shape
        eye = torch.eye(min(d_out, d_in), dtype=update.dtype, device=update.device)
        return cls(layer, update, eye) if d_in <= d_out else cls(layer, eye, update)

    @property
    def rank(self) -> int:
        """Number of columns of ``left``."""
        return self.left.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in) of the matrix that is updated."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes that a file needs for it: of the factors, see ``as_kept``, or of the full matrix if that is smaller."""
        d_out, d_in = self.shape
        parts = [part for factor in (self.left, self.right) for part in as_kept(factor).values()]
        return min(sum(narrowed(part).nbytes for part in parts), d_out * d_in * self.left.element_size())

    def update(self) -> Tensor:
        """The update as a matrix [d_out, d_in] in ``nn.Linear`` orientation."""
        return self.left @ self.right

    def to(self, *args: Any, **kwargs: Any) -> WeightDelta:
        """Both factors on another device or in another type, as ``Tensor.to``."""
        return replace(self, left=self.left.to(*args, **kwargs), right=self.right.to(*args, **kwargs))


def as_kept(factor: Tensor) -> dict[str, Tensor]:
    """The tensors that a file holds of a factor, by what is added to its name; ``from_kept`` is the way back.

    Itself; of one that is mostly zeros, as those are that say which neurons an edit takes, only the other numbers
    (".numbers"), where they stand, counted row by row (".at"), and its shape (".shape").
    """
    flat = factor.flatten()
    at = flat.nonzero()[:, 0]
    if SPARSE * len(at) > len(flat):
        return {"": factor}
    shape = torch.tensor(factor.shape, dtype=torch.int32)
    return {".numbers": flat[at], ".at": at.to(torch.int32), ".shape": shape}


def from_kept(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A factor from the tensors of a file; see ``as_kept``.

    Raises:
        KeyError: it is not there.
        IndexError, RuntimeError: its parts do not fit together.
    """
    if name in tensors:
        return tensors[name]
    numbers, at, shape = (tensors[f"{name}.{part}"] for part in ("numbers", "at", "shape"))
    flat = numbers.new_zeros(int(shape.prod()))
    flat[at.long()] = numbers
    return flat.reshape(shape.tolist())


def narrowed(factor: Tensor) -> Tensor:
    """The same numbers in bfloat16, half as many bytes, where it holds each of a float32 factor's exactly."""
    if factor.dtype != torch.float32:
        return factor
    narrow = factor.to(torch.bfloat16)
    return narrow if torch.equal(narrow.to(torch.float32), factor) else factor


@dataclass(frozen=True, slots=True)
class EditResult:
    """What an edit left behind: the factors, what it cost and how healthy the model is with them.

    Attributes:
        deltas: the update, one record per edited matrix.
        seconds: wall time of the edit, without loading the model.
        health: figures of the health panel (perplexity ratio, update norms), empty when it was not asked for.
        notes: remarks for people, e.g. that a contradictory earlier preference was overruled.
    """

    deltas: Sequence[WeightDelta]
    seconds: float = 0.0
    health: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the user's own factors."""
        return own_bytes(self.deltas)


def own_bytes(deltas: Sequence[WeightDelta]) -> int:
    """Bytes of what is one user's own; what all users of a model share is not in it."""
    return sum(delta.nbytes for delta in deltas if not delta.shared)


def shared_bytes(deltas: Sequence[WeightDelta]) -> int:
    """Bytes of what all users of a model share, and a store keeps once."""
    return sum(delta.nbytes for delta in deltas if delta.shared)
