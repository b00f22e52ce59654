"""One generic registry, so that every exchangeable part is found, listed, added and misspelt in the same way.

What ships is registered by dotted path and imported when it is asked for; additions come by decorator, as entry points
of an installed package (group ``easyedit_personal.kernels`` and so on), or in files (see ``plugins``).
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from .errors import RegistryError, did_you_mean
from .plugins import import_plugins, plugin_faults
from .progress import log


class Registry:
    """A table from names to objects of one kind.

    Args:
        kind: what is registered, as it should read in an error ("kernel").
        group: the entry points' group is ``easyedit_personal.<group>``; additions may come in no other way if empty.
        fault: says what is wrong with an object that is to be registered; None if it will do.
    """

    def __init__(self, kind: str, group: str = "", fault: Callable[[Any], str | None] = lambda item: None) -> None:
        self.kind, self.group, self._fault = kind, group, fault
        self._shipped: dict[str, str] = {}
        self._shipped_settings: dict[str, str] = {}
        self._added: dict[str, Any] = {}
        self._settings: dict[str, Any] = {}

    def register(self, name: str, *, settings: Any = None, replace: bool = False) -> Callable[[Any], Any]:
        """Decorator that adds a class or function under ``name``.

        Args:
            settings: a pydantic class (``validation.Section`` is a strict base) that checks the part's own section of
                the YAML file; its fields need defaults.
            replace: let it take the place of what has the name already.

        Raises:
            RegistryError: the name is taken, or the object cannot be what it is registered as.
        """
        if not replace and (name in self._added or name in self._shipped):
            raise RegistryError(
                f"There already is a {self.kind} named {name!r}.",
                cause=f"it comes from {self.origin(name)}",
                remedy="choose another name, or register with replace=True",
            )
        if settings is not None and not hasattr(settings, "model_validate"):
            raise RegistryError(f"The settings of {self.kind} {name!r} are no pydantic class.", got=settings)

        def add(item: Any) -> Any:
            self._added[name] = self._checked(name, item)
            self._settings[name] = settings
            return item

        return add

    def register_lazy(self, name: str, path: str, settings: str = "") -> None:
        """Register one of our own parts as ``"package.module:attribute"``, and its settings too, importing neither."""
        self._shipped[name] = path
        self._shipped_settings[name] = settings

    def unregister(self, name: str) -> None:
        """Take an addition back, so that what it replaced is there again; other names are left alone."""
        self._added.pop(name, None)
        self._settings.pop(name, None)

    def names(self) -> list[str]:
        """All known names, sorted; no plugin package is imported for it."""
        import_plugins()
        return sorted({*self._shipped, *self._added, *self._entry_points()})

    def listed(self) -> str:
        """All names but those of EasyEdit's own parts, for help and tables."""
        return ", ".join(name for name in self.names() if not name.startswith("easyedit:"))

    def added(self) -> list[str]:
        """The names that do not ship with this package, sorted."""
        return [name for name in self.names() if name in self._added or name not in self._shipped]

    def origin(self, name: str) -> str:
        """Where a known name comes from, for messages: a module, or an installed package and its version."""
        if name in self._added:
            item = self._added[name]
            return f"module {getattr(item, '__module__', None) or type(item).__module__}"
        if name in self._shipped:
            return "easyedit-personal itself"
        return _package(self._entry_points()[name])

    def settings(self, name: str) -> Any:
        """The class that checks the section of ``name``, None where it has none or there is no such name.

        Raises:
            RegistryError: the plugin that brings ``name`` cannot be loaded.
        """
        if name not in self._added and (path := self._shipped_settings.get(name)):
            return _attribute(path)
        if name not in self._shipped and name in self:
            self.get(name)
        return self._settings.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._shipped or name in self._added or name in self.names()

    def get(self, name: str) -> Any:
        """The object registered under ``name``.

        Raises:
            RegistryError: the name is unknown (the message holds the nearest match and what exists), or the plugin
                that brings it cannot be loaded.
        """
        if name in self._added:
            return self._added[name]
        if name in self._shipped:
            return _attribute(self._shipped[name])
        self.check(name)
        if name not in self._added:
            self._load(name, self._entry_points()[name])
        return self._added[name]

    def loaded(self) -> list[Any]:
        """Everything registered, by name; an addition that cannot be loaded is logged and left out."""
        found = []
        for name in self.names():
            try:
                found.append(self.get(name))
            except RegistryError as error:
                log.warning("%s", error)
        return found

    def check(self, name: str) -> str:
        """Return ``name`` if it exists, without importing what it stands for; else raise as ``get`` does."""
        if name not in self:
            raise self._unknown(name)
        return name

    def unused(self) -> list[str]:
        """Entry points whose names were taken already, one sentence each."""
        used = self._entry_points()
        return [
            f"the {self.kind} {point.name!r} of {_package(point)}: the name belongs to {self.origin(point.name)}"
            for point in self._offered()
            if point.name not in used or used[point.name] != point
        ]

    def _offered(self) -> list[EntryPoint]:
        return list(_installed(f"easyedit_personal.{self.group}", tuple(sys.path))) if self.group else []

    def _entry_points(self) -> dict[str, EntryPoint]:
        """By name; of two packages with the same name for a part, the one that comes first on the path counts."""
        return {point.name: point for point in reversed(self._offered()) if point.name not in self._shipped}

    def _load(self, name: str, point: EntryPoint) -> None:
        try:
            item = point.load()
        except Exception as error:  # whatever a stranger's module raises while it is imported
            raise RegistryError(
                f"The {self.kind} {name!r} of {_package(point)} cannot be loaded.",
                got=f"{type(error).__name__}: {error}",
                remedy="mend or uninstall that package; everything else works without it",
            ) from error
        if name not in self._added:  # else its module's decorator was there first, and knows the settings
            self._added[name] = self._checked(name, item)

    def _checked(self, name: str, item: Any) -> Any:
        fault = self._fault(item)
        if fault:
            raise RegistryError(f"{name!r} cannot be registered as a {self.kind}.", got=item, needed=fault)
        return item

    def _unknown(self, name: str) -> RegistryError:
        broken = [f"{path} could not be imported ({fault})" for path, fault in plugin_faults().items() if fault]
        return RegistryError(
            f"There is no {self.kind} named {name!r}.{did_you_mean(name, self.names())}",
            needed=f"one of {', '.join(self.names()) or '(none registered)'}",
            cause="; ".join(broken) or None,
        )


