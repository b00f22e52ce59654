"""What a model says of rows of tokens when some down projections change: only the layers above the lowest are run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..generation.shared_prefix import shared_length
from ..modeling.layout import Layout, get_module
from ..modeling.suffix import Split, Suffix
from ..modeling.tokens import Encoded, collate
from ..modeling.trace import hidden_of, trace

Change = Callable[[Tensor], Tensor]  # keys [..., d_mlp] -> what is added to the projection's output [..., d_model]


class EditedRows:
    """Rows of tokens, and the logits at their target positions when the down projections of some layers change.

    Args:
        model: frozen and in evaluation mode.
        layout: its layout.
        rows: prompts with targets.
        layers: the edited layers; those below the lowest are run once.
        split: how the model is cut, from other rows of the same model and layer; found by trial when None.
        from_answers: run nothing before the first column that predicts a target. Exact where the change vanishes on
            the prompts before it; a third of the cost. What all prompts begin with is read once.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        layout: Layout,
        rows: Sequence[Encoded],
        layers: Sequence[int],
        split: Split | None = None,
        *,
        from_answers: bool = False,
    ) -> None:
        self.model, self.layout, self.layers = model, layout, sorted(layers)
        side: Literal["left", "right"] = "left" if from_answers else "right"
        shared = shared_length(model, [replace(row, target_ids=()) for row in rows]) if from_answers else 0
        batch = collate(rows, tokenizer, side=side, device=next(model.parameters()).device, shared=shared)
        self.rows, self.columns, self.ids = batch.targets()
        self.start = int(self.columns.min()) if from_answers else 0
        self.suffix = Suffix(model, layout, batch, self.layers[0], start=self.start, split=split, shared=shared)
        self.last_index = self._first_columns()

    def _first_columns(self) -> Tensor:
        """The column of each row's last prompt token, [n]."""
        return self.columns[self.rows.diff(prepend=self.rows.new_tensor([-1])) > 0]

    def detached(self) -> EditedRows:
        """The same without their model, to be kept for ``on``, see ``Suffix.detached``."""
        other = copy.copy(self)
        other.suffix = self.suffix.detached()
        del other.model
        return other

    def on(self, model: nn.Module) -> EditedRows:
        """The same on a model with the same weights."""
        other = copy.copy(self)
        other.model, other.suffix = model, self.suffix.on(model)
        return other

    def select(self, numbers: Sequence[int]) -> EditedRows:
        """Some of the rows, without another pass."""
        part = copy.copy(self)
        part.suffix = self.suffix.select(numbers)
        part.rows, part.columns, part.ids = part.suffix.batch.targets()
        part.last_index = part._first_columns()
        return part

    def logits(
        self,
        changes: Mapping[int, Change] | None = None,
        at: tuple[Tensor, Tensor] | None = None,
        words: Tensor | None = None,
    ) -> Tensor:
        """[m, vocab], float32: what predicts ``ids``, or what stands ``at`` (rows, columns); of ``words`` if given."""
        at = at or (self.rows, self.columns)
        if not changes:
            return self.suffix.logits(self.suffix.base_output, at=at, words=words)
        with ExitStack() as hooks:
            for layer in self.layers[1:]:
                module = get_module(self.model, self.layout.rewrite_path(layer))
                hooks.enter_context(_adding(module, changes[layer]))
            output = self.suffix.base_output.float() + changes[self.layers[0]](self.suffix.keys.float())
            return self.suffix.logits(output, at=at, words=words)

    def row_means(self, values: Tensor) -> Tensor:
        """Means of ``values`` [m] over each row's target positions, [n]."""
        sums = values.new_zeros(len(self.last_index)).index_add(0, self.rows, values)
        return sums / torch.bincount(self.rows, minlength=len(self.last_index))

    def where_answers_begin(self) -> dict[int, tuple[Tensor, Tensor]]:
        """By edited layer: the projection's keys [n, d_mlp] and outputs [n, d_model] at rows' last prompt tokens."""
        row = torch.arange(len(self.last_index), device=self.last_index.device)
        return self.found_at(row, self.last_index)

    def found_at(self, rows: Tensor, columns: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """By edited layer: the unedited projection's keys [m, d_mlp] and outputs [m, d_model] at m places.

        Those of the layers above the lowest come from one more pass of the unedited model.
        """
        keys, outputs = self.suffix.keys, self.suffix.base_output
        found = {self.layers[0]: (keys[rows, columns - self.start], outputs[rows, columns - self.start])}
        paths = {layer: self.layout.rewrite_path(layer) for layer in self.layers[1:]}
        if paths:
            with torch.no_grad(), trace(self.model, list(paths.values())) as calls:
                self.model(**self.suffix.batch.model_inputs(), use_cache=False)
            shape = self.suffix.batch.input_ids.shape
            for layer, path in paths.items():
                call = calls[path]
                key, output = call.input.reshape(*shape, -1), hidden_of(call.output).reshape(*shape, -1)
                found[layer] = (key[rows, columns], output[rows, columns])
        return {layer: (key.float(), output.float()) for layer, (key, output) in found.items()}


@contextmanager
def _adding(module: nn.Module, change: Change) -> Iterator[None]:
    """Inside the block the module's output is what it was plus ``change(its input)``."""

    def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + change(args[0].float()).to(output.dtype)

    handle = module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
