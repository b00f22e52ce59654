"""``easyedit-personal evaluate``: methods x users x questions, resumable, with a table at the end.

Everything that can be wrong without the model is found before the model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..registry import BASELINES, EVALUATORS, KERNELS
from .session import DEVICE, HPARAMS, MODEL, find_settings

if TYPE_CHECKING:
    from ..data.records import UPQAItem
    from ..engines import Engine
    from ..evaluate.plan import Plan
    from ..hparams import PersonalizationHyperParams

HOST = "easyedit:"
_METHODS = f"kernels ({KERNELS.listed()}), ft_m, ft_l, {BASELINES.listed()}, EasyEdit's (easyedit:ROME, ...)"

_EVALUATORS = f"Comma-separated; '+name' adds to the standard panel. There are {EVALUATORS.listed()}."


def evaluate(
    model: str = MODEL,
    data: str = typer.Option("bundled", "--data", help="A UPQA or PrefEval file, or 'bundled' (its test half)."),
    method: str = typer.Option("lowrank", "--method", help=f"Comma-separated: {_METHODS}."),
    size: int = typer.Option(None, "--size", help="Only the first N users.", show_default=False),
    every: int = typer.Option(1, "--every", min=1, help="Of these, every Nth: all kinds, for methods that take long."),
    cluster_size: int = typer.Option(1, "--cluster-size", help="Phrases per preference that an edit sees."),
    turns: str = typer.Option("", "--turns", help="Unrelated turns before the question, such as 0,2,10."),
    protocol: str = typer.Option("natural", "--protocol", help="natural, or paper: as its released code does."),
    out: Path = typer.Option(None, "--out", help="Result folder; an interrupted run goes on there."),
    seed: int = typer.Option(0, "--seed", help="Of distractors, memories and intervals."),
    device: str = DEVICE,
    evaluators: str = typer.Option("", "--evaluators", help=_EVALUATORS),
    hparams: str = HPARAMS,
    conversations: str = typer.Option("bundled", "--conversations", help="Distractors: 'bundled' or PrefEval's file."),
    restore: bool = typer.Option(True, help="With --protocol paper: reset the model between users."),
    harness: str = typer.Option("", "--harness", help="Tasks of lm-evaluation-harness (extra), comma-separated."),
    judge: str = typer.Option(None, "--judge", help="URL of an OpenAI-compatible endpoint, or a local model's folder."),
    judge_model: str = typer.Option("", "--judge-model", help="The endpoint's model."),
    similarity: bool = typer.Option(False, "--similarity", help="Also score by sentence embeddings (extra)."),
    rescore: Path = typer.Option(None, "--rescore", help="Compute a folder's figures again, without the model."),
    engine: str = typer.Option("serial", "--engine", help="serial, processes, ray or ray://HOST:PORT."),
    workers: int = typer.Option(None, "--workers", help="Default: cores, or the cluster's slots.", show_default=False),
) -> None:
    """Ask every question of the panel, before and after personalising, and say what it cost."""
    from rich.console import Console

    from .table import show

    scorer = _scorer(judge, judge_model, similarity, out or rescore)
    if rescore is not None:
        from ..evaluate.run import rescore as compute

        show(Console(), compute(rescore, scorer))
        return
    settings = find_settings(model, hparams, device=device)
    plan = _plan(evaluators, cluster_size, turns, protocol, restore, seed, conversations, harness, settings.evaluators)
    settings = plan.rules.editing(settings)
    names, items, spread = _methods(method), _items(data, size, every), _engine(engine, workers)
    methods = [_host(name, settings) if _is_hosts(name) else name for name in names]
    folder = _folder(out, items, plan, settings, data)
    result = _run(settings, items, names if spread else methods, plan, folder, data, scorer, spread)
    show(Console(), result)
    print(f"Figures and every answer are in {folder}.")


def _run(
    settings: PersonalizationHyperParams,
    items: Sequence[UPQAItem],
    methods: Sequence[Any],
    plan: Plan,
    folder: Path,
    data: str,
    scorer: Any,
    spread: Engine | None,
) -> dict[str, Any]:
    from functools import partial

    from ..evaluate.run import evaluate as compute
    from ..evaluate.run import rescore
    from ..evaluate.shards import Evaluation, evaluate_with
    from ..modeling.loading import load_model

    model = str(settings.model_name)
    named = Path(model).name if Path(model).exists() else model  # a path would tie the result to one machine
    about: dict[str, Any] = {"plan": plan, "hparams": settings, "data": data, "model_name": named}
    if spread is None:
        result = compute(*load_model(settings), items, methods, out=folder, **about)
    else:
        load, find = partial(load_model, settings), partial(_method, settings)
        result = evaluate_with(spread, Evaluation(load, find, items, out=str(folder.resolve()), **about), methods)
    return rescore(folder, scorer) if scorer else result


def _engine(name: str, workers: int | None) -> Engine | None:
    """The engine; None for the serial one, which has the model in this process."""
    from ..engines import Limits, find_engine

    found = find_engine(name, Limits(workers=workers))
    return None if found.name == "serial" else found


def _method(settings: PersonalizationHyperParams, name: str) -> Any:
    """A method by its name, also in a worker."""
    from ..baselines.find import find_method

    return _host(name, settings) if _is_hosts(name) else find_method(name, settings)


def _plan(
    evaluators: str,
    cluster_size: int,
    turns: str,
    protocol: str,
    restore: bool,
    seed: int,
    conversations: str,
    harness: str,
    sections: Mapping[str, Mapping[str, Any]],
) -> Plan:
    from ..errors import ConfigError
    from ..evaluate.plan import STANDARD, Plan

    names = [name.strip() for name in evaluators.split(",") if name.strip()]
    adds = [name.removeprefix("+") for name in names if name.startswith("+")]
    chosen = [name for name in names if not name.startswith("+")]
    try:
        numbers = [int(part) for part in turns.split(",") if part.strip()]
    except ValueError:
        raise ConfigError("--turns is no list of numbers.", got=turns, needed="such as 0,2,10") from None
    return Plan(
        evaluators=[*(chosen or STANDARD), *adds],
        cluster_size=cluster_size,
        turns=numbers,
        protocol=protocol,
        restores=restore,
        seed=seed,
        conversations=conversations,
        harness=[task.strip() for task in harness.split(",") if task.strip()],
        settings=sections,
    )


def _methods(text: str) -> list[str]:
    from ..baselines.find import check_method
    from ..errors import ConfigError

    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("No method was given.", needed="--method NAME[,NAME...]")
    return [name if _is_hosts(name) else check_method(name) for name in dict.fromkeys(names)]


def _is_hosts(name: str) -> bool:
    """Whether it is one of EasyEdit's editors; "easyedit:rome" in small letters is its kernel inside our algorithm."""
    return name.startswith(HOST) and name.partition("@")[0] not in KERNELS


