"""One model in memory, a million users: each request is answered by that user's own copy of it.

``as_user`` makes the model one user's for as long as a block lasts; ``generate_for`` and ``stream_for`` leave it alone
and add every row's factors on the way (``multi_adapter``), so that many users share one batch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..errors import RequestError
from ..generation.generate import MAX_NEW_TOKENS, Answer, Prompt, check_fits, encode_prompt, generate
from ..hparams import PersonalizationHyperParams
from ..kernels.beside import edited
from ..modeling.layout import context_limit
from ..modeling.tokens import stop_ids
from ..modeling.wrappers import unwrapped
from ..types import WeightDelta
from .factor_cache import CACHE_BYTES, FactorCache, FactorStore
from .multi_adapter import Updates, mixed, with_neurons
from .remembered import with_words
from .streaming import Pieces, Stream, Streams

BASE: Updates = {}


class PersonalizedModel:
    """A base model and a store of its users' edits, answering as any of them; safe to share between threads.

    Args:
        model: a causal language model; it is changed inside ``as_user`` only.
        tokenizer: its tokenizer.
        store: an ``EditStore``, or anything with ``deltas(user)`` and ``version(user)``, and with ``words(user)`` where
            something is kept in words: ``generate_for`` and ``stream_for`` put it into the prompt.
        cache_bytes: how many bytes of users' factors are kept in memory; the least recently used go first.
        hparams: ``prompt_format`` is taken from here; the chat template is used where there is one otherwise.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        store: FactorStore,
        *,
        cache_bytes: int = CACHE_BYTES,
        hparams: PersonalizationHyperParams | None = None,
    ) -> None:
        model = unwrapped(model)
        self.model, self.tokenizer, self.store = model, tokenizer, store
        self.cache = FactorCache(store, model, cache_bytes)
        self.prompt_format = (hparams or PersonalizationHyperParams()).prompt_format
        self._streams = Streams(model, tokenizer)
        self._lock = threading.RLock()
        self._inside: str | None = None

    @contextmanager
    def as_user(self, user: str | None) -> Iterator[nn.Module]:
        """``with pm.as_user("alice") as model:`` the model is alice's inside, and bit for bit as before outside.

        Other threads wait until the block ends. A user without edits, or None, gets the base model. What is kept in
        words is not in the model: ``prompt_for`` puts it into a prompt.

        Raises:
            RequestError: the model is already somebody's in this thread.
        """
        with self._alone(f"as_user({user!r})"), edited(self.model, self._deltas(user)):
            self._inside = f"as_user({user!r})"
            try:
                yield self.model
            finally:
                self._inside = None

    def generate_for(
        self,
        users: Sequence[str | None],
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int | Sequence[int] = MAX_NEW_TOKENS,
    ) -> list[Answer]:
        """Answer prompts or conversations, each as its user's model does, in as few batches as possible.

        Args:
            users: one per prompt; None is the base model, and so is a user without edits.
            prompts: texts of the user, or conversations that end with the user's turn.
            max_new_tokens: one limit, or one per prompt.

        Returns:
            One answer per prompt; in float32 the same tokens as each gets alone.

        Raises:
            RequestError: another number of users than of prompts, or a prompt that cannot be answered.
            ModelError: a user's edits were made for another base model.
        """
        if isinstance(users, str) or len(users) != len(prompts):
            raise RequestError(
                "Every prompt needs a user.", got=f"users={users!r} for {len(prompts)} prompts", needed="one per prompt"
            )
        found = {user: self._memory(user) for user in dict.fromkeys(users)}
        rows = [found[user][0] for user in users]  # a user's rows share one object, and so do the base model's
        with self._alone("generate_for"), mixed(self.model, rows) as adapters:
            return generate(
                self.model,
                self.tokenizer,
                [self._told(prompt, found[user][1]) for user, prompt in zip(users, prompts)],
                prompt_format=self.prompt_format,
                max_new_tokens=max_new_tokens,
                owners=[id(row) for row in rows],
                set_rows=adapters.set_rows,
            )

    def stream_for(
        self, user: str | None, conversation: Prompt, *, max_new_tokens: int = MAX_NEW_TOKENS, begun: str = ""
    ) -> Pieces:
        """Answer piece by piece; the pieces together are ``generate_for``'s text.

        The user's factors are those of the moment of this call. The model is locked for one token at a time, so that
        batches of other threads run in between; streams that are listened to at the same time, by any number of
        threads, are written together, at the price of one.

        Args:
            user, conversation, max_new_tokens: as in ``generate_for``.
            begun: how the answer begins, where it was cut: the pieces go on from there.

        Returns:
            The pieces; afterwards ``cut`` tells whether ``max_new_tokens`` has ended them.

        Raises:
            RequestError: the prompt cannot be answered; raised here, before the first piece is asked for.
            ModelError: memory does not suffice for one answer; for several, some wait.
            Exception: whatever else stopped the model is raised by all streams of that moment.
        """
        if max_new_tokens < 1:
            raise RequestError("max_new_tokens must be positive.", got=max_new_tokens)
        updates, sentences = self._memory(user)
        with self._alone("stream_for"):
            row = encode_prompt(self.tokenizer, self._told(conversation, sentences), self.prompt_format, begun or None)
            check_fits(self.model, row, max_new_tokens)
            ends = frozenset(stop_ids(self.model, self.tokenizer))
            factors = with_neurons(self.model, updates)  # read from the model's weights, which are nobody's here
            stream = Stream.after(row, factors, ends, max_new_tokens, self.tokenizer)
            return Pieces(stream, self._streams.add(stream, lambda: self._alone("stream_for")))

    def prompt_for(self, user: str | None, prompt: Prompt) -> Prompt:
        """A prompt or conversation with what the user's memory keeps in words, as ``generate_for`` reads it."""
        with self._lock:  # a tokenizer must not be used by two threads at once
            return self._told(prompt, self._memory(user)[1])

    def factors(self, user: str | None) -> Updates:
        """A user's updates by module path, from the cache where the store has none newer; empty for the base model."""
        return BASE if user is None else self.cache.get(user)

    def _deltas(self, user: str | None) -> list[WeightDelta]:
        return list(self.factors(user).values())

    def _memory(self, user: str | None) -> tuple[Updates, Sequence[str]]:
        """A user's factors, ``BASE`` itself where there are none, and sentences, of one moment."""
        factors, sentences = (BASE, ()) if user is None else self.cache.memory(user)
        return factors or BASE, sentences

    def _told(self, prompt: Prompt, sentences: Sequence[str]) -> Prompt:
        return with_words(self.tokenizer, prompt, sentences, self.prompt_format, context_limit(self.model))

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """The model for this thread alone; a second user inside a first one's block would get both."""
        with self._lock:
            if self._inside is not None:
                raise RequestError(
                    f"{what} was called while the model is somebody's.",
                    got=f"a call inside {self._inside}",
                    remedy="leave the `with` block first, or use the model that it gave",
                )
            yield
