"""What is kept in words, put into the prompt: a line in the system turn, or where there is none, before the first turn.

The model's own system turn stays: what was edited into the weights was learned behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RequestError
from ..generation.generate import Prompt
from ..modeling.special_tokens import literal_ids
from ..modeling.tokens import MARK, PromptFormat, render, uses_chat
from ..progress import log

LEAD = (
    "The user has told you this about themselves and about how they want to be answered. Keep to it; where two lines "
    "contradict each other, the later one holds."
)
SHARE = 4  # the words may take a quarter of the context
SYSTEM = ("system", "developer")


def with_words(
    tokenizer: Any,
    prompt: Prompt,
    sentences: Sequence[str],
    prompt_format: PromptFormat = "auto",
    context: int | None = None,
) -> Prompt:
    """A prompt or conversation with what is remembered in words in front of it; itself where there is nothing.

    Args:
        tokenizer: its chat template decides where the words stand.
        prompt: a user's text, or a conversation.
        sentences: the oldest first.
        prompt_format: see ``modeling.tokens``.
        context: the model's, in tokens; of more words than fit a quarter of it the newest are taken.
    """
    kept = _fitting(tokenizer, sentences, context)
    if not kept or not _is_conversation(prompt):
        return prompt
    note = "\n".join([LEAD, *(f"- {one}" for one in dict.fromkeys(kept))])
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]
    if turns[0].get("role") in SYSTEM:
        return [{**turns[0], "content": f"{turns[0]['content']}\n\n{note}"}, *turns[1:]]
    default = default_system(tokenizer, prompt_format)
    if default is None:
        return [{**turns[0], "content": f"{note}\n\n{turns[0]['content']}"}, *turns[1:]]
    return [{"role": "system", "content": f"{default}\n\n{note}".strip()}, *turns]


def default_system(tokenizer: Any, prompt_format: PromptFormat = "auto") -> str | None:
    """What the chat template says in the system turn where nobody gives one; None where it knows no such turn."""
    if not uses_chat(tokenizer, prompt_format):
        return None
    question = {"role": "user", "content": "?"}
    try:
        own = render(tokenizer, [question], prompt_format)
        given = render(tokenizer, [{"role": "system", "content": MARK}, question], prompt_format)
    except RequestError:
        return None
    before, mark, after = given.partition(MARK)
    if not mark:
        return None
    found = own.startswith(before) and own.endswith(after) and len(own) >= len(before) + len(after)
    return own[len(before) : len(own) - len(after)] if found else ""


def _is_conversation(prompt: Prompt) -> bool:
    """What is none is refused later, where prompts are checked."""
    if isinstance(prompt, str):
        return bool(prompt.strip())
    return bool(prompt) and all(isinstance(turn, Mapping) and isinstance(turn.get("content"), str) for turn in prompt)


def _fitting(tokenizer: Any, sentences: Sequence[str], context: int | None) -> Sequence[str]:
    if context is None or not sentences:
        return sentences
    room, kept = context // SHARE - len(literal_ids(tokenizer, LEAD)), 0
    for one in reversed(sentences):
        room -= len(literal_ids(tokenizer, f"- {one}\n"))
        if room < 0:
            log.warning("%d of %d remembered sentences do not fit the prompt", len(sentences) - kept, len(sentences))
            break
        kept += 1
    return sentences[len(sentences) - kept :]
