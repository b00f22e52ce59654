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

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ..progress import log
from .layout import Layout, get_module
from .tokens import Batch
from .trace import Call, hidden_of, replacing, trace

POST_NORMS = ("post_feedforward_layernorm", "post_mlp_layernorm", "post_feedforward_norm")
SLICEABLE_ATTENTION = ("sdpa", "eager")  # these take a rectangular 4-d mask; flash kernels do not


@dataclass(frozen=True, slots=True)
class Split:
    """How a model is cut above an edit, found by trial.

    Attributes:
        mode: "additive", h = residual + y (Llama, Qwen, Mistral, GPT-2, and GPT-J, where attention's output is part
            of the residual); "post_norm", h = residual + norm(y) (Gemma 2, OLMo 2); "full" when neither is true:
            every call is then a whole forward pass, right but slow.
        prefix: whether the columns before ``start`` are left out.
    """

    mode: Literal["additive", "post_norm", "full"]
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Tail:
    """What a decoder layer does with the down projection's output y before adding it to the residual stream.

    Attributes:
        norm: the norm that y passes through (Gemma 2, OLMo 2); None where y is added as it is.
    """

    norm: nn.Module | None = None

    @classmethod
    def of(cls, model: nn.Module, layout: Layout, layer: int) -> Tail:
        """The tail of decoder layer ``layer``, by the norm's name."""
        module = get_module(model, layout.layer_path(layer))
        return cls(next((getattr(module, name) for name in POST_NORMS if hasattr(module, name)), None))

    def __call__(self, y: Tensor) -> Tensor:
        """What is added to the residual stream for y."""
        if self.norm is None:
            return y
        return self.norm(y.to(next(self.norm.parameters()).dtype)).to(y.dtype)

    def pull_back(self, y: Tensor, change: Tensor) -> Tensor:
        """The change of y [..., d_model] that changes the layer's output h by ``change``, to first order.

        The identity where y is added as it is. After a norm o = w * y / rms(y), the factor y / o undoes the scaling;
        the norm's own reaction to a longer y is neglected: a norm can turn its output, not lengthen it.
        """
        if self.norm is None:
            return change
        normed = self(y)
        tiny = normed.abs() < 1e-6
        return change * torch.where(tiny, 0.0, y / torch.where(tiny, 1.0, normed))


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
        split: take this unchecked, for example that of an earlier Suffix of the same model and layer.

    Raises:
        ModelError: the model has no such layer.
    """

    def __init__(
        self, model: nn.Module, layout: Layout, batch: Batch, layer: int, *, start: int = 0, split: Split | None = None
    ) -> None:
        self.model, self.layout, self.batch, self.layer, self.start = model, layout, batch, layer, start
        self.split = split or _find_split(model, layout, batch, layer, start)
        self._first = start if self.split.prefix else 0  # first column that layers above compute
        self._capture()

    def _capture(self) -> None:
        """One plain forward pass; keeps y, the keys, and what each layer above was called with."""
        above = [self.layout.layer_path(i) for i in range(self.layer, self.layout.n_layers)]
        down = self.layout.rewrite_path(self.layer)
        cache = DynamicCache() if self.split.prefix else None
        options = {"use_cache": False} if cache is None else {"use_cache": True, "past_key_values": cache}
        with torch.no_grad(), trace(self.model, [down, *above], stop=True) as calls:
            self.model(**self.batch.model_inputs(), **options)
        n, t = self.batch.input_ids.shape
        output = calls[down].output.reshape(n, t, -1)
        self.keys = calls[down].input.reshape(n, t, -1)[:, self.start :]
        self.base_output = output[:, self.start :]
        self._below_start = output[:, self._first : self.start]
        self.tail = Tail.of(self.model, self.layout, self.layer) if self.split.mode == "post_norm" else Tail()
        hidden = calls[above[0]].output[:, self._first :]
        self._residual = hidden.float() - self.tail(output[:, self._first :]).float()
        self._above = [(get_module(self.model, path), self._arguments(path, calls[path], cache)) for path in above[1:]]

    def _arguments(self, path: str, call: Call, cache: DynamicCache | None) -> dict[str, Any]:
        """A layer's arguments by name, hidden states left out, cut to the columns that are computed."""
        named = _named_arguments(get_module(self.model, path), call)
        if cache is None:
            return named
        t, prefix = self.batch.input_ids.shape[1], _Prefix(cache, self.start)
        named = {name: prefix if v is cache else _from_column(v, self.start, t) for name, v in named.items()}
        if named.get("attention_mask", 0) is None:  # "causal" was implied, which holds for squares only
            causal = torch.ones(t, t, dtype=torch.bool, device=call.input.device).tril()
            named["attention_mask"] = causal[None, None, self.start :]
        return named

    def logits(self, output: Tensor, at: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Logits when the down projection gives ``output``.

        Args:
            output: [n, t - start, d_model]; gradients flow to it.
            at: rows [m] and columns [m] of the batch where logits are wanted, columns from ``start`` on.

        Returns:
            [m, vocab], or [n, t - start, vocab] without ``at``; float32.
        """
        if self.split.mode == "full":
            logits = self._full_logits(output).float()
            return logits[:, self.start :] if at is None else logits[at]
        hidden = self.hidden(output)
        if at is None:
            return self.head(hidden)
        rows, columns = (index.to(hidden.device) for index in at)
        return self.head(hidden[rows, columns - self.start])

    def hidden(self, output: Tensor) -> Tensor:
        """The last decoder layer's output [n, t - start, d_model], before the final norm; not in "full" mode."""
        hidden = self._layer_output(output)
        for module, arguments in self._above:
            hidden = hidden_of(module(hidden, **arguments))
        return hidden[:, self.start - self._first :]

    def layer_output(self, output: Tensor) -> Tensor:
        """The edited decoder layer's output h [n, t - start, d_model]; in "full" mode as if y were just added."""
        return self._layer_output(output)[:, self.start - self._first :]

    def _layer_output(self, output: Tensor) -> Tensor:
        y = torch.cat([self._below_start.to(output.dtype), output.to(self._below_start.device)], 1)
        return (self._residual + self.tail(y).float()).to(self.base_output.dtype)

    def head(self, hidden: Tensor) -> Tensor:
        """Final norm and head, with the scalings that some families apply to logits; float32."""
        norm = get_module(self.model, self.layout.final_norm) if self.layout.final_norm else nn.Identity()
        logits = get_module(self.model, self.layout.head)(norm(hidden)).float()
        config = getattr(self.model, "config", None)
        scale, divisor = (getattr(config, name, None) or 1.0 for name in ("logit_scale", "logits_scaling"))
        cap = getattr(config, "final_logit_softcapping", None)
        logits = logits if scale == divisor else logits * (scale / divisor)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _full_logits(self, output: Tensor) -> Tensor:
        """The model's own forward pass [n, t, vocab] with the down projection's output replaced."""
        y = torch.cat([self._below_start, output.to(self.base_output.dtype)], 1)
        down = get_module(self.model, self.layout.rewrite_path(self.layer))
        with replacing(down, lambda old: y.reshape(old.shape)):
            return self.model(**self.batch.model_inputs(), use_cache=False).logits


class _Prefix:
    """Stands where a layer expects its cache: the first pass's keys and values before ``start``, then the new ones.

    It keeps nothing of what it is given, so the layers above can be run again and again.
    """

    def __init__(self, cache: DynamicCache, start: int) -> None:
        self._layers, self._start = cache.layers, start

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """What attention reads: [n, heads, t, d_head], twice."""
        old: Any = self._layers[layer_idx]
        stop = self._start
        return torch.cat([old.keys[..., :stop, :], keys], -2), torch.cat([old.values[..., :stop, :], values], -2)


def _named_arguments(module: nn.Module, call: Call) -> dict[str, Any]:
    """What ``module`` was called with, by parameter name, without the hidden states."""
    signature = inspect.signature(module.forward)
    named = dict(signature.bind(*call.args, **call.kwargs).arguments)
    extra = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    named.update(named.pop(extra, {}) if extra else {})
    return {name: value for name, value in named.items() if value is not call.input}


def _from_column(value: Any, start: int, t: int) -> Any:
    """Cut a layer's argument to the columns from ``start`` on: masks by query, positions and rotations by column."""
    if isinstance(value, (tuple, list)):
        return type(value)(_from_column(part, start, t) for part in value)
    if isinstance(value, Mapping):
        return {key: _from_column(part, start, t) for key, part in value.items()}
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 4 and value.shape[-2:] == (t, t):
        return value[..., start:, :]
    if value.ndim == 1 and len(value) == t:
        return value[start:]
    return value[:, start:] if value.ndim in (2, 3) and value.shape[1] == t else value


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
