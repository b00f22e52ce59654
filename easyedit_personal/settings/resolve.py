"""The one way from what somebody names (a model, a YAML file, a kernel, a device) to checked settings.

All commands and ``PersonalizationEditor`` come here, before anything is loaded. A shipped file for the very model wins;
for any other model settings are derived.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConfigError, ModelError, did_you_mean, listing
from ..files import parse_yaml
from ..hparams import PersonalizationHyperParams, find_yaml, shipped_yaml
from ..progress import log
from ..registry import KERNELS
from .derive import derived_text, with_model_name
from .facts import ModelFacts, is_gguf, read_facts, shipped_facts
from .ignored import warn_of_ignored

Settings = PersonalizationHyperParams


def resolve_settings(
    model: Any = None,
    hparams: Settings | str | Path | None = None,
    *,
    kernel: str | None = None,
    device: int | str | None = None,
) -> Settings:
    """Settings that fit their model, as far as that can be known without loading it.

    Args:
        model: a known name, a folder, a GGUF file, a hub id, or a (model, tokenizer) pair; None takes that of
            ``hparams``, else the default.
        hparams: settings, a YAML file or the name of a shipped one; None takes the model's.
        kernel: another kernel than the settings name; their ``per_kernel`` entries for it win.
        device: another device than theirs.

    Raises:
        ConfigError: there is no such file, it has faults, or it was made for another model.
        ModelError: there is no such model or device, or the model's configuration cannot be read.
        RegistryError: there is no such kernel.
    """
    if hparams is None:
        settings, facts = _for_model(Settings.model_fields["model_name"].default if model is None else model)
    else:
        settings = hparams if isinstance(hparams, Settings) else Settings.from_hparams(hparams)
        settings, facts = _with_model(settings, model, hparams)
    _check_layers(settings, facts)
    if device is not None:
        settings = settings.replace(device=_number_or_name(device))
    if kernel is not None:
        settings = settings.with_kernel(kernel if kernel.startswith("easyedit:") else KERNELS.check(kernel))
    _check_device(settings.device)
    warn_of_ignored(settings)
    if note := origin(settings):
        log.info(note)
    return settings


def settings_named(name: Any) -> Settings:
    """As ``resolve_settings``, from settings or from one name that may be a YAML file's or a model's."""
    if isinstance(name, Settings):
        return resolve_settings(hparams=name)
    is_pair, text = isinstance(name, (tuple, list)), str(name)
    if is_pair or is_gguf(text) or Path(text).expanduser().is_dir() or _is_hub_id(text):
        return resolve_settings(model=name)
    return resolve_settings(hparams=name)


def settings_text(name: str) -> str:
    """The settings of a model as a YAML file with comments: the shipped file, or what is derived.

    Raises:
        ModelError: there is no such model, or its configuration cannot be read.
    """
    return _text_for(name)[0]


def origin(settings: Settings) -> str | None:
    """One line about settings that were not measured on their model; None where they were, or where nobody knows."""
    made = settings.made_for
    if made.status == "derived":
        known = f"{made.family}, {made.n_layers} layers"
        return f"Settings derived from {made.source} for {_name(settings)} ({known}); not measured on this model."
    if made.status == "trial":
        return f"Settings for {_name(settings)} come from first trials and were not measured yet."
    return None


def _for_model(model: Any) -> tuple[Settings, ModelFacts | None]:
    """The shipped settings for this very model, else derived ones."""
    if isinstance(model, (tuple, list)):
        facts = _facts(model)
        text = derived_text(type(model[0]).__name__, facts)
        return Settings(**parse_yaml(text)).replace(model_name=model), facts
    text, known = _text_for(str(model))
    return Settings(**parse_yaml(text)), known


def _text_for(name: str) -> tuple[str, ModelFacts | None]:
    stem = _shipped_for(name)
    if stem is None:
        facts: ModelFacts | None = (read := _facts(name))
        stem = _shipped_twin(name, read)
        if stem is None:
            return derived_text(name, read), read
    else:
        facts = shipped_facts(stem)
    text = shipped_yaml()[stem].read_text(encoding="utf-8")
    return text if name == stem else with_model_name(text, name), facts


def _shipped_for(name: str) -> str | None:
    """The shipped settings of a known name, or of the hub id that they name."""
    shipped = shipped_yaml()
    if name in shipped:
        return name
    return next((stem for stem in shipped if Settings.from_hparams(stem).model_name == name), None)


def _shipped_twin(name: str, facts: ModelFacts) -> str | None:
    """The shipped settings of a model that lies in a folder called like its hub id, and has the same facts."""
    for stem in shipped_yaml():
        model_name = str(Settings.from_hparams(stem).model_name)
        if _same_name(name, model_name) and shipped_facts(stem) == facts:
            return stem
    return None


def _facts(model: Any) -> ModelFacts:
    try:
        facts = read_facts(model)
    except ModelError as error:
        if isinstance(model, (tuple, list)):
            raise
        hint = did_you_mean(str(model), shipped_yaml())
        raise ModelError(f"{error.what}{hint}", got=error.got, needed=error.needed, cause=error.cause) from error
    if facts is None:
        raise ModelError(f"Nothing is known about the model {model!r}.", needed="shipped settings with made_for")
    return facts


def _with_model(settings: Settings, model: Any, source: Any) -> tuple[Settings, ModelFacts | None]:
    """The settings of ``source`` for another model than theirs, if they may serve it."""
    if model is None:
        return settings, read_facts(settings.model_name, download=False)
    own = settings.model_name if "model_name" in settings.model_fields_set and isinstance(source, (str, Path)) else None
    made, given = settings.made_for, model
    if isinstance(model, str) and model in shipped_yaml():
        given = Settings.from_hparams(model).model_name
    vouched = made.family is not None and made.n_layers is not None
    if own is not None and not vouched and not _same_name(str(own), str(given)):
        raise _not_for(model, [f"they name the model {own!r}"])
    facts = read_facts(model)
    faults = []
    if facts and made.family not in (None, facts.family):
        faults.append(f"they were made for the family {made.family}, this model is a {facts.family}")
    if facts and made.n_layers not in (None, facts.n_layers):
        faults.append(f"they were made for {made.n_layers} layers, this model has {facts.n_layers}")
    if faults:
        raise _not_for(model, faults)
    return settings.replace(model_name=given), facts


def _check_layers(settings: Settings, facts: ModelFacts | None) -> None:
    """Layers of all kernels against the model's depth."""
    if facts is None:
        return
    asked = {"layers": settings.layers}
    asked |= {f"per_kernel.{name}.layers": some.get("layers", []) for name, some in settings.per_kernel.items()}
    faults = [
        f"{key}: layer {layer}, but the model's last is {facts.n_layers - 1}"
        for key, layers in asked.items()
        for layer in layers
        if layer >= facts.n_layers
    ]
    if faults:
        raise _not_for(_name(settings), faults)


