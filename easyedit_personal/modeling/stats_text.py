"""The texts whose second moments are taken: a file, a list, a data set of the hub, questions, or the model's own words.

A digest identifies a source, so that its moments are found again on the disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import DataError, MissingDependencyError
from ..hparams import PersonalizationHyperParams
from .layout import context_limit
from .sample import opening, sample
from .tokens import Encoded, PromptFormat, encode, encode_text

SAMPLE_TOKENS = 64  # per text that the model writes; 1,000 of them are enough keys for a d_mlp of 14,336
HUB_DATASETS = {  # EasyEdit's names
    "wikipedia": ("wikimedia/wikipedia", "20231101.en"),
    "wikitext": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
}


@dataclass(frozen=True, slots=True)
class Questions:
    """Prompts of which only the position counts where the answer begins, the chat template around them."""

    texts: tuple[str, ...]
    prompt_format: PromptFormat = "auto"


@dataclass(frozen=True, slots=True)
class Source:
    """Where text comes from.

    Attributes:
        digest: identifies it, with all that its rows depend on.
        rows: gives its rows anew at every call.
        ends_only: whether only their last positions count.
    """

    digest: str
    rows: Callable[[], Iterable[Encoded]]
    ends_only: bool = False


def find_source(
    model: nn.Module,
    tokenizer: Any,
    hparams: PersonalizationHyperParams,
    dataset: str | Path | Sequence[str] | Questions,
) -> Source:
    """The source that a data set's name, texts or questions stand for; of a file or list it holds the texts.

    Args:
        model, tokenizer: write the texts of "self".
        hparams: ``mom2_n_samples``, ``max_length``, ``seed``.
        dataset: see ``stats.second_moments``.

    Raises:
        DataError: the file is missing or cannot be read, or there is no text in it.
    """
    if isinstance(dataset, Questions):
        asked, style = dataset.texts, dataset.prompt_format
        rows = lambda: (encode(tokenizer, text, prompt_format=style) for text in asked)
        return Source(_digest(["questions", style, *asked]), rows, ends_only=True)
    n, longest = hparams.mom2_n_samples, min(hparams.max_length, context_limit(model) or hparams.max_length)
    if dataset == "self":
        tokens = min(SAMPLE_TOKENS, longest - 1)
        recipe = f"self {n} {tokens} {hparams.seed}"
        return Source(_digest([recipe]), lambda: _own_text(model, tokenizer, n, tokens, hparams.seed))
    if not isinstance(dataset, (str, Path)):
        texts = list(islice((text for text in dataset if text.strip()), n))
    elif Path(dataset).is_file():
        texts = list(islice(_file_texts(Path(dataset)), n))
    elif Path(dataset).suffix in (".txt", ".json", ".jsonl"):
        raise DataError(f"mom2_dataset names a file that does not exist: {dataset}")
    else:
        names = HUB_DATASETS.get(str(dataset), (str(dataset), None))
        digest = _digest([f"hub {names} {n} {longest}"])
        return Source(digest, lambda: _encoded(tokenizer, islice(_hub_texts(*names), n), longest))
    if not texts:
        raise DataError("There is no text to compute second moments from.", got=dataset, needed="at least one line")
    return Source(_digest([*texts, str(longest)]), lambda: _encoded(tokenizer, texts, longest))


def _encoded(tokenizer: Any, texts: Iterable[str], longest: int) -> Iterator[Encoded]:
    return (encode_text(tokenizer, text, longest) for text in texts)


def _own_text(model: nn.Module, tokenizer: Any, n: int, tokens: int, seed: int) -> Iterator[Encoded]:
    start = opening(tokenizer)
    for ids in sample(model, tokenizer, [start] * n, tokens, seed=seed):
        yield Encoded(tuple(ids), (), len(ids) - 1)


def _file_texts(path: Path) -> Iterator[str]:
    """The texts of a file, one after the other."""
    try:
        with path.open(encoding="utf-8") as lines:
            if path.suffix == ".json":
                yield from (_text_of(item, path, i) for i, item in enumerate(json.load(lines)))
            elif path.suffix == ".jsonl":
                yield from (_text_of(json.loads(line), path, i) for i, line in enumerate(lines) if line.strip())
            else:
                yield from (line.strip() for line in lines if line.strip())
    except DataError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from None


def _text_of(item: Any, path: Path | str, index: int) -> str:
    text = item.get("text") if isinstance(item, dict) else item
    if not isinstance(text, str):
        raise DataError(f"Record {index} of {path} holds no text.", got=item, needed='a string, or {"text": "..."}')
    return text


def _hub_texts(name: str, config: str | None) -> Iterator[str]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise MissingDependencyError(
            f"mom2_dataset {name!r} is no file; to load it from the hub, the package datasets is needed.",
            remedy="pip install datasets, or use mom2_dataset: self, or name a text file",
        ) from None
    try:
        records = iter(load_dataset(name, config, split="train", streaming=True))
        first = next(records)
    except Exception as error:  # the hub's client raises a dozen kinds, requests' and its own
        raise DataError(
            f"mom2_dataset {name!r} is neither a file nor a data set that can be loaded: {error}",
            remedy="use mom2_dataset: self, or name a text file",
        ) from None
    texts = (_text_of(record, name, i) for i, record in enumerate(chain([first], records)))
    return (text for text in texts if text.strip())


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()[:16]
