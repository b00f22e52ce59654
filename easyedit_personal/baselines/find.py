"""From a name on the command line to a method: a baseline, one of our kernels, or one of EasyEdit's editors."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from .. import DEFAULT_MODEL
from ..errors import RegistryError, did_you_mean
from ..hparams import PersonalizationHyperParams
from ..registry import BASELINES, KERNELS
from .base import Method
from .kernel import KernelMethod

FINETUNING = {"ft_m": "target_new", "ft_l": "prompt_last"}
STRATEGIES = ("joint", "sequential")


def method_names() -> list[str]:
    """Every name that ``find_method`` knows."""
    return sorted({*BASELINES.names(), *KERNELS.names(), *FINETUNING})


def check_method(name: str) -> str:
    """Return ``name`` if there is such a method, without loading anything.

    Raises:
        RegistryError: there is none; the message names the nearest.
    """
    base, _, strategy = name.partition("@")
    if strategy and strategy not in STRATEGIES:
        raise RegistryError(f"There is no strategy {strategy!r}.", needed=f"one of {', '.join(STRATEGIES)}")
    if base in method_names() and not (strategy and base in BASELINES):
        return name
    raise RegistryError(
        f"There is no method named {name!r}.{did_you_mean(base, method_names())}",
        needed=f"one of {', '.join(method_names())}; kernels also as NAME@sequential",
    )


def find_method(name: str, hparams: PersonalizationHyperParams | None = None) -> Method:
    """The method of that name.

    Args:
        name: a baseline, a kernel, "ft_m" or "ft_l"; "rome@sequential" edits phrase after phrase.
        hparams: settings of the kernels; None takes the shipped file of the default model.

    Raises:
        RegistryError: there is none.
    """
    base, _, strategy = check_method(name).partition("@")
    settings = hparams or default_settings()
    if base in BASELINES:
        return _baseline(base, settings)
    if base in FINETUNING:
        objective = {"objective": FINETUNING[base]}
        settings = settings.with_kernel("finetune")
        settings = settings.replace(finetune=objective)
    else:
        settings = settings.with_kernel(base)
    return KernelMethod(name, settings.replace(strategy=strategy) if strategy else settings)


def find_methods(names: Sequence[str], hparams: PersonalizationHyperParams | None = None) -> list[Method]:
    """One method per name, doubles dropped."""
    return [find_method(name, hparams) for name in dict.fromkeys(names)]


def _baseline(name: str, hparams: PersonalizationHyperParams) -> Method:
    """A baseline with what its constructor asks for: all settings as ``hparams``, its own section as ``settings``."""
    kind = BASELINES.get(name)
    given = {"hparams": hparams, "settings": hparams.settings_of(BASELINES, name)}
    method = kind(**{key: given[key] for key in inspect.signature(kind).parameters if key in given})
    method.name = name
    return method


def default_settings() -> PersonalizationHyperParams:
    """The shipped settings of the default model; the schema's own where there is no such file."""
    from ..errors import ConfigError

    try:
        return PersonalizationHyperParams.from_hparams(DEFAULT_MODEL)
    except ConfigError:
        return PersonalizationHyperParams()
