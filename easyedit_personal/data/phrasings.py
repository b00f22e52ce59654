"""All shipped phrasings: how people ask about each kind of attribute, by name, indirectly, and for products.

Every list is cut here, once, into a part that edits may train on and a part held out for evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml


@dataclass(frozen=True)
class Attribute:
    """One attribute type; `train` and `held` map a kind of phrasing (or "values") to its items.

    `wide` holds more questions for training, in other wordings.
    """

    name: str
    names: tuple[str, ...]
    group: str
    train: dict[str, tuple[str, ...]]
    held: dict[str, tuple[str, ...]]
    wide: dict[str, tuple[str, ...]]


def bundled_strings() -> tuple[set[str], set[str]]:
    """(targets, questions) of the bundled evaluation set, in lower case."""
    targets: set[str] = set()
    questions: set[str] = set()
    for record in json.loads(_bundled("upqa_bundled.json")):
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


@cache
def attributes() -> tuple[Attribute, ...]:
    """Every attribute type with its phrasings; what the bundled evaluation set asks is left out of ``train``."""
    return tuple(_attributes())


def _attributes() -> Iterator[Attribute]:
    phrasings = {**_yaml("phrasings_a.yaml"), **_yaml("phrasings_b.yaml")}
    more = _yaml("phrasings_c.yaml")
    targets, questions = bundled_strings()
    for row in _yaml("attributes.yaml")["attributes"]:
        train, held = _split_phrasings(phrasings[row["name"]])
        for kind, items in train.items():
            banned = targets if kind == "values" else questions
            train[kind] = tuple(i for i in items if i.lower() not in banned)
        wide = {
            kind: tuple(q for q in _items(text) if q.lower() not in questions)
            for kind, text in more[row["name"]].items()
        }
        yield Attribute(row["name"], (row["name"], *row["synonyms"]), row["group"], train, held, wide)


def _bundled(name: str) -> str:
    return resources.files(__package__).joinpath("bundled", name).read_text(encoding="utf-8")


def _yaml(name: str) -> Any:
    return yaml.safe_load(_bundled(name))
