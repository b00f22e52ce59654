"""Runs methods over users and keeps every answer; figures are computed from what was kept.

Users of editing methods come one by one, those of prompting methods in batches; questions of one group are always
answered in one go. What the untouched model answers is computed once per run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from ..baselines.base import Method, Session
from ..baselines.find import default_settings, find_methods
from ..data.records import UPQAItem
from ..editing.health import HealthBaseline
from ..errors import ConfigError, DataError, PersonalizationError
from ..generation.generate import Answer
from ..hparams import PersonalizationHyperParams
from ..modeling.layout import weights_digest
from ..progress import log, progress
from .aggregate import result_of
from .ask import Asked, ask_all, plain_answers, skipped
from .evaluator import Case, Evaluator, find_evaluators
from .judge_scores import Scorer
from .memory import peak_mib, reset_peak
from .plan import Plan
from .provenance import describe_setup
from .result_folder import ResultFolder

GIVE_UP = 3  # failures in a row, from the first user on, before a method is left
FAILURES = (PersonalizationError, RuntimeError, ValueError, TypeError)  # of one user or method, not of the run
USERS_AT_ONCE = 16  # of methods that leave the weights alone


def evaluate(
    model: nn.Module,
    tokenizer: Any,
    items: Sequence[UPQAItem],
    methods: Sequence[str | Method],
    *,
    plan: Plan | None = None,
    out: str | Path | None = None,
    hparams: PersonalizationHyperParams | None = None,
    data: str = "",
    model_name: str = "",
) -> dict[str, Any]:
    """Evaluate methods on users; with ``out`` every answer is kept there, and a second call goes on where it stopped.

    Args:
        model: bit for bit the same afterwards.
        items: one per user.
        methods: names (see ``baselines.find``) or objects of the ``Method`` protocol.
        plan: what is asked; None takes the standard panel.
        out: the result folder; None keeps nothing.
        hparams: of the kernels; None takes the shipped file of the default model. Methods given by name edit as the
            plan's protocol says (``Protocol.editing``).
        data, model_name: how the result should name them.

    Returns:
        What ``result.json`` holds: "schema", "setup", "columns", "methods" and "comparisons". A method that failed has
        ``status: failed`` and the figures of the users that it finished.

    Raises:
        DataError: the folder belongs to another setup, cannot be written, or the items do not suit the plan.
        RegistryError: a method or evaluator is unknown.
    """
    plan = plan or Plan(settings=hparams.evaluators if hparams else {})
    plan.check_items(items)
    settings = plan.rules.editing(hparams or default_settings())
    found = [method for given in methods for method in _found(given, settings)]
    if not found:
        raise ConfigError("No method was given.", needed="at least one, for example lowrank")
    with ExitStack() as stack:
        folder = ResultFolder(out or stack.enter_context(TemporaryDirectory()))
        setup = describe_setup(model, tokenizer, items, plan, hparams, data=data, model_name=model_name)
        folder.claim(setup)
        folder.gather([item.id for item in items])
        run = Runner(model, tokenizer, items, plan, folder)
        errors = {method.name: run.method(method) for method in found}
        result = result_of(folder, plan, [item.id for item in items], errors)
        folder.write_result(result)
        return result


def rescore(out: str | Path, scorer: Scorer | None = None) -> dict[str, Any]:
    """Compute a folder's figures again from the kept answers, without the model.

    Args:
        scorer: adds scores to the answers (a judge, embeddings) before figures are computed.

    Raises:
        DataError: the folder holds no evaluation.
    """
    if not (Path(out) / "setup.json").is_file():
        raise DataError(f"{out} holds no evaluation.", needed="a folder that `evaluate --out` has written")
    folder = ResultFolder(out)
    setup = folder.setup() or {}
    plan = plan_of(setup)
    errors = {name: method.get("error") for name, method in _known_result(folder).get("methods", {}).items()}
    result = result_of(folder, plan, setup["users"], errors, scorer)
    folder.write_result(result)
    return result


def plan_of(setup: Mapping[str, Any]) -> Plan:
    """The plan that a setup describes."""
    settings = setup["plan"]
    keys = ("evaluators", "cluster_size", "turns", "seed", "later", "conversations", "max_new_tokens", "settings")
    # The harness's figures are kept as they are: its tasks are not asked again.
    protocol = settings["protocol"]
    restores = protocol["restores_between_users"]
    return Plan(**{key: settings[key] for key in keys}, protocol=protocol["name"], restores=restores)


def _found(given: str | Method, hparams: PersonalizationHyperParams) -> list[Method]:
    return list(find_methods([given], hparams)) if isinstance(given, str) else [given]


def _known_result(folder: ResultFolder) -> dict[str, Any]:
    return folder.result() if (folder.path / "result.json").is_file() else {}


def groups_to_do(
    method: Method, items: Sequence[UPQAItem], plan: Plan, folder: ResultFolder
) -> list[Sequence[UPQAItem]]:
    """The users that a method has not done yet: one by one, or such that are answered together."""
    done = {user["user"] for user in folder.users(method.name)}
    if done and not plan.rules.restores and len(done) < len(items):
        folder.clear(method.name)  # edits pile up in the model: half of them cannot be gone on from
        done = set()
    todo = [item for item in items if item.id not in done]
    size = 1 if method.edits else USERS_AT_ONCE
    return [todo[start : start + size] for start in range(0, len(todo), size)]


def fault_text(faults: Sequence[str], groups: int) -> str | None:
    """A method's error in the result."""
    return f"{len(faults)} of {groups} failed, first {faults[0]}" if faults else None


