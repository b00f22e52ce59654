"""An evaluation spread over workers: each answers for some users and keeps the answers in a folder of its own.

In the end the answers stand in one folder, in the order of users, and the figures are computed as after a serial run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..baselines.base import Method
from ..data.records import UPQAItem
from ..engines import Engine
from ..errors import ConfigError
from ..hparams import PersonalizationHyperParams
from ..progress import progress
from .aggregate import result_of
from .plan import Plan
from .provenance import describe_setup
from .result_folder import ResultFolder
from .run import FAILURES, GIVE_UP, Runner, fault_text, groups_to_do

Groups = tuple[tuple[UPQAItem, ...], ...]


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker does in one go: a method, and groups of users; ``number`` is the first group's place."""

    method: str
    number: int
    groups: Groups


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a share: faults of groups, or why the method cannot be run at all."""

    share: Share
    faults: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """The work of ``evaluate --engine``; see ``engines.Work``, and ``run.evaluate`` for what is not said here.

    Attributes:
        load: gives model and tokenizer; has to travel to the workers, as has ``find``.
        find: gives a method by its name, which edits as the plan's protocol says.
        out: the result folder, on a disk that all workers share.
    """

    load: Callable[[], tuple[nn.Module, Any]]
    find: Callable[[str], Method]
    items: Sequence[UPQAItem]
    plan: Plan
    out: str
    hparams: PersonalizationHyperParams | None = None
    data: str = ""
    model_name: str = ""

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[Share]], Iterator[Told]]]:
        """The function that evaluates shares.

        Raises:
            DataError: the folder belongs to another setup.
        """
        model, tokenizer = self.load()
        folder = ResultFolder(self.out)
        names = {"data": self.data, "model_name": self.model_name}
        folder.claim(describe_setup(model, tokenizer, self.items, self.plan, self.hparams, **names))
        runner = Runner(model, tokenizer, self.items, self.plan, folder.shard())
        known: dict[str, Method] = {}
        yield lambda shares: (self._share(runner, known, share) for share in shares)

    def _share(self, runner: Runner, known: dict[str, Method], share: Share) -> Told:
        try:
            if share.method not in known:
                method = self.find(share.method)
                runner.prepare(method)
                known[share.method] = method
        except FAILURES as error:
            return Told(share, error=f"{type(error).__name__}: {error}")
        faults: list[str] = []
        with ExitStack() as kept:
            for group in share.groups:
                fault = runner.group(known[share.method], group, kept)
                if fault:
                    faults.append(fault)
                    if not self.plan.rules.restores:
                        break
        return Told(share, tuple(faults))


def evaluate_with(engine: Engine, work: Evaluation, methods: Sequence[str]) -> dict[str, Any]:
    """As ``run.evaluate``, spread over an engine's workers; a second call goes on where it stopped.

    Users of methods that edit come one by one; protocols without restoring have one worker per method.

    Raises:
        DataError: see ``run.evaluate``.
        RegistryError: a method is unknown.
        EngineError: no worker starts.
    """
    if not methods:
        raise ConfigError("No method was given.", needed="at least one, for example lowrank")
    work.plan.check_items(work.items)
    folder, users = ResultFolder(work.out), [item.id for item in work.items]
    folder.gather(users)
    shares = [share for name in dict.fromkeys(methods) for share in _shares(work, name, folder)]
    account = _Account(shares)
    try:
        outcomes = engine.run(work, ((share,) for share in account.wanted()))
        for outcome in progress(outcomes, "Evaluating", len(shares)):
            account.take(outcome.items[0], outcome.reports[0] if outcome.reports else None, outcome.error)
    finally:
        folder.gather(users)
    errors = {name: account.error(name) for name in dict.fromkeys(methods)}
    result = result_of(folder, work.plan, users, errors)
    folder.write_result(result)
    return result


def _shares(work: Evaluation, name: str, folder: ResultFolder) -> list[Share]:
    groups = [tuple(group) for group in groups_to_do(work.find(name), work.items, work.plan, folder)]
    if not work.plan.rules.restores:
        return [Share(name, 0, tuple(groups))] if groups else []
    return [Share(name, number, (group,)) for number, group in enumerate(groups)]


class _Account:
    """Which shares failed; a method whose first ones all do is not gone on with."""

    def __init__(self, shares: Sequence[Share]) -> None:
        self._shares = shares
        self._faults: dict[str, list[tuple[int, str]]] = {}
        self._good: set[str] = set()
        self._errors: dict[str, str] = {}

    def wanted(self) -> Iterator[Share]:
        """The shares, as long as their methods are worth it."""
        for share in self._shares:
            hopeless = share.method not in self._good and len(self._faults.get(share.method, ())) >= GIVE_UP
            if not hopeless and share.method not in self._errors:
                yield share

    def take(self, share: Share, told: Told | None, died: str | None) -> None:
        """Note what became of a share."""
        faults = [f"user {share.groups[0][0].id}: {died}"] if told is None else list(told.faults)
        if told is not None and told.error:
            self._errors[share.method] = told.error
        elif faults:
            self._faults.setdefault(share.method, []).extend((share.number, fault) for fault in faults)
        else:
            self._good.add(share.method)

    def error(self, method: str) -> str | None:
        """As in a serial run's result."""
        groups = sum(len(share.groups) for share in self._shares if share.method == method)
        faults = [fault for _, fault in sorted(self._faults.get(method, ()))]
        return self._errors.get(method) or fault_text(faults, groups)
