"""The greedy loop under ``generate``: prompts are read in packs, answers of all packs are written together.

Reading is bound by the number of tokens, writing by the number of steps: so a beginning that a pack shares is read
once, and then the packs' caches are put together, since ten rows cost a step hardly more than one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from ..modeling.families import family_of
from ..modeling.layout import input_device
from ..modeling.tokens import Encoded
from ..progress import counted
from .shared_prefix import inputs_after, shared_length, slides

CACHE_TOKENS = 32768  # rows x columns of a joint cache; more are written in turn

SetRows = Callable[[Sequence[int]], None]
Choose = Callable[[Tensor, Sequence[int]], Tensor]  # logits [n, v] of these rows -> their next tokens [n]


@dataclass
class State:
    """Rows that were read: n rows, t columns so far.

    Attributes:
        rows: which rows of the call these are.
        tokens: [n]; each row's next token.
        positions: [n, 1]; its position.
        mask: [n, t].
    """

    rows: list[int]
    tokens: Tensor
    positions: Tensor
    mask: Tensor
    cache: Any

    @property
    def width(self) -> int:
        """Columns of the cache."""
        return self.mask.shape[1]


@torch.no_grad()
def continue_all(
    model: nn.Module,
    tokenizer: Any,
    rows: Sequence[Encoded],
    packs: Sequence[list[int]],
    limits: Sequence[int],
    ends: frozenset[int],
    owners: Sequence[Hashable] | None = None,
    set_rows: SetRows | None = None,
) -> list[list[int]]:
    """The most likely continuation of every row, its end token included where it came within the row's limit.

    Args:
        owners: whose row each is; a beginning that rows of different owners share is read once only up to where
            their models part.
        set_rows: called before every forward pass with the rows of its batch, in this order; one row may then stand
            for all of them (``serving.multi_adapter``).
    """
    outs: list[list[int]] = [[] for _ in rows]
    waiting: list[State] = []
    for pack in packs:
        alike = owners is None or len({owners[i] for i in pack}) == 1
        state = read(model, tokenizer, rows, pack, set_rows or _nobody, alike)
        if waiting and not join_fits(model, [*waiting, state]):
            _write(model, join(waiting), outs, limits, ends, set_rows or _nobody)
            waiting = []
        waiting.append(state)
    if waiting:
        _write(model, join(waiting), outs, limits, ends, set_rows or _nobody)
    return outs


def most_likely(logits: Tensor, rows: Sequence[int]) -> Tensor:
    """Each row's most likely next token."""
    return logits.argmax(-1)


def _nobody(rows: Sequence[int]) -> None:
    """Where nobody wants to know who sits in a batch."""


def read(
    model: nn.Module,
    tokenizer: Any,
    rows: Sequence[Encoded] | Mapping[int, Encoded],
    pack: list[int],
    set_rows: SetRows,
    alike: bool,
    choose: Choose = most_likely,
) -> State:
    """Prefill one pack: what all its rows begin with once, then the rest of each, padded on the left."""
    device = input_device(model)
    own = [rows[i] for i in pack]
    shared = shared_length(model, own) if alike or family_of(model).branches else 0
    cache = None
    if shared:
        ids = torch.tensor([own[0].ids[:shared]], device=device)
        set_rows(pack[:1] if alike else pack)
        positions = torch.arange(shared, device=device)[None]
        cache = forward(model, ids, torch.ones_like(ids), positions, None).past_key_values
    _, inputs = inputs_after(tokenizer, own, shared, cache, device, side="left")
    set_rows(pack)
    output = forward(model, **inputs)
    mask, positions = inputs["attention_mask"], inputs["position_ids"][:, -1:] + 1
    return State(list(pack), choose(output.logits[:, -1], pack), positions, mask, output.past_key_values)


