"""Small raw records of every layout, and a way to write them to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FLAT = {
    "input_attribute": "I play the harp.",
    "attribute_type": "instrument",
    "question": "What's my instrument?",
    "question_paraphrased": "What do I play?",
    "implicit_question": "What needs tuning before the concert?",
    "product_recommendation_question": "Which case should I buy?",
    "target": "harp",
}
CLUSTERED = {
    **FLAT,
    "attribute_type": ["musical instrument", "main instrument", "instrument"],
    "question": ["Which musical instrument is mine?", "What's my main instrument?", "What's my instrument?"],
    "target": ["concert harp", "the harp", "harp"],
}
PREFEVAL = {"preference": "I never eat nuts.", "question": "Which cake should I try?", "explanation": "Many have nuts."}


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    """The record without one of its fields."""
    return {k: v for k, v in record.items() if k != key}


def write(folder: Path, content: Any, name: str = "data.json") -> Path:
    """A file with this content: text and bytes as they are, anything else as JSON."""
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path
