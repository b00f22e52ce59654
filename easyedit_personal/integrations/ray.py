"""The ``ray`` engine: one actor per slot of CPU or GPU, each with the base model loaded once.

Ray places actors, moves them to other machines and notices deaths; who gets which task is ``engines.dispatch``, as for
local processes. Nothing comes back to the driver but small reports.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from ..engines.base import THREADS, Limits, Outcome, Work, described, watched
from ..engines.dispatch import Dispatcher, Event, WorkerId
from ..errors import EngineError, MissingDependencyError
from ..progress import log


class RayEngine:
    """Workers on a Ray cluster.

    Args:
        limits: patience, and how many workers; None takes all of the cluster's slots.
        address: ``ray://head:10001``; None takes the cluster that ``RAY_ADDRESS`` names or that runs on this machine,
            or starts one here for as long as the run takes.

    Raises:
        MissingDependencyError: Ray is not installed.
        EngineError: the cluster cannot be reached, or has no slot.
    """

    name = "ray"

    def __init__(self, limits: Limits, address: str | None = None) -> None:
        self._limits, self._address = limits, address
        self._ray = _imported()

    @property
    def workers(self) -> int:
        """How many tasks run at a time; connects, unless a number was given."""
        if self._limits.workers:
            return self._limits.workers
        with self._connected():
            have, need = self._ray.cluster_resources(), self._need()
        count = int(min(have.get(kind, 0) // number for kind, number in need.items() if number))
        if count < 1:
            raise EngineError("The Ray cluster has no slot for a worker.", got=have, needed=str(need))
        return count

    def run(self, work: Work, batches: Iterable[Sequence[Any]]) -> Iterator[Outcome]:
        """See ``Engine.run``; a cluster that was started for it is stopped in the end."""
        with self._connected():
            pool = _Actors(self._ray, work, self._limits, self._need())
            yield from Dispatcher(pool, self.workers, self._limits).run(batches)

    def _need(self) -> dict[str, float]:
        """What a worker takes."""
        gpus = self._limits.gpus
        if gpus is None:
            gpus = 1.0 if self._ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
        return {"CPU": self._limits.cpus, "GPU": gpus}

    def _connected(self) -> ExitStack:
        """A context in which there is a cluster; whoever connected disconnects."""
        stack, ray = ExitStack(), self._ray
        if ray.is_initialized():
            return stack
        # Users' edits are no business of a statistics server.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # GPUs stay visible to those actors that ask for none, as Ray will have it from now on.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            ray.init(address=self._address, logging_level=logging.ERROR, include_dashboard=None, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, OSError, ImportError) as error:
            raise EngineError(
                f"Ray cannot be reached: {str(error).strip().splitlines()[0]}",
                got=self._address or os.environ.get("RAY_ADDRESS"),
                remedy="start one with `ray start --head`, or leave the address out",
            ) from error
        stack.callback(ray.shutdown)
        return stack


class Slot:
    """What runs on a slot: an actor that opens the work once. A plain class, which ``_Actors`` gives to Ray."""

    def __init__(self, threads: int, seconds: float | None) -> None:
        os.environ.update(dict.fromkeys(THREADS, str(threads)))  # before the work brings torch with it
        self._seconds, self._stack = seconds, ExitStack()
        self._do: Any = None

    def ready(self, work: Work) -> tuple[str, Any]:
        """Open the work."""
        try:
            self._do = self._stack.enter_context(work.open())
        except Exception as error:
            return "raised", described(error)
        return "ready", None

    def run(self, items: Sequence[Any]) -> tuple[str, Any]:
        """Do a batch."""
        try:
            return "done", watched(self._do, items, self._seconds, lambda: None)
        except Exception as error:
            return "raised", described(error)

    def close(self) -> None:
        """Close the work."""
        self._stack.close()


class _Actors:
    """A pool of actors; each has at most one call under way, known by its reference."""

    beats = False

    def __init__(self, ray: Any, work: Work, limits: Limits, need: dict[str, float]) -> None:
        self._ray, self._limits = ray, limits
        self._work = ray.put(work)
        # A death is seen by the dispatcher: Ray itself neither restarts nor repeats.
        options = {"num_cpus": need["CPU"], "num_gpus": need["GPU"], "max_restarts": 0, "max_task_retries": 0}
        self._kind = ray.remote(Slot).options(**options)
        self._workers: dict[WorkerId, Any] = {}
        self._calls: dict[Any, WorkerId] = {}
        self._started = 0

    def start(self) -> WorkerId:
        self._started += 1
        actor = self._kind.remote(self._limits.threads, self._limits.seconds)
        self._workers[self._started] = actor
        self._calls[actor.ready.remote(self._work)] = self._started
        return self._started

    def submit(self, worker: WorkerId, items: Sequence[Any]) -> None:
        self._calls[self._workers[worker].run.remote(items)] = worker

    def wait(self, seconds: float) -> Iterable[Event]:
        found, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=seconds)
        for call in found:
            worker = self._calls.pop(call)
            try:
                kind, value = self._ray.get(call)
            except self._ray.exceptions.RayError as error:
                self._workers.pop(worker, None)
                yield Event(worker, "died", " ".join(str(error).split("class_name:")[0].split())[:300].rstrip("."))
            else:
                yield Event(worker, kind, value)

    def kill(self, worker: WorkerId) -> None:
        self._calls = {call: other for call, other in self._calls.items() if other != worker}
        actor = self._workers.pop(worker, None)
        if actor is not None:
            self._ray.kill(actor, no_restart=True)

    def close(self) -> None:
        busy = set(self._calls.values())
        with suppress(self._ray.exceptions.RayError):
            resting = [actor.close.remote() for worker, actor in self._workers.items() if worker not in busy]
            self._ray.wait(resting, num_returns=len(resting), timeout=5.0) if resting else None
        for worker in list(self._workers):
            with suppress(self._ray.exceptions.RayError):
                self.kill(worker)


def _imported() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise MissingDependencyError(
            f"The engine ray needs the package ray: {error}", remedy='pip install "easyedit-personal[ray]"'
        ) from None
    log.debug("ray %s", ray.__version__)
    return ray
