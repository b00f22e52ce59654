"""Capability through lm-evaluation-harness (an extra): BoolQ, NLI, GSM8K, NQ as in the paper, or tasks of one's own.

A task is a name that the harness knows (its data comes from the hub) or the path of a task's YAML file. The harness
is slow beside everything else here, so it runs for a few users only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ConfigError, MissingDependencyError

PAPER_TASKS = ("boolq", "rte", "gsm8k", "nq_open")


def check_tasks(tasks: Sequence[str]) -> None:
    """Raise unless the harness is installed and every YAML file is there; loads nothing.

    Raises:
        MissingDependencyError: lm-evaluation-harness is not installed.
        ConfigError: a task's file does not exist.
    """
    from importlib.util import find_spec

    if tasks and find_spec("lm_eval") is None:
        raise MissingDependencyError(
            "Capability tasks need lm-evaluation-harness.", remedy="pip install 'easyedit-personal[capability]'"
        )
    for task in tasks:
        if task.endswith((".yaml", ".yml")) and not Path(task).is_file():
            raise ConfigError(f"There is no task file {task!r}.", needed="a task's name, or the path of its YAML file")


def run_tasks(
    model: nn.Module, tokenizer: Any, tasks: Sequence[str], *, limit: int | None = None, batch_size: int = 8
) -> dict[str, float]:
    """Every task's first metric on a loaded model.

    Args:
        tasks: names or YAML files.
        limit: examples per task; None takes all.

    Returns:
        {task: value}, the task named as in its YAML file.

    Raises:
        MissingDependencyError, ConfigError: see ``check_tasks``; or the harness does not know a task.
    """
    check_tasks(tasks)
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    files = [Path(task) for task in tasks if task.endswith((".yaml", ".yml"))]
    names = [_name(Path(task)) if Path(task) in files else task for task in tasks]
    # The harness's own tasks take 22 s to index: only where one of them is asked for.
    manager = TaskManager(
        include_path=[str(folder) for folder in dict.fromkeys(file.parent for file in files)] or None,
        include_defaults=len(files) < len(tasks),
    )
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise ConfigError("The harness does not know these tasks.", got=unknown, needed="names that lm_eval lists")
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    found = lm_eval.simple_evaluate(
        model=wrapped, tasks=names, task_manager=manager, limit=limit, bootstrap_iters=0, log_samples=False
    )
    return {name: _first_metric(found["results"][name]) for name in names}


def _name(path: Path) -> str:
    from ..files import read_yaml_mapping

    name = read_yaml_mapping(path).get("task")
    if not isinstance(name, str):
        raise ConfigError(f"{path} is no task of the harness.", needed="a YAML mapping with the key 'task'")
    return name


def _first_metric(results: dict[str, Any]) -> float:
    """The harness files metrics under "name,filter", their errors under "name_stderr,filter"."""
    values = {key: value for key, value in results.items() if "," in key and "_stderr" not in key}
    return float(next(iter(values.values())))
