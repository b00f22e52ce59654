"""Reading YAML and JSON from strangers: plain values only, no key twice, every failure as one of our errors."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys instead of keeping the last one."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    times = Counter(key for key in keys if isinstance(key, (str, int, float)))
    doubled = sorted(str(key) for key, count in times.items() if count > 1)
    if doubled:
        raise ConfigError("The YAML has duplicate keys.", got=doubled, remedy="keep one of each")
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_yaml_mapping(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: the file cannot be read, is no YAML, has duplicate keys, or is no mapping with text keys.
    """
    try:
        # A SafeLoader subclass: it constructs plain values only.
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except ConfigError:
        raise
    # PyYAML's constructors meet values that do not fit their tag ("!!bool x") with all of these.
    except (yaml.YAMLError, OSError, RecursionError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error or type(error).__name__}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path} holds no YAML mapping.", got=type(values).__name__, needed="key: value lines")
    return values


def read_json_mapping(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ConfigError: the file cannot be read, is no JSON, has duplicate keys, or is no object.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no JSON object.", got=type(values).__name__, needed='{"key": value}')
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    doubled = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
    if doubled:
        raise ValueError(f"the key {doubled[0]!r} stands there twice")
    return dict(pairs)
