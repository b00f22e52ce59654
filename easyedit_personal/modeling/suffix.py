"""Run only what lies above an edit: one plain forward pass is kept, then logits follow from the edited output alone.

    suffix = Suffix(model, layout, batch, layer, start=0)      # inside ``with frozen(model):``
    suffix.keys                                                # [n, t - start, d_mlp]   input of the down projection
    suffix.base_output                                         # [n, t - start, d_model] its output, bias included
    suffix.logits(output, at=(rows, columns))                  # [m, vocab] or, without ``at``, [n, t - start, vocab]

``output`` has the shape of ``base_output`` and is what the down projection of decoder layer ``layer`` gives after the
edit: ``base_output`` with some rows replaced (ROME), or ``keys @ weight.T + bias`` (a changed weight). Gradients flow
to it. ``at`` holds column numbers of ``batch`` (``start`` not subtracted), as ``batch.targets()`` gives them.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ..progress import log
from .head import logits_of
from .layer_arguments import Prefix, joined, named_arguments, own, rows_of
from .layout import Layout, get_module
from .read_once import SetRows, forward, read_before
from .tail import Tail
from .tokens import Batch
from .trace import Call, hidden_of, replacing, trace

SLICEABLE_ATTENTION = ("sdpa", "eager")  # these take a rectangular 4-d mask; flash kernels do not


@dataclass(frozen=True, slots=True)
class Split:
    """How a model is cut above an edit, found by trial.

    Attributes:
        mode: "additive", h = residual + y (Llama, Qwen, Mistral, GPT-2, and GPT-J, where attention's output is part
            of the residual); "post_norm", h = residual + norm(y) (Gemma 2 and 3, OLMo 2); "full" when neither is true:
            every call is then a whole forward pass, right but slow.
        prefix: whether the columns before ``start`` are left out.
    """

    mode: Literal["additive", "post_norm", "full"]
    prefix: bool = False


class Suffix:
    """The part of a model above one down projection, for one batch.

    Notation: n rows, t columns, y the down projection's output, h the decoder layer's output.

    How h follows from y depends on the architecture; it is checked on two rows against the model's own forward pass
    with a disturbed y. ``split`` says what was found.

    Columns before ``start`` are not recomputed: nothing that an edit from ``start`` on does can reach them, so layers
    above read their keys and values from the first pass.

    Args:
        model: in evaluation mode and without parameter gradients, see ``kernels.base.frozen``.
        layout: the model's layout.
        batch: the rows, on the model's device.
        layer: number of the decoder layer whose down projection is edited.
        start: first column that changes in any row. Left-padded rows make it large; 0 when every position changes.
        split: take this unchecked, for example that of an earlier Suffix of the same model and layer, see ``split_of``.
        set_rows: called before every pass with the numbers of the rows that it reads. What rows begin with alike is
            read once, so these are not all rows in order.
        owners: by row, where models differ from row to row: only rows of one owner are alike.
        known: what ``kept`` gave for the same rows; then the model is not run.

    Attributes:
        base_output: [n, t - start, d_model], the down projection's output before the edit.
        base_layer: [n, t - start, d_model], the edited decoder layer's output before the edit.
        base_hidden: [n, t - start, d_model], the last decoder layer's.

    Raises:
        ModelError: the model has no such layer.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        batch: Batch,
        layer: int,
        *,
        start: int = 0,
        split: Split | None = None,
        set_rows: SetRows = lambda rows: None,
        owners: Sequence[Hashable] | None = None,
        known: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.model, self.layout, self.batch, self.layer, self.start = model, layout, batch, layer, start
        self.split = split or split_of(model, layout, batch, layer, start)
        self._first = start if self.split.prefix else 0  # first column that layers above compute
        if known:
            self._recall(known)
        else:
            self._capture(set_rows, owners or [None] * len(batch.input_ids))

    def _capture(self, set_rows: SetRows, owners: Sequence[Hashable]) -> None:
        """Plain forward passes; keeps y, the keys, and what each layer above was called with in the last one."""
        n = len(self.batch.input_ids)
        last = self.layout.layer_path(self.layout.n_layers - 1)
        behind: Iterator[tuple[list[int], DynamicCache | None]] = iter([(list(range(n)), None)])
        if self.split.prefix:
            behind = read_before(self.model, self.batch, self.start, last, set_rows, owners)
        order: list[int] = []
        counts, passes = [], []
        for rows, cache in behind:
            set_rows(rows)
            passes.append(self._pass(self.batch.select(rows), cache))
            counts.append(len(rows))
            order += rows
        seen, place = joined(passes, counts), torch.tensor(order, device=self.batch.input_ids.device).argsort()
        seen = seen if order == sorted(order) else rows_of(seen, place, n)
        output, skipped = seen["output"], self.start - self._first
        self.keys, self.base_output = own(seen["keys"][:, skipped:]), own(output[:, skipped:])
        self.base_layer, self.base_hidden = own(seen["layer"][:, skipped:]), own(seen["hidden"][:, skipped:])
        self._below_start = own(output[:, :skipped])
        self._residual = seen["layer"].float() - self.tail(output).float()
        self._above = list(seen["above"].items())

    def kept(self) -> dict[str, Tensor]:
        """What to keep of the pass, for ``known``; empty where layers above the edited one are run: these want more."""
        if self._above or self.split.mode == "full":
            return {}
        below, residual = self._below_start, self._residual
        return {"keys": self.keys, "output": self.base_output, "below": below, "residual": residual}

    def _recall(self, known: Mapping[str, Tensor]) -> None:
        """As after ``_capture``, from what ``kept`` gave; copied: products of a mapped file are rounded otherwise."""
        device = self.batch.input_ids.device
        self.keys, self.base_output, self._below_start, self._residual = (
            known[name].to(device, copy=True) for name in ("keys", "output", "below", "residual")
        )
        self._above = []
        self.base_layer = self.base_hidden = self._layer_output(self.base_output)[:, self.start - self._first :]

    def _pass(self, batch: Batch, cache: DynamicCache | None) -> dict[str, Any]:
        """What one pass of some rows has seen, from the first column on that is computed."""
        above = [self.layout.layer_path(i) for i in range(self.layer, self.layout.n_layers)]
        down = self.layout.rewrite_path(self.layer)
        prefix = None if cache is None else Prefix.of(cache, range(self.layer + 1, self.layout.n_layers), self.start)
        n, t = batch.input_ids.shape
        with torch.no_grad(), trace(self.model, [down, *above], stop=True) as calls:
            forward(self.model, batch, range(t), self._first, cache)
        return {
            "keys": calls[down].input.reshape(n, t - self._first, -1),
            "output": calls[down].output.reshape(n, t - self._first, -1),
            "layer": calls[above[0]].output,
            "hidden": calls[above[-1]].output,
            "above": {path: self._arguments(path, calls[path], cache, prefix) for path in above[1:]},
        }

    def _arguments(self, path: str, call: Call, cache: DynamicCache | None, prefix: Prefix | None) -> dict[str, Any]:
        """A layer's arguments by name, hidden states left out."""
        named = named_arguments(get_module(self.model, path), call)
        if cache is None:
            return named
        t = self.batch.input_ids.shape[1]
        named = {name: prefix if v is cache else v for name, v in named.items()}
        if named.get("attention_mask", 0) is None:  # "causal" was implied, which holds for squares only
            causal = torch.ones(t, t, dtype=torch.bool, device=call.input.device).tril()
            named["attention_mask"] = causal[None, None, self.start :]
        return named

    @property
    def tail(self) -> Tail:
        """The edited layer's."""
        return Tail.of(self.model, self.layout, self.layer)

    def detached(self) -> Suffix:
        """The same without its model, which is not kept alive for it; ``on`` gives it one with the same weights."""
        other = copy.copy(self)
        del other.model
        return other

    def on(self, model: nn.Module) -> Suffix:
        """The same on a model, see ``detached``."""
        other = copy.copy(self)
        other.model = model
        return other

    def select(self, rows: Sequence[int]) -> Suffix:
        """The same for some of the rows, without another pass; tensors are copied."""
        part, n = copy.copy(self), len(self.base_output)
        index = torch.tensor(list(rows), device=self.base_output.device)
        part.batch = self.batch.select(rows)
        for name in ("keys", "base_output", "base_layer", "base_hidden", "_below_start", "_residual"):
            setattr(part, name, rows_of(getattr(self, name), index, n))
        part._above = [(path, rows_of(arguments, index, n)) for path, arguments in self._above]
        return part

    def logits(self, output: Tensor, at: tuple[Tensor, Tensor] | None = None, words: Tensor | None = None) -> Tensor:
        """Logits when the down projection gives ``output``.

        Args:
            output: [n, t - start, d_model]; gradients flow to it.
            at: rows [m] and columns [m] of the batch where logits are wanted, columns from ``start`` on.
            words: token ids; logits of these only, which costs as little as they are few.

        Returns:
            [m, vocab], or [n, t - start, vocab] without ``at``; float32.
        """
        if self.split.mode == "full":
            logits = self._full_logits(output).float()
            logits = logits[:, self.start :] if at is None else logits[at]
            return logits if words is None else logits[..., words]
        hidden = self.hidden(output) if at is None else self._hidden_at(output, at)
        return logits_of(self.model, self.layout, hidden, words)

    def logits_by_part(
        self, output: Tensor, at: tuple[Tensor, Tensor], counts: Sequence[int], words: Sequence[Tensor]
    ) -> list[Tensor]:
        """As ``logits``, where the first ``counts[0]`` places want the words ``words[0]``, the next ones others."""
        if self.split.mode == "full":
            parts = self._full_logits(output).float()[at].split(list(counts))
            return [part[..., ids] for part, ids in zip(parts, words)]
        parts = self._hidden_at(output, at).split(list(counts))
        return [logits_of(self.model, self.layout, part, ids) for part, ids in zip(parts, words)]

    def _hidden_at(self, output: Tensor, at: tuple[Tensor, Tensor]) -> Tensor:
        hidden = self.hidden(output)
        rows, columns = (index.to(hidden.device) for index in at)
        return hidden[rows, columns - self.start]

    def hidden(self, output: Tensor) -> Tensor:
        """The last decoder layer's output [n, t - start, d_model], before the final norm; not in "full" mode."""
        hidden = self._layer_output(output)
        for path, arguments in self._above:
            hidden = hidden_of(get_module(self.model, path)(hidden, **arguments))
        return hidden[:, self.start - self._first :]

    def _layer_output(self, output: Tensor) -> Tensor:
        y = output.to(self._residual.device)
        if self._below_start.shape[1]:
            y = torch.cat([self._below_start.to(output.dtype), y], 1)
        return (self._residual + self.tail(y).float()).to(self.base_output.dtype)

    def _full_logits(self, output: Tensor) -> Tensor:
        """The model's own forward pass [n, t, vocab] with the down projection's output replaced."""
        y = torch.cat([self._below_start, output.to(self.base_output.dtype)], 1)
        down = get_module(self.model, self.layout.rewrite_path(self.layer))
        with replacing(down, lambda old: y.reshape(old.shape)):
            return self.model(**self.batch.model_inputs(), use_cache=False).logits


