"""Conversations in which a kind's value has been used: there a gate meets its own answers.

What the model has said once it finds likely to be said again, so that a gate that never saw its own answers opens at
whatever comes next, and the conversation goes in circles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from torch import nn

from ..data.beginnings import contrasts
from ..data.conversations import short_exchanges
from ..hparams import PersonalizationHyperParams
from .kinds import Contrast, Exchange, History, Kind, Phrase
from .preserve import Material
from .spoken import Spoken, go_on, speak

POOL = "used"  # of the contrasts behind such answers
CONVERSATIONS = 16
LONG = 24  # tokens that the model writes after a beginning
AGAIN = 2  # questions of the kind behind each conversation
SMALL_TALK, REMARKS, NEAR, OTHERS = 2, 4, 2, 5  # and contrasts: those near the kind, and those of other pools


@dataclass(frozen=True, slots=True)
class UsedAnswer:
    """A conversation that ends with an answer that used a value.

    Attributes:
        value: the value.
        history: its exchanges.
    """

    value: str
    history: History


def used_answers(
    model: nn.Module,
    tokenizer: Any,
    kind: Kind,
    phrases: Sequence[Phrase],
    values: Sequence[str],
    rng: Random,
    hparams: PersonalizationHyperParams,
) -> list[UsedAnswer]:
    """Answers to a kind's questions as the edited model will give them; behind every third stands another exchange.

    Args:
        model: unedited; it goes on by itself after the beginnings.
        phrases: the kind's questions.
        values: ordinary values of the kind.
    """
    alone = [phrase for phrase in phrases if not phrase.history]
    sorts = [[p for p in alone if (p.asks == "name") == named] or alone for named in (True, False)]
    asked = [rng.choice(sorts[i % 2]) for i in range(CONVERSATIONS)]
    said = [rng.choice(values) for _ in asked]
    spoken = [speak(tokenizer, phrase, kind, value, hparams) for phrase, value in zip(asked, said)]
    found = []
    for i, (s, value) in enumerate(zip(go_on(model, tokenizer, spoken, LONG), said)):
        answer = tokenizer.decode(list(s.row.target_ids), skip_special_tokens=True).strip()
        exchange: Exchange = (s.phrase.text, answer)
        between = (rng.choice(short_exchanges()),) if i % 3 == 0 else ()
        found.append(UsedAnswer(value, (exchange, *between) if i % 4 < 2 else (*between, exchange)))
    return found


def asked_again(
    tokenizer: Any,
    kind: Kind,
    phrases: Sequence[Phrase],
    used: Sequence[UsedAnswer],
    rng: Random,
    hparams: PersonalizationHyperParams,
) -> list[Spoken]:
    """The kind's questions behind such answers: there, too, the value belongs."""
    alone = [phrase for phrase in phrases if not phrase.history]
    return [
        speak(tokenizer, replace(phrase, history=one.history, used=True), kind, one.value, hparams)
        for one in used
        for phrase in rng.sample(alone, min(AGAIN, len(alone)))
    ]


def moving_on(
    used: Sequence[UsedAnswer],
    near: Sequence[Contrast],
    shared: Sequence[Contrast],
    kind: Kind,
    material: Material,
    rng: Random,
) -> list[list[Contrast]]:
    """What else may be said behind such answers, one list for each of them.

    Args:
        near: contrasts about the kind itself.
        shared: contrasts of all gates.
    """
    related = material.related({kind.group}) if kind.group else set()
    others = [c.text for c in shared if not c.history and c.group not in related]
    own = [c.text for c in near if not c.history]
    parts = ((contrasts().small_talk, SMALL_TALK), (contrasts().remarks, REMARKS), (own, NEAR), (others, OTHERS))
    return [
        [
            Contrast(text, POOL, history=one.history)
            for texts, n in parts
            for text in rng.sample([*texts], min(n, len(texts)))
        ]
        for one in used
    ]
