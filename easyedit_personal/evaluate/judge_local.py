"""A local Hugging Face model as judge, for those who have no endpoint or may not send answers to one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from ..modeling.layout import fingerprint, input_device
from ..modeling.pretrained import pretrained
from ..modeling.tokens import collate, encode
from .verdicts import INSTRUCTIONS, Claim, Usage, Verdicts


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
        self.name = f"local {name}"
        self.usage = Usage()
        self._verdicts = Verdicts(cache, f"local {name}")

    @classmethod
    def from_folder(cls, folder: str | Path, cache: Path | None = None) -> LocalJudge:
        """Load a model folder.

        Raises:
            ConfigError: it holds no model.
            ModelError: the model cannot be loaded.
        """
        if not (Path(folder) / "config.json").is_file():
            raise ConfigError(f"There is no judge in {str(folder)!r}.", needed="a URL, or a folder with config.json")
        model, tokenizer = pretrained(folder, dtype="auto")
        return cls(model, tokenizer, fingerprint(model), cache)

    def judge(self, claims: Sequence[Claim]) -> list[bool]:
        """See ``Judge``."""
        new = [claim for claim in dict.fromkeys(claims) if self._verdicts.get(claim) is None]
        self.usage.cached += len(claims) - len(new)
        for batch in _batches(new, self.batch_size):
            for claim, verdict in zip(batch, self._likelier(batch)):
                self._verdicts.put(claim, verdict)
        return [bool(self._verdicts.get(claim)) for claim in claims]

    def _likelier(self, claims: Sequence[Claim]) -> list[bool]:
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


def _batches(claims: Sequence[Claim], size: int) -> Iterator[Sequence[Claim]]:
    for start in range(0, len(claims), size):
        yield claims[start : start + size]
