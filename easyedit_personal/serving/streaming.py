"""Answers piece by piece, of everybody who is listening: one forward pass writes a token of every stream.

Who waits for a piece drives all the others too, so no thread of ours is needed: n listeners cost hardly more than one.
Streams join and leave between forward passes. Text is handed out as soon as it is certain. Where memory does not
suffice for all of them, the older half goes on and the others wait for a place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from ..generation.generate import BATCH_TOKENS, decode, packs
from ..generation.greedy import State, advance, join, join_fits, most_likely, read, select
from ..modeling.memory import free, out_of_memory, too_small
from ..modeling.tokens import Encoded
from ..progress import log
from .multi_adapter import Factors, RowAdapters, attached

Turn = Callable[[], AbstractContextManager[Any]]
BROKEN = "\ufffd"  # what a tokenizer writes for bytes that are no character yet


@dataclass
class Stream:
    """One answer on its way.

    A piece is certain when its bytes are whole (a character may take several tokens) and no later token can strip it:
    ``generate`` strips blanks at both ends, so blanks wait for a word to follow them. ``draw`` picks a next token by
    its logits [v]; without it, that is the most likely one.
    """

    row: Encoded
    factors: Factors
    ends: frozenset[int]
    limit: int
    draw: Callable[[Tensor], int] | None = None
    pieces: deque[str] = field(default_factory=deque)
    tokens: list[int] = field(default_factory=list)
    said: str = ""
    done: bool = False
    cut: bool = False  # ended by the limit, not by the model
    error: BaseException | None = None

    @classmethod
    def after(cls, row: Encoded, factors: Factors, ends: frozenset[int], limit: int, tokenizer: Any) -> Stream:
        """A stream that goes on where the row's target, if it has one, ends; ``limit`` counts new tokens."""
        begun = list(row.target_ids)
        plain = replace(row, target_ids=())
        return cls(plain, factors, ends, len(begun) + limit, tokens=begun, said=decode(tokenizer, begun))

    @property
    def so_far(self) -> Encoded:
        """The prompt and what has been answered: where to go on once the cache is lost."""
        return replace(self.row, prompt_ids=self.row.prompt_ids + tuple(self.tokens))

    def take(self, token: int, tokenizer: Any) -> None:
        """The answer's next token."""
        if token not in self.ends:
            self.tokens.append(token)
        self.cut = token not in self.ends and len(self.tokens) >= self.limit
        self.done = self.done or token in self.ends or self.cut
        text = decode(tokenizer, self.tokens)
        whole = self.done or not text.endswith(BROKEN)
        if whole and text.startswith(self.said) and text != self.said:
            self.pieces.append(text[len(self.said) :])
            self.said = text


class Pieces(Iterator[str]):
    """An answer's text, piece by piece; leaving early frees its place."""

    def __init__(self, stream: Stream, pieces: Iterator[str]) -> None:
        self._stream, self._pieces = stream, pieces

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def cut(self) -> bool:
        """Whether the limit of tokens has ended the answer, and not the model."""
        return self._stream.cut

    def close(self) -> None:
        """Listen no more."""
        self._stream.done = True


@dataclass
class Lane:
    """Streams that are written together; their tokens in ``state`` have been handed out."""

    state: State
    adapters: RowAdapters


