"""What a model says of rows of tokens when some down projections change: only the layers above the lowest are run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..generation.shared_prefix import slides
from ..modeling.layout import Layout, get_module
from ..modeling.suffix import Split, Suffix, split_of
from ..modeling.tokens import Encoded, Side, collate
from ..modeling.trace import hidden_of, trace
from .carried import Carried

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
            the prompts before it; a third of the cost. What prompts begin with alike is read once.
        carried: updates that the rows have already, prompts included.
        known: what ``kept`` gave for the same rows; then the model is not run.
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
        carried: Carried | None = None,
        known: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.model, self.layout, self.layers = model, layout, sorted(layers)
        self.carried = carried or Carried()
        side: Side = ("around" if slides(model) else "inside") if from_answers else "right"
        batch = collate(rows, tokenizer, side=side, device=next(model.parameters()).device)
        self.rows, self.columns, self.ids = batch.targets()
        self.start = int(self.columns.min()) if from_answers else 0
        lowest, mine = self.layers[0], self.carried
        split = split or split_of(model, layout, batch, lowest, self.start)  # before any hooks
        with mine.attached(model, layout, self.layers):
            self.suffix = Suffix(
                model,
                layout,
                batch,
                lowest,
                start=self.start,
                split=split,
                set_rows=mine.set_rows,
                owners=mine.owners,
                known=known,
            )
        self.last_index = self._first_columns()

    def _first_columns(self) -> Tensor:
        """The column of each row's last prompt token, [n]."""
        return self.columns[self.rows.diff(prepend=self.rows.new_tensor([-1])) > 0]

    def kept(self) -> dict[str, Tensor]:
        """What to keep of the pass, see ``Suffix.kept``."""
        return self.suffix.kept()

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
        part.suffix, part.carried = self.suffix.select(numbers), self.carried.select(numbers)
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
        with self._changed(changes or {}) as output:
            return self.suffix.logits(output, at=at or (self.rows, self.columns), words=words)

    def logits_by_part(
        self,
        changes: Mapping[int, Change],
        at: tuple[Tensor, Tensor],
        counts: Sequence[int],
        words: Sequence[Tensor],
    ) -> list[Tensor]:
        """Logits ``at`` (rows, columns), of the words ``words[0]`` at the first ``counts[0]`` places, and so on."""
        with self._changed(changes) as output:
            return self.suffix.logits_by_part(output, at, counts, words)

    @contextmanager
    def _changed(self, changes: Mapping[int, Change]) -> Iterator[Tensor]:
        """The lowest layer's output; inside the block the layers above it are changed by hooks."""
        above, lowest = self.layers[1:], self.layers[0]
        self.carried.set_rows(range(len(self.last_index)))
        with self.carried.attached(self.model, self.layout, above), ExitStack() as hooks:
            for layer in above if changes else ():
                module = get_module(self.model, self.layout.rewrite_path(layer))
                hooks.enter_context(_adding(module, changes[layer]))
            output = self.suffix.base_output
            yield output.float() + changes[lowest](self.suffix.keys.float()) if changes else output

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
            self.carried.set_rows(range(len(self.last_index)))
            hooks = self.carried.attached(self.model, self.layout, self.layers)
            with hooks, torch.no_grad(), trace(self.model, list(paths.values())) as calls:
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
