"""From plain words ("I prefer aisle seats") to a preference, by the bundled rules; what they don't cover is asked back.

Rules can be read, tested and extended by hand, need no network and never make anything up. A language model does the
same with freer wording (``language_model``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from ..clustering.expand import expand
from ..clustering.lexicon import Lexicon, normalise
from ..clustering.questions import ask
from ..types import Preference

PHRASES = 9  # the paper's largest clusters
MAX_VALUE = 120  # characters
MAX_TEXT = 400  # of one statement; the patterns backtrack, and a service reads strangers' words
_SPLIT = re.compile(
    r"[;\n]+|(?<=[a-z0-9)\"'][.!])\s+(?=[A-Z\"'])|,?\s+and\s+(?=(?:I|my)\b)|,\s+(?=(?:I|I'm|my|call me)\b)"
)
_SHORT_FORMS = {"'m": " am", "'ve": " have", "'d": " would"}
_TRAILING = re.compile(
    r"(?:[\s,]+(?:please|very much|so much|a lot|now|again|the most|the best|most of all|these days"
    r"|over .+|rather than .+|more than .+|instead of .+))+$",
    re.IGNORECASE,
)
_NOTHING = {"it", "that", "this", "this one", "that one", "the same", "them", "those", "these", "something", "unknown"}


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
        if self.value and (Lexicon.load().find(name) or name in _rules().plain_names):
            return preference_of(name, self.value, user=user, text=self.text)
        return understand(reply, user)


def split_statements(text: str) -> list[str]:
    """The statements of a text: its sentences, and the parts that "and I", "and my" join."""
    return [part for piece in _SPLIT.split(_straight(text)) if (part := piece.strip(" ,"))]


def understand(text: str, user: str | None = None) -> Preference | Unclear:
    """One statement as a preference, or what to ask.

    Args:
        text: what the user said, one statement (see ``split_statements``).
        user: whose preference it is.
    """
    if len(text) > MAX_TEXT:
        return Unclear(text[:MAX_TEXT], "That is a lot at once. Can you say it in one short sentence?")
    rules, statement = _rules(), _bare(text)
    if not statement:
        return Unclear(text, "What should I remember about you? For example: my hobby is falconry.")
    if not text.strip().endswith("?"):
        for about, pattern in rules.statements:
            # "I prefer tea over coffee": what is behind the value may be needed by a rule, or be in its way.
            if match := pattern.fullmatch(statement) or pattern.fullmatch(_TRAILING.sub("", statement)):
                return _checked(about, match["v"], text, user)
        for pattern in rules.frames:
            if match := pattern.fullmatch(statement):
                return _named(match["n"], match["v"], text, user)
    return Unclear(text, *_what_to_ask(text, statement))


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


def _checked(name: str, value: str, text: str, user: str | None) -> Preference | Unclear:
    value = _clean(value)
    if value.casefold() in _NOTHING or not value:
        return Unclear(text, f"What exactly is your {name}? For example: my {name} is ...")
    if len(value) > MAX_VALUE:
        return Unclear(text, f"That is long for one answer. In a few words: what is your {name}?")
    if re.match(r"(?:not|no longer|never|n't|neither)\b", value, re.IGNORECASE) and name != "motto":
        return Unclear(text, f"I can remember what is so, not what isn't. What is your {name}, then?")
    return preference_of(name, value, user=user, text=text.strip())


def _named(name: str, value: str, text: str, user: str | None) -> Preference | Unclear:
    """A statement that names its attribute; names that are not known are put to the user first."""
    name = " ".join(name.split()).removeprefix("own ")
    checked = _checked(name, value, text, user)
    if isinstance(checked, Unclear) or _is_name(name):
        return checked
    question = f'Shall I answer "{checked.question}" with "{checked.target}" from now on?'
    return Unclear(text, question, checked.target, checked)


def _is_name(name: str) -> bool:
    known, words = _rules(), normalise(name)
    if "'s " in words:  # somebody else's
        return False
    return bool(Lexicon.load().find(name)) or words in known.plain_names or words.split()[0] in known.fondness


def _what_to_ask(text: str, statement: str) -> tuple[str, str | None]:
    """The question back, and the value if only its kind is missing."""
    whole = " ".join(_straight(text).split()).casefold()
    liked = re.fullmatch(
        r"i (?:really |just |also |simply |would )*(?:love|like|enjoy|adore|prefer|am into|am fond of|play|do) (.+)",
        statement,
        re.IGNORECASE,
    )
    if liked and not whole.endswith("?"):
        value = _clean(liked[1])
        return f'What is "{value}" to you? Tell me its kind, such as: hobby, favorite food, music preference.', value
    for pattern, question in _rules().refusals:
        if pattern.fullmatch(whole) or pattern.fullmatch(statement.casefold()):
            return question, None
    return "I did not understand that. Say what is what, for example: my favorite color is teal.", None


def _bare(text: str) -> str:
    """The statement as the patterns expect it: short forms written out, without lead-ins and final punctuation."""
    statement = " ".join(_straight(text).split())
    for short, long in _SHORT_FORMS.items():
        statement = re.sub(rf"\b(I){short}\b", rf"\1{long}", statement, flags=re.IGNORECASE)
    statement = statement.strip().rstrip(".!").strip()
    while True:
        shorter = _rules().lead_in.sub("", statement, count=1).lstrip(" ,")
        if shorter == statement or not shorter:
            return shorter and statement
        statement = shorter


def _clean(value: str) -> str:
    value = _TRAILING.sub("", value.strip()).strip(" .,!")
    quoted = re.fullmatch(r"[\"'`](.+)[\"'`]", value)
    return (quoted[1] if quoted else value).strip()


def _straight(text: str) -> str:
    for fancy, plain in (("\u2018", "'"), ("\u2019", "'"), ("\u201c", '"'), ("\u201d", '"')):
        text = text.replace(fancy, plain)
    return text


@dataclass(frozen=True)
class _Rules:
    """``statements.yaml``, compiled."""

    lead_in: re.Pattern[str]
    statements: tuple[tuple[str, re.Pattern[str]], ...]
    frames: tuple[re.Pattern[str], ...]
    plain_names: frozenset[str]
    fondness: frozenset[str]
    refusals: tuple[tuple[re.Pattern[str], str], ...]


@cache
def _rules() -> _Rules:
    file = resources.files("easyedit_personal").joinpath("data", "bundled", "statements.yaml")
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    lists = {name: "|".join(map(_forms, words)) for name, words in content["lists"].items()}
    return _Rules(
        lead_in=re.compile(rf"^(?:{'|'.join(content['lead_ins'])})(?=[\s,]|$)", re.IGNORECASE),
        statements=tuple(
            (rule["about"], _compiled(say, lists)) for rule in content["statements"] for say in rule["say"]
        ),
        frames=tuple(_compiled(frame, lists) for frame in content["frames"]),
        plain_names=frozenset(content["plain_names"]),
        fondness=frozenset(content["fondness"]),
        refusals=tuple((re.compile(rule["pattern"], re.DOTALL), rule["ask"]) for rule in content["refusals"]),
    )


def _forms(word: str) -> str:
    """A word in singular and plural, for an alternation."""
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{re.escape(word[:-1])}(?:y|ies)"
    return re.escape(word) + ("(?:es)?" if word.endswith(("s", "sh", "ch", "x")) else "s?")


def _compiled(pattern: str, lists: dict[str, str]) -> re.Pattern[str]:
    """A rule as a regular expression with the groups ``v`` and ``n``."""
    pattern = re.sub(r"\{list:([a-z ]+)\}", lambda match: f"(?:{lists[match[1]]})", pattern)
    # A name is short and holds no verb of the frames: "my hobby is that my dog is happy" names "hobby".
    word = r"(?!(?:is|are|i)\b)[\w'/-]+"
    pattern = pattern.replace("{n}", rf"(?P<n>{word}(?: {word}){{0,5}}?)")
    pattern = pattern.replace("{v}", r"(?P<v>.+)")
    return re.compile(re.sub(r"\{v:((?:[^{}]|\{\d*,?\d*\})+)\}", r"(?P<v>\1)", pattern), re.IGNORECASE)
