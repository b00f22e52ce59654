"""Answers piece by piece, of everybody who is listening: one forward pass writes a token of every stream.

Who waits for a piece drives all the others too, so no thread of ours is needed: n listeners cost hardly more than one.
Streams join and leave between forward passes. Text is handed out as soon as it is certain.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from ..evaluate.generate import BATCH_TOKENS, decode, packs
from ..evaluate.greedy import State, advance, join, join_fits, most_likely, read, select
from ..kernels.mixed import Factors, Seating, attached
from ..modeling.tokens import Encoded

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
    error: BaseException | None = None

    def take(self, token: int, tokenizer: Any) -> None:
        """The answer's next token."""
        if token not in self.ends:
            self.tokens.append(token)
        self.done = self.done or token in self.ends or len(self.tokens) >= self.limit
        text = decode(tokenizer, self.tokens)
        whole = self.done or not text.endswith(BROKEN)
        if whole and text.startswith(self.said) and text != self.said:
            self.pieces.append(text[len(self.said) :])
            self.said = text


@dataclass
class Lane:
    """Streams that are written together; their tokens in ``state`` have been handed out."""

    state: State
    seating: Seating


class Streams:
    """All streams of one model. Whoever calls ``add`` or ``step`` has the model alone.

    Streams are held weakly: one that nobody can listen to any more is not written.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.lanes: list[Lane] = []
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
        """One more token for every stream; the first one for those that are new."""
        try:
            for lane in self.lanes:
                self._drop_finished(lane)
            self.lanes = [lane for lane in self.lanes if lane.state.rows]
            for lane in self.lanes:
                with attached(self.model, lane.seating):
                    advance(self.model, lane.state, lane.seating.seat, self._choose)
                self._hand_out(lane.state)
            self._admit()
        except BaseException as error:  # caches may be half written: nobody can go on
            self._fail(error)
            raise

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
        """Read the prompts of new streams, together, and let them join a lane."""
        found = [(number, stream) for number in self._waiting if (stream := self._listened(number))]
        self._waiting.clear()
        rows = [stream.row for _, stream in found]
        for pack in packs(rows, BATCH_TOKENS):
            new = dict(found[place] for place in pack)
            seating = Seating({number: stream.factors for number, stream in new.items()})
            encoded = {number: stream.row for number, stream in new.items()}
            alike = len({id(stream.factors) for stream in new.values()}) == 1
            with attached(self.model, seating):
                state = read(self.model, self.tokenizer, encoded, list(new), seating.seat, alike, self._choose)
            self._hand_out(state)
            self._join(Lane(state, seating))

    def _join(self, new: Lane) -> None:
        for lane in self.lanes:
            if join_fits(self.model, [lane.state, new.state]):
                lane.state = join([lane.state, new.state])
                lane.seating.factors = {**lane.seating.factors, **new.seating.factors}
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
        lane.seating.factors = {number: lane.seating.factors[number] for number in state.rows}

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
