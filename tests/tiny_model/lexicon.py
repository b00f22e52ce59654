"""What the corpus is made of: attribute types with their phrasings, ordinary values, plain words and facts.

Each list is cut into a part for training and a part for evaluation here, once, so that no generator can mix them
up. Values and questions of the bundled evaluation set are dropped from the training part when that file exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from easyedit_personal.data.phrasings import Attribute, attributes

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fact:
    """One fact of the small world, with the phrasings that training may see and those that it may not."""

    answer: str
    questions: tuple[str, ...]
    held: tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """Everything the generators draw from; see `load_lexicon`."""

    attributes: tuple[Attribute, ...]
    facts: tuple[Fact, ...]
    words: tuple[str, ...]
    held_words: tuple[str, ...]
    pairs: tuple[tuple[str, ...], ...]
    held_pairs: tuple[tuple[str, ...], ...]
    prose: tuple[str, ...]
    held_prose: tuple[str, ...]

    def attribute(self, name: str) -> Attribute:
        """The attribute type whose canonical name is `name`."""
        return next(a for a in self.attributes if a.name == name)


# Types of one circle are so close that an implicit question about one may be answered with another
# ("What should I drink?"): they are rarely stated side by side, and never asked about with only the other known.
CIRCLES = (
    ("food", "dessert", "breakfast", "snack", "pizza", "fruit", "icecream", "allergy"),
    ("drink", "coffee", "tea"),
    ("entertainment", "series", "film", "bedtime", "book", "videogame"),
    ("hobby", "sport", "workout", "boardgame", "collection", "entertainment", "charity", "team"),
    ("work", "goal", "commute", "subject", "language"),
    ("location", "birthplace", "holiday", "shop"),
    ("music", "band", "instrument"),
    ("pet", "animal"),
    ("family", "friend", "celebration"),
    ("season", "weather", "celebration"),
    ("color", "style"),
    ("car", "commute"),
    ("motto", "nickname", "number"),
    ("flower", "celebration"),
)


def close(one: Attribute, other: Attribute) -> bool:
    """Whether the two types mean nearly the same or belong to one circle."""
    pair = {one.group, other.group}
    return len(pair) == 1 or any(pair <= set(circle) for circle in CIRCLES)


def read_yaml(name: str, package: str = __package__) -> Any:
    """The content of a YAML file that ships inside `package`."""
    return yaml.safe_load((resources.files(package) / name).read_text(encoding="utf-8"))


def _facts() -> Iterator[Fact]:
    for row in read_yaml("facts.yaml", "easyedit_personal.data.bundled")["facts"]:
        yield Fact(row["answer"], tuple(row["questions"]), tuple(row["heldout_phrasings"]))


@lru_cache(maxsize=1)
def load_lexicon() -> Lexicon:
    """Read every list once. Every eleventh plain word is kept for evaluation."""
    words = sorted(set((HERE / "words.txt").read_text(encoding="utf-8").split()))
    talk = read_yaml("talk.yaml")

    def cut(name: str) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(part.strip() for part in line.split(" | ")) for line in talk[name])

    return Lexicon(
        attributes=attributes(),
        facts=tuple(_facts()),
        words=tuple(w for i, w in enumerate(words) if i % 11),
        held_words=tuple(w for i, w in enumerate(words) if i % 11 == 0),
        pairs=cut("pairs"),
        held_pairs=cut("held"),
        prose=tuple(talk["prose"]),
        held_prose=tuple(talk["prose_held"]),
    )
