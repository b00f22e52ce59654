"""What an edit must leave alone: which prompts, and what the unedited model answers to them.

The prompts come from ``data/bundled/preserve.yaml`` (none of them is an evaluation prompt, a test sees to it). They
are drawn with a seed and not per user, so that the answers of the unedited model are generated once per model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any

from ..clustering.lexicon import Lexicon, normalise
from ..errors import DataError, listing
from ..files import read_yaml_mapping
from ..hparams import PreserveParams
from ..types import EditRequest
from .base import group_by_cluster
from .phrasings import edited_groups, shipped_phrasings

KINDS = ("neutral", "other_attribute", "other_indirect", "negated", "other_user")


@dataclass(frozen=True, slots=True)
class PreservePrompt:
    """A prompt whose answer an edit must not change, and its kind (one of ``KINDS``)."""

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Material:
    """The sentences of a preservation file; see the head of ``preserve.yaml`` for what each list is.

    In the templates ``{n}`` is an attribute's name and ``{who}`` a person.
    """

    neutral: tuple[str, ...]
    open: tuple[str, ...]
    own: tuple[str, ...]
    negated: tuple[str, ...]
    somebody_else: tuple[str, ...]
    yourself: tuple[str, ...]
    people: tuple[str, ...]
    circles: tuple[tuple[str, ...], ...]
    indirect: Mapping[str, tuple[str, ...]]

    @classmethod
    def load(cls, path: str | Path | None = None) -> Material:
        """Read a preservation file; without a path, the one that ships with the package.

        Raises:
            ConfigError: the file cannot be read as a YAML mapping.
            DataError: lists are missing or hold something else than texts; all faults are listed.
        """
        return _bundled() if path is None else _material(read_yaml_mapping(path), str(path))

    def personal(self) -> list[str]:
        """Questions about the user, of every kind of attribute, by name and without: what edits are asked for."""
        shipped = {text for parts in shipped_phrasings().values() for part in parts for text in part}
        return sorted(shipped) + _fill_all(self.own, self.people)

    def impersonal(self) -> list[str]:
        """Questions that are about nobody, what the user's attributes are not, or somebody else's."""
        others = [*self.somebody_else, *self.yourself]
        return [*self.neutral, *self.open, *_fill_all(self.negated, self.people), *_fill_all(others, self.people)]

    def related(self, groups: set[str]) -> set[str]:
        """``groups`` and every group of attributes so close that an indirect question may mean either."""
        return groups.union(*(circle for circle in self.circles if groups.intersection(circle)))


def preserve_prompts(requests: Sequence[EditRequest], params: PreserveParams, seed: int = 0) -> list[PreservePrompt]:
    """The prompts that an edit of ``requests`` preserves.

    Questions about an edited attribute, under any of its everyday names, are never among the "other_attribute"
    prompts; indirect questions about closely related attributes are not either.

    Args:
        requests: the phrases of all preferences.
        params: how many prompts of each kind ("negated" and "other_user" per preference), and the file.
        seed: equal seeds give equal prompts.

    Raises:
        ConfigError, DataError: the preservation file is missing or malformed.
    """
    material, lexicon = Material.load(params.file), Lexicon.load()
    neutral = Random(seed).sample(material.neutral, min(params.neutral, len(material.neutral)))
    prompts = [PreservePrompt(text, "neutral") for text in neutral]
    edited = edited_groups(requests, lexicon)
    named = _other_attributes(_named(material, lexicon, seed), edited, params.other_attribute, seed)
    prompts += [PreservePrompt(text, "other_attribute") for text in named]
    indirect = _other_attributes(_indirect(material, seed), material.related(edited), params.other_indirect, seed)
    prompts += [PreservePrompt(text, "other_indirect") for text in indirect]
    for number, members in enumerate(group_by_cluster(requests)):
        names = _names([requests[i] for i in members], lexicon)
        rng = Random(f"{seed}/{number}")
        for text in _fill(material.negated, names, material.people, params.negated, rng):
            prompts.append(PreservePrompt(text, "negated"))
        about_others = [*material.somebody_else, *material.yourself]
        for text in _fill(about_others, names, material.people, params.other_user, rng):
            prompts.append(PreservePrompt(text, "other_user"))
    asked = {normalise(request.prompt) for request in requests}
    return [prompt for prompt in dict.fromkeys(prompts) if normalise(prompt.text) not in asked]


def _names(requests: Sequence[EditRequest], lexicon: Lexicon) -> list[str]:
    """What one preference's attribute is called: the subjects, the asked question's (the last) first, then synonyms."""
    subjects = list(dict.fromkeys(request.subject for request in reversed(requests) if request.subject))
    entries = [entry for subject in subjects if (entry := lexicon.find(subject))]
    return list(dict.fromkeys([*subjects, *(name for entry in entries[:1] for name in entry.names)]))


def _named(material: Material, lexicon: Lexicon, seed: int) -> dict[str, list[str]]:
    """Direct questions by group, under several of the names that its attributes have."""
    rng = Random(f"{seed}/named")
    groups = {group: rng.sample(names, min(5, len(names))) for group, names in lexicon.groups().items()}
    return {g: [rng.choice(material.own).replace("{n}", name) for name in names] for g, names in groups.items()}


def _indirect(material: Material, seed: int) -> dict[str, list[str]]:
    """Questions by group that do not name it: the file's own, then one of the shipped phrasings of each kind."""
    rng = Random(f"{seed}/indirect")
    shipped = shipped_phrasings()
    return {g: [*texts, *(rng.choice(part) for part in shipped.get(g, ()))] for g, texts in material.indirect.items()}


