"""A language model behind an endpoint as judge: does this answer give the expected value?

An answer that is not "yes" or "no" is asked for again, then it is an error: an unavailable judge never becomes a
silent 0. Verdicts are kept on disk by content, so that no answer is judged (or paid for) twice.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError, MissingDependencyError, ServiceError, shorten
from .verdicts import INSTRUCTIONS, Claim, Judge, Usage, Verdicts, parse_verdict

ATTEMPTS = 3


@dataclass
class EndpointJudge:
    """Any OpenAI-compatible chat endpoint, asked by several threads at once.

    Args:
        base_url: where it is; None reads ``OPENAI_BASE_URL``, else it is OpenAI's own.
        model: its name there; empty reads ``OPENAI_MODEL``.
        api_key: None reads ``OPENAI_API_KEY``; only an endpoint of one's own (``base_url``) may need none.
        cache: file of verdicts.
        workers: questions in flight.
        timeout: seconds for one reply.
        max_retries: after a lost connection, a timeout, 429 or 5xx (the client waits longer each time).

    Raises:
        ConfigError: no model or no key is named.
        MissingDependencyError: the openai client is not installed.
    """

    base_url: str | None = None
    model: str = ""
    api_key: str | None = field(default=None, repr=False)
    cache: Path | None = None
    workers: int = 8
    timeout: float = 30.0
    max_retries: int = 4

    def __post_init__(self) -> None:
        self.base_url = self.base_url or os.environ.get("OPENAI_BASE_URL")
        self.model = self.model or os.environ.get("OPENAI_MODEL", "")
        self.api_key = self.api_key or os.environ.get("OPENAI_API_KEY")
        if not self.model:
            raise ConfigError("No model is named for the judge.", needed="--judge-model, or OPENAI_MODEL")
        if not self.api_key and not self.base_url:
            raise ConfigError(
                "The judge has no key.",
                needed="the environment variable OPENAI_API_KEY, or the URL of an endpoint that needs none",
            )
        self.name = self.model
        self.usage = Usage()
        self._lock = threading.Lock()
        self._verdicts = Verdicts(self.cache, f"{self.base_url or 'openai'} {self.model}")
        self._client = self._connect()

    def judge(self, claims: Sequence[Claim]) -> list[bool]:
        """See ``Judge``; claims that were judged before are not sent."""
        new = [claim for claim in dict.fromkeys(claims) if self._verdicts.get(claim) is None]
        self.usage.cached += len(claims) - len(new)
        with ThreadPoolExecutor(max(1, self.workers)) as pool:
            futures = [pool.submit(self._judge_one, claim) for claim in new]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [bool(self._verdicts.get(claim)) for claim in claims]

    def _judge_one(self, claim: Claim) -> None:
        reply: object = None
        for _ in range(ATTEMPTS):
            reply = self._ask(claim)
            verdict = parse_verdict(reply)
            if verdict is not None:
                self._verdicts.put(claim, verdict)
                return
        raise _unusable(f"{self.model!r} at {self.base_url or 'OpenAI'}", reply)

    def _ask(self, claim: Claim) -> object:
        import openai

        messages: Any = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": claim.as_json()}]
        try:
            answer = self._client.chat.completions.create(model=self.model, messages=messages, temperature=0)
        except openai.APIError as error:
            raise _failed(error, str(self._client.base_url), self.max_retries) from error
        except ValueError as error:  # a body that calls itself JSON and is not
            return str(error)
        self._count(getattr(answer, "usage", None))
        try:
            return answer.choices[0].message.content
        except (AttributeError, IndexError, TypeError):
            return shorten(answer)

    def _count(self, usage: Any) -> None:
        with self._lock:
            self.usage.calls += 1
            self.usage.prompt_tokens += getattr(usage, "prompt_tokens", 0) or 0
            self.usage.completion_tokens += getattr(usage, "completion_tokens", 0) or 0

    def _connect(self) -> Any:
        try:
            import openai
        except ImportError:
            raise MissingDependencyError(
                "A judge behind an endpoint needs the openai client.", remedy="pip install 'easyedit-personal[llm]'"
            ) from None
        return openai.OpenAI(
            api_key=self.api_key or "none",
            base_url=self.base_url,
            timeout=self.timeout,
            max_retries=self.max_retries,
        )


def make_judge(spec: str, model: str = "", cache: Path | None = None) -> Judge:
    """A judge from what users write: an endpoint's URL, "openai", or a local model's folder.

    Raises:
        ConfigError: it is none of these, or a model or key is missing.
    """
    if spec.startswith(("http://", "https://")):
        return EndpointJudge(spec, model, cache=cache)
    if spec == "openai":
        return EndpointJudge(None, model, cache=cache)
    from .judge_local import LocalJudge

    return LocalJudge.from_folder(spec, cache)


def _unusable(who: str, reply: object) -> ServiceError:
    return ServiceError(
        f"The judge {who} gave no verdict in {ATTEMPTS} attempts.",
        got=reply,
        needed="yes or no",
        cause="the model is too small to follow, or the endpoint is not a chat-completions one",
        remedy="use another model; verdicts so far are kept",
    )


def _failed(error: Any, url: str, retries: int) -> ServiceError:
    status = getattr(error, "status_code", None)
    what = f"answered with status {status}" if status else "cannot be reached or does not answer in time"
    causes = {
        401: "the key is wrong",
        403: "the key may not use this model",
        404: "unknown model, or no /v1 in the URL",
    }
    return ServiceError(
        f"The judge at {url} {what}, after {retries} retries.",
        got=getattr(error, "message", str(error)),
        cause=causes.get(status or 0),
        remedy="start the same command again: verdicts so far are kept",
    )
