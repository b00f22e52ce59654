"""Where things are in a decoder: layers, MLP down projections, final norm, head; and the model's fingerprint.

Everything is found from module types and names, never from shapes: a square weight's orientation cannot be
guessed from its shape.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..errors import ModelError
from ..registry import FAMILIES, did_you_mean
from .catalog import model_label
from .families import Family, family_of, known_families


@dataclass(frozen=True, slots=True)
class Layout:
    """Module paths of one model; templates hold ``{}`` where the layer's number goes.

    Attributes:
        name: what to call the model in messages (``catalog.model_label``).
        family: ``config.model_type``, e.g. "llama".
        layer: template of a decoder layer, e.g. "model.layers.{}".
        rewrite: template of the MLP's down projection, the matrix that is edited.
        mlp: template of the module that holds it (a layer itself where the MLP has no module of its own).
        attention: template of the attention module.
        final_norm: path of the last norm, "" when the model has none.
        post_norm: see ``Family``; "" when the layers have none.
        head: path of the module that makes logits.
        n_layers: number of decoder layers.
        d_model: width of the residual stream (d_out of the down projection).
        d_mlp: width inside the MLP (d_in of the down projection).
    """

    name: str
    family: str
    layer: str
    rewrite: str
    mlp: str
    attention: str
    final_norm: str
    post_norm: str
    head: str
    n_layers: int
    d_model: int
    d_mlp: int

    def rewrite_path(self, layer: int) -> str:
        """Path of layer ``layer``'s down projection.

        Raises:
            ModelError: the model has no such layer.
        """
        return self.rewrite.replace("{}", str(self.check_layer(layer)))

    def layer_path(self, layer: int) -> str:
        """Path of decoder layer ``layer``."""
        return self.layer.replace("{}", str(self.check_layer(layer)))

    def check_layer(self, layer: int) -> int:
        """Return ``layer`` if the model has it, else raise."""
        if not 0 <= layer < self.n_layers:
            raise ModelError(
                f"The model {self.name} ({self.family}) has no layer {layer}.",
                needed=f"a layer from 0 to {self.n_layers - 1}",
                cause="the YAML file was written for a deeper model",
                remedy="set `layers:` to a layer of this model",
            )
        return layer


def find_layout(model: nn.Module, hparams: Any = None) -> Layout:
    """Find the layout of a decoder-only model.

    Args:
        model: a Hugging Face causal language model, possibly inside of PEFT's; of what DDP or ``torch.compile``
            make of it, the model inside (``wrappers.unwrapped``).
        hparams: module templates set there (``rewrite_module_tmp``, ...) win over what is found.

    Raises:
        ModelError: no stack of decoder layers with an MLP down projection; or a template names no module.
    """
    families = [family_of(model)]
    if families[0].name not in FAMILIES or _stack(model, families) is None:
        families += known_families()
    stack, path = _stack(model, families) or _no_stack(model, families)
    first = stack[0]
    down = _first_there(first, [family.down for family in families])
    attention = _first_there(first, [family.attention for family in families])
    layer = f"{path}.{{}}"
    found = {
        "layer": layer,
        "rewrite": f"{layer}.{down}",
        "mlp": f"{layer}.{down.rpartition('.')[0]}".rstrip("."),
        "attention": f"{layer}.{attention}".rstrip("."),
        "final_norm": _final_norm(model, path, families),
        "head": _head(model),
    }
    found.update(_overrides(hparams))
    _check_templates(model, found, len(stack))
    d_out, d_in = matrix_shape(get_module(model, found["rewrite"].replace("{}", "0")), found["rewrite"])
    post_norm = _first_there(first, [family.post_norm for family in families])
    found |= {"name": model_label(model), "family": families[0].name, "post_norm": post_norm}
    return Layout(n_layers=len(stack), d_model=d_out, d_mlp=d_in, **found)


def get_module(model: nn.Module, path: str) -> nn.Module:
    """The module at ``path``.

    Raises:
        ModelError: there is none; the message names the nearest existing path.
    """
    try:
        return model.get_submodule(path)
    except AttributeError:
        hint = did_you_mean(path, [name for name, _ in model.named_modules()])
        raise ModelError(f"The model {model_label(model)} has no module {path!r}.{hint}") from None


def is_transposed(module: nn.Module, path: str = "") -> bool:
    """Whether the module keeps its weight as [d_in, d_out] (GPT-2's Conv1D) instead of nn.Linear's [d_out, d_in].

    Raises:
        ModelError: the module is neither, for example a quantised linear layer.
    """
    base = getattr(module, "base_layer", module)  # PEFT wraps a linear layer and keeps it here
    if isinstance(base, Conv1D):
        return True
    if isinstance(base, nn.Linear) and base.weight.is_floating_point():
        return False
    raise ModelError(
        f"{path or 'The module'} cannot be edited in place.",
        got=type(base).__name__,
        needed="a floating-point nn.Linear or transformers' Conv1D",
        cause="the base model is quantised, or the path names another kind of module",
        remedy="load the model unquantised, or serve the factors as a LoRA adapter on the quantised model",
    )


def weight_of(module: nn.Module) -> nn.Parameter:
    """The weight that is edited, also where PEFT wraps the layer."""
    return getattr(module, "base_layer", module).weight  # type: ignore[return-value]


def matrix_shape(module: nn.Module, path: str = "") -> tuple[int, int]:
    """(d_out, d_in) of a projection in nn.Linear orientation."""
    rows, cols = weight_of(module).shape if not is_transposed(module, path) else weight_of(module).shape[::-1]
    return int(rows), int(cols)


def linear_weight(module: nn.Module, path: str = "") -> Tensor:
    """The weight as a view in nn.Linear orientation [d_out, d_in], detached."""
    weight = weight_of(module).detach()
    return weight.T if is_transposed(module, path) else weight


def input_device(model: nn.Module) -> torch.device:
    """Where token ids have to be: the device of the input embeddings (a model may be spread over several)."""
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    return next((embeddings or model).parameters()).device


def context_limit(model: nn.Module) -> int | None:
    """The model's context in tokens, or None where its configuration does not say."""
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config  # of models that also see
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)