class Runner:
    """What the methods of one call share: the untouched model's figures and answers."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, items: Sequence[UPQAItem], plan: Plan, folder: ResultFolder
    ) -> None:
        self.model, self.tokenizer, self.items, self.plan, self.folder = model, tokenizer, items, plan, folder
        self.evaluators: list[Evaluator] = find_evaluators(plan)
        self.asks = {item.id: [ask for e in self.evaluators for ask in e.asks(item, plan)] for item in items}
        self._base: dict[str, Any] = {}
        self._before: dict[str, Answer] = {}

    def method(self, method: Method) -> str | None:
        """Run one method over the users that it has not done yet; its error, or None."""
        groups = groups_to_do(method, self.items, self.plan, self.folder)
        if not groups:
            return None
        try:
            self.prepare(method)
        except FAILURES as error:
            return f"{type(error).__name__}: {error}"
        faults: list[str] = []
        with ExitStack() as kept:
            for number, group in enumerate(_with_bar(groups, method.name)):
                fault = self.group(method, group, kept)
                if fault:
                    faults.append(fault)
                    if len(faults) == GIVE_UP > number or not self.plan.rules.restores:
                        break  # nobody so far, so nobody will; or what is in the model cannot be trusted
        return fault_text(faults, len(groups))

    def prepare(self, method: Method) -> None:
        """To be called before a method's first group; raises ``FAILURES`` where the method cannot be run."""
        self._prepare()
        method.prepare(self.items, self.plan.seed)

    def group(self, method: Method, group: Sequence[UPQAItem], kept: ExitStack) -> str | None:
        """Personalise for users, ask, and keep the answers; what went wrong, or None.

        Args:
            kept: holds what a protocol without restoring leaves in the model.
        """
        try:
            lines = self._group(method, group, kept)
        except FAILURES as error:
            log.warning("%s failed for user %s: %s", method.name, group[0].id, error)
            return f"user {group[0].id}: {type(error).__name__}: {error}"
        self.folder.append(method.name, lines)
        return None

    def _prepare(self) -> None:
        """Figures and answers of the untouched model, once."""
        if not self._base:
            self._base = {
                "digest": weights_digest(self.model),
                "perplexity": HealthBaseline.of(self.model, self.tokenizer).perplexity,
            }
            compared = [ask for asks in self.asks.values() for ask in asks if ask.compare]
            self._before = plain_answers(self.model, self.tokenizer, compared, self.plan)

    def _group(self, method: Method, group: Sequence[UPQAItem], kept: ExitStack) -> list[dict[str, Any]]:
        reset_peak()
        with ExitStack() as stack:
            holder = stack if self.plan.rules.restores else kept
            opened = [self._open(method, item, holder) for item in group]
            cases = [self._case(method, session, item) for item, (session, _) in zip(group, opened)]
            asked = time.perf_counter()
            answers = self._answers(cases)
            asking = (time.perf_counter() - asked) / len(cases)
            figures = [{e.name: e.measure(case) for e in self.evaluators} for case in cases]
        lines = []
        for case, said, measured, (_, seconds) in zip(cases, answers, figures, opened):
            closed = replace(case, answers=tuple(said))
            for evaluator in self.evaluators:
                later = evaluator.after(closed)
                said += later.pop("answers", [])
                measured[evaluator.name] |= later
            lines.append(
                {
                    "user": case.item.id,
                    "seconds": seconds,
                    "asking": asking,
                    "bytes": case.session.nbytes,
                    "shared_bytes": case.session.shared_bytes,
                    "peak_mib": peak_mib(self.model),
                    "figures": {name: values for name, values in measured.items() if values},
                    "answers": said,
                }
            )
        return lines

    def _open(self, method: Method, item: UPQAItem, stack: ExitStack) -> tuple[Session, float]:
        started = time.perf_counter()
        context = method.personalize(self.model, self.tokenizer, [item], self.plan.cluster_size)
        session = stack.enter_context(context)
        return session, time.perf_counter() - started

    def _case(self, method: Method, session: Session, item: UPQAItem) -> Case:
        return Case(self.model, self.tokenizer, method, session, item, self.items, self.plan, self._base)

    def _answers(self, cases: Sequence[Case]) -> list[list[dict[str, Any]]]:
        """Everybody's answers; one call of the generator where they share a model."""
        asked = [Asked.of(case, ask) for case in cases for ask in self.asks[case.item.id]]
        fitting = [row for row in asked if row.fits(self.tokenizer, self.plan)]
        by_model: dict[int, list[Asked]] = {}
        for row in fitting:
            by_model.setdefault(id(row.case.session.model), []).append(row)
        records = {id(row): record for rows in by_model.values() for row, record in ask_all(rows, self._before)}
        return [[records.get(id(row)) or skipped(row.ask) for row in asked if row.case is case] for case in cases]


def _with_bar(groups: Sequence[Sequence[UPQAItem]], name: str) -> Iterator[Sequence[UPQAItem]]:
    return progress(groups, name, len(groups))
