"""From text to token ids: chat templates, prompts with their answers, and batches padded by us.

We pad ourselves, on the side the caller names, with explicit position ids: no result depends on
``tokenizer.padding_side``, which EasyEdit sets to "left" for methods it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jinja2.exceptions import TemplateError
from torch import Tensor

from ..errors import ModelError, RequestError, shorten, text_fault
from .catalog import tokenizer_label
from .positions import check_literal, content_spans, key_index
from .special_tokens import literal_ids, literal_pieces, offsets_of, with_marks

PromptFormat = Literal["auto", "chat", "raw"]
Side = Literal["left", "right", "around", "inside"]
Messages = Sequence[Mapping[str, str]]
IGNORE = -100
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MARK = "\u2400"  # a sign that no template contains; stands for a text whose place is wanted


@dataclass(frozen=True, slots=True)
class Encoded:
    """One prompt with its (possibly empty) target.

    Attributes:
        prompt_ids: the whole prompt, chat template included, up to where the answer begins.
        target_ids: the answer's tokens, the end-of-turn token last where it was asked for.
        key_index: position of the subject's last token in ``prompt_ids`` (of the last token without a subject).
    """

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    key_index: int

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and target in one row."""
        return self.prompt_ids + self.target_ids


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded rows. n rows, t columns.

    Attributes:
        input_ids, attention_mask, position_ids: [n, t].
        labels: [n, t]; the token id at target positions (not shifted), -100 elsewhere.
        key_index: [n]; column of the subject's last token.
        last_index: [n]; column of the last real token.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor
    key_index: Tensor
    last_index: Tensor

    def model_inputs(self) -> dict[str, Tensor]:
        """The arguments of a plain forward pass."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }

    def targets(self) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, columns, ids), each [m]: the logits at ``columns`` are to predict ``ids``, the targets' tokens."""
        rows, columns = (self.labels != IGNORE).nonzero(as_tuple=True)
        return rows, columns - 1, self.labels[rows, columns]

    def select(self, rows: Sequence[int]) -> Batch:
        """Some of the rows, padded as before."""
        index = torch.tensor(list(rows), device=self.input_ids.device)
        return Batch(*(getattr(self, name)[index] for name in self.__slots__))


def uses_chat(tokenizer: Any, prompt_format: PromptFormat = "auto") -> bool:
    """Whether prompts go through the chat template.

    Raises:
        ModelError: "chat" is asked for and the tokenizer has no template.
    """
    if prompt_format == "chat" and not tokenizer.chat_template:
        raise ModelError(
            f"prompt_format is 'chat', but the tokenizer of {tokenizer_label(tokenizer)} has no chat template.",
            cause="a base model, or a tokenizer folder without chat_template.jinja",
            remedy="use prompt_format: raw, or set tokenizer.chat_template",
        )
    return bool(tokenizer.chat_template) and prompt_format != "raw"


def render(tokenizer: Any, messages: Messages, prompt_format: PromptFormat = "auto") -> str:
    """The text that the model sees for a conversation that ends with a user's turn.

    Without a chat template earlier turns are joined by newlines.
    """
    if not uses_chat(tokenizer, prompt_format):
        return "\n".join(message["content"] for message in messages)
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # Qwen3's switch; other templates ignore it
        )
    except TemplateError as error:
        raise RequestError(
            f"The model's chat template refuses the conversation: {error}",
            got=[message["role"] for message in messages],
            cause="many templates want user and assistant in turn, and some no system message",
        ) from None


def encode(
    tokenizer: Any,
    prompt: str,
    *,
    target: str | None = None,
    subject: str | None = None,
    prompt_format: PromptFormat = "auto",
    history: Messages = (),
    end_of_turn: bool = True,
) -> Encoded:
    """Encode a user's prompt, with the answer to be learned if there is one.

    Args:
        prompt: the user's text, as typed; special tokens in it are treated as text.
        target: the answer; None encodes the prompt only.
        subject: must stand literally in ``prompt``; the last occurrence counts.
        prompt_format: "auto" applies the chat template when there is one.
        history: earlier turns, as chat messages.
        end_of_turn: end the target with the token that ends the model's turn.

    Raises:
        RequestError: the prompt or target is empty, or the subject is not in the prompt.
    """
    messages = [*history, {"role": "user", "content": prompt}]
    _check_messages(messages)
    marked, mark = with_marks(tokenizer, messages)
    rendered = render(tokenizer, marked, prompt_format)
    pieces = rendered.split(mark) if mark else [rendered]
    text = "".join(pieces)
    chat = uses_chat(tokenizer, prompt_format)
    around = render(tokenizer, [{**message, "content": MARK} for message in messages], prompt_format).split(MARK)
    spans = content_spans(text, [message["content"] for message in messages], around)
    prompt_ids, offsets = offsets_of(tokenizer, pieces, add_special=not chat)
    if not prompt_ids:
        raise RequestError("The prompt has no tokens.", got=prompt, needed="text that the tokenizer does not drop")
    check_literal(tokenizer, prompt_ids, offsets, spans)
    key = key_index(text, spans[-1], subject, offsets)
    target_ids: tuple[int, ...] = ()
    if target is not None:
        target_ids = _target_ids(tokenizer, text, prompt_ids, target, chat, is_plain=not mark)
        if end_of_turn and (eot := end_of_turn_id(tokenizer, prompt_format)) is not None:
            target_ids += (eot,)
    return Encoded(tuple(prompt_ids), target_ids, key)


