"""Hyper-parameters for the host's algorithms: its own YAML files, carried over to the model at hand.

Numbers stay the host's; layers move in proportion to the model's depth, and module paths that the model does not
have are replaced by its own.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from ...errors import HostError
from ...kernels.apply import parameter_name
from ...modeling.families import family_named, known_families
from ...modeling.layout import Layout, find_layout, get_module, weight_of
from ...settings.derive import moved_layers
from .loading import Host

# Folders and files of the host that are named differently, or missing and borrowed from a method of the same shape.
FOLDERS = {"ULTRAEDIT": "UltraEdit", "CORE": "MEMIT"}
TEMPLATES = {
    "rewrite_module_tmp": "rewrite",
    "layer_module_tmp": "layer",
    "mlp_module_tmp": "mlp",
    "attn_module_tmp": "attention",
    "ln_f_module": "final_norm",
    "lm_head_module": "head",
}


def settings_for(host: Host, name: str, model: nn.Module, overrides: Mapping[str, Any] | None = None) -> Any:
    """The host's hyper-parameter object of one algorithm for one model.

    Args:
        host: the imported host.
        name: the algorithm's name in ``ALG_DICT``.
        model: the model to be edited; layers and module paths become its own.
        overrides: keys of the host's YAML with other values.

    Raises:
        HostError: the host has no hyper-parameters for the algorithm, or refuses the result.
    """
    layout = find_layout(model)
    path, depth = yaml_for(host, name, layout.family)
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    config = {**adapted(config, model, layout, depth), **(overrides or {}), "alg_name": name}
    return _parsed(_settings_class(host, name), config, path)


def yaml_for(host: Host, name: str, family: str) -> tuple[Path, int]:
    """The host's file for an algorithm that suits a model family best, and the depth of the model it is for.

    A plain decoder of ``nn.Linear`` layers is treated as a Llama.
    """
    folder = host.location.home / "hparams" / FOLDERS.get(name, name)
    there = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    records = [family_named(family), family_named("llama"), *known_families()]
    wanted = [pair for record in records for pair in record.host_settings]
    for stem, depth in wanted:
        if stem in there:
            return there[stem], depth
    raise HostError(
        f"EasyEdit has no hyper-parameters of {name} for a {family} model.",
        got=", ".join(there) or f"no YAML file in hparams/{folder.name}",
        needed=f"one of {', '.join(dict.fromkeys(stem for stem, _ in wanted))}",
    )


def adapted(config: Mapping[str, Any], model: nn.Module, layout: Layout, depth: int) -> dict[str, Any]:
    """The host's values with this model's layers, paths and device, and a name that misleads none of its guesses."""
    values = dict(config)
    modules = dict(model.named_modules())
    own = own_templates(model, layout)
    for key in TEMPLATES:
        if key in values:
            values[key] = _template(values[key], own[key], modules)
    if "lm_head_module" in values:
        values["lm_head_module"] = own["lm_head_module"]
    if "rewrite_module_tmps" in values:
        values["rewrite_module_tmps"] = [values["rewrite_module_tmp"]]
    if "layers" in values:
        values["layers"] = moved_layers(values["layers"], depth, layout.n_layers)
    if "inner_params" in values:
        paths = [_inner_path(path, depth, layout, modules) for path in values["inner_params"]]
        values["inner_params"] = list(dict.fromkeys(paths))
    if "target_modules" in values:
        values["target_modules"] = _targets(values["target_modules"], layout, modules)
    if "v_loss_layer" in values:
        values["v_loss_layer"] = layout.n_layers - 1
    values |= {"model_name": family_named(layout.family).host_name, "model_parallel": False}
    values["device"] = str(next(model.parameters()).device)
    # fp16 and half would convert the caller's model; prompts come rendered, not to be rendered again.
    values |= {key: False for key in ("fp16", "half", "use_chat_template") if key in values}
    values |= {key: "llama" for key in ("tokenizer_name",) if key in values}
    return values


def own_templates(model: nn.Module, layout: Layout) -> dict[str, str]:
    """The model's own module paths under the host's keys.

    The host looks the head's weight up among the named parameters, where tied weights stand once, under the
    embedding's name.
    """
    values = {theirs: getattr(layout, ours) for theirs, ours in TEMPLATES.items()}
    head = parameter_name(model, weight_of(get_module(model, layout.head)))
    return {**values, "lm_head_module": head.removesuffix(".weight")}


def _template(theirs: str, ours: str, modules: Mapping[str, Any]) -> str:
    suffix = ".weight" if theirs.endswith(".weight") else ""
    known = theirs.removesuffix(".weight").replace("{}", "0") in modules
    return theirs if known else ours + suffix


def _inner_path(path: str, depth: int, layout: Layout, modules: Mapping[str, Any]) -> str:
    """A path such as "model.layers[27].mlp.down_proj.weight", with brackets or dots, for this model."""
    suffix = ".weight" if path.endswith(".weight") else ""
    number = re.search(r"[\[.](\d+)[\].]", path)
    if number is None:
        raise HostError(f"EasyEdit's YAML names a parameter without a layer number: {path!r}.")
    layer = moved_layers([int(number.group(1))], depth, layout.n_layers)[0]
    inside = path[number.end() :].removesuffix(".weight").lstrip(".")
    found = f"{layout.layer.replace('{}', str(layer))}.{inside}"
    found = found if found in modules else layout.rewrite_path(layer)
    if "[" in path:  # GRACE and WISE evaluate the path as python
        found = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", found)
    return found + suffix


def _targets(names: list[str], layout: Layout, modules: Mapping[str, Any]) -> list[str]:
    leaves = {path.rpartition(".")[2] for path in modules}
    return [name for name in names if name in leaves] or [layout.rewrite.rpartition(".")[2]]


def _settings_class(host: Host, name: str) -> Any:
    base = host.module("util.hparams").HyperParams
    function = host.module("util.alg_dict").ALG_DICT[name]
    package = host.module(function.__module__.removeprefix("easyeditor.").rpartition(".")[0])
    for item in vars(package).values():
        if isinstance(item, type) and issubclass(item, base) and "Multimodal" not in item.__name__:
            return item
    raise HostError(f"EasyEdit's {name} has no class of hyper-parameters in {package.__name__}.")


def _parsed(settings: Any, config: Mapping[str, Any], path: Path) -> Any:
    with tempfile.TemporaryDirectory(prefix="easyedit-") as folder:
        changed = Path(folder) / path.name
        changed.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        try:
            return settings.from_hparams(str(changed))
        except (TypeError, KeyError, AssertionError, ValueError) as error:
            raise HostError(
                f"EasyEdit does not accept these hyper-parameters of {config['alg_name']}: {error}",
                got=str(path),
                cause="another version of EasyEdit, or a wrong key among the overrides",
            ) from error
