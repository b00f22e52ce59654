"""Personalising a batch of users, as a worker does it: skip who is there, compute, put, report.

The worker writes; what it reports is a line per user. Every put carries a key that says what it was made from, so that
doing a user twice, on whatever machine, leaves one edit.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from ..errors import PersonalizationError, StoreUnavailable
from ..hparams import PersonalizationHyperParams
from ..learning.learner import Learner
from ..learning.session import method_settings
from ..modeling.loading import load_model
from ..statements.memory import why_in_words
from ..store import EditStore
from ..store.records import WORDS
from ..store.retry import patiently
from ..types import EditResult, Preference
from .users_file import UserRecord

PATIENCE = 60.0  # seconds that a worker waits for a store that is away
ERROR_TEXT = 2000  # characters of a failure that are kept

Solved = Mapping[str, EditResult | Exception]
Solve = Callable[[Mapping[str, Sequence[Preference]]], Solved]


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a user.

    Attributes:
        line: where they stand in the file.
        user: who.
        status: "new" was put now, "there" had been put before, "failed" says why in ``error``.
        seconds: for computing and putting.
        nbytes: of the factors.
    """

    line: int
    user: str
    status: Literal["new", "there", "failed"]
    seconds: float = 0.0
    nbytes: int = 0
    error: str = ""


class DeltaFactory(Protocol):
    """How factors are made; travels to the workers by pickle.

    Attributes:
        kernel: kept with every edit.
        settings: likewise, and part of the key: other settings make another edit.
    """

    @property
    def kernel(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def open(self, url: str) -> AbstractContextManager[tuple[EditStore, Solve]]:
        """The store, and what computes users' factors, or says why there are none; called once per worker."""
        ...


@dataclass(frozen=True)
class LearnerFactory:
    """The real one: a model, personalised as ``edit`` and ``chat`` do it, so that a user's edits add up."""

    hparams: PersonalizationHyperParams

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return self.hparams.kernel

    @property
    def settings(self) -> Mapping[str, Any]:
        """All hyper-parameters but those that say where."""
        return method_settings(self.hparams.to_dict())

    @contextmanager
    def open(self, url: str) -> Iterator[tuple[EditStore, Solve]]:
        """Load the model, and bind the store to it."""
        model, tokenizer = load_model(self.hparams)
        with patiently(lambda: EditStore.open(url, model, tokenizer), PATIENCE) as store:
            yield store, Learner(model, tokenizer, store, self.hparams).solve


@dataclass(frozen=True)
class Bulk:
    """The work of ``personalize``; see ``engines.Work``. Its items are ``UserRecord``, its reports ``Report``.

    Attributes:
        url: of the store.
        factory: computes factors.
        dtype: of the factors in the store.
        patience: seconds to wait for a store that is away; after that the run ends, and can be started again.
    """

    url: str
    factory: DeltaFactory
    dtype: str = "float32"
    patience: float = PATIENCE

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[UserRecord]], Iterable[Report]]]:
        """The function that personalises a batch.

        Raises:
            StoreError: the store cannot be opened, or belongs to another model.
            ModelError: the model cannot be loaded.
        """
        with self.factory.open(self.url) as (store, solve):
            yield lambda users: self._batch(store, solve, users)

    def key(self, store: EditStore, record: UserRecord) -> str:
        """Idempotency key: preferences, settings and base model."""
        said = [{**asdict(preference), "user": None} for preference in record.preferences]
        made = [said, dict(self.factory.settings), self.dtype, sorted(store.base.items())]
        text = json.dumps(made, sort_keys=True, default=str)
        return "bulk/" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def _batch(self, store: EditStore, solve: Solve, users: Sequence[UserRecord]) -> Iterator[Report]:
        keys = {record.user: self.key(store, record) for record in users}
        there = patiently(lambda: store.find(keys), self.patience)
        new = [record for record in users if record.user not in there]
        for record in users:
            if record.user in there:
                yield Report(record.line, record.user, "there")
        solved = self._solved(solve, {record.user: found for record in new if (found := _edited(record))})
        for record in new:
            yield self._one(store, record, keys[record.user], solved.get(record.user))

    def _solved(self, solve: Solve, wanted: Mapping[str, Sequence[Preference]]) -> Solved:
        """Everybody's factors; one user after the other where something went wrong that is no error of ours."""
        try:
            return patiently(lambda: solve(wanted), self.patience) if wanted else {}
        except StoreUnavailable:
            raise  # not these users' fault, and nobody else would fare better
        except Exception as error:
            if len(wanted) == 1:
                return dict.fromkeys(wanted, error)
            return {user: self._solved(solve, {user: some})[user] for user, some in wanted.items()}

    def _one(self, store: EditStore, record: UserRecord, key: str, result: EditResult | Exception | None) -> Report:
        """Keep what was solved of a user, if anything was."""
        started, spent, nbytes = time.perf_counter(), 0.0, 0
        try:
            if isinstance(result, Exception):
                raise result
            patiently(lambda: self._put_words(store, record, key, result is None), self.patience)
            if result is not None:
                spent, nbytes = result.seconds, result.nbytes
                patiently(lambda: self._put(store, record.user, _edited(record), result, key), self.patience)
        except StoreUnavailable:
            raise
        except Exception as error:
            text = str(error) if isinstance(error, PersonalizationError) else f"{type(error).__name__}: {error}"
            seconds = spent + time.perf_counter() - started
            return Report(record.line, record.user, "failed", seconds, error=text[:ERROR_TEXT])
        return Report(record.line, record.user, "new", spent + time.perf_counter() - started, nbytes)

    def _put_words(self, store: EditStore, record: UserRecord, key: str, last: bool) -> None:
        """What no edit carries is kept in words, each under a key of its own.

        The last one under the user's, where no edit follows: whose key is there has everything.
        """
        found = [(one, why) for one in record.preferences if (why := why_in_words(one.subject))]
        for number, (one, why) in enumerate(found, start=1):
            own = key if last and number == len(found) else f"{key}/words/{number}"
            store.put(record.user, (), preference=one, kernel=WORDS, why=why, key=own)

    def _put(self, store: EditStore, user: str, edited: Sequence[Preference], result: EditResult, key: str) -> int:
        return store.put(
            user,
            result.deltas,
            preference=edited[0] if len(edited) == 1 else edited,
            kernel=self.factory.kernel,
            hparams=self.factory.settings,
            health=result.health,
            key=key,
            dtype=self.dtype,
        )


def _edited(record: UserRecord) -> list[Preference]:
    """What of a user's preferences becomes an edit; the others are kept in words."""
    return [one for one in record.preferences if why_in_words(one.subject) is None]