def encode_text(tokenizer: Any, text: str, max_length: int | None = None) -> Encoded:
    """Plain text without any template, for statistics and perplexity."""
    ids = literal_ids(tokenizer, text, add_special=True)[:max_length]
    return Encoded(tuple(ids), (), len(ids) - 1)


def collate(
    rows: Sequence[Encoded],
    tokenizer: Any,
    *,
    side: Side = "right",
    device: torch.device | str = "cpu",
) -> Batch:
    """Pad rows into one batch; the padding is masked and does not count in the positions.

    Args:
        side: where rows are padded. "around": before and after, so that all targets begin in one column; "inside":
            the same, but what all prompts begin with stays in the first columns, the padding behind it.
    """
    places = _columns(rows, side)
    width = max(place[-1] for place in places) + 1
    input_ids = torch.full((len(rows), width), pad_token_id(tokenizer))
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORE)
    for i, (row, place) in enumerate(zip(rows, places)):
        input_ids[i, place] = torch.tensor(row.ids)
        mask[i, place] = 1
        labels[i, place[len(row.prompt_ids) :]] = torch.tensor(row.target_ids, dtype=torch.long)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    keys = torch.tensor([place[max(0, row.key_index)] for row, place in zip(rows, places)])  # negative: cut off
    lasts = torch.tensor([place[-1] for place in places])
    return Batch(*(tensor.to(device) for tensor in (input_ids, mask, positions, labels, keys, lasts)))


def _columns(rows: Sequence[Encoded], side: Side) -> list[list[int]]:
    """The columns of every row's tokens."""
    if side == "right":
        return [list(range(len(row.ids))) for row in rows]
    if side == "left":
        width = max(len(row.ids) for row in rows)
        return [list(range(width - len(row.ids), width)) for row in rows]
    prompts = [row.prompt_ids for row in rows]
    longest, least = max(map(len, prompts)), min(map(len, prompts))
    shared = next((k for k in range(least - 1) if len({ids[k] for ids in prompts}) > 1), least - 1)
    shared = shared if side == "inside" else 0
    return [
        [*range(shared), *range(longest - len(row.prompt_ids) + shared, longest + len(row.target_ids))] for row in rows
    ]


def pad_token_id(tokenizer: Any) -> int:
    """A token id to fill rows with; it is masked, so the end token does where no pad token is set."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def end_of_turn_id(tokenizer: Any, prompt_format: PromptFormat = "auto") -> int | None:
    """The token that ends the model's turn: what the chat template writes after an answer, else the end token."""
    if uses_chat(tokenizer, prompt_format):
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "qzx"}]
        tail = tokenizer.apply_chat_template(messages, tokenize=False).rpartition("qzx")[2].lstrip()
        ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
        if ids and (ids[0] in tokenizer.all_special_ids or ids[0] in tokenizer.added_tokens_decoder):
            return int(ids[0])
    return None if tokenizer.eos_token_id is None else int(tokenizer.eos_token_id)


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token id that ends an answer: end of turn, end of text, and those of the generation config."""
    config = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = config if isinstance(config, (list, tuple)) else [config]
    found = {end_of_turn_id(tokenizer), end_of_turn_id(tokenizer, "raw"), *listed}
    return sorted(int(token) for token in found if token is not None)


def _check_messages(messages: Messages) -> None:
    for number, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        fault = text_fault(content, blank=number < len(messages) - 1)
        if fault is None and message.get("role") not in ROLES:
            fault = f"is said by {shorten(message.get('role'), 60)}, needs one of {', '.join(ROLES)}"
        if fault:
            told = "The prompt" if number == len(messages) - 1 else f"Turn {number} of the conversation"
            empty = isinstance(content, str) and not content.strip()
            raise RequestError(
                f"{told} is empty." if empty else f"{told} {fault}.",
                got=content,
                needed="the question as the user types it" if empty else '{"role": ..., "content": text}',
            )


def _target_ids(
    tokenizer: Any, text: str, prompt_ids: list[int], target: str, chat: bool, is_plain: bool
) -> tuple[int, ...]:
    """The target as the model would continue: tokenised together with the prompt where that splits cleanly."""
    if (fault := text_fault(target, blank=True)) is not None:
        raise RequestError(f"The target {fault}.", got=target, needed="the answer to be learned")
    answer = target.strip()
    if not answer:
        raise RequestError("The target is empty.", got=target, needed="the answer to be learned")
    spaced = answer if chat or text[-1:].isspace() else f" {answer}"
    alone = literal_ids(tokenizer, spaced)
    if not alone:
        raise RequestError("The target has no tokens.", got=target, needed="text that the tokenizer does not drop")
    if not is_plain or len(literal_pieces(tokenizer, answer)) > 1:
        return tuple(alone)
    joint = tokenizer(text + spaced, add_special_tokens=not chat)["input_ids"]
    if joint[: len(prompt_ids)] == prompt_ids and len(joint) > len(prompt_ids):
        return tuple(joint[len(prompt_ids) :])
    return tuple(alone)
