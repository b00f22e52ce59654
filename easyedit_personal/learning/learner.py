"""One statement of one user, learned and kept: what ``edit``, ``chat`` and the service have in common.

With ``strategy: joint`` all of a user's preferences are solved together again, since on a small model a second edit
made alone overwrites the first; the store gets the difference, so that live edits still add up and undo still works.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..editing.composition import add_preferences, current
from ..editing.requests import as_request, check_requests
from ..generation.generate import generate
from ..hparams import PersonalizationHyperParams
from ..kernels.apply import edited, twin_of
from ..modeling.layout import find_layout
from ..statements.preferences import same_matter
from ..store.entries import NewEdit
from ..store.rows import StoredEdit
from ..store.store import EditStore
from ..types import EditResult, Preference, WeightDelta


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

    def learn(self, user: str, preference: Preference, *, key: str | None = None) -> Learned:
        """Edit the preference into the user's model and put the factors into the store.

        Args:
            user: whose it is.
            preference: what to learn.
            key: idempotency key for the store.

        Raises:
            RequestError: the preference cannot be edited in; nothing was computed.
            HealthError: the edit would damage the model; nothing was kept.
            StoreError: see ``EditStore.put``.
        """
        return self.learn_together(user, [preference], key=key)[0]

    def learn_together(self, user: str, preferences: Sequence[Preference], *, key: str | None = None) -> list[Learned]:
        """Several preferences as one edit, which an undo takes back as a whole; see ``learn``.

        Returns:
            One record per preference; edit, seconds, bytes and health are those of all together.
        """
        given = [replace(preference, user=user) for preference in preferences]
        check_requests([as_request(preference) for preference in given])
        with self._lock:
            known, old = self.store.preferences(user), self.store.deltas(user)
            result = self._solved(user, known, given, old)
            before, after = (self._answers(given, have) for have in (old, [*old, *result.deltas]))
            edit = self.store.put(user, **self._record(given, result), key=key)
        return [
            Learned(
                edit=edit,
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

        Returns:
            What was undone: the edit, or nothing if it was not live.

        Raises:
            StoreError: the user has no such edit, or it was merged by ``compact``.
        """
        with self._lock:
            version = self.store.version(user)
            live = [one for one in self.store.history(user) if one.live]
            place = next((n for n, one in enumerate(live) if one.id == edit), len(live) - 1)
            later = live[place + 1 :]
            if not later or not all(one.preferences for one in later) or not self._is_joint(user):
                return self.store.undo(user, edit)
            # All that may fail or take its time comes before the first change, and the change is one.
            known = [preference for one in live[:place] for preference in one.preferences]
            have, new = self.store.deltas(user, before=live[place].id), []
            for one in later:
                result = self._solved(user, known, one.preferences, have)
                new.append(NewEdit(**self._record(one.preferences, result)))
                known += one.preferences
                have = [*have, *result.deltas]
            self.store.supersede(user, version, live[place].id, new)
        return [replace(live[place], live=False)]

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
