"""How answers begin that state a preference, and the sentences that gates keep quiet at: texts of ours, read once.

Everything before the value is the same for all users of a kind, so that the model can learn it without them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Literal

from ..errors import DataError, listing
from ..files import read_yaml_mapping
from .material import BUNDLED

Asks = Literal["name", "implicit", "product"]
PLACE = "{v}"


@dataclass(frozen=True, slots=True)
class Beginning:
    """What stands before and after the value: "Since your hobby is " and ","."""

    before: str
    after: str

    def around(self, value: str) -> str:
        """The beginning with a value, word for word."""
        return self.before + value + self.after


@dataclass(frozen=True, slots=True)
class Contrasts:
    """Sentences of ``contrasts.yaml``; see its head."""

    tasks: tuple[str, ...]
    small_talk: tuple[str, ...]
    negated: tuple[str, ...]
    somebody_else: tuple[str, ...]
    general: tuple[str, ...]
    begun_else: tuple[str, ...]
    begun_not: tuple[str, ...]
    stated: tuple[str, ...]
    heard: tuple[str, ...]
    remarks: tuple[str, ...]


def beginning(asks: Asks, name: str, group: str | None = None) -> Beginning:
    """How the answer to a question begins.

    Args:
        asks: whether the question names the attribute, or is about what to buy.
        name: the attribute's everyday name ("hobby").
        group: its group in the lexicon; None, or one without beginnings of its own, gives the default.
    """
    named, otherwise, _ = _beginnings()
    frame = named if asks == "name" else otherwise.get(group or "", otherwise["default"])[asks == "product"]
    before, after = frame.split(PLACE)
    return Beginning(before.replace("{n}", name), after)


def said_again() -> tuple[str, ...]:
    """How answers go on in which the value, {v}, comes up again."""
    return tuple(_beginnings()[2])


@cache
def contrasts() -> Contrasts:
    """The shipped contrasts."""
    content = read_yaml_mapping(BUNDLED / "contrasts.yaml")
    return Contrasts(**{field.name: tuple(content[field.name]) for field in fields(Contrasts)})


@cache
def _beginnings() -> tuple[str, dict[str, list[str]], list[str]]:
    content = read_yaml_mapping(BUNDLED / "beginnings.yaml")
    named, otherwise = content["named"], content["otherwise"]
    frames = [named, *(frame for frames in otherwise.values() for frame in frames)]
    faults = [f"{frame!r}: needs {PLACE} once, last before the punctuation" for frame in frames if not _is_frame(frame)]
    faults += [f"{group}: needs two beginnings" for group, frames in otherwise.items() if len(frames) < 2]
    if faults:
        raise DataError(f"beginnings.yaml is malformed.\n{listing(faults)}")
    return named, otherwise, content["again"]


def _is_frame(frame: str) -> bool:
    before, place, after = frame.partition(PLACE)
    return bool(before.endswith(" ") and place) and after in (",", ".", ":")