def _other_attributes(questions: Mapping[str, list[str]], edited: set[str], count: int, seed: int) -> list[str]:
    """``count`` questions about groups that are not edited, every group once before any comes twice.

    The order does not depend on what is edited, so that two users share most of their prompts.
    """
    order = Random(f"{seed}/order").sample(sorted(questions), len(questions))
    turns = zip_longest(*(questions[group] for group in order if group not in edited))
    return list(dict.fromkeys(text for turn in turns for text in turn if text))[:count]


def _fill(templates: Sequence[str], names: Sequence[str], people: Sequence[str], count: int, rng: Random) -> list[str]:
    """``count`` different sentences; the first name is used most, since it is the one that is asked for."""
    if not names:
        return []
    order = rng.sample(list(templates), len(templates))
    texts: list[str] = []
    for i in range(count):
        name = names[0] if i % 2 == 0 else rng.choice(names)
        template = order[i % len(order)]
        texts.append(template.replace("{n}", name).replace("{who}", rng.choice(people)))
    return [text[0].upper() + text[1:] for text in texts]


def _fill_all(templates: Sequence[str], people: Sequence[str]) -> list[str]:
    """One sentence for every everyday name of every attribute, the templates in turn."""
    names = list(dict.fromkeys(name for entry in Lexicon.load().entries for name in entry.names[:4]))
    turns = [_fill([templates[i % len(templates)]], [name], people, 1, Random(i)) for i, name in enumerate(names)]
    return [text for texts in turns for text in texts]


@cache
def _bundled() -> Material:
    path = resources.files("easyedit_personal").joinpath("data", "bundled", "preserve.yaml")
    with resources.as_file(path) as file:
        return _material(read_yaml_mapping(file), "preserve.yaml")


def _material(values: Mapping[str, Any], source: str) -> Material:
    faults = [f"{field.name}: missing" for field in fields(Material) if field.name not in values]
    for name, value in values.items():
        lists = value.values() if isinstance(value, dict) else value if name == "circles" else [value]
        if not isinstance(value, (list, dict)) or not all(_is_texts(texts) for texts in lists):
            faults.append(f"{name}: needs lists of non-empty texts")
    for name, mark in (("own", "{n}"), ("negated", "{n}"), ("somebody_else", "{who}"), ("yourself", "{n}")):
        faults += [f"{name}: {text!r} lacks {mark}" for text in values.get(name) or () if mark not in str(text)]
    if faults:
        raise DataError(f"The preservation file {source} is malformed.\n{listing(faults)}")
    lists = ("neutral", "open", "own", "negated", "somebody_else", "yourself", "people")
    simple = {name: tuple(values[name]) for name in lists}
    return Material(
        **simple,
        circles=tuple(tuple(circle) for circle in values["circles"]),
        indirect={group: tuple(texts) for group, texts in values["indirect"].items()},
    )


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and text.strip() for text in value)
