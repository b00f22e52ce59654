"""Scores of one answer against one target: exact, contained, token F1, teacher-forced accuracy, embedding similarity.

All text scores look at letters and digits only: case, spacing, punctuation and accents' encoding do not count.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling.layout import input_device
from ..modeling.tokens import Encoded, PromptFormat, collate
from .generate import Prompt, check_fits, encode_prompt
from .shared_prefix import inputs_after, shared_length

_APOSTROPHES = re.compile("['`\u2019\u00b4]")
_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """The text as compared: compatibility-normalised, case-folded words; apostrophes join ("Mum's" is "mums")."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(_APOSTROPHES.sub("", plain))


def normalise(text: str) -> str:
    """The words joined by single blanks."""
    return " ".join(words(text))


def exact(answer: str, target: str) -> bool:
    """Whether the answer is the target and nothing else; an empty target is never met."""
    return bool(words(target)) and words(answer) == words(target)


def contained(answer: str, target: str) -> bool:
    """Whether the target's words stand in the answer, in order and side by side, as whole words."""
    return bool(words(target)) and f" {normalise(target)} " in f" {normalise(answer)} "


def taken_up(answer: str, sentence: str, question: str = "") -> bool:
    """Whether the answer repeats a third of the sentence's content words, not counting those of the question.

    A rough sign that an answer takes up what a sentence says; words are compared by their first five letters, so that
    "avoid" is found in "avoiding".
    """
    wanted = _content(sentence) - _content(question)
    return bool(wanted) and 3 * len(wanted & _content(answer)) >= len(wanted)


def _content(text: str) -> set[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return {word[:5] for word in words(text) if word not in ENGLISH_STOP_WORDS}


def token_f1(answer: str, target: str) -> float:
    """Harmonic mean of precision and recall over words, as multisets."""
    got, wanted = Counter(words(answer)), Counter(words(target))
    common = sum((got & wanted).values())
    return 2 * common / (got.total() + wanted.total()) if common else 0.0


def repetition(answer: str) -> float:
    """Share of the answer's word pairs that occurred earlier in it: 0 for normal text, near 1 for a loop."""
    text = words(answer)
    pairs = list(itertools.pairwise(text))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def loops(answer: str) -> bool:
    """Whether the same words come three times in a row."""
    text = words(answer)
    sizes = range(1, len(text) // 3 + 1)
    runs = ((text[i : i + n], text[i + n : i + 3 * n]) for n in sizes for i in range(len(text) - 3 * n + 1))
    return any(once * 2 == twice for once, twice in runs)


@torch.no_grad()
def log_likelihoods(
    model: nn.Module, tokenizer: Any, rows: Sequence[Encoded], *, against_best: bool = False
) -> list[Tensor]:
    """Log-probability of every token of each row but its first, in nats: one [t - 1] per row, float32, on the CPU.

    What all rows begin with is read once.

    Args:
        against_best: less that of the most likely token at the same place; 0 for what the model itself would say.
    """
    device, shared = input_device(model), shared_length(model, rows)
    cache, before, last = None, torch.zeros(0), None
    if shared:
        start = torch.tensor([rows[0].ids[:shared]], device=device)
        output = model(input_ids=start, attention_mask=torch.ones_like(start), use_cache=True)
        cache, last = output.past_key_values, output.logits[0, -1:]
        before = _chosen(output.logits[0, :-1], start[0, 1:], against_best)
    batch, inputs = inputs_after(tokenizer, rows, shared, cache, device)
    logits = model(**inputs, use_cache=cache is not None).logits
    found = []
    for row, line, ids in zip(rows, logits, batch.input_ids):
        own = ids[: len(row.ids) - shared]
        line = line[: len(own) - 1] if last is None else torch.cat([last, line[: len(own) - 1]])
        found.append(torch.cat([before, _chosen(line, own[len(own) - len(line) :], against_best)]))
    return found


def _chosen(logits: Tensor, ids: Tensor, against_best: bool) -> Tensor:
    """The ids' log-probabilities, or what they lack to the largest: logits [t, v] and ids [t] to [t]."""
    if against_best:
        own = logits.gather(-1, ids.to(logits.device)[:, None])[:, 0]
        return (own.float() - logits.amax(-1).float()).cpu()
    return -F.cross_entropy(logits.float(), ids.to(logits.device), reduction="none").cpu()


@torch.no_grad()
def teacher_forced_tokens(
    model: nn.Module,
    tokenizer: Any,
    pairs: Sequence[tuple[Prompt, str]],
    *,
    prompt_format: PromptFormat = "auto",
) -> list[tuple[list[int], list[int]]]:
    """For each (prompt, target): the tokens the model would say next given the target so far, and the target's.

    This is what EasyEdit scores. It flatters: after each token the right one is put in the model's mouth.
    """
    if not pairs:
        return []
    rows = [encode_prompt(tokenizer, prompt, prompt_format, target) for prompt, target in pairs]
    for number, row in enumerate(rows):
        check_fits(model, row, 0, number)
    batch = collate(rows, tokenizer, side="right", device=input_device(model))
    at_rows, columns, ids = batch.targets()
    predicted = model(**batch.model_inputs()).logits[at_rows, columns].argmax(-1)
    results: list[tuple[list[int], list[int]]] = [([], []) for _ in pairs]
    for row, guess, wanted in zip(at_rows.tolist(), predicted.tolist(), ids.tolist()):
        results[row][0].append(guess)
        results[row][1].append(wanted)
    return results


def teacher_forced(
    model: nn.Module,
    tokenizer: Any,
    pairs: Sequence[tuple[Prompt, str]],
    *,
    prompt_format: PromptFormat = "auto",
) -> list[float]:
    """Share of the target's tokens that are right under teacher forcing, for each (prompt, target)."""
    tokens = teacher_forced_tokens(model, tokenizer, pairs, prompt_format=prompt_format)
    return [sum(a == b for a, b in zip(guess, wanted)) / len(wanted) for guess, wanted in tokens]


def embedding_similarity(answers: Sequence[str], targets: Sequence[str], embedder: Any) -> list[float]:
    """Cosine of answer and target under a sentence embedder (``clustering.embed``); 0 where either has no words.

    Args:
        embedder: anything with ``embed(texts) -> [n, d]`` unit vectors.
    """
    filled = [i for i, (answer, target) in enumerate(zip(answers, targets)) if words(answer) and words(target)]
    scores = [0.0] * len(answers)
    if filled:
        left = embedder.embed([answers[i] for i in filled])
        right = embedder.embed([targets[i] for i in filled])
        for i, value in zip(filled, (left * right).sum(1)):
            scores[i] = float(value)
    return scores
