"""One statement of one user, learned and kept: what ``edit``, ``chat`` and the service have in common.

An edit is solved (``solver``), tried out (``trial``) and kept; what an edit cannot carry is kept in words.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection
from torch import nn

from ..editing.composition import overrule_any
from ..editing.requests import as_request, check_requests
from ..errors import HealthError, PersonalizationError, StoreOvertaken
from ..hparams import PersonalizationHyperParams
from ..kernels.apply import twin_of
from ..kernels.neurons import edited_paths
from ..modeling.layout import find_layout
from ..progress import log
from ..statements.memory import current, overrules, why_in_words
from ..store.entries import NewEdit
from ..store.records import WORDS, StoredEdit
from ..store.store import EditStore
from ..types import EditResult, Preference
from .learned import Learned
from .solver import Solver
from .trial import tried

T = TypeVar("T")
TRIES = 3  # of learning, when the user's edits change meanwhile
Kept = Callable[[Connection, Sequence[Learned]], None]


class Learner:
    """Learns preferences for the users of a store; safe to share between threads, one edit at a time.

    Works on a second model that shares all weights but the edited ones with the first: whoever answers questions
    meanwhile notices nothing.

    Args:
        model: the base model; never touched.
        tokenizer: its tokenizer.
        store: where the factors go.
        hparams: how to edit, and with ``health.self_test`` what becomes of an edit that does not do its work.

    Raises:
        ModelError: the model has not the layers in ``hparams``.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, store: EditStore, hparams: PersonalizationHyperParams) -> None:
        self.store, self.hparams, self._tokenizer = store, hparams, tokenizer
        layout = find_layout(model, hparams)
        for layer in hparams.layers:
            layout.check_layer(layer)
        self._model = twin_of(model, edited_paths(layout, hparams))
        self._solver = Solver(self._model, tokenizer, store, hparams)
        self._lock = threading.Lock()

    def learn(
        self,
        user: str,
        preference: Preference,
        *,
        key: str | None = None,
        keep: bool = False,
        kept: Kept | None = None,
    ) -> Learned:
        """Edit the preference into the user's model and put the factors into the store, or keep it in words.

        Args:
            user: whose it is.
            preference: what to learn.
            key: idempotency key for the store.
            keep: keep the edit also where its self-test fails.
            kept: is told of what is kept inside the transaction that keeps it; see ``EditStore.put``.

        Raises:
            RequestError: the preference cannot be edited in; nothing was computed.
            HealthError: the edit would damage the model, and is not kept in words instead; nothing was kept.
            StoreError: see ``EditStore.put``.
        """
        return self.learn_together(user, [preference], key=key, keep=keep, kept=kept)[0]

    def learn_together(
        self,
        user: str,
        preferences: Sequence[Preference],
        *,
        key: str | None = None,
        keep: bool = False,
        kept: Kept | None = None,
    ) -> list[Learned]:
        """Several preferences as one edit, which an undo takes back as a whole; see ``learn``.

        Those that are kept in words are entries of their own, each in a transaction of its own.

        Returns:
            One record per preference; edit, seconds, bytes and health are those of all that were edited in together.
        """
        given = [replace(preference, user=user) for preference in preferences]
        check_requests([as_request(preference) for preference in given])
        reasons = {place: why for place, one in enumerate(given) if (why := why_in_words(one.subject))}
        found: dict[int, Learned] = {}
        started = time.perf_counter()
        with self._lock:
            while places := [place for place in range(len(given)) if place not in reasons]:
                mine = [given[place] for place in places]
                tried = self._again(partial(self._edited_in, user, mine, key, keep, kept))
                if isinstance(tried, list):
                    found |= zip(places, tried)
                    break
                reasons |= {places[place]: why for place, why in tried.items()}
            for place in sorted(reasons):
                own = key if len(given) == 1 or key is None else f"{key}/words/{place}"
                told = partial(self._in_words, user, given[place], reasons[place], own, started, kept)
                found[place] = self._again(told)
        return [found[place] for place in sorted(found)]

    def solve(self, users: Mapping[str, Sequence[Preference]]) -> dict[str, EditResult | PersonalizationError]:
        """What ``learn`` would put for several users, each one's preferences in one edit; nothing is asked or kept.

        Returns:
            By user the factors to put on top of what the user has, or why there are none: the preferences cannot be
            edited in, or the edit would damage the model.
        """
        with self._lock:
            return self._solver.solved_for_many(users)

    def unlearn(self, user: str, edit: int | None = None) -> list[StoredEdit]:
        """Undo the last edit or a given one; what was learned jointly after it is solved again without it.

        Where nothing has to be solved again, this does not wait for what is being learned.

        Returns:
            What was undone: the edit, or nothing if it was not live.

        Raises:
            StoreError: the user has no such edit, or it was merged by ``compact``.
        """
        return self._again(lambda: self._unlearned(user, edit))

    def _again(self, change: Callable[[], T]) -> T:
        """A change of a user's edits, once more on top of what others have done to them meanwhile."""
        for _ in range(TRIES - 1):
            try:
                return change()
            except StoreOvertaken:
                log.info("a user's edits changed meanwhile: once more on top of them")
        return change()

    def _unlearned(self, user: str, edit: int | None) -> list[StoredEdit]:
        version = self.store.version(user)
        live = [one for one in self.store.history(user) if one.live]
        place = next((n for n, one in enumerate(live) if one.id == edit), len(live) - 1)
        if not live or edit not in (None, live[place].id) or not self._solver.depends(user, live, place):
            return self.store.undo(user, edit)
        with nullcontext() if self._solver.adds_up_without(user, live, place) else self._lock:
            new = self._solver.solved_again(user, live, place, ())
        self.store.supersede(user, version, live[place].id, new)
        return [replace(live[place], live=False)]

    def _edited_in(
        self, user: str, preferences: Sequence[Preference], key: str | None, keep: bool, kept: Kept | None
    ) -> list[Learned] | dict[int, str]:
        """The preferences as one edit, kept if the user has just what they had; or by place why some are no edits."""
        version, known = self.store.version(user), current(self.store.preferences(user))
        old = self.store.deltas(user)
        try:
            result = self._solver.solved(user, self._edited(user), preferences, old)
        except HealthError as error:
            if self._keeps(keep):
                raise
            return dict.fromkeys(range(len(preferences)), f"the edit would have damaged the model: {error.what}")
        trial = tried(self._model, self._tokenizer, preferences, result, old, self.hparams, test=not self._skips())
        if not self._keeps(keep) and (faults := trial.faults()):
            return faults
        records = [replace(one, overruled=_overruled(one, known)) for one in trial.records(preferences)]
        record, note = self._solver.record(preferences, result), _noting(records, kept)
        edit = self.store.put(user, **record, key=key, why=trial.why, version=version, kept=note)
        return [replace(one, edit=edit) for one in records]

    def _keeps(self, keep: bool) -> bool:
        """Whether edits are kept whatever the self-test says."""
        return keep or self._skips() or self.hparams.health.self_test != "words"

    def _skips(self) -> bool:
        return self.hparams.health.self_test == "skip" or self.hparams.health.on_unhealthy == "ignore"

    def _in_words(
        self, user: str, preference: Preference, why: str, key: str | None, started: float, kept: Kept | None
    ) -> Learned:
        """Keep an entry in words; edits that it overrules are taken back in the same step."""
        version, known = self.store.version(user), current(self.store.preferences(user))
        # With settings only where another edit might have carried it: then it is tried again, see ``learn_once``.
        tried = None if why_in_words(preference.subject) else self.hparams.to_dict()
        if self._is_merged(user, preference):
            why += "; an earlier value stays in the weights, since `compact` has merged its edit with others"
        seconds = time.perf_counter() - started
        learned = Learned(0, preference, seconds=seconds, where="words", why=why)
        learned = replace(learned, overruled=_overruled(learned, known))
        note = _noting([learned], kept)
        live = [one for one in self.store.history(user) if one.live]
        edits = [(place, one) for place, one in enumerate(live) if one.where == "weights"]
        gone = [place for place, one in edits if overrule_any([preference], one.preferences)]
        if any(
            not self._solver.adds_up_without(user, live, place) or _others(live[place], preference) for place in gone
        ):
            new = self._solver.solved_again(user, live, gone[0], [preference])
            old = [one.id for one in live[gone[0] :]]
            told = NewEdit(preference=preference, kernel=WORDS, hparams=tried, why=why, instead=old, remade=True)
            new.append(told)
            edit = self.store.supersede(user, version, live[gone[0]].id, new, kept=note)[-1]
        else:
            edit = self.store.put(
                user,
                (),
                preference=preference,
                kernel=WORDS,
                hparams=tried,
                key=key,
                why=why,
                version=version,
                kept=note,
                instead=[live[place].id for place in gone],
            )
        return replace(learned, edit=edit)

    def _is_merged(self, user: str, preference: Preference) -> bool:
        """Whether an edit that the preference overrules lives on in one that ``compact`` has made."""
        history = self.store.history(user)
        live = {one.id for one in history if one.live}
        return any(one.merged in live and overrule_any([preference], one.preferences) for one in history)

    def _edited(self, user: str) -> list[Preference]:
        return self.store.preferences(user, where="weights")


def _others(edit: StoredEdit, preference: Preference) -> bool:
    """Whether an edit holds more than what the preference overrules."""
    return not all(overrules(preference, one) for one in edit.preferences)


def _overruled(learned: Learned, known: Sequence[Preference]) -> tuple[Preference, ...]:
    return tuple(one for one in known if overrules(learned.preference, one))


def _noting(records: Sequence[Learned], kept: Kept | None) -> Callable[[Connection, int], None] | None:
    """What tells ``kept`` of the records, once their edit's number is known."""
    if kept is None:
        return None

    def note(connection: Connection, edit: int) -> None:
        kept(connection, [replace(record, edit=edit) for record in records])

    return note
