"""The small model's tokenizer: byte-level BPE, a short chat template, and how rows become token ids.

Every stretch of text between special tokens begins with a space piece, so a value has the same pieces at the
start of an answer as in the middle of a statement; otherwise copying would need a table of pairs of pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from .corpus import Corpus, Mix, Row
from .lexicon import load_lexicon
from .values import invented_word

PAD, END = "<|pad|>", "<|end|>"
ROLES = {role: f"<|{role}|>" for role in ("system", "user", "assistant")}
VOCABULARY = 2048
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def render(row: Row) -> str:
    """The row as one string, the way the chat template writes it; neutral text stands between two end tokens."""
    if row.text:
        return f"{END}{row.text}{END}"
    return "".join(f"{ROLES[role]}{text}{END}" for role, text in row.turns)


def training_text(rows: int = 12_000, seed: int = 7) -> Iterator[str]:
    """Text for the merges: corpus rows, every plain word a few times, and invented words."""
    mix = Mix(rows={"recall": 5, "unknown": 2, "talk": 3, "people": 1, "override": 1, "prose": 1})
    corpus = Corpus(mix, seed)
    for row in islice(corpus, rows):
        yield from [row.text] if row.text else [text for _, text in row.turns]
    lexicon = load_lexicon()
    for word in (*lexicon.words, *lexicon.held_words):
        yield " ".join([word, word.lower(), word.lower()] * 4)
    for _ in range(3000):
        yield invented_word(corpus.rng)


def train_tokenizer(texts: Iterable[str] | None = None, vocabulary: int = VOCABULARY) -> Any:
    """Learn the merges and wrap them as a transformers tokenizer with template, end and pad token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, *ROLES.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts if texts is not None else training_text(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=END, eos_token=END, pad_token=PAD, model_max_length=2048, padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer
