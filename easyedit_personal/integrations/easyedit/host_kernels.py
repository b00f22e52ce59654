"""EasyEdit's ``execute_rome`` and ``execute_memit`` as kernels of ours: ``kernel: easyedit:rome``.

Clusters, strategies, store and export work on what they return, since it is factors like any other kernel's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from ...errors import HostError, PersonalizationError
from ...hparams import PersonalizationHyperParams
from ...kernels.apply import in_weights, parameter_name
from ...kernels.base import encode_requests
from ...kernels.key_options import HOST
from ...modeling.families import family_named
from ...modeling.layout import context_limit, find_layout, get_module, weight_of
from ...modeling.tokens import uses_chat
from ...types import EditRequest, WeightDelta
from .host_hparams import own_templates
from .host_inputs import provided
from .host_requests import host_requests
from .host_tokenizer import HostTokenizer
from .isolation import in_private, untouched
from .loading import load_host

Factors = dict[str, tuple[Any, Any]]


def rome(
    model: nn.Module, tokenizer: Any, requests: Sequence[EditRequest], hparams: PersonalizationHyperParams
) -> list[WeightDelta]:
    """The host's ROME, one request after another since it takes no more; each sees the edits before it.

    Its update is u v^T with u [d_in] in the key's direction and v [d_out]; here they are factors in ``nn.Linear``
    orientation, also for the square weights whose orientation the host guesses wrong.

    Raises:
        RequestError: a request cannot be carried out; nothing was computed.
        HostError: EasyEdit is not there, or its code failed.
    """
    encode_requests(tokenizer, requests, _encoding(hparams), context_limit(model))
    deltas: list[WeightDelta] = []
    for request in requests:
        with in_weights(model, deltas), prepared("rome", model, tokenizer, [request], hparams) as execute:
            factors = execute([request])
        deltas += [WeightDelta(_layer(name), v[:, None], u[None]) for name, (u, v) in factors.items()]
    return deltas


def memit(
    model: nn.Module, tokenizer: Any, requests: Sequence[EditRequest], hparams: PersonalizationHyperParams
) -> list[WeightDelta]:
    """The host's MEMIT: all requests in one solve per layer, with second moments from our cache.

    Its factors per layer are adjusted keys [d_in, n] and residuals [d_out, n], n requests.

    Raises:
        RequestError: a request cannot be carried out; nothing was computed.
        HostError: EasyEdit is not there, or its code failed.
    """
    encode_requests(tokenizer, requests, _encoding(hparams), context_limit(model))
    with prepared("memit", model, tokenizer, requests, hparams) as execute:
        factors = execute(requests)
    dtype = next(model.parameters()).dtype
    return [
        WeightDelta(_layer(name), residuals, keys.T.contiguous()).to(dtype)
        for name, (keys, residuals) in factors.items()
    ]


def _encoding(hparams: PersonalizationHyperParams) -> PersonalizationHyperParams:
    """The settings with which prompts are encoded: ours, unless EasyEdit's own way is asked for."""
    return HOST.encoding(hparams) if hparams.host_mode else hparams


@contextmanager
def prepared(
    name: str, model: nn.Module, tokenizer: Any, requests: Sequence[EditRequest], hparams: PersonalizationHyperParams
) -> Iterator[Callable[[Sequence[EditRequest]], Factors]]:
    """Inside the block ``execute(requests)`` is the host's ``execute_rome`` (of one request) or ``execute_memit``.

    Statistics and context sentences are at hand by then, so that a benchmark can time the host's own work; model,
    tokenizer and the host's caches are as before when the block ends.

    Args:
        name: "rome" or "memit".
        requests: all that will be asked for.
    """
    host = load_host()
    hparams = _encoding(hparams)
    module = host.module(f"models.{name}.{name}_main")
    settings = _settings(getattr(module, f"{name.upper()}HyperParams"), name, model, hparams)
    weights = [
        weight_of(get_module(model, find_layout(model, hparams).rewrite_path(layer))) for layer in hparams.layers
    ]
    names = [parameter_name(model, weight) for weight in weights]
    answers = [item["target_new"] for item in host_requests(tokenizer, requests, hparams, with_slot=True)]
    reader = HostTokenizer(tokenizer, chat=uses_chat(tokenizer, hparams.prompt_format), answers=answers)

    def execute(some: Sequence[EditRequest]) -> Factors:
        wanted = host_requests(tokenizer, some, hparams, with_slot=True)
        try:
            with in_private(hparams.seed):
                run = getattr(module, f"execute_{name}")
                return run(model, reader, wanted if name == "memit" else wanted[0], settings)
        except PersonalizationError:
            raise
        except Exception as error:
            raise HostError(f"EasyEdit's execute_{name} failed: {type(error).__name__}: {error}") from error

    with untouched(model, tokenizer, names), provided(f"easyeditor.models.{name}", model, tokenizer, settings, hparams):
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if hparams.context_templates is not None:
            vars(module)["CONTEXT_TEMPLATES_CACHE"] = _templates(hparams.context_templates, nested=name == "memit")
        model.eval()
        yield execute


def _settings(cls: Any, name: str, model: nn.Module, hparams: PersonalizationHyperParams) -> Any:
    """Our settings as the host's object; it has the same names, ours has more."""
    layout = find_layout(model, hparams)
    values: dict[str, Any] = {
        field.name: getattr(hparams, field.name) for field in dataclasses.fields(cls) if hasattr(hparams, field.name)
    }
    values |= own_templates(model, layout)
    values |= {"alg_name": name.upper(), "model_name": family_named(layout.family).host_name, "stats_dir": ""}
    # The host's MEMIT always weighs with second moments.
    values |= {"mom2_adjustment": hparams.mom2_adjustment or name == "memit"}
    values |= {"device": str(next(model.parameters()).device), "fp16": False, "layer_selection": "all"}
    if values["v_loss_layer"] is None:
        values["v_loss_layer"] = layout.n_layers - 1
    known = {field.name for field in dataclasses.fields(cls)}
    return cls(**{key: value for key, value in values.items() if key in known})


def _templates(templates: Sequence[str], *, nested: bool) -> list[Any]:
    """Context templates as ROME keeps them (a list), or as MEMIT does (the bare one, then the others)."""
    others = [template for template in templates if template != "{}"]
    if not nested:
        return ["{}", *others]
    return [["{}"], others] if others else [["{}"]]


def _layer(parameter: str) -> str:
    return parameter.removesuffix(".weight")