class Streams:
    """All streams of one model. Whoever calls ``add`` or ``step`` has the model alone.

    Streams are held weakly: one that nobody can listen to any more is not written.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.lanes: list[Lane] = []
        self.most: int | None = None  # streams at a time, since memory did not suffice for more; until all is quiet
        self._crowded = False  # whether somebody waits for a place
        self._waiting: list[int] = []
        self._streams: WeakValueDictionary[int, Stream] = WeakValueDictionary()
        self._numbers = count()

    def add(self, stream: Stream, turn: Turn) -> Iterator[str]:
        """The stream's text; ``turn`` makes a context in which the model may be used."""
        number = next(self._numbers)
        self._streams[number] = stream
        self._waiting.append(number)
        return self._pieces(stream, turn)

    def _pieces(self, stream: Stream, turn: Turn) -> Iterator[str]:
        try:
            while True:
                while stream.pieces:
                    yield stream.pieces.popleft()
                if stream.done:
                    break
                with turn():
                    if not (stream.pieces or stream.done):
                        self.step()
            if stream.error is not None:
                raise stream.error
        finally:
            # Only a flag: a generator may be closed by the garbage collector, in the middle of somebody's step.
            stream.done = True

    @torch.no_grad()
    def step(self) -> None:
        """One more token for every stream; the first one for those that are new.

        None for anybody where memory does not suffice for all: fewer of them are begun again with the next step.
        """
        try:
            self._write()
            return
        except BaseException as error:  # caches may be half written: nobody can go on from there
            if not out_of_memory(error):
                self._fail(error)
                raise
            if not self._make_room():
                self._fail(short := too_small("one of the answers", str(error), self.model))
                raise short from None
        free()

    def _write(self) -> None:
        for lane in self.lanes:
            self._drop_finished(lane)
        self.lanes = [lane for lane in self.lanes if lane.state.rows]
        for lane in self.lanes:
            with attached(self.model, lane.adapters):
                advance(self.model, lane.state, lane.adapters.set_rows, self._choose)
            self._hand_out(lane.state)
        self._admit()

    def _make_room(self) -> bool:
        """Write half as many together from now on, everybody from what was said so far; False where it is one."""
        listening = [number for number, stream in sorted(self._streams.items()) if not stream.done]
        together = min(len(listening), self.most or len(listening))
        if together <= 1:
            return False
        self.most, self._crowded = -(-together // 2), True
        log.warning("%d answers do not fit the memory together; going on with %d", together, self.most)
        self.lanes.clear()
        self._waiting = listening
        return True

    def _choose(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        """The next tokens [n]: drawn where a stream wants that, else the most likely ones."""
        tokens = most_likely(logits, rows)
        for place, number in enumerate(rows):
            if (stream := self._listened(number)) and stream.draw:
                tokens[place] = stream.draw(logits[place])
        return tokens

    def _listened(self, number: int) -> Stream | None:
        """The stream, unless it has ended or its listener has left."""
        stream = self._streams.get(number)
        return None if stream is None or stream.done else stream

    def _admit(self) -> None:
        """Read the prompts of new streams, together, and let them join a lane; as many as have a place."""
        found = [(number, stream) for number in self._waiting if (stream := self._listened(number))]
        if not (self.lanes or self._crowded):
            self.most = None
        free_places = (
            None if self.most is None else max(0, self.most - sum(len(lane.state.rows) for lane in self.lanes))
        )
        found, later = found[:free_places], found[free_places:] if free_places is not None else []
        self._waiting, self._crowded = [number for number, _ in later], bool(later)
        rows = [stream.so_far for _, stream in found]
        for pack in packs(rows, BATCH_TOKENS):
            new = dict(found[place] for place in pack)
            adapters = RowAdapters({number: stream.factors for number, stream in new.items()})
            encoded = {number: stream.so_far for number, stream in new.items()}
            alike = len({id(stream.factors) for stream in new.values()}) == 1
            with attached(self.model, adapters):
                state = read(self.model, self.tokenizer, encoded, list(new), adapters.set_rows, alike, self._choose)
            self._hand_out(state)
            self._join(Lane(state, adapters))

    def _join(self, new: Lane) -> None:
        for lane in self.lanes:
            if join_fits(self.model, [lane.state, new.state]):
                lane.state = join([lane.state, new.state])
                lane.adapters.factors = {**lane.adapters.factors, **new.adapters.factors}
                return
        self.lanes.append(new)

    def _hand_out(self, state: State) -> None:
        for number, token in zip(state.rows, state.tokens.tolist()):
            if stream := self._listened(number):
                stream.take(token, self.tokenizer)

    def _drop_finished(self, lane: Lane) -> None:
        """Take out rows that nobody listens to any more, and columns that no row is left to see."""
        state = lane.state
        keep = [place for place, number in enumerate(state.rows) if self._listened(number)]
        if len(keep) == len(state.rows):
            return
        if not keep:
            state.rows = []
            return
        select(state, keep)
        _trim(state)
        lane.adapters.factors = {number: lane.adapters.factors[number] for number in state.rows}

    def _fail(self, error: BaseException) -> None:
        for stream in list(self._streams.values()):
            if not stream.done:
                stream.error, stream.done = error, True
        self.lanes.clear()
        self._waiting.clear()


def _trim(state: State) -> None:
    """Cut columns on the left that are padding in every row: streams come and go, the cache must not grow for ever."""
    first = int(state.mask.any(0).int().argmax())
    if first:
        state.mask = state.mask[:, first:]
        for layer in state.cache.layers:
            layer.keys, layer.values = layer.keys[:, :, first:].contiguous(), layer.values[:, :, first:].contiguous()
