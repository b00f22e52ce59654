"""What the learning of a value begins with: its phrases, which of their tokens are learned, and factors of nothing.

What must stay enters as quadratic forms over stored keys: no pass of the model is needed for it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.beginnings import Asks, beginning, said_again
from ..errors import RequestError, shorten
from ..hparams import PersonalizationHyperParams
from ..modeling.layout import Layout, context_limit, input_device
from ..types import EditRequest
from .edited_rows import EditedRows
from .factors import Quiet, Update
from .gate import Gate
from .ground import Ground
from .ground_numbers import thinned
from .kinds import Kind, Phrase
from .spoken import Spoken, speak, value_places
from .target_gradients import ELSEWHERE_WEIGHT, NEAR_WEIGHT, with_gradients

ASKS: tuple[Asks, ...] = ("name", "implicit", "product")
USED = 3  # questions behind the value's own answer by name
TOP = 64  # words per position that the loss looks at, beside the answers' own
UNSURE = 1.0  # nats of a beginning's token from which on the gate is taken not to know the phrase
CLOSED = 10.0  # how much keys weigh where answers to negated questions and the like begin: a value opens none of them
MISPLACED = 0.5  # keys at the ends of beginnings after which the value does not belong
AGAIN = 1.0  # and keys where the value has been said before
ORDINARY = 30.0  # how much keys of ordinary text weigh against near ones: they are what most answers consist of


@dataclass(frozen=True, slots=True)
class Wanted:
    """A value to be learned: one user's, of one kind.

    Attributes:
        requests: the user's own phrases; where the gate does not know one, its beginning is learned, too.
        gate: of the kind.
    """

    kind: Kind
    value: str
    requests: Sequence[EditRequest]
    gate: Gate


def chosen(model: nn.Module, tokenizer: Any, wanted: Wanted, hparams: PersonalizationHyperParams) -> list[Spoken]:
    """The user's own phrases, the asked question's first, and the gate's: half of all without the attribute's name.

    Behind the gate's other turns, where a value stands in other company, comes the asked question or the plainest; and
    a quarter as many without the attribute's name. Some stand behind answers that used the value.

    Raises:
        RequestError: none of them fits the model's context with this value.
    """
    value, gate = wanted.value, wanted.gate
    rng, count = Random(f"{hparams.seed}/{value}"), hparams.natural.value_phrases
    own = [*own_phrases(wanted, hparams), gate.phrases[0]]  # the plainest
    known = rng.sample(gate.phrases, len(gate.phrases))
    named, implicit, product = ([p for p in known if p.asks == asks and not p.history] for asks in ASKS)
    indirect = [phrase for turn in zip_longest(implicit, product) for phrase in turn if phrase]
    half = max(0, count // 2 - sum(phrase.asks != "name" for phrase in own))
    phrases = list(dict.fromkeys([*own, *indirect[:half], *named, *indirect[half:]]))[:count]
    histories = dict.fromkeys(p.history for p in known if p.history)
    phrases += [replace(own[0] if i % 2 else own[-1], history=history) for i, history in enumerate(histories)]
    phrases += [p for p in known if p.history and p.asks != "name"][: count // 4]
    phrases += _behind_used(wanted, gate.phrases[0], indirect)
    limit = context_limit(model)
    spoken = [speak(tokenizer, phrase, wanted.kind, value, hparams) for phrase in phrases]
    fitting = [s for s in spoken if limit is None or len(s.row.ids) <= limit]
    if not fitting:
        raise RequestError(
            f"{shorten(value)} is too long an answer for this model.",
            got=f"{min(len(s.row.ids) for s in spoken)} tokens with the question",
            needed=f"at most {limit} tokens",
            remedy="say it in fewer words",
        )
    return fitting


def _behind_used(wanted: Wanted, plain: Phrase, indirect: Sequence[Phrase]) -> list[Phrase]:
    """Questions behind answers that used the value: the plainest, and behind its answer some that do not name it."""
    start = lambda phrase: beginning(phrase.asks, wanted.kind.name, wanted.kind.group).around(wanted.value)
    found = [replace(p, history=((plain.text, start(plain)),), used=True) for p in indirect[:USED]]
    for phrase, frame in zip(indirect[USED:], said_again()):
        answer = f"{start(phrase)} {frame.replace('{v}', wanted.value)}"
        found.append(replace(plain, history=((phrase.text, answer),), used=True))
    return found


def own_phrases(wanted: Wanted, hparams: PersonalizationHyperParams) -> list[Phrase]:
    """The user's own phrases that a value is learned on, the asked question's first: as many as half of all."""
    asked = list(reversed(wanted.requests))[: hparams.natural.value_phrases // 2]
    return [Phrase(r.prompt, "name" if r.subject else "implicit", r.history) for r in asked]


def again_keys(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    wanted: Wanted,
    spoken: Sequence[Spoken],
    hparams: PersonalizationHyperParams,
) -> dict[int, Tensor]:
    """Keys [n, d_in], by layer, along answers in which the value has been said and comes up again; n may be 0.

    There the model repeats it by itself, and an update that helps makes it say nothing else.
    """
    limit, open_ended = context_limit(model), [s.phrase for s in spoken if s.phrase.asks != "name"]
    again = [
        speak(tokenizer, phrase, wanted.kind, wanted.value, hparams, " " + frame.replace("{v}", wanted.value))
        for phrase, frame in zip(open_ended, said_again())
    ]
    again = [s for s in again if limit is None or len(s.row.ids) <= limit]
    if not again:
        return {layer: torch.zeros(0, layout.d_mlp, device=input_device(model)) for layer in hparams.layers}
    rows = EditedRows(model, tokenizer, layout, [s.row for s in again], hparams.layers, from_answers=True)
    said = [s.value_at + s.roles.count("value") for s in again]
    later = [place > end for s, end in zip(again, said) for place in range(len(s.roles))]
    flags = torch.tensor(later, device=rows.ids.device)
    return {layer: keys[flags] for layer, (keys, _) in rows.found_at(rows.rows, rows.columns).items()}


@torch.no_grad()
def words_and_learned(
    rows: EditedRows, spoken: Sequence[Spoken], own: Collection[Phrase]
) -> tuple[Tensor, list[tuple[bool, ...]], Tensor]:
    """Words that the loss looks at, and which of the answers' tokens are to be learned.

    Learned are the value and what follows it, and the beginnings that the gate does not know.

    Args:
        own: the user's own phrases.

    Returns:
        Ids of the answers' own words and those that the model finds likely there, sorted; for every phrase one flag per
        token of its answer; what all these tokens cost with nothing learned, in nats [m].
    """
    logits = rows.logits()
    likely = logits.topk(min(TOP, logits.shape[1])).indices.flatten()
    words = torch.cat([likely, rows.ids]).unique()
    costs = F.cross_entropy(logits[:, words], torch.searchsorted(words, rows.ids), reduction="none")
    learned = []
    for number, s in enumerate(spoken):
        begun = costs[rows.rows == number][: s.value_at]
        unknown = s.phrase in own and bool((begun > UNSURE).any())
        learned.append(tuple(unknown or place >= s.value_at for place in range(len(s.roles))))
    return words, learned, costs


def first_factors(
    rows: EditedRows,
    spoken: Sequence[Spoken],
    learned: Sequence[Sequence[bool]],
    costs: Tensor,
    gate: Gate,
    ground: Ground,
    hparams: PersonalizationHyperParams,
) -> dict[int, Update]:
    """Updates that add nothing yet; right factors tell the places of the value's tokens from everything near them.

    Places come in their order, but later ones only as far as the model would not say their tokens by itself.

    Args:
        costs: as ``words_and_learned`` gives them.
    """
    opening = any(flags[0] for flags in learned)  # one direction more, where the gate stays closed
    roles = list(roles_by_place(spoken, learned).items())
    dear = {place: float(costs[numbers].mean()) if place[0] > 0 else math.inf for place, numbers in roles}
    taken = sorted(dear, key=dear.__getitem__, reverse=True)[: hparams.natural.value_rank + opening]
    roles = [(p, numbers) for p, numbers in roles if p in taken and dear[p] > hparams.natural.stop_loss]
    found = {}
    for layer, (keys, outputs) in rows.found_at(rows.rows, rows.columns).items():
        own = [keys[numbers] for _, numbers in roles]
        # Where a value begins, the gate has seen more questions and conversations than the value will.
        seen = {(0, talked): starts[layer].to(keys) for talked, starts in gate.starts.items()}
        told = [torch.cat([mine, seen[place]]) if place in seen else mine for (place, _), mine in zip(roles, own)]
        others = [gate.quiet.near[layer]] * len(told)
        found[layer] = ground.start(rows.model, rows.layout, layer, told, others, outputs)
    return found


def own_and_known_starts(rows: EditedRows, spoken: Sequence[Spoken], gate: Gate) -> dict[int, tuple[Tensor, Tensor]]:
    """By layer: keys [n, d_in] where the value begins in its own phrases, and in all of the gate's."""
    at = [place for places in value_places(spoken).values() for place in places]
    found = rows.found_at(rows.rows, rows.columns)
    return {
        layer: (keys[at], torch.cat([starts[layer] for starts in gate.starts.values()]).to(keys))
        for layer, (keys, _) in found.items()
    }


