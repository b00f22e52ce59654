"""A language model as judge: does this answer give the expected value? Behind an endpoint, or local.

An answer that is not "yes" or "no" is asked for again, then it is an error: an unavailable judge never becomes a
silent 0. Verdicts are kept on disk by content, so that no answer is judged (or paid for) twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import ConfigError, MissingDependencyError, ServiceError, shorten
from ..registry import JUDGES

INSTRUCTIONS = (
    "You check whether an assistant's answer gives the information that was expected. You get a JSON object with "
    '"question", "expected" and "answer". Other wording, more detail and a surrounding sentence are fine; a different '
    "value, a denial, or several values of which only one is right are not. Reply with one word: yes or no."
)
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Claim:
    """What a judge is shown."""

    question: str
    expected: str
    answer: str

    def as_json(self) -> str:
        """The user's message: data, never part of the instructions."""
        values = {"question": self.question, "expected": self.expected, "answer": self.answer}
        return json.dumps(values, ensure_ascii=False)


@dataclass
class Usage:
    """What judging cost so far: calls that were answered, and tokens where the endpoint counts them."""

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Judge(Protocol):
    """Says for each claim whether the answer gives the expected value."""

    usage: Usage

    def judge(self, claims: Sequence[Claim]) -> list[bool]:
        """One verdict per claim.

        Raises:
            ServiceError: the judge cannot be reached, or its replies stayed unusable.
        """
        ...


class Verdicts:
    """Verdicts on disk, one JSON line each, found by the judge's name, its instructions and the claim."""

    def __init__(self, path: Path | None, judge: str) -> None:
        self.path, self.judge, self._lock = path, judge, threading.Lock()
        self.known: dict[str, bool] = {}
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._read(line)

    def get(self, claim: Claim) -> bool | None:
        """The verdict, if there is one."""
        return self.known.get(self._key(claim))

    def put(self, claim: Claim, verdict: bool) -> None:
        """Remember a verdict; safe from several threads."""
        with self._lock:
            key = self._key(claim)
            self.known[key] = verdict
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "verdict": verdict}) + "\n")

    def _key(self, claim: Claim) -> str:
        return hashlib.sha256("\0".join([self.judge, INSTRUCTIONS, claim.as_json()]).encode()).hexdigest()

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            self.known[str(entry["key"])] = bool(entry["verdict"])
        except (json.JSONDecodeError, KeyError, TypeError):
            return  # a torn line of a killed run: that claim is judged again


def parse_verdict(reply: object) -> bool | None:
    """True for yes, False for no, None for anything else: a reply that argues is no verdict."""
    word = reply.strip().strip("\"'*`.!").strip().casefold() if isinstance(reply, str) else ""
    return {"yes": True, "no": False}.get(word)


@JUDGES.register("endpoint")
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


@JUDGES.register("local")
class LocalJudge:
    """A local Hugging Face chat model: "yes" against "no", whichever it finds likelier after the claim.

    Comparing two probabilities instead of reading generated text leaves nothing to parse.

    Args:
        model, tokenizer: loaded; see ``from_folder``.
        name: in the key of the cache.
        cache: file of verdicts.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, cache: Path | None = None, batch_size: int = 16) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.usage = Usage()
        self._verdicts = Verdicts(cache, f"local {name}")

    @classmethod
    def from_folder(cls, folder: str | Path, cache: Path | None = None) -> LocalJudge:
        """Load a model folder.

        Raises:
            ConfigError: it holds no model.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from ..modeling.layout import fingerprint

        if not (Path(folder) / "config.json").is_file():
            raise ConfigError(f"There is no judge in {str(folder)!r}.", needed="a URL, or a folder with config.json")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True).eval()
        return cls(model, AutoTokenizer.from_pretrained(folder), fingerprint(model), cache)

    def judge(self, claims: Sequence[Claim]) -> list[bool]:
        """See ``Judge``."""
        new = [claim for claim in dict.fromkeys(claims) if self._verdicts.get(claim) is None]
        self.usage.cached += len(claims) - len(new)
        for batch in _batches(new, self.batch_size):
            for claim, verdict in zip(batch, self._likelier(batch)):
                self._verdicts.put(claim, verdict)
        return [bool(self._verdicts.get(claim)) for claim in claims]

    def _likelier(self, claims: Sequence[Claim]) -> list[bool]:
        import torch

        from ..modeling.layout import input_device
        from ..modeling.tokens import collate, encode

        prompts = [f"{INSTRUCTIONS}\n\n{claim.as_json()}" for claim in claims]
        rows = [
            encode(self.tokenizer, text, target=word, end_of_turn=False) for text in prompts for word in ("yes", "no")
        ]
        batch = collate(rows, self.tokenizer, device=input_device(self.model))
        at_rows, columns, ids = batch.targets()
        with torch.no_grad():
            logs = self.model(**batch.model_inputs()).logits[at_rows, columns].float().log_softmax(-1)
        chosen = logs.gather(1, ids[:, None])[:, 0]
        totals = torch.zeros(len(rows), device=chosen.device).index_add_(0, at_rows, chosen).view(-1, 2)
        self.usage.calls += len(claims)
        self.usage.prompt_tokens += int(batch.attention_mask.sum()) // 2
        return (totals[:, 0] > totals[:, 1]).tolist()


def make_judge(spec: str, model: str = "", cache: Path | None = None) -> Judge:
    """A judge from what users write: an endpoint's URL, "openai", or a local model's folder.

    Raises:
        ConfigError: it is none of these, or a model or key is missing.
    """
    if spec.startswith(("http://", "https://")):
        return EndpointJudge(spec, model, cache=cache)
    if spec == "openai":
        return EndpointJudge(None, model, cache=cache)
    return LocalJudge.from_folder(spec, cache)


def _batches(claims: Sequence[Claim], size: int) -> Iterator[Sequence[Claim]]:
    for start in range(0, len(claims), size):
        yield claims[start : start + size]


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
