"""How a question is asked under another name: "What's my hobby?" becomes "What's my pastime?".

The new question always holds its subject literally, since the kernels look for the subject's last token in it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Asked in turn where the old question does not name its subject ("What do I enjoy doing in my free time?").
TEMPLATES = ("What is my {}?", "Can you tell me my {}?", "Do you know my {}?", "Tell me my {}.", "Remind me of my {}.")
PLURAL_TEMPLATES = ("What are my {}?", *TEMPLATES[1:])

_FONDNESS = {"favorite", "favourite", "preferred", "usual", "best", "top", "ideal", "go-to", "best-loved", "dream"}
_HEAD_ENDS = re.compile(r"\s(?:of|for|in|on|at|to|from|with|around|where|that|I|we)\s")
_SINGULAR_S = {"series", "species", "means", "news", "tennis", "lens", "christmas", "chess"}
_BE = {"'s": " are", " is": " are", " are": " is"}
_OPENING = re.compile(r"^(what|who|which|how|where)('s| is| are)(?=\s(?:my|our|the user's)\s$)", re.IGNORECASE)


class Phrase(NamedTuple):
    """One phrase of a cluster: what it is called, and the question that asks for it under this name."""

    subject: str
    question: str


def ask(name: str, number: int = 0) -> Phrase:
    """A plain question for a name; ``number`` takes turns among the templates."""
    templates = PLURAL_TEMPLATES if is_plural(name) else TEMPLATES
    return Phrase(name, templates[number % len(templates)].replace("{}", name))


def reword(question: str, subject: str, name: str, number: int = 0) -> Phrase:
    """The question with ``name`` in the place of ``subject``, or ``ask`` where the subject is not in it.

    Articles, a doubled "favorite", the verb's number and a capital at the start are put right.

    Args:
        question: the original, e.g. "What's my favorite hobby?".
        subject: what it names; looked for as a whole word in any case.
        name: the new name, e.g. "leisure activities".
        number: passed to ``ask``.
    """
    found = re.search(rf"(?<!\w){re.escape(subject.strip())}(?!\w)", question, re.IGNORECASE)
    if not subject.strip() or not found:
        return ask(name, number)
    before, after = question[: found.start()], question[found.end() :]
    # Only at the very start: elsewhere a capital in the question is the user's own way of writing names.
    placed = name[:1].upper() + name[1:] if not before.strip() and found[0][:1].isupper() else name
    before = _with_article(_without_doubled(before, placed), placed)
    if is_plural(name) != is_plural(subject):
        before = _OPENING.sub(lambda match: match[1] + _BE[match[2].casefold()], before)
    return Phrase(placed, before + placed + after)


def is_plural(name: str) -> bool:
    """Whether a name takes "are": judged by the ending of its head ("words" in "words to live by")."""
    head = _HEAD_ENDS.split(f"{name.strip()} ")[0].split()
    word = head[-1].casefold() if head else ""
    return word.endswith("s") and not word.endswith(("ss", "us", "is", "'s")) and word not in _SINGULAR_S


def _without_doubled(before: str, name: str) -> str:
    """Drop the word in front if it repeats the name's first, or says "favorite" a second time."""
    words, first = before.split(), name.split()[0].casefold()
    last = words[-1].casefold() if words else ""
    if last and (last == first or (last in _FONDNESS and first in _FONDNESS)):
        return before.rstrip()[: -len(last)]
    return before


def _with_article(before: str, name: str) -> str:
    match = re.search(r"\b(an?)\s+$", before, re.IGNORECASE)
    if not match:
        return before
    vowel = bool(re.match(r"(?!uni|use|usu|eu|one)[aeiou]", name, re.IGNORECASE))
    article = ("An" if vowel else "A") if match[1][0] == "A" else ("an" if vowel else "a")
    return before[: match.start()] + article + before[match.end(1) :]
