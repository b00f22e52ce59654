"""From kept answers to figures: metrics per method, costs, and paired comparisons. Needs no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .columns import describe
from .evaluator import as_metric, average, find_evaluators
from .judge_scores import Scorer
from .plan import Plan
from .result_folder import SCHEMA, ResultFolder
from .summary import paired

Users = list[dict[str, Any]]


def result_of(
    folder: ResultFolder,
    plan: Plan,
    users: Sequence[str],
    errors: Mapping[str, str | None],
    scorer: Scorer | None = None,
) -> dict[str, Any]:
    """Everything that ``result.json`` holds.

    Args:
        users: names of all users that were to be evaluated.
        errors: why a method stopped, by method; methods that only an earlier call ran are taken along.
        scorer: adds scores to answers before figures are computed.
    """
    names = list(dict.fromkeys([*errors, *folder.methods()]))
    lines = {name: folder.users(name) for name in names}
    evaluators = find_evaluators(plan)
    if scorer:
        targeted = [one.name for one in evaluators if one.targeted]
        scorer([user for kept in lines.values() for user in kept], targeted)
    methods = {name: _method(lines[name], plan, users, errors.get(name)) for name in names}
    result = {
        "schema": SCHEMA,
        "setup": folder.setup() or {},
        "columns": describe(evaluators),
        "methods": methods,
        "comparisons": comparisons(lines, plan),
    }
    return {**result, "scores": scorer.describe()} if scorer else result


def _method(lines: Users, plan: Plan, users: Sequence[str], error: str | None) -> dict[str, Any]:
    missing = len(users) - len({line["user"] for line in lines})
    if missing and error is None:
        error = f"not finished: {missing} of {len(users)} users are missing"
    return {
        "status": "failed" if error else "ok",
        "error": error,
        "metrics": metrics(lines, plan),
        "cost": {
            "seconds_per_user": average(line["seconds"] for line in lines),
            "asking_seconds_per_user": average(line["asking"] for line in lines if "asking" in line),
            "bytes_per_user": average(line["bytes"] for line in lines),
            "shared_bytes_per_user": average(line["shared_bytes"] for line in lines if "shared_bytes" in line),
            "peak_mib": max((line["peak_mib"] for line in lines), default=None),
        },
    }


def metrics(lines: Users, plan: Plan) -> dict[str, Any]:
    """Every evaluator's figure, and what a judge or an embedder said where answers carry it."""
    found: dict[str, Any] = {}
    for evaluator in find_evaluators(plan):
        metric = evaluator.metric(lines, plan)
        if metric:
            answers = evaluator.answers(lines)
            for extra in ("judge", "similarity"):
                score = average(answer[extra] for answer in answers if answer.get(extra) is not None)
                if score is not None:
                    metric[extra] = score
            found[evaluator.name] = metric
    return found


def comparisons(lines: Mapping[str, Users], plan: Plan) -> list[dict[str, Any]]:
    """Every later method against the first, per evaluator: mean difference over the same users, paired interval."""
    names = list(lines)
    found = []
    for evaluator in find_evaluators(plan):
        values = {name: evaluator.values(lines[name], plan) for name in names}
        for name in names[1:]:
            interval = paired(values[names[0]], values[name], plan.seed)
            if interval is not None:
                found.append({"evaluator": evaluator.name, "of": name, "against": names[0], **as_metric(interval)})
    return found
