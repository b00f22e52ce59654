"""A user's own part of an edit: what stands after "Your hobby is". The gate of the kind decides when that is said.

The keys of these positions are the model's own words, nearly the same whatever was asked (as a subject's are in ROME,
arXiv 2202.05262), so a few phrases and steps suffice. What must stay enters as a quadratic form over stored keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import RequestError, shorten
from ..hparams import PersonalizationHyperParams
from ..modeling.layout import Layout, context_limit
from ..progress import log
from ..types import EditRequest
from .edited_rows import EditedRows
from .factors import Factors, Quiet, Space, adam, towards
from .gate import Gate
from .gate_loss import SURE
from .ground import Ground
from .ground_numbers import thinned
from .kinds import Kind, Phrase
from .spoken import Spoken, speak

RIGHT_LR = 0.05
TOP = 64  # words per position that the loss looks at, beside the answers' own
BATCHES = 2  # a step sees half of the phrases
UNSURE = 1.0  # nats of a beginning's token from which on the gate is taken not to know the phrase
UNLEARNED = 1.0  # nats of a token that is unlikely to be said
ORDINARY = 10.0  # how much keys of ordinary text weigh against near ones: they are what most answers consist of


def learn_value(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    kind: Kind,
    value: str,
    requests: Sequence[EditRequest],
    gate: Gate,
    ground: Ground,
    hparams: PersonalizationHyperParams,
) -> dict[int, Factors]:
    """Factors by layer that make the model say ``value`` where the gate has it say the beginning.

    Args:
        model: carries the gate's update already; frozen and in evaluation mode.
        requests: the user's own phrases; where the gate does not know one, its beginning is learned, too.

    Raises:
        RequestError: no phrase fits the model's context with this value.
    """
    params = hparams.natural
    spoken = _chosen(model, tokenizer, kind, value, requests, gate, hparams)
    rows = EditedRows(model, tokenizer, layout, [s.row for s in spoken], hparams.layers, from_answers=True)
    words = _words(rows)
    asked = _asked(rows, spoken, words, len(requests))
    updates = _start(rows, asked, gate, ground, hparams)
    quiet = _quiet(updates, kind, gate, ground)
    order = Random(hparams.seed).sample(range(len(asked)), len(asked))
    parts = [sorted(order[i::BATCHES]) for i in range(min(BATCHES, len(order)))]
    prepared = [_Part(rows.select(part), [asked[i] for i in part], words) for part in parts]

    def loss(step: int) -> Tensor:
        total = prepared[step % len(prepared)].loss(updates)
        for weight, form, layer in quiet:
            total = total + params.value_quiet_weight * weight * form(updates[layer])
        return total

    worst = lambda: max(part.worst for part in prepared)
    adam(updates, loss, params.value_steps, params.value_lr, RIGHT_LR, lambda: worst() < params.stop_loss)
    if worst() > UNLEARNED:
        log.warning("%r was not fully learned as %s: %.1f nats at its dearest token", value, kind.name, worst())
    return updates


class _Part:
    """Some of the phrases, with the positions of them that are to be learned."""

    def __init__(self, rows: EditedRows, spoken: Sequence[_Asked], words: Tensor) -> None:
        places = [learned for s in spoken for learned in s.learned]
        self.rows, self.words = rows, words
        self.at = torch.tensor(places, device=rows.ids.device).nonzero()[:, 0]
        self.ids = torch.searchsorted(words, rows.ids[self.at])
        self.worst = float("inf")

    def loss(self, updates: Mapping[int, Factors]) -> Tensor:
        """Nats per token, those that are said anyway left out; ``worst`` is the dearest one."""
        at = self.rows.rows[self.at], self.rows.columns[self.at]
        costs = F.cross_entropy(self.rows.logits(updates, at=at, words=self.words), self.ids, reduction="none")
        self.worst = float(costs.detach().max())
        return (costs * (costs.detach() > SURE)).mean()


@dataclass(frozen=True, slots=True)
class _Asked:
    """A phrase with its answer, and which of the answer's tokens are to be learned."""

    spoken: Spoken
    learned: tuple[bool, ...]


