"""Distractor turns: talk about other things that is put between a stated preference and the question about it.

Our own file has short exchanges that fit a tiny model's context; PrefEval's real conversations are long. How many
turns fit is the caller's to say, who knows the tokenizer and the context.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from random import Random

import yaml

from ..errors import DataError
from .material import BUNDLED
from .prefeval import Message, load_inter_turns


def load_conversations(source: str | Path = "bundled") -> list[list[Message]]:
    """Conversations as lists of ``{"role", "content"}``, user and assistant in turn.

    Args:
        source: "bundled", or the path of PrefEval's ``filtered_inter_turns.json`` or of a file of that layout.

    Raises:
        DataError: the file is malformed.
    """
    if source == "bundled":
        return [list(map(dict, messages)) for messages in _bundled()]
    return load_inter_turns(source)


def distractor_turns(n: int, seed: int | str, source: str | Path = "bundled") -> list[Message]:
    """``n`` exchanges (2 n messages) about other things, the user's first.

    Conversations are shuffled by ``seed`` and put one behind the other, each from its beginning, until there are
    enough; the same seed with a larger ``n`` gives the same beginning.

    Args:
        n: number of exchanges, a user's message and its answer; 0 gives none.
        seed: which conversations, and in what order.
        source: as in ``load_conversations``.

    Raises:
        DataError: the source has fewer exchanges, or ``n`` is no such number.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise DataError("This is no number of turns.", got=n, needed="a whole number from 0 on")
    conversations = load_conversations(source)
    Random(seed).shuffle(conversations)
    messages = [message for conversation in conversations for message in conversation]
    if 2 * n > len(messages):
        raise DataError(
            f"There are not enough distractor turns in {source}.", got=n, needed=f"at most {len(messages) // 2}"
        )
    return messages[: 2 * n]


@lru_cache(maxsize=1)
def short_exchanges() -> tuple[tuple[str, str], ...]:
    """Exchanges (a person's message, the answer) about nobody's preferences, behind which edits may learn."""
    with (BUNDLED / "talk.yaml").open(encoding="utf-8") as file:
        return tuple((asked, said) for asked, said in yaml.safe_load(file))


@lru_cache(maxsize=1)
def _bundled() -> list[list[Message]]:
    return load_inter_turns(BUNDLED / "distractors.json")
