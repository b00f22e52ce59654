"""One statement of one user, learned and kept: what ``edit``, ``chat`` and the service have in common.

With ``strategy: joint`` a user's model is what solving all preferences together would make it; the store gets the
difference, so that live edits add up and undo works. What an edit cannot carry is kept in words.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection
from torch import nn

from ..editing.composition import Addition, add_preferences, add_to_many, overrule_any, stand_apart
from ..editing.requests import as_request, check_requests
from ..editing.self_test import SelfTest, run_self_tests
from ..errors import HealthError, PersonalizationError, StoreOvertaken
from ..generation.generate import generate
from ..hparams import PersonalizationHyperParams
from ..kernels.apply import edited, twin_of
from ..modeling.layout import find_layout
from ..progress import log
from ..statements.memory import current, overrules, why_in_words
from ..store.entries import NewEdit
from ..store.rows import WORDS, StoredEdit
from ..store.store import EditStore
from ..types import EditResult, Preference, WeightDelta
from .learned import Learned

T = TypeVar("T")
TRIES = 3  # of learning, when the user's edits change meanwhile
Kept = Callable[[Connection, Sequence[Learned]], None]
PASSED, UNTESTED, KEPT_ANYWAY = "its self-test was passed", "learned as an edit", "kept though its self-test failed"


@dataclass(frozen=True, slots=True)
class Trial:
    """Preferences edited in, and not kept yet.

    Attributes:
        result: the edit.
        before, after: per preference the answer to its question.
        tests: per preference its self-test; empty where none was asked for.
    """

    result: EditResult
    before: Sequence[str]
    after: Sequence[str]
    tests: Sequence[SelfTest] = ()

    def faults(self) -> dict[int, str]:
        """What is wrong, by the preference's place."""
        return {place: test.fault for place, test in enumerate(self.tests) if test.fault}

    def records(self, preferences: Sequence[Preference], why: str) -> list[Learned]:
        """What is to be said of it; the edit has no number yet."""
        tests: Sequence[SelfTest | None] = self.tests or [None] * len(preferences)
        return [
            Learned(
                edit=0,
                preference=preference,
                before=before,
                after=after,
                seconds=self.result.seconds,
                nbytes=self.result.nbytes,
                health=self.result.health,
                why=why,
                test=test,
            )
            for preference, before, after, test in zip(preferences, self.before, self.after, tests)
        ]


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
        self._model = twin_of(model, [layout.rewrite_path(layer) for layer in hparams.layers])
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
            found = add_to_many(
                self._model, self._tokenizer, [self._addition(*one) for one in users.items()], self.hparams
            )
        return dict(zip(users, found))

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
        if not live or edit not in (None, live[place].id) or not self._depends(user, live, place):
            return self.store.undo(user, edit)
        with nullcontext() if self._adds_up_without(user, live, place) else self._lock:
            new = self._solved_again(user, live, place, ())
        self.store.supersede(user, version, live[place].id, new)
        return [replace(live[place], live=False)]

    def _edited_in(
        self, user: str, preferences: Sequence[Preference], key: str | None, keep: bool, kept: Kept | None
    ) -> list[Learned] | dict[int, str]:
        """The preferences as one edit, kept if the user has just what they had; or by place why some are no edits."""
        version, known = self.store.version(user), current(self.store.preferences(user))
        old = self.store.deltas(user)
        try:
            result = self._solved(user, self._edited(user), preferences, old)
        except HealthError as error:
            if self._keeps(keep):
                raise
            return dict.fromkeys(range(len(preferences)), f"the edit would have damaged the model: {error.what}")
        trial = self._asked(preferences, result, old)
        if not self._keeps(keep) and (faults := trial.faults()):
            return faults
        why = (KEPT_ANYWAY if trial.faults() else PASSED) if trial.tests else UNTESTED
        records = [replace(one, overruled=_overruled(one, known)) for one in trial.records(preferences, why)]
        record = self._record(preferences, result)
        edit = self.store.put(user, **record, key=key, why=why, version=version, kept=_noting(records, kept))
        return [replace(one, edit=edit) for one in records]

    def _asked(self, preferences: Sequence[Preference], result: EditResult, old: Sequence[WeightDelta]) -> Trial:
        have = [*old, *result.deltas]
        if self._skips():
            return Trial(result, self._answers(preferences, old), self._answers(preferences, have))
        before, tests = run_self_tests(self._model, self._tokenizer, preferences, self.hparams, old, have)
        return Trial(result, before, [test.replies[0].answer for test in tests], tests)

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
        if any(not self._adds_up_without(user, live, place) or _others(live[place], preference) for place in gone):
            new = self._solved_again(user, live, gone[0], [preference])
            new.append(NewEdit(preference=preference, kernel=WORDS, hparams=tried, why=why))
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

    def _solved_again(
        self, user: str, live: Sequence[StoredEdit], place: int, instead: Sequence[Preference]
    ) -> list[NewEdit]:
        """What takes the place of the live edits from ``place`` on, once that one is gone; nothing is changed yet.

        Args:
            instead: overrule some of what was learned; only that goes then, also of the edit at ``place``.
        """
        known = [one for edit in live[:place] if edit.where == "weights" for one in edit.preferences]
        have, new = self.store.deltas(user, before=live[place].id), []
        for edit in live[place if instead else place + 1 :]:
            if edit.where == "words":
                new.append(NewEdit(preference=edit.preferences, kernel=WORDS, hparams=edit.hparams, why=edit.why))
                continue
            rest = [one for one in edit.preferences if not overrule_any(instead, [one])]
            if not rest:
                continue
            result = self._solved(user, known, rest, have)
            new.append(NewEdit(**self._record(rest, result), why=edit.why))
            known += rest
            have = [*have, *result.deltas]
        return new

    def _is_merged(self, user: str, preference: Preference) -> bool:
        """Whether an edit that the preference overrules lives on in one that ``compact`` has made."""
        history = self.store.history(user)
        live = {one.id for one in history if one.live}
        return any(one.merged in live and overrule_any([preference], one.preferences) for one in history)

    def _adds_up_without(self, user: str, live: Sequence[StoredEdit], place: int) -> bool:
        """Whether the others stay as they are when one edit is taken back."""
        later = [one for one in live[place + 1 :] if one.where == "weights"]
        return not later or not self._depends(user, live, place)

    def _depends(self, user: str, live: Sequence[StoredEdit], place: int) -> bool:
        """Whether what is learned after an edit is made for a model that has it, and can be made again without."""
        later = [one for one in live[place + 1 :] if one.where == "weights"]
        if live[place].where == "words" or not self._is_joint(user) or not all(one.preferences for one in later):
            return False
        theirs = [preference for one in later for preference in one.preferences]
        mine = live[place].preferences
        return not stand_apart([*mine, *theirs], self.hparams) or overrule_any(theirs, mine)

    def _edited(self, user: str) -> list[Preference]:
        return self.store.preferences(user, where="weights")

    def _solved(
        self, user: str, known: Sequence[Preference], new: Sequence[Preference], old: Sequence[WeightDelta]
    ) -> EditResult:
        """What makes the new preferences of ``old``."""
        mine, more = ([replace(one, user=user) for one in some] for some in (known, new))
        joint = self._is_joint(user)
        return add_preferences(self._model, self._tokenizer, mine, more, old, self.hparams, joint=joint)

    def _addition(self, user: str, new: Sequence[Preference]) -> Addition:
        mine, more = ([replace(one, user=user) for one in some] for some in (self._edited(user), new))
        return Addition(mine, more, self.store.deltas(user), self._is_joint(user))

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
