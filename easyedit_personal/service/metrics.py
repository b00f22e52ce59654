"""Figures for Prometheus; none of them says whose answer or preference it was."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..errors import StoreError
from ..serving.factor_cache import FactorCache
from ..store.jobs import JobQueue
from .batcher import Batcher

PREFIX = "easyedit_personal_"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """One service's figures, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered.", "route", "method", "status")
        self.request_seconds = self._histogram("request_seconds", "Until the last byte was sent.", SECONDS, "route")
        self.tokens = self._counter("tokens", "Tokens read in prompts and written in answers.", "kind")
        self.disconnects = self._counter("disconnects", "Answers whose client left before the end.")
        self.edits = self._counter("edits", "Changes of users' models.", "kind", "outcome")
        self.edit_seconds = self._histogram("edit_seconds", "Of a change, waiting included.", SECONDS, "kind")
        self._first = self._histogram("first_token_seconds", "From a request to its answer's first token.", SECONDS)
        self._rows = self._histogram("batch_rows", "Answers written in one forward pass.", ROWS)
        self._step = self._histogram("step_seconds", "Of a forward pass of all answers.", STEP_SECONDS)
        self.edits_waiting = Gauge(
            f"{PREFIX}edits_waiting", "Undos and forgets waiting or under way.", registry=self.registry
        )

    def wrote(self, rows: int, seconds: float) -> None:
        """A forward pass of all answers is over."""
        self._rows.observe(rows)
        self._step.observe(seconds)

    def first(self, seconds: float) -> None:
        """An answer's first token is there."""
        self._first.observe(seconds)

    def watch(self, batcher: Batcher, cache: FactorCache, jobs: JobQueue) -> None:
        """Report what these hold, at the moment of being asked."""
        self.registry.register(_Held(batcher, cache, jobs))

    def text(self) -> bytes:
        """All figures, as Prometheus reads them."""
        return generate_latest(self.registry)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(PREFIX + name, what, labels, buckets=buckets, registry=self.registry)


class _Held:
    """A collector of what is counted elsewhere."""

    def __init__(self, batcher: Batcher, cache: FactorCache, jobs: JobQueue) -> None:
        self.batcher, self.cache, self.jobs = batcher, cache, jobs

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        gauges: dict[str, tuple[str, Any]] = {
            "answers_waiting": ("Answers that have not begun.", self.batcher.waiting),
            "answers_running": ("Answers that are being written.", self.batcher.running),
            "cache_bytes": ("Bytes of users' factors in memory.", self.cache.nbytes),
            "cache_users": ("Users whose factors are in memory.", len(self.cache)),
        }
        try:
            queued, running = self.jobs.counts().values()
            gauges["jobs_queued"] = ("Jobs that wait for a learner, of all processes.", queued)
            gauges["jobs_running"] = ("Jobs that are being learned, in all processes.", running)
        except StoreError:  # the other figures are wanted then more than ever
            pass
        counters = {
            "cache_hits": ("Factors that were in memory.", self.cache.hits),
            "cache_misses": ("Factors that were read from the store.", self.cache.misses),
        }
        yield from (GaugeMetricFamily(PREFIX + name, what, value) for name, (what, value) in gauges.items())
        yield from (CounterMetricFamily(PREFIX + name, what, value) for name, (what, value) in counters.items())
