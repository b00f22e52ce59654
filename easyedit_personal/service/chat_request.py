"""What a client asks for: OpenAI's chat-completions request, checked, and refused where we could only pretend.

A field that would change the answer and is not supported is an error that names it; one that would not is ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .api_errors import ApiError
from .sampling import Sampler
from .settings import Settings

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# Who asks, where it is kept and what it is billed as are not the answer's business.
IGNORED = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
}
# Values that ask for nothing special; any other value of these fields is refused.
NEUTRAL: dict[str, Any] = {
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logprobs": False,
    "top_logprobs": 0,
    "logit_bias": {},
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "tools": [],
    "functions": [],
    "tool_choice": "none",
    "function_call": "none",
}
MAX_STOP = 64  # characters


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    role: str
    content: str | list[_Part]


class _StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)
    include_usage: bool = False


_Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP)]


class ChatCompletionRequest(BaseModel):
    """A request for one answer.

    ``conversation`` is what the model reads; ``limit`` the longest answer, None where the client names none.
    """

    model_config = ConfigDict(strict=True, extra="allow")
    model: str
    messages: list[_Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] | None = None
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    n: int | None = 1

    @property
    def conversation(self) -> list[dict[str, str]]:
        """Turns as plain chat messages."""
        return [{"role": ROLES[message.role], "content": _text(message)} for message in self.messages]

    @property
    def limit(self) -> int | None:
        """The longest answer in tokens."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        """Stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def sampler(self) -> Sampler | None:
        """How tokens are drawn; None is the most likely ones, also where the client says nothing.

        OpenAI's own default is temperature 1; here only who asks for chance gets it.
        """
        if not self.temperature and (self.temperature == 0 or self.top_p in (None, 1)):
            return None
        return Sampler(self.temperature or 1.0, self.top_p or 1.0, self.seed)

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


def read_chat_request(body: bytes, settings: Settings) -> ChatCompletionRequest:
    """A request's body as a wanted.

    Raises:
        ApiError: 400, naming the field.
    """
    try:
        wanted = ChatCompletionRequest.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(error) from None
    if wanted.n not in (None, 1):
        raise _refused("n", "Only one answer per request is supported: n must be 1.")
    if wanted.max_tokens and wanted.max_completion_tokens and wanted.max_tokens != wanted.max_completion_tokens:
        raise _refused("max_tokens", "max_tokens and max_completion_tokens differ; send max_completion_tokens only.")
    if wanted.limit and wanted.limit > settings.max_new_tokens:
        field = "max_completion_tokens" if wanted.max_completion_tokens else "max_tokens"
        raise _refused(field, f"Answers here have at most {settings.max_new_tokens} tokens.")
    if len(wanted.messages) > settings.max_messages:
        raise _refused("messages", f"A conversation has at most {settings.max_messages} messages here.")
    _check_extras(wanted)
    for number, message in enumerate(wanted.messages):
        _check_message(message, number)
    return wanted


def invalid_json(error: ValidationError) -> ApiError:
    """A api_error that names the first field at fault; the same for all bodies."""
    return _invalid(error)


def _check_extras(wanted: ChatCompletionRequest) -> None:
    for name, value in (wanted.model_extra or {}).items():
        if name in IGNORED or value is None or (name in NEUTRAL and value == NEUTRAL[name]):
            continue
        known = f"{name} is not supported by this service." if name in NEUTRAL else f"Unknown field {name[:64]!r}."
        raise _refused(name[:64], known)


def _check_message(message: _Message, number: int) -> None:
    if message.role not in ROLES:
        raise _refused(
            f"messages.{number}.role", f"Unknown role {message.role[:64]!r}: needs one of {', '.join(ROLES)}."
        )
    # Clients send back the assistant's message as they got it, with empty fields; anything in them would be lost.
    odd = [
        name for name, value in (message.model_extra or {}).items() if value not in (None, [], {}) and name != "name"
    ]
    if odd:
        raise _refused(f"messages.{number}.{odd[0][:64]}", f"{odd[0][:64]!r} in a message is not supported.")


def _text(message: _Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text for part in message.content)


def _refused(param: str, message: str) -> ApiError:
    return ApiError(400, message, code="unsupported_value", param=param)


def _invalid(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("function-", "list[", "str")))
    return ApiError(400, f"{param or 'The body'}: {first['msg']}.", code="invalid_value", param=param or None)
