"""A tokenizer as EasyEdit's code needs it: tolerant of braces and repeated subjects, exact about answers.

EasyEdit formats user text with ``str.format`` up to three times, replaces every occurrence of a subject, and writes
a blank before every answer, also after a chat template's generation prompt, where the model never writes one. Its
code sees stand-in characters for such pieces; this tokenizer reads them as what they stand for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...modeling.tokens import render

# Private-use characters: no tokenizer's text holds them, and str.format leaves them alone.
BRACES = {"\ue000": "{", "\ue001": "}"}
MASKED = "\ue002"
"""Stands for nothing: written into an occurrence of the subject that the host must not take for the subject."""


def mask(text: str) -> str:
    """``text`` with stand-ins for braces."""
    for stand_in, brace in BRACES.items():
        text = text.replace(brace, stand_in)
    return text


def unmask(text: str) -> str:
    """The text that masked text stands for."""
    for stand_in, brace in BRACES.items():
        text = text.replace(stand_in, brace)
    return text.replace(MASKED, "")


class HostTokenizer:
    """Passes everything on to a tokenizer, but reads and writes text as the host's code needs it.

    Args:
        tokenizer: the genuine one.
        chat: whether prompts are rendered chat turns; then no blank stands between prompt and answer.
        answers: texts that are answers; in chat the host's blank before one that stands alone is dropped, too.
    """

    def __init__(self, tokenizer: Any, *, chat: bool, answers: Iterable[str] = ()) -> None:
        object.__setattr__(self, "_tokenizer", tokenizer)
        object.__setattr__(self, "_opening", generation_prompt(tokenizer) if chat else None)
        object.__setattr__(self, "_answers", {f" {answer}" for answer in answers} if chat else set())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._tokenizer, name, value)

    def __deepcopy__(self, memo: Any) -> HostTokenizer:
        return self

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        return self._tokenizer(self._read(text), *args, **kwargs)

    def encode(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        return self._tokenizer.encode(self._read(text), *args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        return mask(self._tokenizer.decode(*args, **kwargs))

    def batch_decode(self, *args: Any, **kwargs: Any) -> Any:
        return [mask(text) for text in self._tokenizer.batch_decode(*args, **kwargs)]

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        # As in our own rendering: without it Qwen3 would think before it answers.
        options: Mapping[str, Any] = {"enable_thinking": False, **kwargs}
        return self._tokenizer.apply_chat_template(conversation, *args, **options)

    def _read(self, text: Any) -> Any:
        if isinstance(text, (list, tuple)):
            return [self._read(part) for part in text]
        if not isinstance(text, str):
            return text
        if text in self._answers:
            text = text[1:]
        if self._opening is not None:
            text = text.replace(f"{self._opening} ", self._opening)
        return unmask(text)


def generation_prompt(tokenizer: Any) -> str:
    """What a chat template writes between a user's text and the model's answer."""
    first, second = (render(tokenizer, [{"role": "user", "content": text}], "chat") for text in ("a", "bb"))
    length = 0
    while length < min(len(first), len(second)) and first[-length - 1] == second[-length - 1]:
        length += 1
    return first[len(first) - length :]


def spare_padding(tokenizer: Any, texts: Iterable[str]) -> str:
    """A special token to pad with that none of the texts holds: the tokenizer's own, where it will do.

    FT-M, LoRA, GRACE, WISE and DEFER find an answer's place by counting what is not padding. Where padding is the end
    of a turn (SmolLM2), an answer's first token and its end would never be learned.
    """
    own = str(tokenizer.pad_token or tokenizer.eos_token)
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    texts = list(texts)
    return next((token for token in [own, *special] if not any(token in text for text in texts)), own)
