"""What judges share: the claim they see, the verdicts they may give, and the cache that keeps them.

Verdicts are kept on disk by content, so that no answer is judged (or paid for) twice.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

INSTRUCTIONS = (
    "You check whether an assistant's answer gives the information that was expected. You get a JSON object with "
    '"question", "expected" and "answer". Other wording, more detail and a surrounding sentence are fine; a different '
    "value, a denial, or several values of which only one is right are not. Reply with one word: yes or no."
)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a judge is shown."""

    question: str
    expected: str
    answer: str

    def as_json(self) -> str:
        """The user's message: data, never part of the instructions."""
        values = {"question": self.question, "expected": self.expected, "answer": self.answer}
        return json.dumps(values, ensure_ascii=False)


@dataclass
class Usage:
    """What judging cost so far: calls that were answered, and tokens where the endpoint counts them."""

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Judge(Protocol):
    """Says for each claim whether the answer gives the expected value."""

    name: str
    usage: Usage

    def judge(self, claims: Sequence[Claim]) -> list[bool]:
        """One verdict per claim.

        Raises:
            ServiceError: the judge cannot be reached, or its replies stayed unusable.
        """
        ...


class Verdicts:
    """Verdicts on disk, one JSON line each, found by the judge's name, its instructions and the claim."""

    def __init__(self, path: Path | None, judge: str) -> None:
        self.path, self.judge, self._lock = path, judge, threading.Lock()
        self.known: dict[str, bool] = {}
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._read(line)

    def get(self, claim: Claim) -> bool | None:
        """The verdict, if there is one."""
        return self.known.get(self._key(claim))

    def put(self, claim: Claim, verdict: bool) -> None:
        """Remember a verdict; safe from several threads."""
        with self._lock:
            key = self._key(claim)
            self.known[key] = verdict
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "verdict": verdict}) + "\n")

    def _key(self, claim: Claim) -> str:
        return hashlib.sha256("\0".join([self.judge, INSTRUCTIONS, claim.as_json()]).encode()).hexdigest()

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            self.known[str(entry["key"])] = bool(entry["verdict"])
        except (json.JSONDecodeError, KeyError, TypeError):
            return  # a torn line of a killed run: that claim is judged again


def parse_verdict(reply: object) -> bool | None:
    """True for yes, False for no, None for anything else: a reply that argues is no verdict."""
    word = reply.strip().strip("\"'*`.!").strip().casefold() if isinstance(reply, str) else ""
    return {"yes": True, "no": False}.get(word)
