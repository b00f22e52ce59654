"""What one item of a preference data set is, and how raw records are checked before any of them is used.

All faults of a file are found first and told in one error, each with the record's index, the field and what was
expected: whoever repairs a file of ten thousand records wants the whole list, and nobody wants half a data set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import DataError, did_you_mean, listing, shorten, text_fault
from ..types import EditRequest, Preference
from .material import SPLITS

Schema = Literal["flat", "clustered"]
CLUSTERED = ("attribute_type", "question", "target")
TEXTS = ("input_attribute", "question_paraphrased", "implicit_question", "product_recommendation_question")
REQUIRED = ("input_attribute", *CLUSTERED, *TEXTS[1:])
LONGEST = 16  # words of a name that are looked at: their runs are counted by the square
_SMALL = frozenset(("a", "an", "and", "at", "for", "i", "in", "my", "of", "on", "or", "the", "to", "with"))


@dataclass(frozen=True, slots=True)
class UPQAItem:
    """One user's preference with everything that is asked about it.

    Attributes:
        id: unique in its data set; serves as the user's name.
        persona: what the user said, e.g. "Since last summer a degu has been living with me."
        subject: the attribute type, e.g. "pet".
        question: the direct question, e.g. "Which pet do I have?".
        paraphrase: the same in other words.
        implicit: a question that the value answers without being asked for; "" where the set has none.
        product: a request for a product recommendation; "" where the set has none.
        target: the value, e.g. "degu".
        cluster: (name, question) of every phrase, the original last.
        locality: (question, answer) of world facts that must stay.
        negated: a question that the target answers wrongly.
        other: the same question about somebody else.
        unrelated: neutral questions without one right answer.
        variants: other wordings of the target, as the official clustered file gives them.
        split: "tune" or "test" in the bundled set, else "".
    """

    id: str
    persona: str
    subject: str
    question: str
    paraphrase: str
    implicit: str
    product: str
    target: str
    cluster: tuple[tuple[str, str], ...]
    locality: tuple[tuple[str, str], ...] = ()
    negated: str = ""
    other: str = ""
    unrelated: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    split: str = ""

    @property
    def sentence(self) -> bool:
        """Whether the target is what the user said and no short value, as in PrefEval: answers reword it."""
        return self.target == self.persona

    def phrases(self, cluster_size: int | None = None) -> tuple[tuple[str, str], ...]:
        """(name, question) of the first ``cluster_size - 1`` other phrases, then the original; None means all.

        Raises:
            DataError: the cluster has not so many phrases.
        """
        size = len(self.cluster) if cluster_size is None else cluster_size
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= len(self.cluster):
            raise DataError(
                f"The cluster of {self.id!r} cannot be cut to this size.",
                got=cluster_size,
                needed=f"a whole number from 1 to {len(self.cluster)}",
                cause="a flat file has one phrase per user" if len(self.cluster) == 1 else None,
                remedy="use the clustered file, or let the editor expand the clusters"
                if len(self.cluster) == 1
                else None,
            )
        return (*self.cluster[: size - 1], self.cluster[-1])

    def requests(self, cluster_size: int | None = None) -> list[EditRequest]:
        """The phrases as edit requests, all with the original target; see ``phrases``."""
        return [
            EditRequest(question, self.target, find_subject(name, question), cluster=self.id, user=self.id)
            for name, question in self.phrases(cluster_size)
        ]

    def preference(self, cluster_size: int | None = None) -> Preference:
        """The item as the record that ``personalize`` takes."""
        phrases = self.phrases(cluster_size)[:-1]
        return Preference(self.subject, self.question, self.target, user=self.id, text=self.persona, phrases=phrases)


def find_subject(name: str, question: str) -> str | None:
    """The span of ``question`` that stands for ``name``, letter by letter, or None.

    EasyEdit and the kernels need the subject literally in the prompt. In turn: the name as it is, in any case, with an
    ending ("pets"); then the longest run of the name's words, the later ones first, since "food preference" is asked
    for as "what food do I prefer"; else nothing, and the prompt's end serves as the key's position. Scripts that put
    no blanks between words have the name as it is.
    """
    whole = name.split()
    words = whole[:LONGEST]
    runs = [words[i : i + n] for n in range(len(words), 0, -1) for i in range(len(words) - n, -1, -1)]
    for run in [whole, *runs] if whole else []:
        if len(run) < len(whole) and {run[0].lower(), run[-1].lower()} & _SMALL:
            continue
        pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, run))
        # To the end of the word: half a word would end inside a token. ("food" stands in "foods" as "foods".)
        for tried in (rf"{pattern}(?!\w)", rf"{pattern}\w*"):
            found = re.search(tried, question) or re.search(tried, question, re.IGNORECASE)
            if found:
                return found[0]
    return name if name in question and not name.isascii() else None


def check_records(records: Sequence[Any], source: str, limit: int = 20) -> Schema:
    """Check raw UPQA records, flat or clustered, ours or the official ones.

    Args:
        records: what the JSON list holds.
        source: named in the message.
        limit: how many faults are told one by one.

    Returns:
        Which of the two layouts all records have.

    Raises:
        DataError: any record is faulty, the layouts are mixed, or an id occurs twice; all faults are in the message.
    """
    schemas = [_schema(record) for record in records]
    known = [(i, schema) for i, schema in enumerate(schemas) if schema]
    faults = [fault for i, record in enumerate(records) for fault in _record_faults(i, record)]
    faults += [
        f"record {i}: is {schema} while record {known[0][0]} is {known[0][1]}; one file has one layout"
        for i, schema in known
        if schema != known[0][1]
    ]
    faults += _repeated_ids(records)
    if faults:
        raise DataError(
            f"{source}: {len(faults)} fault{'s' if len(faults) > 1 else ''} in {len(records)} records; nothing was "
            f"loaded.\n{listing(faults, limit)}"
        )
    return known[0][1]


def _schema(record: Any) -> Schema | None:
    """The record's layout, as far as its target tells."""
    value = record.get("target") if isinstance(record, Mapping) else None
    return "clustered" if isinstance(value, list) else "flat" if isinstance(value, str) else None


