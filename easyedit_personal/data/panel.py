"""What the evaluation asks beside the data's own questions, and what a conversation states against the user's value.

Texts of ours, kept apart from the sentences that edits train on, which ``contrasts.yaml`` and ``preserve.yaml`` hold.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from random import Random

from ..errors import DataError, listing
from ..files import read_yaml_mapping
from .material import BUNDLED, fill


@dataclass(frozen=True, slots=True)
class PanelTexts:
    """Sentences of ``panel.yaml``; see its head."""

    everyday: tuple[str, ...]
    stated: tuple[str, ...]
    heard: tuple[str, ...]
    used: tuple[str, ...]
    next: tuple[str, ...]
    anybodys: tuple[str, ...]

    def exchange(self, name: str, value: str, rng: Random) -> tuple[str, str]:
        """The user says that an attribute has a value, and what the assistant says to that."""
        said, heard = (fill(rng.choice(frames), n=name, v=value) for frames in (self.stated, self.heard))
        return said, heard


@cache
def panel_texts() -> PanelTexts:
    """The shipped sentences.

    Raises:
        DataError: a statement lacks the name or the value.
    """
    content = read_yaml_mapping(BUNDLED / "panel.yaml")
    faults = [text for text in (*content["stated"], *content["used"]) if "{n}" not in text or "{v}" not in text]
    if faults:
        raise DataError(f"panel.yaml is malformed: these lack {{n}} or {{v}}.\n{listing(faults)}")
    return PanelTexts(*(tuple(content[field.name]) for field in fields(PanelTexts)))