def _host(name: str, settings: PersonalizationHyperParams) -> Any:
    """One of EasyEdit's editors; what is missing for it is said now, before the model is loaded."""
    from ..baselines.host import HostEditor
    from ..integrations.easyedit.host_methods import host_method

    return HostEditor(name, host_method(name, settings.baselines.get(name)), settings)


def _items(data: str, size: int | None, every: int) -> Sequence[UPQAItem]:
    from ..data.upqa import UPQADataset
    from ..errors import DataError

    items = UPQADataset.bundled(split="test").items if data == "bundled" else UPQADataset(data).items
    if size is not None and not 1 <= size <= len(items):
        raise DataError(f"{data} does not have so many users.", got=size, needed=f"--size from 1 to {len(items)}")
    return items[:size:every]


def _folder(
    out: Path | None, items: Sequence[UPQAItem], plan: Plan, settings: PersonalizationHyperParams, data: str
) -> Path:
    """The result folder, checked as far as it can be without the model."""
    from ..errors import ConfigError
    from ..evaluate.provenance import describe_plan
    from ..evaluate.result_folder import ResultFolder

    if out is None:
        raise ConfigError("No result folder was given.", needed="--out DIR")
    plan.check_items(items)
    ResultFolder(out).check(describe_plan(items, plan, settings, data=data))
    return out


def _scorer(judge: str | None, judge_model: str, similarity: bool, folder: Path | None) -> Any:
    if not judge and not similarity:
        return None
    from ..evaluate.judge_scores import make_scorer

    return make_scorer(judge, judge_model, similarity, (folder or Path()) / "judgements")
