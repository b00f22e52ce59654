"""From statements to preferences that can be edited in; what today's edits cannot carry is said or asked, not bent.

Dislikes become kinds of their own ("disliked food"); other people's facts are put to the user first.
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
# How to be addressed is a fact like others; how to answer is not, and no question asks for it.
NOT_YET = STYLES - {"nickname", "pronouns", "name"}
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
    if subject in NOT_YET:
        what = f"{subject}: {'' if statement.polarity == '+' else 'no '}{value}"
        return Unclear(text, f"I understood how you want to be answered ({what}), but that cannot be kept yet.")
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


def _somebody(statement: Statement, user: str | None) -> Unclear:
    """Somebody else's fact: kept under their name if the user says so."""
    relation, value = statement.relation or "", str(statement.value)
    who = relation if statement.whose == relation else f"{relation} {statement.whose}".strip()
    owner = f"your {who}" if relation else who
    if statement.polarity == "-":
        what = f"{statement.subject}: {value}"
        return Unclear(statement.text, f"I understood what does not hold for {owner} ({what}); I cannot keep that yet.")
    suggestion = preference_of(f"{who}'s {statement.subject}", value, user=user, text=statement.text)
    if not relation:  # a bare name: "What is Mia's hobby?"
        suggestion = replace(suggestion, question=suggestion.question.replace("my ", "", 1))
    question = f'That is about {owner}. Shall I answer "{suggestion.question}" with "{value}" from now on?'
    return Unclear(statement.text, question, None, suggestion)


def _opposite(subject: str, value: str, user: str | None, text: str) -> Preference | Unclear:
    """What the user does not like, where a question asks for it."""
    question = next((row["question"] for row in rules().opposites.values() if row["subject"] == subject), None)
    if question is None:
        return Unclear(
            text, f"I understood what does not hold ({subject}: {value}); I cannot keep that yet. What holds?"
        )
    plain = ask(subject)
    return Preference(subject, question, value, user, text, ((plain.subject, plain.question),))
