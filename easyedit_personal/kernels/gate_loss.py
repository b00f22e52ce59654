"""What a gate's optimisation looks at: answers that are to be said, and contrasts that are to stay as they were.

    mean over learned tokens of -log p_D(y), an answer's first twice                 (speaking_loss)
    + 2 KL(p_0 || p_D) along what the unedited model wrote after a beginning
    KL(p_0 || p_D) where a contrast's answer begins, plus its mean along it          (divergence)

p_0 is the unedited model, p_D the edited one; both over the words that occur or are likely at any of the positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .edited_rows import EditedRows
from .factors import Update
from .spoken import Spoken

SURE = 0.2  # nats; a token that costs less is said anyway
FIRST = 2.0  # how much an answer's first token counts: it decides whether the gate opens
TAIL_WEIGHT = 2.0
TOP = 24  # words per position that are looked at, beside the rows' own


@dataclass(frozen=True, slots=True)
class Speaking:
    """Rows of answers that state the preference, prepared for the loss.

    Attributes:
        rows: the rows.
        say, keep: numbers of the positions to be learned and to be kept [m].
        weights: of the first, [m].
        base: log p_0 of the words at the second, [m, words].
        ids: the words' numbers of all positions' tokens.
    """

    rows: EditedRows
    say: Tensor
    keep: Tensor
    weights: Tensor
    base: Tensor
    ids: Tensor


@dataclass(slots=True)
class Kept:
    """Contrasts with what the unedited model says: log p_0 of the words [m, words], and the divergence last seen."""

    rows: EditedRows
    base: Tensor
    latest: float = float("inf")


def speaking_of(
    rows: EditedRows, spoken: Sequence[Spoken], words: Tensor, learned: Sequence[str] = ("say",)
) -> Speaking:
    """Rows with what is to be learned of them: tokens of the roles ``learned``; what the model wrote itself is kept."""
    roles = [role for s in spoken for role in s.roles]
    say = torch.tensor([i for i, role in enumerate(roles) if role in learned], dtype=torch.long)
    keep = torch.tensor([i for i, role in enumerate(roles) if role == "keep"], dtype=torch.long)
    first = rows.columns == rows.last_index[rows.rows]
    weights = torch.where(first, FIRST, 1.0)[say]
    ids = torch.searchsorted(words, rows.ids)
    return Speaking(rows, say, keep, weights, log_p(rows, words)[keep], ids)


def speaking_loss(parts: Sequence[Speaking], updates: Mapping[int, Update], words: Tensor) -> Tensor:
    """Nats per token to be learned, those that are said anyway left out, plus the divergence of what is kept."""
    logs = [part.rows.logits(updates, words=words).log_softmax(1) for part in parts]
    costs = torch.cat([-log[part.say, part.ids[part.say]] for part, log in zip(parts, logs)])
    weights = torch.cat([part.weights for part in parts])
    loss = (weights * costs * (costs.detach() > SURE)).sum() / weights.sum()
    moved = torch.cat([_kl(part.base, log[part.keep]) for part, log in zip(parts, logs)])
    return loss + TAIL_WEIGHT * moved.mean() if len(moved) else loss


def turn(found: Sequence[Kept], step: int) -> Kept:
    """Every other step the part whose answers have moved most, in between one after the other."""
    return found[step // 2 % len(found)] if step % 2 == 0 else max(found, key=lambda part: part.latest)


def divergence(part: Kept, updates: Mapping[int, Update], words: Tensor) -> Tensor:
    """KL(unedited || edited) where answers begin, plus its mean along them."""
    found = _kl(part.base, part.rows.logits(updates, words=words).log_softmax(1))
    first = part.rows.columns == part.rows.last_index[part.rows.rows]
    part.latest = float(found[first].detach().mean())
    return found[first].mean() + (found[~first].mean() if bool((~first).any()) else 0.0)


def _kl(base: Tensor, logs: Tensor) -> Tensor:
    return F.kl_div(logs, base, log_target=True, reduction="none").sum(1)


def log_p(rows: EditedRows, words: Tensor) -> Tensor:
    """The unedited model's log-probabilities of ``words`` [m, n_words] at the rows' target positions."""
    with torch.no_grad():
        return rows.logits(words=words).log_softmax(1)


def costs_of(rows: EditedRows, words: Tensor) -> Tensor:
    """-log p_0 [m] of the rows' own target tokens, in nats."""
    return -log_p(rows, words).gather(1, torch.searchsorted(words, rows.ids)[:, None])[:, 0]


@torch.no_grad()
def words_of(rows: Sequence[EditedRows], others: Sequence[EditedRows]) -> Tensor:
    """Ids of the words that the losses look at, sorted: the rows' own tokens, and what the model finds likely there."""
    found = {int(token) for part in rows for token in part.ids.tolist()}
    for part in [*rows, *others]:
        logits = part.logits()
        found |= set(logits.topk(min(TOP, logits.shape[1])).indices.flatten().tolist())
    return torch.tensor(sorted(found), device=rows[0].ids.device)
