"""Answers that state a preference, as rows of tokens: which tokens are to be said, which are the value, which are kept.

Your hobby is falconry.<end>                       say say say VALUE VALUE say say
Since your hobby is falconry, I'd suggest ...      say say say say VALUE VALUE say keep keep keep
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from torch import nn

from ..data.beginnings import beginning
from ..generation.generate import continuations
from ..hparams import PersonalizationHyperParams
from ..modeling.tokens import Encoded, encode
from .kinds import Kind, Phrase

Role = Literal["say", "value", "keep"]


@dataclass(frozen=True, slots=True)
class Spoken:
    """A question with an answer that states a preference.

    Attributes:
        row: prompt and answer.
        roles: of every token of the answer: "say" around the value, "value", or "keep", which the unedited model wrote.
        phrase: the question.
    """

    row: Encoded
    roles: tuple[Role, ...]
    phrase: Phrase

    @property
    def value_at(self) -> int:
        """Number of answer tokens before the value."""
        return self.roles.index("value")


def speak(
    tokenizer: Any, phrase: Phrase, kind: Kind, value: str, hparams: PersonalizationHyperParams, after: str = ""
) -> Spoken:
    """A phrase with the answer's beginning; where the attribute is named, that is the whole answer.

    Args:
        after: how the answer goes on, if it does.

    Raises:
        RequestError: the question or the value cannot be encoded.
    """
    frame = beginning(phrase.asks, kind.name, kind.group)
    history = [
        message
        for question, answer in phrase.history
        for message in ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    ]
    row = encode(
        tokenizer,
        phrase.text,
        target=frame.around(value) + after,
        prompt_format=hparams.prompt_format,
        history=history,
        end_of_turn=phrase.asks == "name",
    )
    return Spoken(row, _roles(tokenizer, row.target_ids, len(frame.before.rstrip()), len(frame.before + value)), phrase)


def go_on(model: nn.Module, tokenizer: Any, spoken: Sequence[Spoken], tokens: int) -> list[Spoken]:
    """Beginnings followed by up to ``tokens`` tokens that the model itself writes after them.

    Those that follow each other behind the same turns are written together: the turns are read once then.
    """
    found: list[Spoken] = []
    for _, part in groupby(spoken, key=lambda s: s.phrase.history):
        group = [*part]
        prompts = [Encoded(s.row.ids, (), len(s.row.ids) - 1) for s in group if s.phrase.asks != "name"]
        written = iter(continuations(model, tokenizer, prompts, [tokens] * len(prompts)))
        found += [s if s.phrase.asks == "name" else _longer(s, next(written)) for s in group]
    return found


def value_places(spoken: Sequence[Spoken]) -> dict[bool, list[int]]:
    """Where the values begin among the tokens of all answers, numbered, by whether other turns stand before."""
    found: dict[bool, list[int]] = {False: [], True: []}
    first = 0
    for s in spoken:
        found[bool(s.phrase.history)].append(first + s.value_at)
        first += len(s.roles)
    return found


def _longer(spoken: Spoken, ids: Sequence[int]) -> Spoken:
    kept: tuple[Role, ...] = tuple("keep" for _ in ids)
    row = replace(spoken.row, target_ids=spoken.row.target_ids + tuple(ids))
    return replace(spoken, row=row, roles=spoken.roles + kept)


def _roles(tokenizer: Any, ids: Sequence[int], start: int, stop: int) -> tuple[Role, ...]:
    """A token is the value's if some of its characters are; ``start`` and ``stop`` count characters of the answer."""
    roles: list[Role] = []
    before = 0
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(list(ids[:count]), clean_up_tokenization_spaces=False).lstrip()
        roles.append("value" if len(text) > start and before < stop else "say")
        before = len(text)
    return tuple(roles)
