"""One generic registry, so that every exchangeable part is found, listed and misspelt in the same way.

Built-in parts are registered by dotted path and imported only when somebody asks for them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .errors import RegistryError, did_you_mean


class Registry:
    """A table from names to objects of one kind.

    Args:
        kind: what is registered, as it should read in an error ("kernel").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Any] = {}
        self._lazy: dict[str, str] = {}

    def register(self, name: str) -> Callable[[Any], Any]:
        """Decorator that registers a class or function under ``name``; registering it again replaces it."""

        def add(item: Any) -> Any:
            self._entries[name] = item
            return item

        return add

    def register_lazy(self, name: str, path: str) -> None:
        """Register ``"package.module:attribute"`` without importing it."""
        self._lazy[name] = path

    def unregister(self, name: str) -> None:
        """Forget a name; unknown names are ignored, so that undoing twice is harmless."""
        self._entries.pop(name, None)
        self._lazy.pop(name, None)

    def names(self) -> list[str]:
        """All known names, sorted."""
        return sorted({*self._entries, *self._lazy})

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._lazy

    def get(self, name: str) -> Any:
        """The object registered under ``name``.

        Raises:
            RegistryError: the name is unknown; the message holds the nearest match and what exists.
        """
        if name not in self._entries:
            self._entries[name] = self._load(name)
        return self._entries[name]

    def check(self, name: str) -> str:
        """Return ``name`` if it exists, without importing what it stands for; else raise as ``get`` does."""
        if name not in self:
            raise self._unknown(name)
        return name

    def _load(self, name: str) -> Any:
        module, _, attribute = self._lazy.get(self.check(name), "").partition(":")
        return getattr(importlib.import_module(module), attribute)

    def _unknown(self, name: str) -> RegistryError:
        return RegistryError(
            f"There is no {self.kind} named {name!r}.{did_you_mean(name, self.names())}",
            needed=f"one of {', '.join(self.names()) or '(none registered)'}",
        )


KERNELS = Registry("kernel")
CLUSTERERS = Registry("clusterer")
EVALUATORS = Registry("evaluator")
JUDGES = Registry("judge")
BASELINES = Registry("baseline")
ENGINES = Registry("engine")

for _name in ("rome", "memit", "lowrank", "finetune"):
    KERNELS.register_lazy(_name, f"easyedit_personal.kernels.{_name}:{_name}")
for _name in (
    *("direct", "paraphrase", "implicit", "product", "multi_turn", "negation", "other_user", "unrelated"),
    *("locality", "retention", "health", "undo", "cost", "capability"),
):
    _class = "".join(part.capitalize() for part in _name.split("_"))
    EVALUATORS.register_lazy(_name, f"easyedit_personal.evaluate.evaluators.{_name}:{_class}")
BASELINES.register_lazy("zero_shot", "easyedit_personal.baselines.prompting:ZeroShot")
BASELINES.register_lazy("in_prompt", "easyedit_personal.baselines.prompting:InPrompt")
BASELINES.register_lazy("reminder", "easyedit_personal.baselines.prompting:Reminder")
BASELINES.register_lazy("retrieval", "easyedit_personal.baselines.retrieval:Retrieval")
BASELINES.register_lazy("lora", "easyedit_personal.baselines.lora:Lora")
# EasyEdit's own kernels and editors; looked up in the host when they are used.
HOST = "easyedit_personal.integrations.easyedit"
for _name in ("rome", "memit"):
    KERNELS.register_lazy(f"easyedit:{_name}", f"{HOST}.host_kernels:{_name}")
for _name in (
    *("ROME", "R-ROME", "MEMIT", "EMMET", "AlphaEdit", "FT", "LoRA", "GRACE", "WISE", "ULTRAEDIT"),
    *("MEMIT-FE", "PMET", "EAMET", "SPHERE", "CORE", "DEFER"),
):
    BASELINES.register_lazy(f"easyedit:{_name}", f"{HOST}.evaluation:{_name.replace('-', '_')}")
JUDGES.register_lazy("endpoint", "easyedit_personal.evaluate.judge:EndpointJudge")
JUDGES.register_lazy("local", "easyedit_personal.evaluate.judge_local:LocalJudge")
CLUSTERERS.register_lazy("agglomerative", "easyedit_personal.clustering.cluster:PreferenceClusterer")
ENGINES.register_lazy("serial", "easyedit_personal.engines.serial:SerialEngine")
ENGINES.register_lazy("processes", "easyedit_personal.engines.processes:ProcessesEngine")
ENGINES.register_lazy("ray", "easyedit_personal.integrations.ray:RayEngine")
