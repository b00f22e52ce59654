"""Text that stays text: control tokens that stand in what people typed are cut apart before the tokenizer sees them.

``split_special_tokens`` is not enough: it leaves tokens alone that were added without being called special (Qwen's
``<think>`` and ``<tool_call>``), and it knows nothing of a chat template around the text. A mark is put inside every
such token instead, the template is rendered with it, and the result is cut at the marks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..errors import ModelError
from .catalog import tokenizer_label

MARKS = range(0xE000, 0xF8FF)  # private use: one that stands in no text is taken


def control_strings(tokenizer: Any) -> dict[str, bool]:
    """Tokens that mean something to the model beyond their letters, each with whether it is called special.

    These are all special tokens, and of the others those that the chat template writes or looks for. Added tokens that
    are only blanks, or a single character, are ordinary text.
    """
    template = str(tokenizer.chat_template or "")
    added = {str(token): bool(getattr(token, "special", True)) for token in tokenizer.added_tokens_decoder.values()}
    added |= dict.fromkeys(map(str, tokenizer.all_special_tokens), True)
    return {
        text: special
        for text, special in added.items()
        if len(text) > 1 and not text.isspace() and (special or text in template)
    }


def control_ids(tokenizer: Any) -> frozenset[int]:
    """The token ids of ``control_strings``."""
    wanted = control_strings(tokenizer)
    found = {number for number, token in tokenizer.added_tokens_decoder.items() if str(token) in wanted}
    return frozenset(found)


def with_marks(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> tuple[list[dict[str, str]], str]:
    """The messages with a mark inside every control token of their contents, and the mark; "" where there is none.

    What an assistant said keeps tokens that are not called special: templates take thoughts out of earlier turns.
    """
    control = control_strings(tokenizer)
    special = frozenset(text for text, is_special in control.items() if is_special)
    kinds = [_pattern(special if message["role"] == "assistant" else frozenset(control)) for message in messages]
    if not any(kind and kind.search(message["content"]) for kind, message in zip(kinds, messages)):
        return [dict(message) for message in messages], ""
    everything = "".join(message["content"] for message in messages)
    mark = next(chr(code) for code in MARKS if chr(code) not in everything)
    contents = [_marked(message["content"], kind, mark) for kind, message in zip(kinds, messages)]
    return [{**message, "content": content} for message, content in zip(messages, contents)], mark


def literal_pieces(tokenizer: Any, text: str) -> list[str]:
    """The text in pieces none of which holds a control token."""
    (marked,), mark = with_marks(tokenizer, [{"role": "user", "content": text}])
    return marked["content"].split(mark) if mark else [text]


def literal_ids(tokenizer: Any, text: str, *, add_special: bool = False) -> list[int]:
    """Token ids of a text in which nothing is control; what the tokenizer adds at the front is, where it is wanted."""
    ids: list[int] = []
    for piece in literal_pieces(tokenizer, text):
        ids += tokenizer(piece, add_special_tokens=add_special and not ids, split_special_tokens=True)["input_ids"]
    return ids


def offsets_of(tokenizer: Any, pieces: Sequence[str], *, add_special: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of the pieces and their character spans in the joined text; control tokens in pieces are control.

    Raises:
        ModelError: the tokenizer gives no offsets.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"The tokenizer of {tokenizer_label(tokenizer)} gives no character offsets.",
            got=type(tokenizer).__name__,
            needed="a fast tokenizer (tokenizer.json)",
            remedy="convert it once with AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(...)",
        )
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    start = 0
    for piece in pieces:
        out = tokenizer(piece, return_offsets_mapping=True, add_special_tokens=add_special and not start)
        ids += out["input_ids"]
        offsets += [(a + start, b + start) for a, b in out["offset_mapping"]]
        start += len(piece)
    return ids, offsets


@lru_cache(maxsize=64)
def _pattern(strings: frozenset[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, sorted(strings, key=len, reverse=True)))) if strings else None


def _marked(content: str, pattern: re.Pattern[str] | None, mark: str) -> str:
    """Again until nothing is found: cutting one token may leave another that overlapped it."""
    while pattern and pattern.search(content):
        content = pattern.sub(lambda match: match[0][0] + mark + match[0][1:], content)
    return content
