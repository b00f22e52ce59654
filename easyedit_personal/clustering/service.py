"""Phrases from a language model behind an OpenAI-compatible endpoint (vLLM, Ollama, OpenAI, ...).

The answer is parsed strictly and asked for again a bounded number of times; what still cannot be used is an error,
never a silent lack of phrases.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ..errors import MissingDependencyError, ServiceError, shorten
from .lexicon import normalise
from .questions import Phrase, reword

INSTRUCTIONS = (
    "You list the names people use in everyday speech for one kind of fact about themselves. You are given a JSON "
    'object with "subject" (the kind of fact), "question" (how its owner asks for it) and "count". Answer with '
    'one JSON object and nothing else: {"phrases": [{"subject": NAME, "question": QUESTION}, ...]} holding "count" '
    "further names, each a synonym that asks for the very same fact, in lower case, one to five words, all "
    "different; the question asks for it in the first person and contains the name word for word."
)
_FENCE = re.compile(r"^```(?:json)?\s*\n(.*)\n```$", re.DOTALL)
_Line = StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^\n\r]*$")


T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class _Item(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    subject: Annotated[str, _Line, Field(max_length=60)]
    question: Annotated[str, _Line, Field(max_length=300)]


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    phrases: list[_Item] = Field(min_length=1, max_length=256)


class Unusable(Exception):
    """The endpoint answered, but not with what was asked for; worth another attempt."""


@dataclass(frozen=True)
class PhraseService:
    """A language model that is asked for names.

    Args:
        model: its name at the endpoint; None reads the environment variable ``OPENAI_MODEL``.
        base_url: where the endpoint is; None reads ``OPENAI_BASE_URL``, else it is OpenAI's own.
        api_key: None reads ``OPENAI_API_KEY``; an endpoint of one's own often needs none.
        timeout: seconds to wait for one answer.
        max_retries: after a lost connection, a timeout, 429 or 5xx (the client waits longer each time).
        attempts: how often an unusable answer is asked for again, the first time included.
    """

    model: str | None = None
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 30.0
    max_retries: int = 3
    attempts: int = 3

    def phrases(self, subject: str, question: str, count: int) -> list[Phrase]:
        """At most ``count`` further phrases for a subject.

        Raises:
            MissingDependencyError: the openai client is not installed.
            ServiceError: no model or key is set, the endpoint failed for good, or its answers stayed unusable.
        """
        wish = {"subject": subject, "question": question, "count": count}
        return self.ask(
            INSTRUCTIONS,
            wish,
            lambda content: parse_reply(content, subject, question)[:count],
            what=f"phrases for {subject!r}",
            needed='{"phrases": [{"subject": "...", "question": "..."}, ...]}',
            remedy="use another model, or cluster.source: lexicon",
        )

    def ask(
        self,
        instructions: str,
        wish: Mapping[str, Any],
        parse: Callable[[str], T],
        *,
        what: str,
        needed: str,
        remedy: str,
    ) -> T:
        """What ``parse`` makes of the answer to ``wish``; asked again while it raises ``Unusable``.

        Args:
            instructions: the system's message.
            wish: becomes the user's message, as JSON, so that strangers' words stay data.
            parse: from the answer's text to what is wanted.
            what, needed, remedy: for the error's message.

        Raises:
            MissingDependencyError, ServiceError: see ``phrases``.
        """
        model = self._model()
        client = self._client()
        user = json.dumps(wish, ensure_ascii=False)
        messages = [{"role": "system", "content": instructions}, {"role": "user", "content": user}]
        fault = "nothing was asked"
        with client:
            for _ in range(max(1, self.attempts)):
                answer = self._ask(client, model, messages)
                try:
                    return parse(_content(answer))
                except Unusable as error:
                    fault = str(error)
        raise ServiceError(
            f"{model!r} gave no usable {what} in {max(1, self.attempts)} attempts.",
            got=fault,
            needed=needed,
            cause="the model is too small to follow the format, or the endpoint is not a chat-completions one",
            remedy=remedy,
        )

    def _model(self) -> str:
        model = self.model or os.environ.get("OPENAI_MODEL")
        if not model:
            raise ServiceError(
                "No language model is named for the phrases.",
                needed="PhraseService(model=...) or the environment variable OPENAI_MODEL",
            )
        return model

    def _client(self) -> Any:
        try:
            import openai
        except ImportError:
            raise MissingDependencyError(
                "Phrases from a language model need the openai client.",
                remedy="pip install 'easyedit-personal[llm]', or use cluster.source: lexicon",
            ) from None
        base_url = self.base_url or os.environ.get("OPENAI_BASE_URL")
        key = self.api_key or os.environ.get("OPENAI_API_KEY")
        if not key and not base_url:
            raise ServiceError(
                "There is no key for the language model.",
                needed="api_key or the environment variable OPENAI_API_KEY; or base_url of an endpoint without one",
            )
        return openai.OpenAI(
            api_key=key or "none", base_url=base_url, timeout=self.timeout, max_retries=self.max_retries
        )

    def _ask(self, client: Any, model: str, messages: list[dict[str, str]]) -> Any:
        import openai

        try:
            return client.chat.completions.create(model=model, messages=messages, temperature=0.7)
        except openai.APIError as error:
            raise _failed(error, model, client.base_url, self.timeout, self.max_retries) from error
        except ValueError:  # a body that calls itself JSON and is not
            return None


def parse_reply(content: str, subject: str, question: str) -> list[Phrase]:
    """The phrases of an answer, without repetitions and without the subject itself.

    A code fence around the JSON is accepted, since many models cannot help it; anything else besides is not.
    """
    reply = parse_json(_Reply, content)
    known, phrases = {normalise(subject)}, []
    for number, item in enumerate(reply.phrases):
        if normalise(item.subject) not in known:
            known.add(normalise(item.subject))
            stands = item.subject in item.question
            phrases.append(
                Phrase(item.subject, item.question) if stands else reword(question, subject, item.subject, number)
            )
    if not phrases:
        raise Unusable(f"no other name than {subject!r} in {shorten(content)}")
    return phrases


def parse_json(kind: type[M], content: str) -> M:
    """The JSON object of an answer, checked strictly; a code fence around it is taken off.

    Raises:
        Unusable: it is no JSON, or not of this kind.
    """
    fenced = _FENCE.match(content.strip())
    try:
        return kind.model_validate_json(fenced[1] if fenced else content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise Unusable(f"{where}: {first['msg']} in {shorten(content)}") from None


def _content(answer: Any) -> str:
    """Text of a chat completion; endpoints that are none answer with HTML (a str) or with other JSON."""
    try:
        content = answer.choices[0].message.content
    except (AttributeError, IndexError, TypeError):
        raise Unusable(f"no chat completion: {shorten(answer)}") from None
    if not isinstance(content, str) or not content.strip():
        raise Unusable("an empty answer")
    return content


def _failed(error: Any, model: str, url: object, timeout: float, retries: int) -> ServiceError:
    import openai

    status = getattr(error, "status_code", None)
    what = f"The endpoint {url} answered with status {status}."
    cause, remedy = "the endpoint is out of order", "try again later, or use cluster.source: lexicon"
    if isinstance(error, openai.APITimeoutError):
        what = f"The endpoint {url} did not answer within {timeout:g} s, {retries + 1} times."
        cause, remedy = "it is overloaded, or the model is slow", "raise PhraseService(timeout=...)"
    elif isinstance(error, openai.APIConnectionError):
        what = f"The endpoint {url} cannot be reached."
        cause, remedy = "it is not running, or base_url is wrong", "check base_url and the network"
    elif status in (401, 403):
        cause, remedy = "the key is wrong or may not use this model", "set OPENAI_API_KEY or api_key"
    elif status == 404:
        cause, remedy = f"it does not know the model {model!r}, or base_url lacks /v1", "check model and base_url"
    elif status == 429:
        cause, remedy = f"its rate limit, still after {retries} retries", "ask less often, or raise max_retries"
    return ServiceError(what, got=getattr(error, "message", str(error)), cause=cause, remedy=remedy)
