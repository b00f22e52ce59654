"""The offline lexicon: which everyday names people use for one kind of personal attribute.

It gives clusters their phrases without a network, and shows an embedder what "about the same thing" looks like
(``calibrate``). The YAML belongs to the bundled data; it is read as a file, since nothing here imports ``data``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, listing
from ..files import parse_yaml

_SPELLING = {"favourite": "favorite", "neighbourhood": "neighborhood"}
_SPELLING |= {"colour": "color", "colours": "colors", "flavour": "flavor", "flavours": "flavors"}
_OWNER = re.compile(r"^(?:(?:the user|a person)'s|my|your|our|their|his|her|the|an?)\s+")
_FONDNESS = re.compile(r"^(?:favorite|preferred|usual|main|current|best-loved)\s+")


def normalise(name: str) -> str:
    """A name as it is compared: lower case, single spaces, American spelling, no owner in front."""
    text = " ".join(name.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split()).strip("?!. ")
    text = _OWNER.sub("", text)
    return " ".join(_SPELLING.get(word, word) for word in text.split(" "))


def _variants(name: str) -> list[str]:
    """The name, then what is left without a plural ending, then without "favorite" and the like."""
    text = normalise(name)
    forms = [text, _singular(text)]
    forms += [_FONDNESS.sub("", form) for form in forms]
    return list(dict.fromkeys(forms))


def _singular(text: str) -> str:
    if text.endswith("ies") and len(text) > 4:
        return text[:-3] + "y"
    return text[:-1] if text.endswith("s") and not text.endswith(("ss", "us", "is")) else text


@dataclass(frozen=True, slots=True)
class Entry:
    """One kind of attribute.

    Attributes:
        name: the plain name; fits "my <name>".
        group: entries of one group mean nearly the same ("job" and "profession").
        synonyms: further names, the most usual first.
    """

    name: str
    group: str
    synonyms: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The plain name and its synonyms."""
        return (self.name, *self.synonyms)


@dataclass(frozen=True)
class Lexicon:
    """Kinds of attributes with their everyday names."""

    entries: tuple[Entry, ...]

    @classmethod
    def load(cls, path: str | Path | None = None) -> Lexicon:
        """Read a lexicon from YAML; without a path, the one that ships with the package.

        The file holds ``attributes:``, a list of ``{name, group, synonyms}``; ``group`` may be left out.

        Raises:
            DataError: the file is missing, is no YAML, or has malformed entries; all of them are listed.
        """
        return _bundled() if path is None else _read(Path(path))

    def find(self, name: str) -> Entry | None:
        """The entry that knows ``name``; plain names win over synonyms, exact forms over shortened ones."""
        for form in _variants(name):
            for names_of in (lambda entry: entry.names[:1], lambda entry: entry.synonyms):
                for entry in self.entries:
                    if any(normalise(known) == form for known in names_of(entry)):
                        return entry
        return None

    def names_for(self, entry: Entry) -> list[str]:
        """All names of an entry, then those of the other entries of its group."""
        relatives = [e for e in self.entries if e.group == entry.group and e is not entry]
        return list(dict.fromkeys(name for e in (entry, *relatives) for name in e.names))

    def groups(self, per_entry: int | None = None) -> dict[str, list[str]]:
        """Names by group, at most ``per_entry`` of each entry."""
        found: dict[str, list[str]] = {}
        for entry in self.entries:
            found.setdefault(entry.group, []).extend(entry.names[:per_entry])
        return found

    def restricted_to(self, groups: Iterable[str]) -> Lexicon:
        """The part of the lexicon that belongs to some groups; to calibrate on one half and test on the other."""
        wanted = set(groups)
        return Lexicon(tuple(entry for entry in self.entries if entry.group in wanted))


@cache
def _bundled() -> Lexicon:
    return _read(resources.files("easyedit_personal").joinpath("data", "bundled", "attributes.yaml"))


def _read(path: Path | Traversable) -> Lexicon:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise DataError(f"The lexicon {path} cannot be read: {error}") from None
    rows = content.get("attributes") if isinstance(content, Mapping) else None
    if not isinstance(rows, list) or not rows:
        raise DataError(f"The lexicon {path} has no entries.", needed="attributes: a list of {name, group, synonyms}")
    faults = [f"entry {number}: {fault}" for number, row in enumerate(rows) if (fault := _fault(row))]
    if faults:
        raise DataError(f"The lexicon {path} is malformed.\n{listing(faults)}")
    return Lexicon(tuple(_entry(row) for row in rows))


def _fault(row: Any) -> str:
    if not isinstance(row, Mapping) or not _is_name(row.get("name")):
        return f"needs a mapping with a non-empty name, got {row!r:.80}"
    synonyms = row.get("synonyms", [])
    if not isinstance(synonyms, list) or not all(_is_name(synonym) for synonym in synonyms):
        return f"synonyms of {row['name']!r} must be a list of non-empty texts"
    return "" if _is_name(row.get("group", row["name"])) else f"group of {row['name']!r} must be a text"


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _entry(row: Mapping[str, Any]) -> Entry:
    return Entry(row["name"], row.get("group", row["name"]), tuple(row.get("synonyms", ())))
