"""``easyedit-personal doctor``: what is installed, what is missing, and what that costs the user."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..registry import Registry

CORE = ("torch", "transformers", "tokenizers", "safetensors", "scikit-learn", "pydantic", "peft", "typer", "rich")
# Optional package -> (what is lost without it, how to get it).
OPTIONAL = {
    "sentence_transformers": ("sentence embeddings; the model's own hidden states serve instead", "sentences"),
    "openai": ("phrases and judgements from a language model endpoint", "llm"),
    "matplotlib": ("the report's pictures", "report"),
    "ray": ("personalising and evaluating on a cluster; processes of this machine serve instead", "ray"),
    "pyarrow": ("users from Parquet files; JSON lines serve instead", "parquet"),
    "prometheus_client": ("figures for Prometheus", "metrics"),
    "lm_eval": ("capability benchmarks through lm-evaluation-harness", "capability"),
}


def doctor() -> None:
    """Say what is installed, what is missing and what that costs you."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(title="easyedit-personal doctor", show_lines=False)
    for column in ("what", "state", "means"):
        table.add_column(column, overflow="fold")
    for row in [*_core(), *_hardware(), *_families(), *_parts(), *_optional(), *_host()]:
        what, state, means = row
        table.add_row(what, state, escape(means))
    console.print(table)


def _core() -> list[tuple[str, str, str]]:
    rows = [("python", platform.python_version(), "needs 3.11 or newer")]
    for name in ("easyedit-personal", *CORE):
        try:
            rows.append((name, importlib.metadata.version(name), "installed"))
        except importlib.metadata.PackageNotFoundError:
            rows.append((name, "[red]missing[/]", "needed: pip install -c constraints.txt -e ."))
    return rows


def _hardware() -> list[tuple[str, str, str]]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    threads = os.environ.get("OMP_NUM_THREADS")
    return [
        (
            "GPU",
            ", ".join(gpus) or "none",
            "edits run there" if gpus else "edits run on the CPU: fine for small models",
        ),
        (
            "OMP_NUM_THREADS",
            threads or "not set",
            "as set"
            if threads
            else f"torch takes {torch.get_num_threads()} threads; on a busy machine 1 can be faster",
        ),
    ]


def _families() -> list[tuple[str, str, str]]:
    """Whether edits run only what an edit can change, tried with the installed transformers; and who serves them."""
    from ..modeling.families import known_families
    from ..modeling.family_trial import describe_splits

    fast, slow = describe_splits()
    rows = [("fast edits", ", ".join(fast), "only layers above the edit run, from the subject on; others are tried")]
    if slow:
        rows.append(("slow edits", f"[yellow]{', '.join(slow)}[/]", "cannot be split: a step is a whole forward pass"))
    untried = [family.name for family in known_families() if not family.config]
    if untried:
        rows.append(("other families", ", ".join(untried), "registered; tried on their first edit"))
    served = [family.name for family in known_families() if family.vllm]
    rows.append(("vLLM", ", ".join(served), "serves users' edits as LoRA adapters on these"))
    return rows


def _parts() -> list[tuple[str, str, str]]:
    """What can be chosen by name, then each part that did not come with this package, tried."""
    from ..plugins import VARIABLE, plugin_faults
    from ..registry import FAMILIES, OPEN

    rows = [(f"{one.kind}s", one.listed(), "to choose from") for one in OPEN if one is not FAMILIES]
    for registry in OPEN:
        for name in registry.added():
            fault, origin = _fault(registry, name), registry.origin(name)
            state, means = ("[red]broken[/]", fault) if fault else ("[green]added[/]", f"comes from {origin}")
            rows.append((f"{registry.kind} {name}", state, means))
        rows += [("entry point", "[yellow]not used[/]", text) for text in registry.unused()]
    faults = [(path, fault) for path, fault in plugin_faults().items() if fault]
    return rows + [(path, "[red]broken[/]", f"named in {VARIABLE}: {fault}") for path, fault in faults]


def _fault(registry: Registry, name: str) -> str:
    from ..errors import RegistryError

    try:
        registry.get(name)
    except RegistryError as error:
        return f"{error.what} {error.got}"
    return ""


def _optional() -> list[tuple[str, str, str]]:
    rows = []
    for name, (loss, extra) in OPTIONAL.items():
        there = find_spec(name) is not None
        means = "installed" if there else f'without it: no {loss} (pip install "easyedit-personal[{extra}]")'
        rows.append((name, "[green]yes[/]" if there else "[yellow]no[/]", means))
    return rows


def _host() -> list[tuple[str, str, str]]:
    """EasyEdit's editors: the usable ones in one row, a row for each of the others."""
    from ..errors import HostError
    from ..integrations.easyedit import usable_editors

    try:
        editors = usable_editors()
    except HostError as error:
        return [("EasyEdit", "[yellow]no[/]", str(error))]
    usable = [editor.name for editor in editors if editor.ok]
    rows = [("EasyEdit", "[green]yes[/]", f"usable editors: {', '.join(usable)}")]
    for editor in editors:
        if not editor.ok:
            lacks = f"pip install {' '.join(editor.lacks)}" if editor.lacks else ""
            rows.append((f"EasyEdit's {editor.name}", "[yellow]no[/]", "; ".join(filter(None, (lacks, editor.needs)))))
    return rows
