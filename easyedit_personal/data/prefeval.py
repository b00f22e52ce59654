"""PrefEval's two files: explicit preferences with a question that tests them, and the conversations put in between.

Its records say what a user wants in a sentence and ask for advice that a forgetful assistant gets wrong; they have no
short value. Source: "Do LLMs Recognize Your Preferences?" (arXiv 2502.09597).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, listing, shorten, text_fault
from .jsonfile import read_json_list

Message = dict[str, str]
ROLES = ("user", "assistant")


@dataclass(frozen=True, slots=True)
class PrefEvalRecord:
    """One explicit preference.

    Attributes:
        preference: what the user said.
        question: asks for advice in a later turn; the obvious answer would ignore the preference.
        explanation: how the two conflict, for a judge.
    """

    preference: str
    question: str
    explanation: str = ""


def load_prefeval(path: str | Path) -> list[PrefEvalRecord]:
    """Read a topic's explicit preferences.

    Raises:
        DataError: the file cannot be read, or any record lacks a text; nothing is loaded then.
    """
    return parse_prefeval(read_json_list(path), str(path))


def is_prefeval(records: Sequence[Any]) -> bool:
    """Whether these are PrefEval's records rather than UPQA's, judged by the first that is an object."""
    first: Mapping[str, Any] = next((record for record in records if isinstance(record, Mapping)), {})
    return "preference" in first and "attribute_type" not in first


def parse_prefeval(records: Sequence[Any], source: str) -> list[PrefEvalRecord]:
    """Checked records; ``source`` is named in the message.

    Raises:
        DataError: any record is no object or lacks a text; all faults are told.
    """
    faults = [fault for i, record in enumerate(records) for fault in _faults(i, record)]
    _refuse(faults, source, len(records))
    return [PrefEvalRecord(r["preference"].strip(), r["question"].strip(), r.get("explanation", "")) for r in records]


def load_inter_turns(path: str | Path) -> list[list[Message]]:
    """The conversations of ``filtered_inter_turns.json``, each a list of user and assistant messages in turn.

    Our own ``distractors.json`` has the same layout. A last message of the user without an answer is dropped.

    Raises:
        DataError: a conversation has no messages, a message no text or role, or the roles do not alternate.
    """
    records = read_json_list(path)
    faults = [fault for i, record in enumerate(records) for fault in _conversation_faults(i, record)]
    _refuse(faults, str(path), len(records))
    turns = [[{"role": m["role"], "content": m["content"]} for m in record["conversation"]] for record in records]
    return [messages[: len(messages) // 2 * 2] for messages in turns]


def _refuse(faults: list[str], source: str, count: int) -> None:
    if faults:
        raise DataError(
            f"{source}: {len(faults)} fault{'s' if len(faults) > 1 else ''} in {count} records; nothing was loaded.\n"
            f"{listing(faults)}"
        )


def _faults(index: int, record: Any) -> list[str]:
    if not isinstance(record, Mapping):
        return [f"record {index}: is {shorten(record, 60)} ({type(record).__name__}), expected an object"]
    faults = {key: text_fault(record[key]) if key in record else "is missing, expected a text" for key in _NEEDED}
    if not isinstance(record.get("explanation", ""), str):
        faults["explanation"] = text_fault(record["explanation"])
    return [f"record {index}, {key}: {fault}" for key, fault in faults.items() if fault]


_NEEDED = ("preference", "question")


def _conversation_faults(index: int, record: Any) -> list[str]:
    messages = record.get("conversation") if isinstance(record, Mapping) else None
    if not isinstance(messages, list) or len(messages) < 2:
        return [f"record {index}, conversation: is {shorten(messages, 60)}, expected a list of two or more messages"]
    faults = []
    for number, message in enumerate(messages):
        role = ROLES[number % 2]
        if not isinstance(message, Mapping) or message.get("role") != role:
            faults.append(f"conversation[{number}]: is {shorten(message, 60)}, expected a message of the {role}")
        elif fault := text_fault(message.get("content")):
            faults.append(f"conversation[{number}].content: {fault}")
    return [f"record {index}, {fault}" for fault in faults]