def quiet_forms(
    wanted: Wanted, ground: Ground, gradients: Mapping[int, Tensor], again: Mapping[int, Tensor], device: torch.device
) -> list[tuple[float, Quiet, int]]:
    """(weight, form, layer): where the value is not to be heard.

    Args:
        again: keys where the value has been said before, by layer.
        gradients: what raises the learned words, see ``target_gradients``.
    """
    kind, mine, found = wanted.kind, wanted.gate.quiet, []
    others = torch.tensor([c.group is None or c.group != kind.group for c in ground.contrasts])
    begun = torch.tensor([group is None or group != kind.group for group in ground.begun_groups])
    for layer, root in ground.root.items():
        for weight, heard, keys in (
            (1.0, ELSEWHERE_WEIGHT, mine.near[layer]),
            (1.0, ELSEWHERE_WEIGHT, ground.begun[layer][begun]),
            (1.0, ELSEWHERE_WEIGHT, thinned(ground.firsts[layer][others])),
            (ORDINARY, ELSEWHERE_WEIGHT, ground.ordinary[layer]),
            (MISPLACED, NEAR_WEIGHT, mine.begun[layer]),
            (CLOSED, NEAR_WEIGHT, mine.closed[layer]),
            (AGAIN, NEAR_WEIGHT, again[layer]),
        ):
            if len(keys):
                found.append((weight, Quiet(keys.to(device), with_gradients(root, gradients[layer], heard)), layer))
    return found


def learned_roles(spoken: Sequence[Spoken], learned: Sequence[Sequence[bool]], device: torch.device) -> list[Tensor]:
    """Numbers of the places of each role, see ``roles_by_place``."""
    return [torch.tensor(numbers, device=device) for numbers in roles_by_place(spoken, learned).values()]


def roles_by_place(spoken: Sequence[Spoken], learned: Sequence[Sequence[bool]]) -> dict[tuple[int, bool], list[int]]:
    """Numbers of the places of each role: of a beginning's first token where it is learned (-1), and of the value's.

    Where the value begins (0), questions behind other turns (True) have a role of their own: it stands in other company
    there.
    """
    places: dict[tuple[int, bool], list[int]] = {}
    number = 0
    for s, flags in zip(spoken, learned):
        for place, (role, flag) in enumerate(zip(s.roles, flags)):
            if flag and (role == "value" or place == 0):
                at = place - s.value_at if role == "value" else -1
                places.setdefault((at, at == 0 and bool(s.phrase.history)), []).append(number)
            number += 1
    return dict(sorted(places.items()))