def _attribute(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


@lru_cache(maxsize=16)
def _installed(group: str, path: tuple[str, ...]) -> EntryPoints:
    """What the packages on a path offer: reading them all takes milliseconds, and names are asked for often."""
    return entry_points(group=group)


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def takes(*arguments: str) -> Callable[[Any], str | None]:
    """The check that an object can be called with so many arguments."""

    def fault(item: Any) -> str | None:
        try:
            inspect.signature(item).bind(*arguments)
        except (TypeError, ValueError):
            return f"a function of ({', '.join(arguments)})"
        return None

    return fault


def has(*attributes: str) -> Callable[[Any], str | None]:
    """The check that an object has some attributes."""

    def fault(item: Any) -> str | None:
        lacks = [name for name in attributes if not hasattr(item, name)]
        return f"a record with {', '.join(attributes)}; it lacks {', '.join(lacks)}" if lacks else None

    return fault


def makes(*attributes: str) -> Callable[[Any], str | None]:
    """The check that an object is a class with some attributes, or a function, which is trusted to return one."""

    def fault(item: Any) -> str | None:
        lacks = [name for name in attributes if inspect.isclass(item) and not hasattr(item, name)]
        if lacks or not callable(item):
            return f"a class with {', '.join(attributes)}" + (f"; it lacks {', '.join(lacks)}" if lacks else "")
        return None

    return fault


FAMILIES = Registry("model family", "families", has("name", "layers", "down"))
KERNELS = Registry("kernel", "kernels", takes("model", "tokenizer", "requests", "hparams"))
EVALUATORS = Registry("evaluator", "evaluators", makes("columns", "asks", "measure", "after", "metric"))
BASELINES = Registry("baseline", "baselines", makes("edits", "prepare", "personalize"))
PHRASE_SOURCES = Registry("source of phrases", "phrase_sources", takes("given", "size", "context"))
CLUSTERERS = Registry("clusterer", fault=makes("fit", "predict"))
JUDGES = Registry("judge", fault=makes("judge"))
ENGINES = Registry("engine", fault=makes("run"))
OPEN = (KERNELS, EVALUATORS, BASELINES, FAMILIES, PHRASE_SOURCES)  # what other packages may add to

for _name in (
    *("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "olmo2", "gpt2", "gptj", "gpt_neox", "phi", "opt"),
):
    FAMILIES.register_lazy(_name, f"easyedit_personal.modeling.families:{_name.removesuffix('_text').upper()}")
for _name in ("rome", "memit", "lowrank", "finetune"):
    KERNELS.register_lazy(_name, f"easyedit_personal.kernels.{_name}:{_name}")
for _name in (
    *("direct", "paraphrase", "implicit", "product", "multi_turn", "negation", "other_user", "unrelated"),
    *("locality", "retention", "health", "undo", "cost", "capability", "other_attribute", "helpful", "context_wins"),
    *("everyday", "application", "acknowledged", "moving_on"),
):
    _class = "".join(part.capitalize() for part in _name.split("_"))
    EVALUATORS.register_lazy(_name, f"easyedit_personal.evaluate.evaluators.{_name}:{_class}")
BASELINES.register_lazy("zero_shot", "easyedit_personal.baselines.prompting:ZeroShot")
BASELINES.register_lazy("in_prompt", "easyedit_personal.baselines.prompting:InPrompt")
BASELINES.register_lazy("reminder", "easyedit_personal.baselines.prompting:Reminder")
for _name in ("retrieval", "lora"):
    _class, _sections = _name.capitalize(), "easyedit_personal.hparams.sections"
    BASELINES.register_lazy(_name, f"easyedit_personal.baselines.{_name}:{_class}", f"{_sections}:{_class}Params")
# EasyEdit's own kernels and editors; looked up in the host when they are used.
HOST = "easyedit_personal.integrations.easyedit"
for _name in ("rome", "memit"):
    KERNELS.register_lazy(f"easyedit:{_name}", f"{HOST}.host_kernels:{_name}")
for _name in (
    *("ROME", "R-ROME", "MEMIT", "EMMET", "AlphaEdit", "FT", "LoRA", "GRACE", "WISE", "ULTRAEDIT"),
    *("MEMIT-FE", "PMET", "EAMET", "SPHERE", "CORE", "DEFER", "FT-L", "FT-M"),
):
    _sections = "easyedit_personal.hparams.sections:HostParams"
    BASELINES.register_lazy(f"easyedit:{_name}", f"{HOST}.evaluation:{_name.replace('-', '_')}", _sections)
for _name in ("dataset", "neighbours", "lexicon", "llm"):
    PHRASE_SOURCES.register_lazy(_name, f"easyedit_personal.clustering.sources:from_{_name}")
JUDGES.register_lazy("endpoint", "easyedit_personal.evaluate.judge:EndpointJudge")
JUDGES.register_lazy("local", "easyedit_personal.evaluate.judge_local:LocalJudge")
CLUSTERERS.register_lazy("agglomerative", "easyedit_personal.clustering.cluster:PreferenceClusterer")
ENGINES.register_lazy("serial", "easyedit_personal.engines.serial:SerialEngine")
ENGINES.register_lazy("processes", "easyedit_personal.engines.processes:ProcessesEngine")
ENGINES.register_lazy("ray", "easyedit_personal.integrations.ray:RayEngine")