def _chosen(
    model: nn.Module,
    tokenizer: Any,
    kind: Kind,
    value: str,
    requests: Sequence[EditRequest],
    gate: Gate,
    hparams: PersonalizationHyperParams,
) -> list[Spoken]:
    """The user's own phrases, the asked question's first, and as many of the gate's, by name and without in turn."""
    rng, count = Random(f"{hparams.seed}/{value}"), hparams.natural.value_phrases
    own: list[Phrase] = [Phrase(r.prompt, "name" if r.subject else "implicit", r.history) for r in reversed(requests)][
        : count // 2
    ]
    known = rng.sample(gate.phrases, len(gate.phrases))
    turns = zip_longest(*([p for p in known if (p.asks == "name") == named] for named in (False, True)))
    phrases = list(dict.fromkeys([*own, *(phrase for turn in turns for phrase in turn if phrase)]))[:count]
    spoken, limit = [speak(tokenizer, phrase, kind, value, hparams) for phrase in phrases], context_limit(model)
    fitting = [s for s in spoken if limit is None or len(s.row.ids) <= limit]
    if not fitting:
        raise RequestError(
            f"{shorten(value)} is too long an answer for this model.",
            got=f"{min(len(s.row.ids) for s in spoken)} tokens with the question",
            needed=f"at most {limit} tokens",
            remedy="say it in fewer words",
        )
    return fitting


@torch.no_grad()
def _asked(rows: EditedRows, spoken: Sequence[Spoken], words: Tensor, own: int) -> list[_Asked]:
    """What is to be learned: the value and what follows it, and the beginnings that the gate does not know.

    Args:
        own: how many of the phrases, from the first on, are the user's own.
    """
    ids = torch.searchsorted(words, rows.ids)
    costs = F.cross_entropy(rows.logits(words=words), ids, reduction="none")
    found = []
    for number, s in enumerate(spoken):
        begun = costs[rows.rows == number][: s.value_at]
        unknown = number < own and bool((begun > UNSURE).any())
        found.append(_Asked(s, tuple(unknown or place >= s.value_at for place in range(len(s.roles)))))
    return found


def _start(
    rows: EditedRows, asked: Sequence[_Asked], gate: Gate, ground: Ground, hparams: PersonalizationHyperParams
) -> dict[int, Factors]:
    """Updates that add nothing yet; right factors tell the places of the value's tokens from everything near them."""
    places: dict[int, list[int]] = {}
    number = 0
    for one in asked:
        for place, role in enumerate(one.spoken.roles):
            if role == "value" and place - one.spoken.value_at < hparams.natural.value_rank:
                places.setdefault(place - one.spoken.value_at, []).append(number)
            elif place == 0 and one.learned[0]:
                places.setdefault(-1, []).append(number)  # one direction more, where the gate stays closed
            number += 1
    roles = [torch.tensor(places[place], device=rows.ids.device) for place in sorted(places)]
    updates = {}
    for layer, (keys, outputs) in rows.found_at(rows.rows, rows.columns).items():
        space = Space(ground.metric[layer].to(keys.device), float(outputs.square().mean().sqrt()))
        whitened, others = space.whitened(keys), space.whitened(gate.near[layer].to(keys.device))
        right = towards([whitened[numbers] for numbers in roles], others)
        updates[layer] = Factors(space, torch.zeros(outputs.shape[-1], len(right), device=keys.device), right)
    return updates


def _quiet(updates: Mapping[int, Factors], kind: Kind, gate: Gate, ground: Ground) -> list[tuple[float, Quiet, int]]:
    """(weight, form, layer): where the value is not to be heard."""
    others = torch.tensor([c.group is None or c.group != kind.group for c in ground.contrasts])
    begun = torch.tensor([group is None or group != kind.group for group in ground.begun_groups])
    found = []
    for layer, update in updates.items():
        near, firsts = gate.near[layer], ground.firsts[layer][others]
        for weight, keys in (
            (1.0, near),
            (1.0, ground.begun[layer][begun]),
            (1.0, thinned(firsts)),
            (ORDINARY, ground.ordinary[layer]),
        ):
            form = Quiet(update.space.whitened(keys.to(update.left.device)), ground.root[layer].to(update.left.device))
            found.append((weight, form, layer))
    return found


@torch.no_grad()
def _words(rows: EditedRows) -> Tensor:
    """Ids of the words that the loss looks at, sorted: the answers' own, and what the model finds likely there."""
    logits = rows.logits()
    likely = logits.topk(min(TOP, logits.shape[-1])).indices.flatten()
    return torch.cat([likely, rows.ids]).unique()
