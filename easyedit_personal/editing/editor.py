"""PersonalizationEditor: EasyEdit's ``BaseEditor`` calls and return values, without needing EasyEdit.

One difference is deliberate: EasyEdit hands back restored weights (its issues #465, #627, #187). Here the returned
model answers with the edits while ``editor.model`` stays as it was; the two share all unedited weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import RequestError, did_you_mean
from ..hparams import PersonalizationHyperParams
from ..kernels.apply import Saved, apply_deltas, edited_copy, in_weights, parameter_name, twin_of
from ..modeling.layout import find_layout, get_module, weight_of
from ..modeling.loading import load_model
from ..progress import log, progress
from ..settings.ignored import warn_of_ignored
from ..settings.resolve import settings_named
from ..types import EditResult, WeightDelta
from .algorithm import personalize
from .metrics import finish_locality, measure
from .requests import Request, check_requests, prepare_requests

Metrics = list[dict[str, Any]]
EditReturn = tuple[Metrics, nn.Module, dict[str, Tensor]]

# What our calls understand, and what EasyEdit's callers pass that means nothing here.
UNDERSTOOD = {"subject", "user", "cluster"}
HOST_ONLY = {
    "keep_original_weight",
    "test_generation",
    "eval_metric",
    "train_ds",
    "pre_file",
    "pre_edit",
    "metric_kwargs",
}


class PersonalizationEditor:
    """Edits a model's preferences in and measures what they did.

    Attributes:
        model: the base model; bit for bit as loaded, except after ``sequential_edit=True``.
        tok: its tokenizer.
        hparams: the settings.
        results: one ``EditResult`` per case of the last call: the factors, to store, export or apply again.

    Raises:
        ModelError: the model cannot be loaded, has no editable projection, or not the layers in ``hparams``.
    """

    def __init__(self, hparams: PersonalizationHyperParams) -> None:
        self.hparams = hparams
        warn_of_ignored(hparams)
        self.model, self.tok = load_model(hparams)
        self._clean: nn.Module | None = None  # the model before the first edit that stayed in it
        layout = find_layout(self.model, hparams)
        for layer in hparams.layers:
            layout.check_layer(layer)
        self.results: list[EditResult] = []

    @classmethod
    def from_hparams(cls, hparams: PersonalizationHyperParams | str | Path) -> PersonalizationEditor:
        """An editor from settings, a YAML file, a known model's name, or a model's folder, GGUF file or hub id.

        Raises:
            ConfigError: no such file, faults in it, or it was made for another model.
            ModelError: the model cannot be loaded.
        """
        return cls(settings_named(hparams))

    def edit(
        self,
        prompts: str | Sequence[str],
        target_new: str | Sequence[str],
        ground_truth: str | Sequence[str] | None = None,
        rephrase_prompts: str | Sequence[str] | None = None,
        locality_inputs: Mapping[str, Any] | None = None,
        portability_inputs: Mapping[str, Any] | None = None,
        sequential_edit: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> EditReturn:
        """Edit case after case, each from the clean base model unless ``sequential_edit``.

        Args:
            prompts, target_new: one string each, or n of them.
            ground_truth, rephrase_prompts: n strings, for the metrics.
            locality_inputs, portability_inputs: ``{name: {"prompt": [n], "ground_truth": [n]}}``, for the metrics.
            sequential_edit: keep every edit in ``self.model`` and go on from there.
            verbose: log each case's figures.
            kwargs: ``subject`` (n strings that stand in their prompts), ``user`` (one or n names), ``cluster``
                (n lists of further phrases ``{"prompt": ..., "subject": ...}``).

        Returns:
            ``(metrics, edited_model, weights_copy)``. The model carries the edits of all cases, or of the last
            user's cases where ``user`` names several. ``weights_copy`` holds the original of every changed weight.

        Raises:
            RequestError: some requests are faulty; all of them are named and nothing was edited.
        """
        requests = self._prepare(
            prompts, target_new, ground_truth, rephrase_prompts, locality_inputs, portability_inputs, kwargs
        )
        return self.edit_requests(requests, sequential_edit=sequential_edit, verbose=verbose)

    def batch_edit(
        self,
        prompts: Sequence[str],
        target_new: Sequence[str],
        ground_truth: Sequence[str] | None = None,
        rephrase_prompts: Sequence[str] | None = None,
        locality_inputs: Mapping[str, Any] | None = None,
        portability_inputs: Mapping[str, Any] | None = None,
        sequential_edit: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> EditReturn:
        """As ``edit``, but all cases are solved together: one user's many preferences.

        ``hparams.batch_size`` above 1 cuts them into batches of that size, each from the clean base model unless
        ``sequential_edit``; the returned model carries all of them.
        """
        requests = self._prepare(
            prompts, target_new, ground_truth, rephrase_prompts, locality_inputs, portability_inputs, kwargs
        )
        size = self.hparams.batch_size if self.hparams.batch_size > 1 else len(requests)
        batches = [requests[i : i + size] for i in range(0, len(requests), size)]
        return self._edit_batches(batches, sequential_edit, verbose)

    def edit_requests(
        self, requests: Sequence[Mapping[str, Any]], sequential_edit: bool = False, verbose: bool = True, **_: Any
    ) -> EditReturn:
        """As ``edit``, from request dictionaries with EasyEdit's keys and ours ("cluster", "user")."""
        return self._edit_batches([[request] for request in check_requests(requests)], sequential_edit, verbose)

    def _prepare(
        self, prompts: Any, target: Any, truth: Any, rephrase: Any, locality: Any, portability: Any, kwargs: Any
    ) -> list[Request]:
        unknown = [key for key in kwargs if key not in UNDERSTOOD | HOST_ONLY]
        if unknown:
            raise RequestError(
                f"edit has no argument {unknown[0]!r}.{did_you_mean(unknown[0], UNDERSTOOD | HOST_ONLY)}",
                needed=f"one of {', '.join(sorted(UNDERSTOOD))}",
            )
        return prepare_requests(
            prompts,
            target,
            ground_truth=truth,
            rephrase_prompts=rephrase,
            locality_inputs=locality,
            portability_inputs=portability,
            **{key: value for key, value in kwargs.items() if key in UNDERSTOOD},
        )

    def _edit_batches(self, batches: list[list[Request]], sequential: bool, verbose: bool) -> EditReturn:
        requests = [request for batch in batches for request in batch]
        metrics = [{"pre": measure(self.model, self.tok, request, self.hparams)} for request in requests]
        originals: Saved = {}
        self.results = []
        for number, batch in enumerate(progress(batches, "Editing", len(batches))):
            result = personalize(self.model, self.tok, batch, self.hparams, clean=self._clean)
            self.results.append(result)
            first = sum(len(earlier) for earlier in batches[:number])
            if sequential:
                if result.health:
                    self._clean = twin_of(self._clean or self.model, [delta.layer for delta in result.deltas])
                originals = {**apply_deltas(self.model, result.deltas), **originals}
                self._measure_batch(metrics, batch, first, result, verbose)
            else:
                with in_weights(self.model, result.deltas):
                    self._measure_batch(metrics, batch, first, result, verbose)
        if sequential:
            return metrics, self.model, originals
        deltas = self._last_users_deltas(batches)
        return metrics, edited_copy(self.model, deltas), self._originals(deltas)

    def _measure_batch(
        self, metrics: Metrics, batch: list[Request], first: int, result: EditResult, verbose: bool
    ) -> None:
        for case, request in enumerate(batch, start=first):
            after = measure(self.model, self.tok, request, self.hparams)
            metrics[case].update(case_id=case, requested_rewrite=request, time=result.seconds, post=after)
            finish_locality(metrics[case])
            if verbose:
                log.info("%d editing: %s -> %s\n%s", case, request["prompt"], request["target_new"], after)

    def _last_users_deltas(self, batches: list[list[Request]]) -> list[WeightDelta]:
        last = batches[-1][-1].get("user")
        pairs = zip(self.results, batches)
        return [delta for result, batch in pairs if batch[-1].get("user") == last for delta in result.deltas]

    def _originals(self, deltas: Sequence[WeightDelta]) -> dict[str, Tensor]:
        weights = [weight_of(get_module(self.model, path)) for path in dict.fromkeys(delta.layer for delta in deltas)]
        return {parameter_name(self.model, weight): weight.detach().clone() for weight in weights}
