"""The method protocol: personalise a model for one user, and say how that user's questions are put to it.

Kernels, prompting, LoRA and EasyEdit's editors all fit: a context manager that yields a Session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from ..data.records import UPQAItem
from ..types import WeightDelta

Message = Mapping[str, str]


def _as_typed(question: str) -> str:
    return question


@dataclass(frozen=True)
class Session:
    """One user's model, as long as the context is open.

    Attributes:
        model: answers this user's questions.
        history: what was said before, for example the stated preference.
        rewrite: what becomes of a question before it is asked, for example a reminder put before it.
        deltas: the update, where the method has one as factors.
        nbytes: what has to be kept for this user alone.
        shared_bytes: what else it takes, and is the same for all users of a model, or of a kind of preference: kept
            once for all of them.
        refused: why the editor's health check kept preferences out of the model, one text for each.
    """

    model: nn.Module
    history: tuple[Message, ...] = ()
    rewrite: Callable[[str], str] = _as_typed
    deltas: Sequence[WeightDelta] = ()
    nbytes: int = 0
    shared_bytes: int = 0
    refused: tuple[str, ...] = ()

    def conversation(self, question: str, between: Sequence[Message] = ()) -> list[Message]:
        """The whole conversation that ends with ``question``; ``between`` are turns about other things."""
        return [*self.history, *between, {"role": "user", "content": self.rewrite(question)}]


class Method(Protocol):
    """A way to personalise.

    Attributes:
        name: under which its results are kept.
        edits: whether it changes weights; methods that do not are run for many users in one batch.
    """

    name: str
    edits: bool

    def prepare(self, items: Sequence[UPQAItem], seed: int) -> None:
        """Told once before the first user: everybody's items, for example to fill a memory."""

    def personalize(
        self, model: nn.Module, tokenizer: Any, preferences: Sequence[UPQAItem], cluster_size: int
    ) -> AbstractContextManager[Session]:
        """The user's model with their preferences, the earliest first; all is as before on leaving.

        Args:
            model: bit for bit the same after the context was left, also after an exception.
            preferences: one user's, in the order in which they were stated.
            cluster_size: phrases per preference, for methods that learn from phrases.
        """
        ...


class Prompting:
    """Base of methods that leave the weights alone."""

    name = ""
    edits = False

    def prepare(self, items: Sequence[UPQAItem], seed: int) -> None:
        """Nothing to prepare."""


def statement(item: UPQAItem) -> str:
    """What the user says about a preference: their own sentence, then the value under its name.

    The second half makes the comparison fair: users say "I like to dance at the club", the target that answers are
    held against is "Dancing at clubs", and an editor is given that target.
    """
    said = item.persona if item.persona[-1:] in ".!?" else f"{item.persona}."
    return f"{said} My {item.subject} is {item.target.rstrip('.')}."