def _record_faults(index: int, record: Any) -> list[str]:
    if not isinstance(record, Mapping):
        return [f"record {index}: is {shorten(record, 60)} ({type(record).__name__}), expected an object"]
    faults = [
        f"{key}: is missing, expected {'a text or a list of texts' if key in CLUSTERED else 'a text'}"
        for key in REQUIRED
        if key not in record
    ]
    faults += [
        f"{key}: {fault}" for key in (*TEXTS, "id") if key in record and (fault := text_fault(record[key])) is not None
    ]
    faults += _cluster_faults({key: record[key] for key in CLUSTERED if key in record})
    faults += [f"{key}: {fault}" for key, check in OPTIONAL.items() if key in record and (fault := check(record[key]))]
    faults += [fault for key in record if (fault := _misspelled(key))]
    return [f"record {index}, {fault}" for fault in faults]


def _cluster_faults(values: Mapping[str, Any]) -> list[str]:
    lists = {key: value for key, value in values.items() if isinstance(value, list)}
    if not lists:
        return [f"{key}: {fault}" for key, value in values.items() if (fault := text_fault(value))]
    faults = [
        f"{key}: is {shorten(value, 60)} ({type(value).__name__}), expected a list like {next(iter(lists))}"
        for key, value in values.items()
        if key not in lists
    ]
    faults += [f"{key}: is empty, expected at least the original phrase" for key, value in lists.items() if not value]
    faults += [
        f"{key}[{i}]: {fault}" for key, value in lists.items() for i, v in enumerate(value) if (fault := text_fault(v))
    ]
    lengths = {key: len(value) for key, value in lists.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        faults.append(f"{'/'.join(lists)}: {told} entries, expected lists of one length")
    return faults


def _locality_fault(value: Any) -> str | None:
    needed = 'expected a list of {"question": text, "answer": text}'
    if not isinstance(value, list):
        return f"is {shorten(value, 60)}, {needed}"
    for i, probe in enumerate(value):
        if not isinstance(probe, Mapping) or any(text_fault(probe.get(key)) for key in ("question", "answer")):
            return f"entry {i} is {shorten(probe, 60)}, {needed}"
    return None


def _texts_fault(value: Any) -> str | None:
    if not isinstance(value, list):
        return f"is {shorten(value, 60)}, expected a list of texts"
    return next((f"entry {i} {fault}" for i, v in enumerate(value) if (fault := text_fault(v))), None)


def _split_fault(value: Any) -> str | None:
    return None if value in SPLITS else f"is {shorten(value, 60)}, expected one of {', '.join(SPLITS)}"


OPTIONAL: dict[str, Callable[[Any], str | None]] = {
    "negated_question": text_fault,
    "other_question": text_fault,
    "unrelated": _texts_fault,
    "locality": _locality_fault,
    "split": _split_fault,
}
_KNOWN = (*REQUIRED, "id", *OPTIONAL)


def _misspelled(key: Any) -> str | None:
    """Foreign fields are let through, but "localty" would silently lose the user's probes."""
    hint = "" if key in _KNOWN else did_you_mean(key, _KNOWN, cutoff=0.85)
    return f"{key}: is no field of ours.{hint}" if hint else None


def _repeated_ids(records: Sequence[Any]) -> list[str]:
    first: dict[str, int] = {}
    faults = []
    for i, record in enumerate(records):
        identifier = record.get("id") if isinstance(record, Mapping) else None
        if isinstance(identifier, str) and first.setdefault(identifier, i) != i:
            faults.append(f"record {i}, id: is {identifier!r} like record {first[identifier]}, expected unique ids")
    return faults
