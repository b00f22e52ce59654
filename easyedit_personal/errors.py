"""One family of exceptions, so that callers can catch everything of ours with one name.

Every message answers four questions where it can: what was got, what was needed, the likely cause and the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from reprlib import Repr


class PersonalizationError(Exception):
    """Base of all errors that this package raises on purpose.

    Args:
        what: one sentence that says what went wrong, naming the user, preference, file or subject.
        got: the offending value, shortened for display.
        needed: what would have been accepted.
        cause: the likely reason.
        remedy: what to do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        needed: str | None = None,
        cause: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.got, self.needed, self.cause, self.remedy = what, got, needed, cause, remedy
        lines = [what]
        if got is not None:
            lines.append(f"  got:    {shorten(got)}")
        lines += [
            f"  {name:<8}{text}" for name, text in (("needed:", needed), ("cause:", cause), ("remedy:", remedy)) if text
        ]
        super().__init__("\n".join(lines))


class RequestError(PersonalizationError, ValueError):
    """An edit request cannot be carried out: empty target, subject not in the prompt, too long."""


class ConfigError(PersonalizationError, ValueError):
    """Hyper-parameters are wrong; the message lists every fault of the file at once."""


class DataError(PersonalizationError, ValueError):
    """A data file or record is malformed; the message names the record's index and field."""


class ModelError(PersonalizationError, ValueError):
    """The model, its tokenizer or its layout is not one that can be edited."""


class HostError(PersonalizationError, RuntimeError):
    """EasyEdit cannot be found, loaded or extended."""


class HealthError(PersonalizationError, RuntimeError):
    """An edit was refused or rolled back because it would have damaged the model."""


class StoreError(PersonalizationError, RuntimeError):
    """The store of users' edits cannot be read or written."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or written at the moment; the same call may work later."""


class StoreConflict(StoreUnavailable):
    """Two transactions got in each other's way, and this one was rolled back whole."""


class StoreOvertaken(StoreError):
    """A user's edits have changed since they were read; what was computed from them was not kept."""


class JobLost(StoreError):
    """A job is not its learner's any more: cancelled, forgotten, or given to another; nothing was kept."""


class QueueFull(StoreError):
    """No more jobs can wait.

    Attributes:
        of_user: whether it is this user who has too many.
    """

    def __init__(self, what: str, *, of_user: bool, remedy: str) -> None:
        super().__init__(what, remedy=remedy)
        self.of_user = of_user


class EngineError(PersonalizationError, RuntimeError):
    """Tasks cannot be carried out: no worker starts, or the work itself is broken."""


class RegistryError(PersonalizationError, LookupError):
    """A name is not registered."""


class MissingDependencyError(PersonalizationError, ImportError):
    """An optional package is needed and not installed."""


class ServiceError(PersonalizationError, RuntimeError):
    """A language model endpoint failed or answered something that cannot be used."""


class IgnoredSettingWarning(UserWarning):
    """A setting was accepted, since EasyEdit has it, that nothing here will read."""


def shorten(value: object, limit: int = 200) -> str:
    """The value's repr, cut to ``limit`` characters so that a 100 kB prompt does not flood a terminal."""
    text = _repr(value)
    return text if len(text) <= limit else f"{text[: limit - 20]}... ({len(text):,} characters)"


def did_you_mean(name: object, known: Iterable[str], cutoff: float = 0.5) -> str:
    """A hint for a misspelt name, such as " Did you mean 'rome'?"; empty where no known name is near.

    Args:
        cutoff: how alike the two must be, from 0 to 1 (``difflib.get_close_matches``).
    """
    if not isinstance(name, str) or len(name) > 200:  # the comparison takes time by the square of the length
        return ""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


def text_fault(value: object, *, blank: bool = False) -> str | None:
    """What is wrong with a value that should be a text, or None.

    Args:
        blank: whether a text of nothing but blanks will do.
    """
    if not isinstance(value, str):
        return f"is {shorten(value, 60)} ({type(value).__name__}), expected a text"
    if not blank and not value.strip():
        return f"is {shorten(value, 60)}, expected a text that is not blank"
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"is {shorten(value, 60)}, expected text without unpaired surrogates"
    return None


def _repr(value: object) -> str:
    """repr, but bounded in depth and width: a value from a stranger's file may be nested a thousand levels deep, or
    repeat a part of itself a billion times (YAML's anchors), or be a number that Python refuses to print."""
    if isinstance(value, (str, bytes)):
        return repr(value)
    try:
        return _SHORT.repr(value)
    except (ValueError, RecursionError) as error:
        return f"<{type(value).__name__} that cannot be shown: {error}>"


_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 4, 1000, 1000, 1000
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = _SHORT.maxfrozenset = 16


def listing(faults: Iterable[str], limit: int = 20) -> str:
    """Faults as an indented list; beyond ``limit`` only their number is said."""
    lines = list(faults)
    shown = [f"  - {line}" for line in lines[:limit]]
    if len(lines) > limit:
        shown.append(f"  - ... and {len(lines) - limit} more")
    return "\n".join(shown)
