"""What happens when a user gives *our* hyper-parameters to EasyEdit's ``BaseEditor``: checks first, then the host.

The constructor turns such an editor into a subclass of ``BaseEditor``; editors of other algorithms are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from ...editing.requests import check_requests, prepare_requests
from ...errors import RequestError, did_you_mean
from ...hparams import ALG_NAME, PersonalizationHyperParams
from ...modeling.layout import find_layout
from ...modeling.loading import load_model, torch_device
from ...modeling.tokens import uses_chat
from .host_tokenizer import HostTokenizer

# What the host's evaluation reads from every request.
HOST_KEYS: Mapping[str, Any] = {"ground_truth": None, "locality": {}, "portability": {}}
OURS = ("user", "cluster")


class HostView(PersonalizationHyperParams):
    """Our settings with the attribute by which the host's evaluation learns that prompts are chat turns."""

    use_chat_template: bool = False


def constructor(base: type) -> Callable[..., None]:
    """``BaseEditor.__init__``, which recognises our hyper-parameters."""
    original: Callable[..., None] = vars(base)["__init__"]
    ours = _door(base)

    @wraps(original)
    def __init__(self: Any, hparams: Any) -> None:
        if getattr(hparams, "alg_name", None) != ALG_NAME:
            original(self, hparams)
            return
        model, tokenizer, settings = _opened(hparams)
        original(self, settings.replace(model_name=(model, tokenizer)))
        self.__class__ = ours
        self.hparams = settings
        self.tok = HostTokenizer(tokenizer, chat=True) if settings.use_chat_template else tokenizer
        # The host looks for a family in this text ("t5" means another evaluation), so a path would be a trap.
        self.model_name = find_layout(model, hparams).family

    return __init__


def _opened(hparams: PersonalizationHyperParams) -> tuple[Any, Any, HostView]:
    """Load or take the model; settings in which the device is the model's own.

    Raises:
        ModelError: the model or the device is not there.
    """
    torch_device(hparams.device)
    model, tokenizer = load_model(hparams)
    find_layout(model, hparams)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # the host pads every batch it evaluates
    values = hparams.values()
    values |= {"device": str(next(model.parameters()).device), "model_name": type(model).__name__}
    values["use_chat_template"] = uses_chat(tokenizer, hparams.prompt_format)
    return model, tokenizer, HostView(**values)


def _door(base: type) -> type:
    class PersonalBaseEditor(base):
        """EasyEdit's BaseEditor for PersonalizationEditor: refuses bad input before any weight moves."""

        def edit(
            self,
            prompts: str | Sequence[str],
            target_new: str | Sequence[str],
            *args: Any,
            sequential_edit: bool = False,
            verbose: bool = True,
            test_generation: bool = False,
            **kwargs: Any,
        ) -> Any:
            if (requests := kwargs.pop("requests", None)) is None:
                given, kwargs = _split(_named(args, kwargs))
                requests = prepare_requests(prompts, target_new, **given)
            return self.edit_requests(requests, sequential_edit, verbose, test_generation, **kwargs)

        def edit_requests(
            self,
            requests: Sequence[Mapping[str, Any]],
            sequential_edit: bool = False,
            verbose: bool = True,
            test_generation: bool = False,
            **kwargs: Any,
        ) -> Any:
            checked = [{**HOST_KEYS, **request} for request in check_requests(requests)]
            with _one_at_a_time(self):
                return super().edit_requests(checked, sequential_edit, verbose, test_generation, **kwargs)

        def batch_edit(self, prompts: Sequence[str], target_new: Sequence[str], *args: Any, **kwargs: Any) -> Any:
            given, rest = _split(_named(args, kwargs))
            requests = prepare_requests(prompts, target_new, **given)
            with _own_keys(self, requests):
                columns = [[request[key] for request in requests] for key in ("prompt", "target_new")]
                host = {key: _column(value) for key, value in given.items() if key not in OURS and value is not None}
                return super().batch_edit(*columns, **host, **rest)

    return PersonalBaseEditor


# The positional order of BaseEditor.edit and batch_edit after prompts and target_new.
POSITIONS = ("ground_truth", "target_neg", "rephrase_prompts", "locality_inputs", "portability_inputs")
HOST_ARGUMENTS = (
    "sequential_edit",
    "verbose",
    "test_generation",
    "eval_metric",
    "metric_kwargs",
    "pre_edit",
    "pre_file",
    "train_ds",
    "loc_prompts",
)
REQUEST_ARGUMENTS = ("ground_truth", "subject", "rephrase_prompts", "locality_inputs", "portability_inputs", *OURS)


def _named(args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    if len(args) > len(POSITIONS):
        raise RequestError(
            "Too many positional arguments.", got=len(args) + 2, needed="keywords after portability_inputs"
        )
    known = {*POSITIONS, *REQUEST_ARGUMENTS, *HOST_ARGUMENTS}
    unknown = [name for name in kwargs if name not in known]
    if unknown:
        raise RequestError(
            f"EasyEdit's edit knows no argument {unknown[0]!r}.{did_you_mean(unknown[0], known)}",
            needed=f"among {', '.join(sorted(known))}",
            cause="EasyEdit would have ignored it without a word",
        )
    return {**dict(zip(POSITIONS, args)), **kwargs}


def _split(named: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments that describe requests, and the others."""
    given = {key: value for key, value in named.items() if key in REQUEST_ARGUMENTS}
    return given, {key: value for key, value in named.items() if key not in given}


def _column(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


@contextmanager
def _one_at_a_time(editor: Any) -> Iterator[None]:
    """The host's ``edit`` insists on ``batch_size: 1``, though that number only concerns ``batch_edit``."""
    settings = editor.hparams
    editor.hparams = settings.replace(batch_size=1)
    try:
        yield
    finally:
        editor.hparams = settings


@contextmanager
def _own_keys(editor: Any, requests: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """``batch_edit`` builds its requests anew and drops our keys: give them back to the algorithm, in order."""
    apply_algo, waiting = editor.apply_algo, iter(requests)

    @wraps(apply_algo)
    def with_own_keys(model: Any, tok: Any, chunk: Sequence[Mapping[str, Any]], *args: Any, **kwargs: Any) -> Any:
        merged = [{**next(waiting), **request} for request in chunk]
        return apply_algo(model, tok, merged, *args, **kwargs)

    editor.apply_algo = with_own_keys
    try:
        yield
    finally:
        editor.apply_algo = apply_algo
