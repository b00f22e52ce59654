"""What stands where in a rendered conversation: everybody's own words, and the subject's last token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import RequestError, shorten
from .special_tokens import control_ids


def content_spans(text: str, contents: Sequence[str], marked: Sequence[str]) -> list[tuple[int, int]]:
    """Where each message's content stands in the rendered text, as (start, stop).

    Searching would find the prompt "assistant" in the template's own words: the template is rendered once more, with
    marks in place of all contents. Templates that change earlier turns (some drop thoughts) are searched after all.

    Args:
        text: the conversation as the model sees it.
        contents: the messages', in order.
        marked: the template's own words around them, as the marks divide them.
    """
    if len(marked) == len(contents) + 1:
        for change in (str, str.strip):
            changed = [change(content) for content in contents]
            if text == marked[0] + "".join(map("".join, zip(changed, marked[1:]))):
                starts = [sum(map(len, (*marked[: i + 1], *changed[:i]))) for i in range(len(changed))]
                return [(start, start + len(content)) for start, content in zip(starts, changed)]
    spans: list[tuple[int, int]] = []
    stop = len(text)
    for content in map(str.strip, reversed(contents)):
        start = text.rfind(content, 0, stop)
        # A turn that the template has changed must not hide where the ones before it are.
        start, length = (stop, 0) if start < 0 else (start, len(content))
        spans.insert(0, (start, start + length))
        stop = start
    return spans


def check_literal(
    tokenizer: Any, ids: Sequence[int], offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]
) -> None:
    """Refuse a row in which a control token was made of somebody's words: a tokenizer that rewrites text can do that.

    Raises:
        RequestError: one of ``spans`` holds a control token.
    """
    control = control_ids(tokenizer)
    marks = [offset for token, offset in zip(ids, offsets) if token in control]
    for start, stop in spans:
        if any(start < b and a < stop and a < b for a, b in marks):
            raise RequestError(
                "A part of the text would become a control token.",
                cause="the tokenizer rewrites letters before it looks for its special tokens",
                remedy="leave out what looks like a special token",
            )


def key_index(text: str, span: tuple[int, int], subject: str | None, offsets: Sequence[tuple[int, int]]) -> int:
    """The token that holds the last character of the subject's last occurrence in the prompt, which is at ``span``.

    Raises:
        RequestError: the subject is no text, or does not stand in the prompt.
    """
    if subject is None:
        return len(offsets) - 1
    if not isinstance(subject, str):
        raise RequestError("The subject is no text.", got=subject, needed="a part of the prompt, or None")
    prompt = text[slice(*span)]
    inside = prompt.rfind(subject.strip())
    if inside < 0 or not subject.strip():
        raise RequestError(
            f"The subject {shorten(subject)} does not stand in the prompt.",
            got=prompt,
            needed="the subject, letter for letter, as a part of the prompt",
            remedy="correct the subject, or leave it out to use the prompt's last token",
        )
    end = span[0] + inside + len(subject.strip())
    covering = [i for i, (start, stop) in enumerate(offsets) if start < end <= stop]
    before = [i for i, (start, stop) in enumerate(offsets) if start < end and stop > start]
    return (covering or before or [len(offsets) - 1])[-1]
