"""What users tell: read by the rules or a language model, and learned once. ``edit`` and ``chat`` have this in common.

Telling the same again does nothing; telling something else about the same matter overrules the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..clustering.service import PhraseService
from ..data.items import read_items
from ..data.jsonfile import read_json_list
from ..errors import DataError, listing
from ..hparams import PersonalizationHyperParams
from ..store.rows import StoredEdit, check_user
from ..store.store import EditStore
from ..types import Preference
from .bulk import WHERE
from .bulk_file import Failure, read_people
from .learn import Learned, Learner, current
from .words import Unclear, split_statements, understand
from .words_service import understand_with


class Reader:
    """Plain words to preferences: the bundled rules, and a language model for what they leave unclear.

    Args:
        service: the language model's endpoint; without one, what no rule covers is asked back.
    """

    def __init__(self, service: PhraseService | None = None) -> None:
        self.service = service

    def read(self, text: str, user: str) -> list[Preference | Unclear]:
        """What each statement of a text says.

        Raises:
            MissingDependencyError, ServiceError: see ``understand_with``.
        """
        return [self._read(statement, user) for statement in split_statements(text) or [text]]

    def settled(self, unclear: Unclear, reply: str, user: str) -> Preference | Unclear:
        """What an unclear statement says, now that its author has replied to the question back; or what to ask next."""
        found = unclear.answered(reply, user)
        if isinstance(found, Preference):
            return found
        if self.service is None:
            return found if found.value else unclear  # a reply that says nothing new leaves the question open
        return understand_with(self.service, f"{unclear.text} ({unclear.question} {reply})", user)

    def _read(self, statement: str, user: str) -> Preference | Unclear:
        found = understand(statement, user)
        if isinstance(found, Preference) or self.service is None:
            return found
        return understand_with(self.service, statement, user)


def believed(store: EditStore, user: str, preference: Preference) -> StoredEdit | None:
    """The edit that taught the user's model this very preference, unless it was undone or overruled since."""
    wanted = _said(preference)
    if wanted not in [_said(one) for one in current(store.preferences(user))]:
        return None
    taught = (edit for edit in reversed(store.history(user)) if wanted in [_said(one) for one in edit.preferences])
    return next(taught, None)  # None where somebody else has made it forgotten meanwhile


def learn_once(learner: Learner, user: str, preferences: Sequence[Preference]) -> list[Learned | StoredEdit]:
    """Learn what the user's model does not know yet, as one edit.

    Two processes that are told the same at the same time leave one edit.

    Returns:
        Per preference what came of it, or the edit that had taught it before by the same method and settings.

    Raises:
        RequestError, HealthError, StoreError: see ``Learner.learn``.
    """
    version = learner.store.version(user)
    known = [believed(learner.store, user, preference) for preference in preferences]
    known = [edit if edit and _same_settings(edit, learner.hparams) else None for edit in known]
    new = [preference for preference, edit in zip(preferences, known) if edit is None]
    if not new:
        return [edit for edit in known if edit]
    made = [[_said(one) for one in new], _settings(learner.hparams.to_dict()), version]
    key = "told/" + hashlib.sha256(json.dumps(made, default=str, sort_keys=True).encode()).hexdigest()[:32]
    learned = iter(learner.learn_together(user, new, key=key))
    return [edit or next(learned) for edit in known]


def read_told(path: str | Path, user: str | None = None) -> dict[str, list[Preference]]:
    """Preferences by user from a file: UPQA's or PrefEval's JSON list, or a user per line as ``personalize`` takes it.

    Args:
        path: the file; "bundled" is the set that ships with the package.
        user: whose all of them are; None means the user whom each record names.

    Raises:
        DataError: the file is faulty (all faults are named), or a record names nobody and ``user`` is None.
    """
    if user is not None:
        check_user(user)
    pairs = _people(path) if _holds_people(path) else _items(path, named=user is None)
    told: dict[str, list[Preference]] = {}
    for name, preference in pairs:
        owner = check_user(user or name)
        told.setdefault(owner, []).append(replace(preference, user=owner))
    return told


def _holds_people(path: str | Path) -> bool:
    """Lines, or a table; a file that cannot be read is left to the other reader, which says why."""
    if Path(path).suffix in (".jsonl", ".ndjson", ".parquet", ".pq"):
        return True
    try:
        with Path(path).open("rb") as file:
            return file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    except OSError:
        return False


def _people(path: str | Path) -> list[tuple[str, Preference]]:
    found = list(read_people(path))
    faults = [str(one.error) for one in found if isinstance(one, Failure)]
    if faults:
        raise DataError(f"{path}: {len(faults)} of {len(found)} lines cannot be used.\n{listing(faults)}")
    return [(one.user, said) for one in found if not isinstance(one, Failure) for said in one.preferences]


def _items(path: str | Path, named: bool) -> list[tuple[str, Preference]]:
    items = read_items(path)
    if named and path != "bundled":
        nameless = [number for number, record in enumerate(read_json_list(path)) if "id" not in record]
        if nameless:
            raise DataError(
                f"{path} does not say whose preferences these are.",
                got=f"no id in {len(nameless)} of {len(items)} records, the first of them record {nameless[0]}",
                needed="a user for all of them, or an id in every record",
                remedy="give --user",
            )
    return [(item.id, item.preference()) for item in items]


def _said(preference: Preference) -> list[Any]:
    """What makes two preferences the same: not their wording."""
    fields = asdict(preference)
    return [fields["subject"], fields["question"], fields["target"], [list(pair) for pair in fields["phrases"]]]


def _settings(hparams: Mapping[str, Any]) -> Any:
    """Hyper-parameters as the store gives them back, without those that say where."""
    plain = json.loads(json.dumps(dict(hparams), default=str))
    return {name: value for name, value in plain.items() if name not in WHERE}


def _same_settings(edit: StoredEdit, hparams: PersonalizationHyperParams) -> bool:
    return _settings(edit.hparams) == _settings(hparams.to_dict())
