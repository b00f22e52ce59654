"""What is wrong with settings, one line per fault: of our own records, and of the sections that additions bring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import RegistryError, did_you_mean, shorten
from .registry import Registry


class Section(BaseModel):
    """Strict base for settings: unknown keys are faults, a quoted number is not a number.

    Sections of kernels and other parts that are registered with ``settings=`` may use it; all fields need defaults.
    """

    model_config = ConfigDict(extra="forbid", strict=True, validate_assignment=True, arbitrary_types_allowed=True)


def section_faults(registry: Registry, name: str, given: Any) -> list[str]:
    """What is wrong with the section of a registered part, each line beginning with the part's name.

    Args:
        given: the section as plain values.
    """
    try:
        kind = registry.settings(registry.check(name))
    except RegistryError as error:
        return [f"{name}: {error.what}"]
    if kind is None:
        return [f"{name}: this {registry.kind} has no settings"]
    try:
        kind.model_validate(given)
    except ValidationError as error:
        return [f"{name}{line}" if line.startswith(":") else f"{name}.{line}" for line in fault_lines(error, kind)]
    return []


def sections_faults(registry: Registry, sections: Mapping[str, Any]) -> list[str]:
    """The same for several parts."""
    return [line for name, given in sections.items() for line in section_faults(registry, name, given)]


def section_of(registry: Registry, name: str, sections: Mapping[str, Any]) -> Any:
    """The settings of a part: its section of those given, its defaults without one, None if it has no settings."""
    kind = registry.settings(name)
    return kind and kind.model_validate(sections.get(name, {}))


def fault_lines(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """A line for each fault that pydantic found while it validated ``model``."""
    return [line for item in error.errors() for line in _lines(item, model)]


def _lines(item: Any, model: type[BaseModel]) -> list[str]:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return [f"{path}: unknown key.{did_you_mean(str(item['loc'][-1]), _known_keys(model, item['loc'][:-1]))}"]
    if item["type"] == "value_error":  # one of our own checks, which may report several lines
        return [f"{path}: {line}" for line in item["msg"].removeprefix("Value error, ").splitlines()]
    hint = ""
    if item["type"] in ("float_type", "int_type") and isinstance(item["input"], str):
        hint = " (YAML reads 1e-3 as text; write 1.0e-3)"
    return [f"{path}: {item['msg']}, got {shorten(item['input'], 60)}{hint}"]


def _known_keys(model: Any, path: tuple[Any, ...]) -> list[str]:
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field else None
    return list(getattr(model, "model_fields", ()))
