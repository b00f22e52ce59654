"""One statement of one user, learned and kept: what ``edit``, ``chat`` and the service have in common.

With ``strategy: joint`` a user's model is what solving all preferences together would make it; the store gets the
difference, so that live edits add up and undo works. What an edit cannot carry is kept in words.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..editing.composition import add_preferences, overrule_any, stand_apart
from ..editing.requests import as_request, check_requests
from ..editing.self_test import SelfTest, run_self_tests
from ..errors import HealthError
from ..generation.generate import generate
from ..hparams import PersonalizationHyperParams
from ..kernels.apply import edited, twin_of
from ..modeling.layout import find_layout
from ..statements.memory import current, overrules, why_in_words
from ..store.entries import NewEdit
from ..store.rows import WORDS, StoredEdit
from ..store.store import EditStore
from ..types import EditResult, Preference, WeightDelta
from .learned import Learned

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

    def learn(self, user: str, preference: Preference, *, key: str | None = None, keep: bool = False) -> Learned:
        """Edit the preference into the user's model and put the factors into the store, or keep it in words.

        Args:
            user: whose it is.
            preference: what to learn.
            key: idempotency key for the store.
            keep: keep the edit also where its self-test fails.

        Raises:
            RequestError: the preference cannot be edited in; nothing was computed.
            HealthError: the edit would damage the model, and is not kept in words instead; nothing was kept.
            StoreError: see ``EditStore.put``.
        """
        return self.learn_together(user, [preference], key=key, keep=keep)[0]

    def learn_together(
        self, user: str, preferences: Sequence[Preference], *, key: str | None = None, keep: bool = False
    ) -> list[Learned]:
        """Several preferences as one edit, which an undo takes back as a whole; see ``learn``.

        Those that are kept in words are entries of their own.

        Returns:
            One record per preference; edit, seconds, bytes and health are those of all that were edited in together.
        """
        given = [replace(preference, user=user) for preference in preferences]
        check_requests([as_request(preference) for preference in given])
        reasons = {place: why for place, one in enumerate(given) if (why := why_in_words(one.subject))}
        found: dict[int, Learned] = {}
        with self._lock:
            known = current(self.store.preferences(user))
            started = time.perf_counter()
            while places := [place for place in range(len(given)) if place not in reasons]:
                mine = [given[place] for place in places]
                trial = self._tried(user, mine, keep)
                if isinstance(trial, str):
                    reasons |= dict.fromkeys(places, trial)
                elif failed := {} if self._keeps(keep) else trial.faults():
                    reasons |= {places[place]: why for place, why in failed.items()}
                else:
                    found |= zip(places, self._kept(user, mine, trial, key))
                    break
            for place in sorted(reasons):
                own = key if len(given) == 1 or key is None else f"{key}/words/{place}"
                found[place] = self._in_words(user, given[place], reasons[place], own, started)
        return [_with_overruled(found[place], known) for place in sorted(found)]

    def solve(self, user: str, preferences: Sequence[Preference]) -> EditResult:
        """What ``learn`` would put for several preferences together, in one edit; nothing is asked or kept.

        Returns:
            The factors to put on top of what the user has.

        Raises:
            RequestError: the preferences cannot be edited in; nothing was computed.
            HealthError: the edit would damage the model.
        """
        given = [replace(preference, user=user) for preference in preferences]
        check_requests([as_request(preference) for preference in given])
        with self._lock:
            return self._solved(user, self._edited(user), given, self.store.deltas(user))

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
            if not live or self._adds_up_without(user, live, place):
                return self.store.undo(user, edit)
            self.store.supersede(user, version, live[place].id, self._solved_again(user, live, place, ()))
        return [replace(live[place], live=False)]

    def _tried(self, user: str, preferences: Sequence[Preference], keep: bool) -> Trial | str:
        """The preferences edited in, with what the model says then; or why they have to be kept in words."""
        old = self.store.deltas(user)
        try:
            result = self._solved(user, self._edited(user), preferences, old)
        except HealthError as error:
            if self._keeps(keep):
                raise
            return f"the edit would have damaged the model: {error.what}"
        before, have = self._answers(preferences, old), [*old, *result.deltas]
        if self._skips():
            return Trial(result, before, self._answers(preferences, have))
        with edited(self._model, have):
            tests = run_self_tests(self._model, self._tokenizer, preferences, self.hparams)
        return Trial(result, before, [test.replies[0].answer for test in tests], tests)

    def _keeps(self, keep: bool) -> bool:
        """Whether edits are kept whatever the self-test says."""
        return keep or self._skips() or self.hparams.health.self_test != "words"

    def _skips(self) -> bool:
        return self.hparams.health.self_test == "skip" or self.hparams.health.on_unhealthy == "ignore"

    def _kept(self, user: str, preferences: Sequence[Preference], trial: Trial, key: str | None) -> list[Learned]:
        """Put a trial into the store."""
        why = (KEPT_ANYWAY if trial.faults() else PASSED) if trial.tests else UNTESTED
        result: EditResult = trial.result
        tests: Sequence[SelfTest | None] = trial.tests or [None] * len(preferences)
        edit = self.store.put(user, **self._record(preferences, result), key=key, why=why)
        return [
            Learned(
                edit=edit,
                preference=preference,
                before=before,
                after=after,
                seconds=result.seconds,
                nbytes=result.nbytes,
                health=result.health,
                why=why,
                test=test,
            )
            for preference, before, after, test in zip(preferences, trial.before, trial.after, tests)
        ]

    def _in_words(self, user: str, preference: Preference, why: str, key: str | None, started: float) -> Learned:
        """Keep an entry in words; edits that it overrules are taken back in the same step."""
        # With settings only where another edit might have carried it: then it is tried again, see ``learn_once``.
        tried = None if why_in_words(preference.subject) else self.hparams.to_dict()
        if self._is_merged(user, preference):
            why += "; an earlier value stays in the weights, since `compact` has merged its edit with others"
        new = NewEdit(preference=preference, kernel=WORDS, hparams=tried, why=why, key=key)
        edit = self._put_words(user, new, preference)
        return Learned(edit, preference, seconds=time.perf_counter() - started, where="words", why=why)

    def _put_words(self, user: str, new: NewEdit, preference: Preference) -> int:
        version, live = self.store.version(user), [one for one in self.store.history(user) if one.live]
        gone = [
            n for n, one in enumerate(live) if one.where == "weights" and overrule_any([preference], one.preferences)
        ]
        if any(not self._adds_up_without(user, live, place) or _others(live[place], preference) for place in gone):
            first = min(gone)
            again = self._solved_again(user, live, first, [preference])
            return self.store.supersede(user, version, live[first].id, [*again, replace(new, key=None)])[-1]
        fields: dict[str, Any] = {
            "preference": preference,
            "kernel": WORDS,
            "hparams": new.hparams,
            "key": new.key,
            "why": new.why,
        }
        return self.store.put(user, (), **fields, instead=[live[place].id for place in gone])

    def _solved_again(
        self, user: str, live: Sequence[StoredEdit], place: int, instead: Sequence[Preference]
    ) -> list[NewEdit]:
        """What takes the place of the live edits from ``place`` on, once that one is gone.

        All that may fail or take its time is done here, before the first change.

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

    def _adds_up_without(self, user: str, live: Sequence[StoredEdit], place: int) -> bool:
        """Whether the others stay as they are when one edit is taken back."""
        later = [one for one in live[place + 1 :] if one.where == "weights"]
        if live[place].where == "words" or not later or not self._is_joint(user):
            return True
        if not all(one.preferences for one in later):
            return True
        theirs = [preference for one in later for preference in one.preferences]
        mine = live[place].preferences
        return stand_apart([*mine, *theirs], self.hparams) and not overrule_any(theirs, mine)

    def _is_merged(self, user: str, preference: Preference) -> bool:
        """Whether an edit that the preference overrules lives on in one that ``compact`` has made."""
        history = self.store.history(user)
        live = {one.id for one in history if one.live}
        return any(one.merged in live and overrule_any([preference], one.preferences) for one in history)

    def _edited(self, user: str) -> list[Preference]:
        return self.store.preferences(user, where="weights")

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


def _others(edit: StoredEdit, preference: Preference) -> bool:
    """Whether an edit holds more than what the preference overrules."""
    return not all(overrules(preference, one) for one in edit.preferences)


def _with_overruled(learned: Learned, known: Iterable[Preference]) -> Learned:
    return replace(learned, overruled=tuple(one for one in known if overrules(learned.preference, one)))