def _write(
    model: nn.Module,
    state: State,
    outs: list[list[int]],
    limits: Sequence[int],
    ends: frozenset[int],
    set_rows: SetRows,
) -> None:
    """Add tokens until every row has ended or reached its limit."""
    done: set[int] = set()
    for _ in counted(range(max(limits[i] for i in state.rows))):
        for i, token in zip(state.rows, state.tokens.tolist()):
            if i not in done:
                outs[i].append(token)
                if token in ends or len(outs[i]) >= limits[i]:
                    done.add(i)
        keep = [k for k, i in enumerate(state.rows) if i not in done]
        if not keep:
            return
        if len(keep) <= len(state.rows) // 2:  # a finished row costs as much as others, copying the cache costs too
            select(state, keep)
        advance(model, state, set_rows)


def advance(model: nn.Module, state: State, set_rows: SetRows, choose: Choose = most_likely) -> None:
    """Read every row's next token and find the one after it."""
    state.mask = torch.cat([state.mask, state.mask.new_ones(len(state.rows), 1)], 1)
    set_rows(state.rows)
    output = forward(model, state.tokens[:, None], state.mask, state.positions, state.cache)
    state.tokens, state.cache = choose(output.logits[:, -1], state.rows), output.past_key_values
    state.positions = state.positions + 1


def select(state: State, keep: list[int]) -> None:
    """Keep some of the rows, by their place in the state."""
    index = torch.tensor(keep, device=state.tokens.device)
    state.cache.batch_select_indices(index)
    state.rows = [state.rows[k] for k in keep]
    state.tokens, state.positions, state.mask = state.tokens[index], state.positions[index], state.mask[index]


def join_fits(model: nn.Module, states: Sequence[State]) -> bool:
    """Whether the states may be written together: plain caches, and not too large a one."""
    rows, width = sum(len(state.rows) for state in states), max(state.width for state in states)
    plain = not slides(model) and all(type(state.cache) is DynamicCache for state in states)
    return plain and rows * width <= CACHE_TOKENS


def join(states: Sequence[State]) -> State:
    """One state of all rows; shorter caches are padded on the left, where the mask hides the padding."""
    if len(states) == 1:
        return states[0]
    width = max(state.width for state in states)
    for state in states:
        missing = width - state.width
        state.mask = F.pad(state.mask, (missing, 0))
        for layer in state.cache.layers:
            layer.keys = F.pad(layer.keys, (0, 0, missing, 0))
            layer.values = F.pad(layer.values, (0, 0, missing, 0))
    first = states[0]
    for number, layer in enumerate(first.cache.layers):
        parts = [state.cache.layers[number] for state in states]
        layer.keys = torch.cat([part.keys for part in parts])
        layer.values = torch.cat([part.values for part in parts])
    return State(
        [i for state in states for i in state.rows],
        torch.cat([state.tokens for state in states]),
        torch.cat([state.positions for state in states]),
        torch.cat([state.mask for state in states]),
        first.cache,
    )


def forward(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past_key_values: Any
) -> Any:
    """The model's output for input ids [n, t] behind a cache; of the last column's logits only, where it can do so.

    The column is asked for by its number: the slice that ``logits_to_keep=1`` takes is not contiguous, and torch 2.13
    then copies the head's matrix once per row (9 s instead of 0.02 s for 64 rows with "medium" precision).
    """
    last = torch.tensor([input_ids.shape[1] - 1], device=input_ids.device)
    options: dict[str, Any] = {"logits_to_keep": last} if _keeps_last_logits(type(model)) else {}
    return model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=position_ids,
        past_key_values=past_key_values,
        use_cache=True,
        **options,
    )


_KEEPS: dict[type, bool] = {}


def _keeps_last_logits(kind: type[nn.Module]) -> bool:
    """Whether the model can skip the logits of all positions but the last."""
    if kind not in _KEEPS:
        _KEEPS[kind] = "logits_to_keep" in inspect.signature(kind.forward).parameters
    return _KEEPS[kind]
