"""One statement of one user, learned and kept: what ``edit``, ``chat`` and the service have in common.

With ``strategy: joint`` all of a user's preferences are solved together again, since on a small model a second edit
made alone overwrites the first; the store gets the difference, so that live edits still add up and undo still works.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection
from torch import nn

from ..editing.composition import add_preferences, current
from ..editing.requests import as_request, check_requests
from ..errors import StoreOvertaken
from ..generation.generate import generate
from ..hparams import PersonalizationHyperParams
from ..kernels.apply import edited, twin_of
from ..modeling.layout import find_layout
from ..progress import log
from ..statements.preferences import same_matter
from ..store.entries import NewEdit
from ..store.rows import StoredEdit
from ..store.store import EditStore
from ..types import EditResult, Preference, WeightDelta

TRIES = 3  # of learning, when the user's edits change meanwhile


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of a statement.

    Attributes:
        edit: its id in the store.
        preference: what was learned.
        before, after: the user's model's answer to the preference's question.
        seconds: of the edit alone.
        nbytes: of the factors.
        health: figures of the health panel.
        overruled: earlier preferences about the same matter; their edits stay, and an undo brings them back.
    """

    edit: int
    preference: Preference
    before: str
    after: str
    seconds: float
    nbytes: int
    health: Mapping[str, float]
    overruled: tuple[Preference, ...] = ()


Kept = Callable[[Connection, Sequence[Learned]], None]


