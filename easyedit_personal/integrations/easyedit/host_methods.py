"""EasyEdit's editors as methods of our evaluation: edit for one user, look, and nothing is left behind.

``with host_method("ROME")(model, tokenizer, requests) as edited:`` runs the host's own function with its own
hyper-parameters on the prompts and answers that our kernels get.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import HostError, MissingDependencyError, PersonalizationError
from ...hparams import PersonalizationHyperParams
from ...modeling.tokens import uses_chat
from ...types import EditRequest
from .availability import usable_editors
from .host_hparams import settings_for
from .host_inputs import provided
from .host_requests import host_requests
from .host_tokenizer import HostTokenizer, spare_padding
from .isolation import in_private, untouched
from .loading import Host, load_host

PREFIX = "easyedit:"
# What papers call by names of their own: one of the host's algorithms with other settings.
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "FT-L": ("FT", {"objective_optimization": "prompt_last"}),
    "FT-M": ("FT", {"objective_optimization": "target_new"}),
}
READ = ("prompt", "target_new", "loc_prompt")  # the texts of a request that the host's code tokenizes


def host_method_names(host: Host | None = None) -> list[str]:
    """What can edit a text model from prompts and targets alone, with what is installed; variants last."""
    names = [status.name for status in usable_editors(host) if status.ok]
    return [*names, *(variant for variant, (algorithm, _) in VARIANTS.items() if algorithm in names)]


def host_method(name: str, overrides: Mapping[str, Any] | None = None) -> HostMethod:
    """One of the host's editors by its name in ``ALG_DICT`` or in ``VARIANTS``, with or without "easyedit:" before it.

    Args:
        name: "ROME", "easyedit:R-ROME", "FT-M", ...; upper and lower case do not matter.
        overrides: keys of the host's YAML file with other values.

    Raises:
        HostError: EasyEdit is not there, or has no such algorithm.
        MissingDependencyError: the algorithm needs something that is not there; the message says what.
    """
    host = load_host()
    wanted = name.removeprefix(PREFIX).casefold()
    variants = {variant.casefold(): meant for variant, meant in VARIANTS.items()}
    algorithm, changes = variants.get(wanted, (wanted, {}))
    wanted = algorithm.casefold()
    found = [status for status in usable_editors(host) if status.name.casefold() == wanted]
    if not found:
        known = ", ".join(status.name for status in usable_editors(host))
        raise HostError(f"EasyEdit has no algorithm {name!r}.", needed=f"one of {known}")
    if not found[0].ok:
        raise MissingDependencyError(f"EasyEdit's {found[0].name} cannot run here.", needed=str(found[0]))
    return HostMethod(host, found[0].name, {**changes, **(overrides or {})})


class HostMethod:
    """One of the host's algorithms, called with our requests; see ``host_method``.

    Attributes:
        name: in the host's registry.
        nbytes: size of everything that the last edit changed or added: what would have to be kept for the user.
    """

    def __init__(self, host: Host, name: str, overrides: Mapping[str, Any]) -> None:
        self.host, self.name, self.overrides = host, name, overrides
        self.nbytes = 0

    @contextmanager
    def __call__(
        self,
        model: nn.Module,
        tokenizer: Any,
        requests: Sequence[EditRequest],
        hparams: PersonalizationHyperParams | None = None,
    ) -> Iterator[Any]:
        """Inside the block a model that carries the host's edit; afterwards everything is bit for bit as before.

        Args:
            model, tokenizer: as everywhere; the edited model may be ``model`` itself.
            requests: one user's phrases. What the host can only edit one by one is edited one after another.
            hparams: ours; only ``prompt_format``, ``end_of_turn``, ``seed`` and the statistics' settings are read.

        Raises:
            RequestError: a request cannot be carried out; nothing was touched.
            HostError: the host's code failed; the message holds its reason.
        """
        ours = hparams or PersonalizationHyperParams()
        settings = settings_for(self.host, self.name, model, self.overrides)
        locates = hasattr(settings, "fact_token")
        wanted = host_requests(tokenizer, requests, ours, with_slot=locates)
        with untouched(model, tokenizer) as snapshot, provided(self._package(), model, tokenizer, settings, ours):
            before = tokenizer.padding_side, tokenizer.pad_token
            # As BaseEditor sets it: right for the methods that look a subject's position up, left for the others.
            tokenizer.padding_side = "right" if locates else "left"
            tokenizer.pad_token = spare_padding(tokenizer, [one[part] for one in wanted for part in READ])
            edited = self._edit(model, tokenizer, wanted, settings, ours)
            tokenizer.padding_side, tokenizer.pad_token = before
            self.nbytes = snapshot.changed_bytes(edited)
            yield edited

    def _edit(self, model: nn.Module, tokenizer: Any, wanted: list[dict[str, Any]], settings: Any, ours: Any) -> Any:
        chat = uses_chat(tokenizer, ours.prompt_format)
        reader = HostTokenizer(tokenizer, chat=chat, answers=[request["target_new"] for request in wanted])
        try:
            with in_private(ours.seed):
                result: Any = model
                for chunk in self._chunks(wanted, settings):
                    result, _ = self._function()(
                        model, reader, chunk, settings, copy=False, return_orig_weights=True, keep_original_weight=False
                    )
            return _as_language_model(result, model)
        except PersonalizationError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()
            raise HostError(
                f"EasyEdit's {self.name} failed: {type(error).__name__}: {reason[0] if reason else 'no reason given'}",
                cause="the algorithm does not know this architecture, or its hyper-parameters do not suit it",
            ) from error

    def _chunks(self, wanted: list[dict[str, Any]], settings: Any) -> list[list[dict[str, Any]]]:
        """All requests at once where the host's batch_edit would allow that, else one after another."""
        if self.host.module("editors.batch_editor").BatchEditor.is_batchable_method(self.name):
            if hasattr(settings, "editor_batch_size"):  # ULTRAEDIT leaves out what exceeds its batch
                settings.batch_size = settings.batch_size_once = len(wanted)
            return [wanted]
        settings.sequential_edit = len(wanted) > 1  # without it WISE starts anew with every request
        return [[request] for request in wanted]

    def _function(self) -> Any:
        function = self.host.module("util.alg_dict").ALG_DICT[self.name]
        owner = getattr(function, "__self__", None)
        if owner is None:
            return function
        # A method of one shared object that keeps the first model it saw: take a new object.
        self._executor = getattr(self, "_executor", None) or type(owner)()
        return getattr(self._executor, function.__name__)

    def _package(self) -> str:
        return self.host.module("util.alg_dict").ALG_DICT[self.name].__module__.rpartition(".")[0]


