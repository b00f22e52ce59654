"""Which of EasyEdit's algorithms can run here on text models, and what each of the others lacks.

For ``doctor``, and for the error that names what is missing before an algorithm is started.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass

from .loading import Host, load_host
from .stubs import install_name

# Imported by the host's text algorithms, used only for what we give them otherwise (Wikipedia statistics, plots) or
# not at all.
NOT_NEEDED = {"datasets", "hydra", "matplotlib"}
# Packages that are used without being imported by the algorithm's own modules.
PACKAGES = {
    "KN": ("einops",),
    "MELO": ("hydra",),
    "MEND": ("higher",),
    "SERAC": ("higher",),
    "IKE": ("sentence_transformers",),
    "LoRA": ("peft",),
    "QLoRA": ("peft", "bitsandbytes"),
    "DPO": ("peft",),
}
# What no package can give; read in the host's sources at commit 14cea82.
NEEDS = {
    "MEND": "a hypernetwork trained beforehand (`archive` in its YAML)",
    "SERAC": "a classifier and a counterfactual model trained beforehand (`archive` in its YAML)",
    "MELO": "a model folder that its own fork of PEFT can load; it builds its own tokenizer by name",
    "IKE": "a training set; it writes a prompt and edits no weight",
    "DINM": "safety requests (harmful prompt, safe answer); it is no editor of facts",
    "DPO": "an answer to move away from (`target_neg`) for every request",
    "SimIE": "another method to wrap (`base_method`)",
    "FT-Api": "an OpenAI key; it edits no local model",
    "DeepEdit-Api": "a ZhipuAI key; it edits no local model",
}
KEYS = {"FT-Api": "OPENAI_API_KEY", "DeepEdit-Api": "ZHIPUAI_API_KEY"}


@dataclass(frozen=True, slots=True)
class EditorStatus:
    """One of the host's algorithms.

    Attributes:
        name: its name in ``ALG_DICT``.
        ok: whether it can edit a local text model from a prompt and a target alone, with what is installed.
        lacks: packages to install, as pip calls them.
        needs: what else it needs that no package gives; empty for plain editors.
    """

    name: str
    ok: bool
    lacks: tuple[str, ...] = ()
    needs: str = ""

    def __str__(self) -> str:
        parts = [f"pip install {' '.join(self.lacks)}"] if self.lacks else []
        return "; ".join([*parts, *([f"needs {self.needs}"] if self.needs else [])]) or "ok"


def usable_editors(host: Host | None = None) -> list[EditorStatus]:
    """The status of every algorithm in the host's registry.

    Raises:
        HostError: the host is not there or cannot be imported.
    """
    host = host or load_host()
    registry = host.module("util.alg_dict").ALG_DICT
    return [_status(name, function.__module__, host) for name, function in registry.items()]


def _status(name: str, module: str, host: Host) -> EditorStatus:
    lacks = tuple(sorted(install_name(package) for package in _absent_for(name, module, host.absent)))
    key = KEYS.get(name)
    needs = "" if key and os.environ.get(key) else NEEDS.get(name, "")
    return EditorStatus(name, ok=not lacks and not needs, lacks=lacks, needs=needs)


def _absent_for(name: str, module: str, absent: Mapping[str, frozenset[str]]) -> set[str]:
    """Packages that the algorithm's own modules import, and those it uses indirectly, as far as they are absent."""
    own = f"{module.rpartition('.')[0]}."
    imported = {package for package, users in absent.items() if any(user.startswith(own) for user in users)}
    listed = {package for package in PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None}
    return (imported - NOT_NEEDED) | listed