@torch.no_grad()
def fingerprint(model: nn.Module, samples: int = 256, *, without: Collection[str] = ()) -> str:
    """A short digest of architecture and weights; equal for equal models, different after any edit.

    Hashes the configuration and, of every parameter, its name, shape, type and ``samples`` evenly spaced values:
    cheap for a model of any size, where hashing all bytes of 8 B parameters would take minutes. A low-rank edit
    moves every entry of a matrix, so samples see it.

    Args:
        without: paths of modules whose parameters do not count, for example matrices that are going to be edited.
    """
    digest = hashlib.sha256(json.dumps(_config(model), sort_keys=True, default=str).encode())
    for name, parameter in model.named_parameters():
        if any(name.startswith(f"{path}.") for path in without):
            continue
        flat = parameter.reshape(-1)
        step = max(1, flat.numel() // samples)
        values = flat[::step].to("cpu", torch.float32)
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode() + values.numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def weights_digest(model: nn.Module) -> str:
    """SHA-256 over every byte of every parameter and buffer: equal only if the weights are bit for bit the same."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(name.encode() + raw.numpy().tobytes())
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A short digest of vocabulary and chat template: factors are only valid with the tokenizer they were made for."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    text = json.dumps([vocabulary, tokenizer.chat_template or ""])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _config(model: nn.Module) -> dict[str, Any]:
    config: Any = getattr(model, "config", None)
    values: dict[str, Any] = config.to_dict() if hasattr(config, "to_dict") else {"class": type(model).__name__}
    return {key: value for key, value in values.items() if key not in ("_name_or_path", "transformers_version")}


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _first_there(module: nn.Module, paths: Iterable[str]) -> str:
    """The first of some paths that exists inside a module, or ""."""
    return next((path for path in paths if path and _has(module, path)), "")


def _stack(model: nn.Module, families: Sequence[Family]) -> tuple[nn.ModuleList, str] | None:
    """The decoder layers, and their path."""
    downs = list(dict.fromkeys(family.down for family in families))
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) > 0 and _first_there(module[0], downs):
            return module, path
    return None


def _no_stack(model: nn.Module, families: Sequence[Family]) -> NoReturn:
    downs = list(dict.fromkeys(family.down for family in families))
    raise ModelError(
        f"No stack of decoder layers with an MLP down projection was found in the model {model_label(model)}.",
        got=type(model).__name__,
        needed=f"layers that hold one of {', '.join(downs)}",
        cause="an encoder, a mixture of experts, or an architecture that is not supported yet",
        remedy="register a Family with the architecture's module names, or set rewrite_module_tmp and its siblings",
    )


def _final_norm(model: nn.Module, stack_path: str, families: Sequence[Family]) -> str:
    parent = stack_path.rpartition(".")[0]
    prefix = f"{parent}." if parent else ""
    return _first_there(model, [prefix + family.final_norm for family in families])


def _head(model: nn.Module) -> str:
    get_head = getattr(model, "get_output_embeddings", None)
    head = get_head() if get_head else None
    return next((path for path, module in model.named_modules() if module is head), "lm_head")


_TEMPLATE_KEYS = {
    "layer": "layer_module_tmp",
    "rewrite": "rewrite_module_tmp",
    "mlp": "mlp_module_tmp",
    "attention": "attn_module_tmp",
    "final_norm": "ln_f_module",
    "head": "lm_head_module",
}


def _overrides(hparams: Any) -> dict[str, str]:
    values = {ours: getattr(hparams, theirs, None) for ours, theirs in _TEMPLATE_KEYS.items()}
    return {key: value for key, value in values.items() if value}


def _check_templates(model: nn.Module, found: dict[str, str], n_layers: int) -> None:
    for path in _paths(found.values(), n_layers):
        if path:
            get_module(model, path)


def _paths(templates: Iterable[str], n_layers: int) -> list[str]:
    return [template.replace("{}", str(number)) for template in templates for number in {0, n_layers - 1}]