_splits: WeakKeyDictionary[nn.Module, dict[Any, Split]] = WeakKeyDictionary()


def split_of(model: nn.Module, layout: Layout, batch: Batch, layer: int, start: int) -> Split:
    """The fastest split that gives the model's own logits, found by trial on two of the rows.

    It is remembered, and looked for again when the model got other modules, hooks, types or attention since.
    """
    parts = tuple((type(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules())
    attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
    key = (layout, layer, start > 0, hash(parts), attention, next(model.parameters()).dtype)
    known = _splits.setdefault(model, {})
    if key not in known:
        known[key] = _find_split(model, layout, batch, layer, start)
    return known[key]


def _find_split(model: nn.Module, layout: Layout, batch: Batch, layer: int, start: int) -> Split:
    """The fastest split that gives the model's own logits for a disturbed y, on the longest and the shortest row."""
    lengths = batch.attention_mask.sum(1)
    few = batch.select(sorted({int(lengths.argmax()), int(lengths.argmin())}))
    truth = Suffix(model, layout, few, layer, start=start, split=Split("full"))
    disturbed = truth.base_output + truth.base_output.flip(-1) / 2
    real = few.attention_mask[:, start:].bool()
    with torch.no_grad():
        wanted = truth.logits(disturbed)[real]
    attention = getattr(getattr(model, "config", None), "_attn_implementation", "eager")
    has_norm = Tail.of(model, layout, layer).norm is not None
    for prefix in dict.fromkeys((start > 0 and attention in SLICEABLE_ATTENTION, False)):
        split = Split("post_norm" if has_norm else "additive", prefix)
        try:
            with torch.no_grad():
                got = Suffix(model, layout, few, layer, start=start, split=split).logits(disturbed)[real]
        except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
            log.debug("%s cannot be split as %s: %s", layout.family, split, error)
            continue
        tolerance = 1e-4 if truth.base_output.dtype in (torch.float32, torch.float64) else 3e-2
        if bool((got - wanted).abs().max() <= tolerance * wanted.abs().max()):
            return split
    log.warning("%s: layer %d cannot be split off; every step is a whole forward pass", layout.family, layer)
    return Split("full")
