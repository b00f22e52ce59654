"""Reading YAML and JSON from strangers: plain values only, no key twice, every failure as one of our errors."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError

MOST_NODES = 1_000_000  # a bomb of nine aliases in a row of nine lists stands for 400 million


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


def parse_yaml(text: str) -> Any:
    """The plain values of a YAML text; None where it is empty.

    Raises:
        ConfigError: it is no YAML, has duplicate keys or tags, or its aliases make more than ``MOST_NODES`` of it.
    """
    loader = None
    try:
        loader = _UniqueKeyLoader(text)
        node = loader.get_single_node()
        if node is not None and _expanded(node, {}) > MOST_NODES:
            raise ConfigError(
                "The YAML is too large.",
                got="aliases (*name) that repeat themselves or each other",
                needed=f"{MOST_NODES:,} values at most, with every alias written out",
            )
        return None if node is None else loader.construct_document(node)
    except ConfigError:
        raise
    # PyYAML's constructors meet values that do not fit their tag ("!!bool x") with all of these.
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"This is no YAML: {error or type(error).__name__}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _expanded(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node stands for once aliases are written out; endless where it holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        flat = (one for part in parts for one in (part if isinstance(part, tuple) else (part,)))
        known[id(node)] = 1 + sum(_expanded(one, known) for one in flat)
    return known[id(node)]


def read_yaml_mapping(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: the file cannot be read, is no YAML, has duplicate keys, or is no mapping with text keys.
    """
    try:
        values = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from None
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
