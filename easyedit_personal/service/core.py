"""The service without HTTP: answers through the batcher, changes of users' models beside it.

What is to be learned waits in the store, for our learners or those of other processes. Learning works on a second model
that shares all weights but the edited ones, and on a tokenizer of its own (a shared one is switched to and fro between
special tokens as text and as control, which two threads must not do at once).
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from torch import nn

from ..errors import PersonalizationError, RequestError
from ..generation.generate import check_fits, encode_prompt
from ..hparams import PersonalizationHyperParams
from ..learning.learner import Learner
from ..modeling.layout import context_limit
from ..modeling.tokens import Encoded, stop_ids
from ..serving.factor_cache import CACHE_BYTES, FactorCache
from ..serving.remembered import with_words
from ..serving.streaming import Stream
from ..statements.memory import heard
from ..statements.preferences import Unclear
from ..store.job_rows import Job as StoredJob
from ..store.records import StoredEdit
from ..store.store import EditStore
from ..types import Preference
from .api_errors import ApiError, busy
from .batcher import Batcher, Closed, Full, Job, Notify
from .metrics import Metrics
from .settings import Settings
from .stops import Stops
from .worker import Worker

T = TypeVar("T")
Understand = Callable[[str, str | None], list[Preference | Unclear]]


class Service:
    """Users' models, answering and learning.

    Args:
        model: the base model; from now on the service's own.
        tokenizer: its tokenizer.
        store: where users' edits are.
        hparams: how to edit.
        settings: limits, and how many learn here.
        cache_bytes: of users' factors in memory.
        understand: from plain words to preferences, and what is to be asked; the bundled rules if not given.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        store: EditStore,
        hparams: PersonalizationHyperParams,
        settings: Settings | None = None,
        *,
        cache_bytes: int = CACHE_BYTES,
        understand: Understand = heard,
    ) -> None:
        self.settings = settings or Settings()
        self.store, self.understand, self.metrics = store, understand, Metrics()
        self._model, self._prompt_format = model, hparams.prompt_format
        self._reading, self._tokenizer = threading.Lock(), copy.deepcopy(tokenizer)
        self._ends = frozenset(stop_ids(model, self._tokenizer))
        self.learner = Learner(model, copy.deepcopy(tokenizer), store, hparams)
        self.cache = FactorCache(store, model, cache_bytes)
        self.batcher = Batcher(
            model,
            tokenizer,
            max_rows=self.settings.max_rows,
            max_waiting=self.settings.max_waiting,
            window=self.settings.window,
            gauge=self.metrics,
        )
        self.metrics.watch(self.batcher, self.cache, store.jobs)
        self._changes = ThreadPoolExecutor(1, thread_name_prefix="easyedit-personal-changes")
        self._pending, self._counting = 0, threading.Lock()
        others = range(1, self.settings.learners)
        learners = [self.learner, *(Learner(model, copy.deepcopy(tokenizer), store, hparams) for _ in others)]
        self.workers = [Worker(learner, self._learned) for learner in learners[: self.settings.learners]]
        self.stopping = False
        for worker in self.workers:
            worker.start()

    def prepare(self, user: str | None, conversation: list[dict[str, str]], limit: int | None) -> tuple[Stream, int]:
        """A user's factors of this moment, and the conversation as tokens behind what is kept in words.

        Returns:
            The stream, and the number of tokens to be read.

        Raises:
            RequestError: the conversation cannot be answered, or does not fit the model's context.
            ModelError, StoreError: see ``FactorCache.get``.
        """
        factors, words = ({}, ()) if user is None else self.cache.memory(user)
        row = self._encoded(conversation, words)
        room = (context_limit(self._model) or 2**31) - len(row.ids)
        limit = limit or max(1, min(self.settings.max_new_tokens, room))
        check_fits(self._model, row, limit)
        return Stream(row, factors, self._ends, limit), len(row.ids)

    def start(self, stream: Stream, stops: list[str], notify: Notify) -> Job:
        """Have an answer written.

        Raises:
            ApiError: 503.
        """
        job = Job(stream, notify, Stops(stops))
        try:
            self.batcher.submit(job)
        except Full:
            raise busy("Too many answers are waiting.") from None
        except Closed:
            raise busy("The service is being stopped.") from None
        return job

    def submit(self, user: str, preferences: list[Preference], key: str | None) -> StoredJob:
        """Have preferences learned; the job is on the disk when this returns.

        Raises:
            QueueFull, StoreError: see ``JobQueue.add``.
        """
        most, of_user = self.settings.max_jobs, self.settings.max_user_jobs
        job = self.store.jobs.add(user, preferences, key=key, most=most, most_of_user=of_user)
        for worker in self.workers:
            worker.wake()
        return job

    def unlearn(self, user: str, edit: int | None = None) -> Future[list[StoredEdit]]:
        """Undo a user's last edit, or one by its number."""
        return self._in_turn("undo", lambda: self.learner.unlearn(user, edit))

    def forget(self, user: str) -> Future[int]:
        """Remove every byte of a user, from the memory too."""

        def forgotten() -> int:
            count = self.store.forget(user)
            self.cache.get(user)  # what was kept is replaced by nothing
            return count

        return self._in_turn("forget", forgotten)

    def check_threads(self) -> str | None:
        """Which of our own threads has ended, in a word; None when all are there. Only a restart mends that."""
        if not self.batcher.alive:
            return "model"
        return None if all(worker.alive for worker in self.workers) else "learner"

    def check(self) -> str | None:
        """What is out of order here or at the store, in a word; None when all is well."""
        if fault := self.check_threads():
            return fault
        try:
            self.store.version("health check")
        except PersonalizationError:
            return "store"
        return None

    def close(self) -> None:
        """Finish answers that are under way, for as long as the settings allow; jobs go on at the next start."""
        self.stop_learning()
        for worker in self.workers:
            worker.close(self.settings.drain_seconds)
        self.batcher.close(self.settings.drain_seconds)
        self._changes.shutdown(wait=True, cancel_futures=True)

    def stop_learning(self) -> None:
        """Take no more jobs, and leave the present one at its next step; fit for a signal handler."""
        self.stopping = True
        for worker in self.workers:
            worker.stop()

    def _learned(self, outcome: str, seconds: float) -> None:
        self.metrics.edits.labels("learn", outcome).inc()
        self.metrics.edit_seconds.labels("learn").observe(seconds)

    def _encoded(self, conversation: list[dict[str, str]], words: Sequence[str]) -> Encoded:
        from jinja2 import TemplateError

        context = context_limit(self._model)
        with self._reading:
            try:
                told = with_words(self._tokenizer, conversation, words, self._prompt_format, context)
                return encode_prompt(self._tokenizer, told, self._prompt_format)
            except TemplateError as error:
                raise RequestError(f"The model's chat template refuses this conversation: {error}") from None

    def _in_turn(self, kind: str, change: Callable[[], T]) -> Future[T]:
        """One change after the other; they share the learner's model.

        Raises:
            ApiError: 503, too many are waiting.
        """
        with self._counting:
            if self._pending >= self.settings.max_edits:
                raise busy("Too many changes are waiting.")
            self._pending += 1
            self.metrics.edits_waiting.set(self._pending)
        began = time.monotonic()
        try:
            future = self._changes.submit(change)
        except RuntimeError:
            self._left()
            raise busy("The service is being stopped.") from None
        future.add_done_callback(lambda done: self._changed(kind, began, done))
        return future

    def _changed(self, kind: str, began: float, done: Future[Any]) -> None:
        self._left()
        failed = done.cancelled() or done.exception() is not None
        self.metrics.edits.labels(kind, "failed" if failed else "done").inc()
        self.metrics.edit_seconds.labels(kind).observe(time.monotonic() - began)

    def _left(self) -> None:
        with self._counting:
            self._pending -= 1
            self.metrics.edits_waiting.set(self._pending)


def check_refusable(user: str) -> str:
    """A user's id as the store takes it.

    Raises:
        ApiError: 400.
    """
    from ..errors import StoreError
    from ..store.ids import check_user

    try:
        return check_user(user)
    except StoreError as error:
        raise ApiError(400, error.what, code="invalid_user", param="user") from None
