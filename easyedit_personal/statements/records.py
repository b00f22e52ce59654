"""The record that understanding gives back: one thing that somebody said, and whether it can be learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

USER = "user"


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that was said.

    Attributes:
        text: the words it was said in.
        status: "learn": understood; "ask": only its author can say what is meant; "nothing": nothing to be learned.
        subject: the kind of thing, e.g. "hobby"; with polarity "-" the kind of its own, e.g. "disliked food".
        value: what holds, or does not hold; with status "ask", what would be learned if its kind were known.
        polarity: "+" for what holds, "-" for what its owner dislikes, avoids or has not.
        whose: "user", or somebody else's name, or what they are to the user ("wife") where no name was said.
        relation: what somebody else is to the user ("daughter"); None for the user.
        reason: why this status, in a few words.
        question: with status "ask", what to ask the author.
    """

    text: str
    status: Literal["learn", "ask", "nothing"]
    subject: str | None = None
    value: str | None = None
    polarity: Literal["+", "-"] = "+"
    whose: str = USER
    relation: str | None = None
    reason: str = ""
    question: str | None = None
