"""Prompting baselines: nothing said, said once at the beginning, said again before every question.

The preference really stands in the conversation: the paper's own prompting baseline never saw it on implicit and
product questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..data.records import UPQAItem
from .base import Message, Prompting, Session, statement

ACKNOWLEDGEMENT = "Thanks, I'll keep that in mind."


class ZeroShot(Prompting):
    """The model as it is; it cannot know."""

    name = "zero_shot"

    @contextmanager
    def personalize(
        self, model: nn.Module, tokenizer: Any, preferences: Sequence[UPQAItem], cluster_size: int
    ) -> Iterator[Session]:
        """A session without anything."""
        yield Session(model)


class InPrompt(Prompting):
    """Every preference is stated in a turn of its own, at the beginning."""

    name = "in_prompt"

    @contextmanager
    def personalize(
        self, model: nn.Module, tokenizer: Any, preferences: Sequence[UPQAItem], cluster_size: int
    ) -> Iterator[Session]:
        """A session that opens with the user's statements."""
        yield Session(model, opening(preferences), nbytes=stated_bytes(preferences))


class Reminder(Prompting):
    """Stated at the beginning, and once more in the message that holds the question."""

    name = "reminder"

    @contextmanager
    def personalize(
        self, model: nn.Module, tokenizer: Any, preferences: Sequence[UPQAItem], cluster_size: int
    ) -> Iterator[Session]:
        """A session that repeats the user's statements before every question."""
        said = " ".join(statement(item) for item in preferences)

        def remind(question: str) -> str:
            return f"{said} {question}"

        yield Session(model, opening(preferences), remind, nbytes=stated_bytes(preferences))


def opening(preferences: Sequence[UPQAItem]) -> tuple[Message, ...]:
    """The turns in which a user states preferences."""
    turns: list[Message] = []
    for item in preferences:
        turns += [{"role": "user", "content": statement(item)}, {"role": "assistant", "content": ACKNOWLEDGEMENT}]
    return tuple(turns)


def stated_bytes(preferences: Sequence[UPQAItem]) -> int:
    """What has to be kept for a user: the sentences."""
    return sum(len(statement(item).encode()) for item in preferences)