class Learner:
    """Learns preferences for the users of a store; safe to share between threads, one edit at a time.

    Works on a second model that shares all weights but the edited ones with the first: whoever answers questions
    meanwhile notices nothing.

    Args:
        model: the base model; never touched.
        tokenizer: its tokenizer.
        store: where the factors go.
        hparams: how to edit. ``strategy: sequential`` edits on top of what the user's model knows, which costs the
            same for every preference; ``joint`` costs more with each and keeps them apart.

    Raises:
        ModelError: the model has not the layers in ``hparams``.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, store: EditStore, hparams: PersonalizationHyperParams) -> None:
        self.store, self.hparams, self._tokenizer = store, hparams, tokenizer
        layout = find_layout(model, hparams)
        for layer in hparams.layers:
            layout.check_layer(layer)
        self._model = twin_of(model, [layout.rewrite_path(layer) for layer in hparams.layers])
        self._lock = threading.Lock()

    def learn(self, user: str, preference: Preference, *, key: str | None = None, kept: Kept | None = None) -> Learned:
        """Edit the preference into the user's model and put the factors into the store.

        Args:
            user: whose it is.
            preference: what to learn.
            key: idempotency key for the store.
            kept: is told of the edit inside the transaction that keeps it; see ``EditStore.put``.

        Raises:
            RequestError: the preference cannot be edited in; nothing was computed.
            HealthError: the edit would damage the model; nothing was kept.
            StoreError: see ``EditStore.put``.
        """
        return self.learn_together(user, [preference], key=key, kept=kept)[0]

    def learn_together(
        self, user: str, preferences: Sequence[Preference], *, key: str | None = None, kept: Kept | None = None
    ) -> list[Learned]:
        """Several preferences as one edit, which an undo takes back as a whole; see ``learn``.

        Returns:
            One record per preference; edit, seconds, bytes and health are those of all together.
        """
        given = [replace(preference, user=user) for preference in preferences]
        check_requests([as_request(preference) for preference in given])
        with self._lock:
            for _ in range(TRIES - 1):
                try:
                    return self._learned(user, given, key, kept)
                except StoreOvertaken:
                    log.info("a user's edits changed while more was learned: once more on top of them")
            return self._learned(user, given, key, kept)

    def solve(self, user: str, preferences: Sequence[Preference]) -> EditResult:
        """What ``learn`` would put for several preferences together, in one edit; nothing is kept.

        Returns:
            The factors to put on top of what the user has.

        Raises:
            RequestError: the preferences cannot be edited in; nothing was computed.
            HealthError: the edit would damage the model.
        """
        given = [replace(preference, user=user) for preference in preferences]
        check_requests([as_request(preference) for preference in given])
        with self._lock:
            return self._solved(user, self.store.preferences(user), given, self.store.deltas(user))

    def unlearn(self, user: str, edit: int | None = None) -> list[StoredEdit]:
        """Undo the last edit or a given one; what was learned jointly after it is solved again without it.

        Where nothing has to be solved again, this does not wait for what is being learned.

        Returns:
            What was undone: the edit, or nothing if it was not live.

        Raises:
            StoreError: the user has no such edit, or it was merged by ``compact``.
        """
        for _ in range(TRIES - 1):
            try:
                return self._unlearned(user, edit)
            except StoreOvertaken:
                log.info("a user's edits changed while one was undone: once more")
        return self._unlearned(user, edit)

    def _unlearned(self, user: str, edit: int | None) -> list[StoredEdit]:
        version = self.store.version(user)
        live = [one for one in self.store.history(user) if one.live]
        place = next((n for n, one in enumerate(live) if one.id == edit), len(live) - 1)
        if not live or edit not in (None, live[place].id) or not self._is_joint(user):
            return self.store.undo(user, edit)
        if not all(one.preferences for one in live[place + 1 :]):
            return self.store.undo(user, edit)
        new = self._without(user, live, place) if live[place + 1 :] else []
        self.store.supersede(user, version, live[place].id, new)
        return [replace(live[place], live=False)]

    def _without(self, user: str, live: Sequence[StoredEdit], place: int) -> list[NewEdit]:
        """What comes after an edit, solved again as if that had never been; nothing is changed yet."""
        with self._lock:
            known = [preference for one in live[:place] for preference in one.preferences]
            have, new = self.store.deltas(user, before=live[place].id), []
            for one in live[place + 1 :]:
                result = self._solved(user, known, one.preferences, have)
                new.append(NewEdit(**self._record(one.preferences, result)))
                known += one.preferences
                have = [*have, *result.deltas]
        return new

    def _learned(self, user: str, given: Sequence[Preference], key: str | None, kept: Kept | None) -> list[Learned]:
        """Learn on top of what the user has, and keep it if they have just that still."""
        version = self.store.version(user)
        known, old = self.store.preferences(user), self.store.deltas(user)
        result = self._solved(user, known, given, old)
        before, after = (self._answers(given, have) for have in (old, [*old, *result.deltas]))
        records = [
            Learned(
                edit=0,
                preference=preference,
                before=first,
                after=second,
                seconds=result.seconds,
                nbytes=result.nbytes,
                health=result.health,
                overruled=tuple(one for one in current(known) if same_matter(one.subject, preference.subject)),
            )
            for preference, first, second in zip(given, before, after)
        ]

        def note(connection: Connection, edit: int) -> None:
            if kept is not None:
                kept(connection, [replace(record, edit=edit) for record in records])

        edit = self.store.put(user, **self._record(given, result), key=key, version=version, kept=note)
        return [replace(record, edit=edit) for record in records]

    def _solved(
        self, user: str, known: Sequence[Preference], new: Sequence[Preference], old: Sequence[WeightDelta]
    ) -> EditResult:
        """What makes the new preferences of ``old``."""
        mine, more = ([replace(one, user=user) for one in some] for some in (known, new))
        joint = self._is_joint(user)
        return add_preferences(self._model, self._tokenizer, mine, more, old, self.hparams, joint=joint)

    def _is_joint(self, user: str) -> bool:
        """Not where some edit's preference is unknown: solved again without it, it would be lost."""
        history = self.store.history(user)
        unknown = [one for one in history if one.live and one.preference is None and one.kernel != "compact"]
        return self.hparams.strategy == "joint" and not unknown

    def _answers(self, preferences: Sequence[Preference], deltas: Sequence[WeightDelta]) -> list[str]:
        asked = [preference.question for preference in preferences]
        with edited(self._model, deltas):
            answers = generate(self._model, self._tokenizer, asked, prompt_format=self.hparams.prompt_format)
        return [answer.text for answer in answers]

    def _record(self, preferences: Sequence[Preference], result: EditResult) -> dict[str, Any]:
        """What the store keeps of an edit, as arguments of ``EditStore.put`` and ``NewEdit``."""
        return {
            "deltas": result.deltas,
            "preference": preferences[0] if len(preferences) == 1 else preferences,
            "kernel": self.hparams.kernel,
            "hparams": self.hparams.to_dict(),
            "health": result.health,
        }
