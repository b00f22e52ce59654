"""What the corpus is made of: attribute types with their phrasings, ordinary values, plain words and facts.

Each list is cut into a part for training and a part for evaluation here, once, so that no generator can mix them
up. Values and questions of the bundled evaluation set are dropped from the training part when that file exists.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
BUNDLED = HERE.parent / "data" / "bundled"


@dataclass(frozen=True)
class Attribute:
    """One attribute type; `train` and `held` map a kind of phrasing (or "values") to its items.

    `wide` holds more questions for training, used by stages whose mix says so.
    """

    name: str
    names: tuple[str, ...]
    group: str
    train: dict[str, tuple[str, ...]]
    held: dict[str, tuple[str, ...]]
    wide: dict[str, tuple[str, ...]]


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


def read_yaml(name: str, package: str = "easyedit_personal.reference") -> Any:
    """The content of a YAML file that ships inside `package`."""
    return yaml.safe_load((resources.files(package) / name).read_text(encoding="utf-8"))


def bundled_strings() -> tuple[set[str], set[str]]:
    """Lower-case (targets, questions) of the bundled evaluation set; both empty while it does not exist."""
    path = BUNDLED / "upqa_bundled.json"
    if not path.exists():
        return set(), set()
    targets: set[str] = set()
    questions: set[str] = set()
    for record in json.loads(path.read_text(encoding="utf-8")):
        targets |= {t.lower().strip(" .") for t in _as_list(record["target"])}
        for key in ("question", "question_paraphrased", "implicit_question", "product_recommendation_question"):
            questions |= {q.lower() for q in _as_list(record.get(key, []))}
        questions |= {s.lower() for s in _as_list(record.get("input_attribute", []))}
    return targets, questions


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _items(text: str) -> list[str]:
    return [" ".join(item.split()) for item in text.split(" / ")]


def _split_phrasings(entry: dict[str, str]) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Cut one attribute's phrasings: the last questions, implicit and product ones and every sixth value are held."""
    train, held = {}, {}
    for kind, tail in (("statements", 0), ("questions", 2), ("implicit", 2), ("product", 1)):
        items = _items(entry[kind])
        train[kind] = tuple(items[: len(items) - tail])
        held[kind] = tuple(items[len(items) - tail :])
    values = [" ".join(v.split()) for v in entry["values"].split(";")]
    train["values"] = tuple(v for i, v in enumerate(values) if i % 6 != 5)
    held["values"] = tuple(v for i, v in enumerate(values) if i % 6 == 5)
    return train, held


def _attributes() -> Iterator[Attribute]:
    phrasings = {**read_yaml("phrasings_a.yaml"), **read_yaml("phrasings_b.yaml")}
    more = read_yaml("phrasings_c.yaml")
    targets, questions = bundled_strings()
    for row in read_yaml("attributes.yaml", "easyedit_personal.data.bundled")["attributes"]:
        train, held = _split_phrasings(phrasings[row["name"]])
        for kind, items in train.items():
            banned = targets if kind == "values" else questions
            train[kind] = tuple(i for i in items if i.lower() not in banned)
        wide = {
            kind: tuple(q for q in _items(text) if q.lower() not in questions)
            for kind, text in more[row["name"]].items()
        }
        yield Attribute(row["name"], (row["name"], *row["synonyms"]), row["group"], train, held, wide)


def _facts() -> Iterator[Fact]:
    for row in read_yaml("facts.yaml", "easyedit_personal.data.bundled")["facts"]:
        yield Fact(row["answer"], tuple(row["questions"]), tuple(row["heldout_phrasings"]))


@lru_cache(maxsize=1)
def load_lexicon() -> Lexicon:
    """Read every list of the package once. Every eleventh plain word is kept for evaluation."""
    words = sorted(set((HERE / "words.txt").read_text(encoding="utf-8").split()))
    talk = read_yaml("talk.yaml")

    def cut(name: str) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(part.strip() for part in line.split(" | ")) for line in talk[name])

    return Lexicon(
        attributes=tuple(_attributes()),
        facts=tuple(_facts()),
        words=tuple(w for i, w in enumerate(words) if i % 11),
        held_words=tuple(w for i, w in enumerate(words) if i % 11 == 0),
        pairs=cut("pairs"),
        held_pairs=cut("held"),
        prose=tuple(talk["prose"]),
        held_prose=tuple(talk["prose_held"]),
    )