def _not_for(model: Any, faults: list[str]) -> ConfigError:
    name = model if isinstance(model, str) else type(model[0]).__name__
    return ConfigError(
        f"The settings are not for the model {name!r}:\n{listing(faults)}",
        cause="a file that was made for another model",
        remedy=f"leave --hparams out, or let `easyedit-personal models settings {name} > my.yaml` derive a file",
    )


def _same_name(one: str, other: str) -> bool:
    """Whether two names of models, folders or hub ids, end alike."""
    return Path(one).name.casefold() == Path(other).name.casefold()


def _is_hub_id(text: str) -> bool:
    if text.count("/") != 1 or text.endswith((".yaml", ".yml")) or text.startswith((".", "/", "~")):
        return False
    try:
        find_yaml(text)
    except ConfigError:
        return True
    return False


def _number_or_name(device: int | str) -> int | str:
    """EasyEdit's numbers are CUDA devices, also when they come as text from a command line."""
    return int(device) if isinstance(device, str) and device.isdecimal() else device


def _check_device(device: int | str) -> None:
    if device == "cpu":
        return  # always there; torch need not be imported to know
    from ..modeling.loading import torch_device

    torch_device(device)


def _name(settings: Settings) -> str:
    model = settings.model_name
    return model if isinstance(model, str) else type(model[0]).__name__
