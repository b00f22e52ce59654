"""What users tell: read by the rules or a language model, and learned once. ``edit`` and ``chat`` have this in common.

Telling the same again does nothing; telling something else about the same matter overrules the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..clustering.service import PhraseService
from ..hparams import LOCATION_KEYS, PersonalizationHyperParams
from ..statements.language_model import understand_with
from ..statements.memory import current, gathered, is_added, overrules, together
from ..statements.parser import understand
from ..statements.preferences import Unclear, as_preference, is_open, worth_saying
from ..statements.records import Statement
from ..store.records import StoredEdit
from ..store.store import EditStore
from ..types import Preference
from .learned import Learned
from .learner import Learner


class Reader:
    """Plain words to preferences: the bundled rules, and a language model for what they leave unclear.

    Args:
        service: the language model's endpoint; without one, what no rule covers is asked back.
    """

    def __init__(self, service: PhraseService | None = None) -> None:
        self.service = service

    def read(self, text: str, user: str) -> list[Preference | Unclear]:
        """What a text says; several values of a kind are one entry, see ``gathered``.

        Raises:
            MissingDependencyError, ServiceError: see ``understand_with``.
        """
        return gathered(self._read(statement, user) for statement in worth_saying(understand(text), text))

    def settled(self, unclear: Unclear, reply: str, user: str) -> Preference | Unclear:
        """What an unclear statement says, now that its author has replied to the question back; or what to ask next."""
        found = unclear.answered(reply, user)
        if isinstance(found, Preference):
            return found
        if self.service is None:
            return found if found.value else unclear  # a reply that says nothing new leaves the question open
        return understand_with(self.service, f"{unclear.text} ({unclear.question} {reply})", user)

    def _read(self, statement: Statement, user: str) -> Preference | Unclear:
        if self.service is not None and is_open(statement):
            return understand_with(self.service, statement.text, user)
        return as_preference(statement, user)


def believed(store: EditStore, user: str, preference: Preference) -> StoredEdit | None:
    """The edit that taught the user's model this very preference, unless it was undone or overruled since."""
    wanted = _said(preference)
    if wanted not in [_said(one) for one in current(store.preferences(user))]:
        return None
    taught = (edit for edit in reversed(store.history(user)) if wanted in [_said(one) for one in edit.preferences])
    return next(taught, None)  # None where somebody else has made it forgotten meanwhile


def learn_once(
    learner: Learner,
    user: str,
    preferences: Sequence[Preference],
    *,
    key: str | None = None,
    keep: bool = False,
    settled: bool = False,
) -> list[Learned | StoredEdit]:
    """Learn what the user's model does not know yet, as one edit.

    Two processes that are told the same at the same time leave one edit. A newer value of a kind overrules the older;
    those of a few kinds ("allergy") are added to it, see ``memory.yaml``.

    Args:
        key: idempotency key; one that says what is learned, and from which version, if not given.
        keep: see ``Learner.learn``.
        settled: the user was asked what becomes of earlier values: nothing is added.

    Returns:
        Per preference what came of it, or the edit that had taught it before by the same method and settings.

    Raises:
        RequestError, HealthError, StoreError: see ``Learner.learn``.
    """
    version = learner.store.version(user)
    if not settled:
        preferences = [added(learner.store, user, one) for one in preferences]
    known = [taught(learner, user, preference) for preference in preferences]
    new = [preference for preference, edit in zip(preferences, known) if edit is None]
    if not new:
        return [edit for edit in known if edit]
    if key is None:
        made = [[_said(one) for one in new], method_settings(learner.hparams.to_dict()), version, keep]
        key = "told/" + hashlib.sha256(json.dumps(made, default=str, sort_keys=True).encode()).hexdigest()[:32]
    learned = iter(learner.learn_together(user, new, key=key, keep=keep))
    return [edit or next(learned) for edit in known]


def taught(learner: Learner, user: str, preference: Preference) -> StoredEdit | None:
    """The edit that has taught this very preference in the way in which the learner would, and that still holds."""
    edit = believed(learner.store, user, preference)
    return edit if edit and _same_settings(edit, learner.hparams) else None


def added(store: EditStore, user: str, preference: Preference) -> Preference:
    """With the earlier values of its kind, where those must not be lost."""
    if not is_added(preference.subject):
        return preference
    known = current(store.preferences(user))
    earlier = next((one for one in known if overrules(preference, one)), None)
    return preference if earlier is None else together(earlier, preference)


def _said(preference: Preference) -> list[Any]:
    """What makes two preferences the same: not their wording."""
    fields = asdict(preference)
    return [fields["subject"], fields["question"], fields["target"], [list(pair) for pair in fields["phrases"]]]


def method_settings(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters as the store gives them back, without those that say where: what makes two edits differ."""
    plain = json.loads(json.dumps(dict(hparams), default=str))
    return {name: value for name, value in plain.items() if name not in LOCATION_KEYS}


def _same_settings(edit: StoredEdit, hparams: PersonalizationHyperParams) -> bool:
    """Whether learning it again would make the same; what no edit is tried for stays in words with any settings."""
    by_kind = edit.where == "words" and not edit.hparams
    return by_kind or method_settings(edit.hparams) == method_settings(hparams.to_dict())
