"""From statements to preferences; what is not clear is asked, not bent.

Dislikes, what does not hold, and other people's facts become kinds of their own ("disliked food", "not my pet",
"daughter Mia's allergy"). Which of them are edited into weights and which are kept in words, ``memory`` decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ..clustering.expand import expand
from ..clustering.lexicon import Lexicon, normalise
from ..clustering.questions import ask
from ..types import Preference
from .aside import asides
from .parser import STYLES, understand
from .reading import MAX_VALUE
from .records import USER, Statement
from .rules import rules

PHRASES = 9  # the paper's largest clusters
EXAMPLE = "For example: my hobby is falconry."
__all__ = ["MAX_VALUE", "Unclear", "as_preference", "is_open", "preference_of", "read", "same_matter", "worth_saying"]


@dataclass(frozen=True, slots=True)
class Unclear:
    """Words that were not understood, and what to ask their author.

    Attributes:
        text: the statement.
        question: asks for what is missing, in one or two sentences.
        value: the part that would be learned, where it is known and only its kind is not.
        suggestion: what "yes" would mean.
    """

    text: str
    question: str
    value: str | None = None
    suggestion: Preference | None = None

    def answered(self, reply: str, user: str | None = None) -> Preference | Unclear:
        """What the statement means, given its author's reply: "yes", the kind of thing ("hobby"), or a new sentence."""
        word = normalise(reply)
        if self.suggestion is not None and word in {"yes", "y", "yes please", "sure", "ok", "okay", "right", "exactly"}:
            return self.suggestion
        name = re.sub(r"^(?:it is|it's|that is|that's|is)\s+", "", word).removeprefix("my ")
        if self.value and (Lexicon.load().find(name) or name in rules().plain_names):
            return preference_of(name, self.value, user=user, text=self.text)
        return read(reply, user)[0]


def read(text: str, user: str | None = None) -> list[Preference | Unclear]:
    """What a text says, as preferences or as questions to its author, by the bundled rules.

    Args:
        text: what the user said.
        user: whose preferences they are.
    """
    return [as_preference(statement, user) for statement in worth_saying(understand(text), text)]


def worth_saying(found: list[Statement], text: str) -> list[Statement]:
    """Without what says nothing, where anything else is said; never empty."""
    return [one for one in found if one.status != "nothing"] or [replace(found[0], text=text)]


def is_open(statement: Statement) -> bool:
    """Whether it is worth asking a language model: no rule covers it, and it is no question, request or quotation."""
    closed = {aside.why for aside in asides() if aside.name in ("quoted", "supposed", "question", "request")}
    return statement.status != "learn" and statement.reason not in closed


def as_preference(statement: Statement, user: str | None = None) -> Preference | Unclear:
    """A statement as a preference, or what to say to its author where it cannot become one."""
    text, subject, value = statement.text.strip(), statement.subject, statement.value
    if statement.status == "nothing":
        return Unclear(text, f"I found nothing to remember: {statement.reason}. What is it about you? {EXAMPLE}")
    if statement.status == "ask" or subject is None or value is None:
        suggestion = preference_of(subject, value, user=user, text=text) if subject and value else None
        question = statement.question or "What should I remember?"
        if suggestion is not None:
            question = f'Shall I answer "{suggestion.question}" with "{value}" from now on?'
        return Unclear(text, question, value, suggestion)
    if statement.whose != USER:
        return _somebody(statement, user)
    if statement.polarity == "-":
        return _opposite(subject, value, user, text)
    return preference_of(subject, value, user=user, text=text)


def preference_of(name: str, value: str, *, user: str | None = None, text: str = "") -> Preference:
    """The preference with a plain question for its name, and the lexicon's other names for it as phrases."""
    subject, question = ask(name)
    lexicon = Lexicon.load()
    found = expand((subject, question), "lexicon", PHRASES, lexicon=lexicon) if lexicon.find(name) else []
    return Preference(subject, question, value, user, text, tuple((p.subject, p.question) for p in found[1:]))


def same_matter(one: str, other: str) -> bool:
    """Whether two subjects mean the same kind of thing, so that the later statement overrules the earlier."""
    first, second = Lexicon.load().find(one), Lexicon.load().find(other)
    if first and second:
        return first.group == second.group
    return normalise(one) == normalise(other)


def _somebody(statement: Statement, user: str | None) -> Preference:
    """Somebody else's fact, under their name."""
    relation, value = statement.relation or "", str(statement.value)
    who = relation if statement.whose == relation else f"{relation} {statement.whose}".strip()
    name = f"{who}'s {statement.subject}"
    if statement.polarity == "-" and statement.subject not in _opposites():
        return Preference(f"not {name}", f"What is not {'my ' if relation else ''}{name}?", value, user, statement.text)
    found = preference_of(name, value, user=user, text=statement.text)
    # A bare name: "What is Mia's hobby?"
    return found if relation else replace(found, question=found.question.replace("my ", "", 1))


def _opposite(subject: str, value: str, user: str | None, text: str) -> Preference:
    """What the user does not like, or what does not hold of them."""
    if subject in STYLES:
        return preference_of(subject, f"no {value}", user=user, text=text)
    if subject not in _opposites():
        return Preference(f"not my {subject}", f"What is not my {subject}?", value, user, text)
    plain = ask(subject)
    return Preference(subject, _opposites()[subject], value, user, text, ((plain.subject, plain.question),))


def _opposites() -> dict[str, str]:
    """Kinds of dislikes, with the question that asks for each."""
    return {row["subject"]: row["question"] for row in rules().opposites.values()}
