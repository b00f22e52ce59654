"""``statements.yaml``, compiled: what says what, what turns it round, and how a clause without "I" is completed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from ..files import parse_yaml
from .vocabulary import Vocabulary, vocabulary

_ADVERBS = (
    "really|always|usually|just|also|simply|mostly|often|absolutely|totally|mainly|only|still|now|generally|normally"
    "|especially|particularly|quite|truly|definitely|sometimes|regularly|do|would|much|actually|personally|strongly"
    "|typically|deeply|genuinely|sincerely|honestly|rather|secretly|certainly|all|kind of|never fail to|primarily|both"
)
_NUMBERS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen"
    "|eighteen|nineteen|(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)"
    "(?:[- ](?:one|two|three|four|five|six|seven|eight|nine))?"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """What one clause says.

    Attributes:
        kinds: what it is about; ("any",) leaves that to the vocabulary.
        pattern: has the group ``v``.
        otherwise: the kind of a value that is no word of ``kinds``.
        unless: kinds whose words the value must not be.
    """

    kinds: tuple[str, ...]
    pattern: re.Pattern[str]
    otherwise: str | None = None
    unless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A clause that is said in another way: the groups of ``pattern`` are put into ``means``."""

    pattern: re.Pattern[str]
    means: tuple[str, ...]

    def apply(self, clause: str) -> list[str] | None:
        """The other ways, or None where this is not such a clause."""
        match = self.pattern.fullmatch(clause)
        if match is None:
            return None
        groups = {name: value.strip() for name, value in match.groupdict().items() if value}
        return [_filled(means, groups) for means in self.means]


def _filled(means: str, groups: Mapping[str, str]) -> str:
    for name, value in groups.items():
        means = means.replace(f"{{{name}}}", value)
    # "{v}" of a rule with two branches may have matched as "w".
    return means.replace("{v}", groups.get("w", ""))


@dataclass(frozen=True)
class Rules:
    """Everything of the file."""

    lead_in: re.Pattern[str]
    tail: re.Pattern[str]
    frames: tuple[re.Pattern[str], ...]
    renames: Mapping[str, str]
    rewrites: tuple[Rewrite, ...]
    statements: tuple[Rule, ...]
    negatives: tuple[Rewrite, ...]
    fragments: tuple[tuple[re.Pattern[str], str], ...]
    plain_names: frozenset[str]
    fondness: frozenset[str]
    opposites: Mapping[str, Mapping[str, str]]


@cache
def rules() -> Rules:
    """The bundled rules."""
    file = resources.files("easyedit_personal").joinpath("data", "bundled", "statements.yaml")
    content: Any = parse_yaml(file.read_text(encoding="utf-8"))
    words = vocabulary()
    return Rules(
        lead_in=re.compile(rf"^(?:{'|'.join(content['lead_ins'])})(?=[\s,]|$)", re.IGNORECASE),
        tail=re.compile(rf"[\s,]+(?:{'|'.join(content['tails'])})$", re.IGNORECASE),
        frames=tuple(_compiled(frame, words) for frame in content["frames"]),
        renames=content["renames"],
        rewrites=_rewrites(content["rewrites"], words),
        statements=tuple(_rule(entry, say, words) for entry in content["statements"] for say in entry["say"]),
        negatives=_rewrites(content["negatives"], words),
        fragments=tuple((re.compile(row["say"], re.IGNORECASE), row["subject"]) for row in content["fragments"]),
        plain_names=frozenset(content["plain_names"]),
        fondness=frozenset(content["fondness"]),
        opposites=content["opposites"],
    )


def _rule(entry: Mapping[str, Any], say: str, words: Vocabulary) -> Rule:
    about = entry["about"]
    kinds = (about,) if isinstance(about, str) else tuple(about)
    lookup = not isinstance(about, str)
    otherwise = entry.get("else") if lookup else about
    pattern = _compiled(say, words)
    return Rule(kinds if lookup else (), pattern, otherwise, tuple(entry.get("unless", ())))


def _rewrites(rows: list[Mapping[str, Any]], words: Vocabulary) -> tuple[Rewrite, ...]:
    return tuple(
        Rewrite(_compiled(row["say"], words), tuple([row["means"]] if isinstance(row["means"], str) else row["means"]))
        for row in rows
    )


def _plural(word: str) -> str:
    """A word in singular and plural, for an alternation."""
    if word.endswith("y") and len(word) > 1 and word[-2] not in "aeiou":
        return f"{re.escape(word[:-1])}(?:y|ies)"
    return re.escape(word) + ("(?:es)?" if word.endswith(("s", "sh", "ch", "x", "o")) else "s?")


@cache
def _alternation(kind: str) -> str:
    words = sorted(vocabulary().words(kind), key=len, reverse=True)
    return f"(?:{'|'.join(map(_plural, words))})(?!\\w)"


def _compiled(pattern: str, words: Vocabulary) -> re.Pattern[str]:
    """A rule as a regular expression with the groups ``v``, ``w`` and ``n``."""
    pattern = re.sub(r"\{list:([a-z ]+)\}", lambda match: _alternation(match[1]), pattern)
    pattern = pattern.replace("{i}", rf"i(?: (?:{_ADVERBS}))*").replace("{number}", f"(?:{_NUMBERS})")
    # A name is short and holds no verb of the frames: "my hobby is that my dog is happy" names "hobby".
    word = r"(?!(?:is|are|i)\b)[\w'/-]+"
    pattern = pattern.replace("{n}", rf"(?P<n>{word}(?: {word}){{0,5}}?)")
    pattern = re.sub(r"\{([vw])\}", r"(?P<\1>.+)", pattern)
    return re.compile(re.sub(r"\{([vw]):((?:[^{}]|\{\d*,?\d*\})+)\}", r"(?P<\1>\2)", pattern), re.IGNORECASE)
