"""UPQADataset: user preferences as EasyEdit's users know data sets, with the request keys that its editors read.

Reads the official UPQA files (flat and clustered), PrefEval's explicit preferences and the set that ships with the
package. Paper: "Towards Effective Model Editing for LLM Personalization" (arXiv 2512.13676), section on UPQA.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from torch.utils.data import Dataset

from ..errors import DataError
from ..types import EditRequest
from .items import read_items
from .material import SPLITS
from .records import UPQAItem, find_subject

__all__ = ["UPQADataset", "UPQAItem", "collate_fn", "edit_request"]

# EasyEdit compares the answers to locality prompts before and after an edit, token by token along this text.
UNKNOWN = "I don't know."


class _NoSuchItem(DataError, IndexError):
    """IndexError for Python's own protocols, DataError for whoever catches ours."""


class UPQADataset(Dataset[dict[str, Any]]):
    """Preferences of users, one item each, as EasyEdit request dictionaries.

    Args:
        path: a JSON file, or ``"bundled"`` for the package's own set.
        size: keep only the first ``size`` items.

    Attributes:
        items: the items as records (``UPQAItem``), for whoever prefers attributes to keys.

    Raises:
        DataError: the file is malformed (every fault is told with the record's index, the field and what was
            expected; nothing is loaded), or ``size`` is not between 1 and the number of items.
    """

    def __init__(self, path: str | Path, size: int | None = None) -> None:
        self.items: tuple[UPQAItem, ...] = _first(read_items(path), size)

    @classmethod
    def from_items(cls, items: Iterable[UPQAItem]) -> UPQADataset:
        """A data set of given items, e.g. of a selection."""
        dataset = cls.__new__(cls)
        dataset.items = tuple(items)
        return dataset

    @classmethod
    def bundled(cls, split: str | None = None) -> UPQADataset:
        """The set that ships with the package: 260 items over 26 attribute types, half for tuning, half for tests.

        Args:
            split: "tune", "test", or None for both. The halves share attribute types and their names, but no value
                and no paraphrased, implicit or product question.

        Raises:
            DataError: no such split.
        """
        if split is not None and split not in SPLITS:
            raise DataError("The bundled set has no such split.", got=split, needed="'tune', 'test' or None")
        return cls.from_items(item for item in read_items("bundled") if split in (None, item.split))

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(edit_request, self.items)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> UPQADataset: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | UPQADataset:
        """One request dictionary (see ``edit_request``), or for a slice the data set of these items."""
        if isinstance(index, slice):
            return self.from_items(self.items[index])
        return edit_request(self._item(index))

    def __repr__(self) -> str:
        return f"UPQADataset({len(self)} items, {len({item.subject for item in self.items})} attribute types)"

    def requests(self, index: int, cluster_size: int | None = None) -> list[EditRequest]:
        """The phrases of one item's cluster as edit requests, the original last, all with the original target.

        Args:
            index: which item; negative ones count from the end.
            cluster_size: the original and the first ``cluster_size - 1`` others; None means all there are.

        Raises:
            DataError: no such item, or its cluster is smaller.
        """
        return self._item(index).requests(cluster_size)

    def edit_kwargs(self, cluster_size: int = 1) -> dict[str, Any]:
        """Keyword arguments for ``edit``, of EasyEdit's ``BaseEditor`` and of ours: one entry per item.

        Every subject stands literally in its prompt; where the attribute's name does not, the prompt's last word
        takes its place, since the host cannot do without. With ``cluster_size`` over 1 there is also ``cluster``, each
        item's other phrases, which our editor uses and the host ignores; so it does with ``user``.

        Raises:
            DataError: an item's cluster is smaller than ``cluster_size``.
        """
        rows = [edit_request(item) for item in self.items]
        kwargs: dict[str, Any] = {
            "prompts": [row["prompt"] for row in rows],
            "target_new": [row["target_new"] for row in rows],
            "ground_truth": [row["ground_truth"] for row in rows],
            "subject": [row["subject"] or _last_word(row["prompt"]) for row in rows],
            "rephrase_prompts": [row["rephrase_prompt"] for row in rows],
            "locality_inputs": _columns([row["locality"] for row in rows]),
            "portability_inputs": _columns([row["portability"] for row in rows]),
            "user": [row["user"] for row in rows],
        }
        phrases = [item.phrases(cluster_size)[:-1] for item in self.items]
        if any(phrases):
            kwargs["cluster"] = [_phrases(item.target, own) for item, own in zip(self.items, phrases)]
        return kwargs

    @staticmethod
    def collate_fn(batch: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
        """See the function of this name."""
        return collate_fn(batch)

    def _item(self, index: int) -> UPQAItem:
        try:
            return self.items[operator.index(index)]
        except IndexError:
            raise _NoSuchItem(
                "There is no such item.", got=index, needed=f"an index below {len(self)}, or a negative one"
            ) from None
        except TypeError:
            raise DataError("This is no index.", got=index, needed="a whole number or a slice") from None


def edit_request(item: UPQAItem) -> dict[str, Any]:
    """An item with EasyEdit's request keys, and ours.

    EasyEdit's: ``prompt``, ``target_new``, ``ground_truth`` (None: what the model said before is not known),
    ``subject`` (as it stands in the prompt, or None), ``rephrase_prompt``, ``portability`` ("implicit" and "product",
    answered by the target), ``locality`` ("neighborhood": the same question about somebody else; "unrelated": a world
    fact). Ours: ``user``, ``cluster`` (every phrase, the original last, each with the original target), ``persona``,
    ``attribute_type``, ``negated``, ``other_user``, ``unrelated``, ``facts`` and ``split``.
    """
    portability = {"implicit": item.implicit, "product": item.product}
    locality = {"neighborhood": (item.other, UNKNOWN), "unrelated": next(iter(item.locality), ("", ""))}
    return {
        "prompt": item.question,
        "target_new": item.target,
        "ground_truth": None,
        "subject": find_subject(item.subject, item.question),
        "rephrase_prompt": item.paraphrase,
        "portability": {k: {"prompt": q, "ground_truth": item.target} for k, q in portability.items() if q},
        "locality": {k: {"prompt": q, "ground_truth": answer} for k, (q, answer) in locality.items() if q},
        "user": item.id,
        "cluster": _phrases(item.target, item.cluster),
        "persona": item.persona,
        "attribute_type": item.subject,
        "negated": item.negated,
        "other_user": item.other,
        "unrelated": list(item.unrelated),
        "facts": [{"prompt": question, "ground_truth": answer} for question, answer in item.locality],
        "split": item.split,
    }


def collate_fn(batch: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """A batch of request dictionaries as one dictionary of lists, for ``DataLoader``; nothing is padded or cut.

    Raises:
        DataError: the batch is empty or its dictionaries have different keys.
    """
    if not batch or any(row.keys() != batch[0].keys() for row in batch):
        raise DataError("This batch cannot be collated.", needed="one or more items with the same keys")
    return {key: [row[key] for row in batch] for key in batch[0]}


def _first(items: tuple[UPQAItem, ...], size: int | None) -> tuple[UPQAItem, ...]:
    if size is None:
        return items
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= len(items):
        raise DataError("The data cannot be cut to this size.", got=size, needed=f"a number from 1 to {len(items)}")
    return items[:size]


def _phrases(target: str, cluster: Iterable[tuple[str, str]]) -> list[dict[str, str | None]]:
    return [{"subject": find_subject(name, q), "prompt": q, "target": target} for name, q in cluster]


def _columns(rows: Sequence[dict[str, dict[str, str]]]) -> dict[str, dict[str, list[str | None]]]:
    """``{name: {"prompt": [...], "ground_truth": [...]}}``; None where an item lacks the probe, which hosts skip."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: {key: [row.get(name, {}).get(key) for row in rows] for key in ("prompt", "ground_truth")}
        for name in names
    }


def _last_word(prompt: str) -> str:
    words = [word.strip("?.!,;:\"'()") for word in prompt.split()]
    return next((word for word in reversed(words) if word), prompt.strip())
