"""A conversation that stays within the model's context: the oldest exchanges go when it grows too long.

Nothing is dropped in silence: who asks is told how many exchanges went.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import RequestError
from ..generation.generate import Prompt, encode_prompt
from ..modeling.layout import context_limit
from ..modeling.tokens import PromptFormat

ANSWER_SHARE = 4  # an answer may take a quarter of the context, and at most
ANSWER_TOKENS = 512

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A user's turn and the model's."""

    said: str
    answer: str

    def messages(self) -> list[Message]:
        """As chat messages."""
        return [{"role": "user", "content": self.said}, {"role": "assistant", "content": self.answer}]


class Conversation:
    """The exchanges of one user with a model.

    Args:
        model, tokenizer: who reads the conversation; special tokens in anybody's words count as text.
        prompt_format: see ``modeling.tokens``.
        max_new_tokens: room for the answer; None means a quarter of the context, at most 512.
        told: what is put in front of the messages before the model reads them counts, too.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        prompt_format: PromptFormat = "auto",
        max_new_tokens: int | None = None,
        told: Callable[[Prompt], Prompt] = lambda prompt: prompt,
    ) -> None:
        self._told = told
        self.exchanges: list[Exchange] = []
        self.context = context_limit(model)
        room = ANSWER_TOKENS if self.context is None else max(1, min(ANSWER_TOKENS, self.context // ANSWER_SHARE))
        self.max_new_tokens = room if max_new_tokens is None else max_new_tokens
        self._tokenizer, self._prompt_format = tokenizer, prompt_format
        if self.max_new_tokens < 1 or (self.context or 2**31) <= self.max_new_tokens:
            raise RequestError(
                "The answer cannot have this length.",
                got=f"{self.max_new_tokens} tokens",
                needed=f"1 or more, and less than the context of {self.context} tokens",
            )

    def ask(self, text: str) -> tuple[list[Message], int]:
        """What the model is to read for the user's next turn, and how many exchanges had to go for it.

        Raises:
            RequestError: the turn is empty, or too long even alone; the conversation stays as it was.
        """
        dropped = bisect_left(range(len(self.exchanges)), True, key=lambda first: self._fits(first, text))
        if not self._fits(dropped, text):
            raise RequestError(
                "This is too long for the model.",
                got=f"{self._tokens(dropped, text)} tokens",
                needed=f"at most {(self.context or 0) - self.max_new_tokens}, so that an answer fits too",
                remedy="say it in fewer words, or lower max_new_tokens",
            )
        del self.exchanges[:dropped]
        return self._messages(0, text), dropped

    def answered(self, text: str, answer: str) -> None:
        """Keep an exchange; an answer that was stopped before its first word is no exchange."""
        if answer.strip():
            self.exchanges.append(Exchange(text, answer))

    def went_on(self, answer: str) -> None:
        """The last answer, which was cut, has been continued to this."""
        self.exchanges[-1] = Exchange(self.exchanges[-1].said, answer)

    def last(self) -> tuple[list[Message], str] | None:
        """What was read for the last answer, and the answer; None before the first."""
        if not self.exchanges:
            return None
        return self._messages(0, self.exchanges[-1].said, len(self.exchanges) - 1), self.exchanges[-1].answer

    def clear(self) -> int:
        """Forget all exchanges; returns how many there were."""
        count = len(self.exchanges)
        self.exchanges.clear()
        return count

    def _messages(self, first: int, text: str, end: int | None = None) -> list[Message]:
        before = [message for exchange in self.exchanges[first:end] for message in exchange.messages()]
        return [*before, {"role": "user", "content": text}]

    def _tokens(self, first: int, text: str) -> int:
        return len(encode_prompt(self._tokenizer, self._told(self._messages(first, text)), self._prompt_format).ids)

    def _fits(self, first: int, text: str) -> bool:
        return self.context is None or self._tokens(first, text) + self.max_new_tokens <= self.context