def _as_language_model(result: Any, model: Any) -> Any:
    """What the host returned as something that our evaluation can call and generate with, in evaluation mode."""
    wraps_model = getattr(result, "model", None) is model and not hasattr(result, "generation_config")
    edited = model if wraps_model else result
    for module in edited.modules():
        module.training = False  # .eval() is overridden by some of the host's adapters
        if adapt := ADAPTERS.get(type(module).__name__):
            module.forward = adapt(module)
    model.config.use_cache = True
    return edited


def _grace(adapter: Any) -> Callable[[Tensor], Tensor]:
    """GRACE looks its key up at the last token of a prompt. It remembers that place until somebody resets it, and
    would take every token generated with a cache for a prompt of its own."""

    def forward(hidden: Tensor) -> Tensor:
        if hidden.shape[1] == 1:
            return adapter.layer(hidden)
        adapter.key_id = -1
        return type(adapter).forward(adapter, hidden)

    return forward


def _row_by_row(adapter: Any) -> Callable[[Tensor], Tensor]:
    """WISE decides between its memories once per batch, by the batch's mean, and DEFER takes no batches at all: let
    every row decide for itself."""

    def forward(hidden: Tensor) -> Tensor:
        return torch.cat([type(adapter).forward(adapter, row) for row in hidden.split(1)])

    return forward


ADAPTERS: Mapping[str, Callable[[Any], Callable[[Tensor], Tensor]]] = {
    "GRACEAdapter": _grace,
    "WISEAdapter": _row_by_row,
    "DeferAdaptor": _row_by_row,
}
