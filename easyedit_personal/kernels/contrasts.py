"""Contrasts as rows that a model has run: what a gate's optimisation looks at, and what the ground's numbers come from.

The shared ones, some hundred prompts, are run once per model and process, for the ground and the gates of all kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ..generation.generate import continuations
from ..hparams import PersonalizationHyperParams
from ..modeling.layout import Layout, context_limit, input_device
from ..modeling.per_model import PerModel
from ..modeling.tokens import Encoded, encode
from ..progress import progress
from .edited_rows import EditedRows
from .kinds import Contrast

ANSWER_TOKENS = 4  # of a contrast's answer; where it begins matters most
ASKED = 48  # prompts answered at a time: the caches of a thousand take 17 GB
ROWS = 48  # of one pass
Answers = Mapping[Contrast, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Pack:
    """Contrasts of one pool that were run together, in the order of the rows."""

    contrasts: Sequence[Contrast]
    rows: EditedRows


# Without the model, which may go before them; some 160 MB for 800 contrasts on SmolLM2.
_SHARED: PerModel[list[Pack]] = PerModel(most=1)


def shared_packs(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    contrasts: Sequence[Contrast],
    answers: Answers,
    hparams: PersonalizationHyperParams,
    known: Mapping[str, Tensor] | None = None,
) -> list[Pack]:
    """As ``packs``, of the contrasts that all gates share: in memory until another model's take their place.

    Args:
        answers: the unedited model's first tokens after every contrast.
    """

    def run() -> list[Pack]:
        found = packs(model, tokenizer, layout, contrasts, answers, hparams, known)
        return [replace(pack, rows=pack.rows.detached()) for pack in found]

    settings = (tuple(contrasts), tuple(hparams.layers), layout.rewrite, hparams.prompt_format, input_device(model))
    return [replace(pack, rows=pack.rows.on(model)) for pack in _SHARED.get(model, tokenizer, run, *settings)]


def packs(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    contrasts: Sequence[Contrast],
    answers: Answers,
    hparams: PersonalizationHyperParams,
    known: Mapping[str, Tensor] | None = None,
) -> list[Pack]:
    """Contrasts with the unedited model's answers, pool by pool, rows of about one length together.

    Args:
        known: what ``kept`` gave for the same contrasts and the same model.
    """
    rows = {c: replace(encoded_contrast(tokenizer, c, hparams), target_ids=answers[c]) for c in contrasts}
    parts = []
    for pool in dict.fromkeys(contrast.pool for contrast in contrasts):
        members = sorted((c for c in contrasts if c.pool == pool), key=lambda c: len(rows[c].prompt_ids))
        parts += [members[start : start + ROWS] for start in range(0, len(members), ROWS)]
    found = []
    for number, part in enumerate(progress(parts, "contrasts")):
        own, before = [rows[contrast] for contrast in part], f"rows.{number}."
        mine = {name.removeprefix(before): t for name, t in (known or {}).items() if name.startswith(before)}
        ran = EditedRows(model, tokenizer, layout, own, hparams.layers, from_answers=True, known=mine)
        found.append(Pack(part, ran))
    return found


def kept_of(packs: Sequence[Pack]) -> dict[str, Tensor]:
    """What to keep of the passes, so that they need not be made again; nothing where layers above edits are run."""
    return {
        f"rows.{number}.{name}": tensor
        for number, pack in enumerate(packs)
        for name, tensor in pack.rows.kept().items()
    }


def encoded_contrast(
    tokenizer: Any, contrast: Contrast, hparams: PersonalizationHyperParams, begun: str | None = None
) -> Encoded:
    """A contrast's prompt as tokens, with the beginning of an answer where there is one."""
    history = [
        message
        for question, answer in contrast.history
        for message in ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    ]
    return encode(
        tokenizer,
        contrast.text,
        target=begun,
        prompt_format=hparams.prompt_format,
        history=history,
        end_of_turn=False,
    )


def fitting(
    model: nn.Module, tokenizer: Any, contrasts: Sequence[Contrast], hparams: PersonalizationHyperParams
) -> list[Contrast]:
    """Those that fit the model's context with the beginning of an answer: turns before a question may be too long."""
    limit = context_limit(model)
    longest = (limit or 0) - ANSWER_TOKENS
    return [
        contrast
        for contrast in contrasts
        if limit is None or not contrast.history or len(encoded_contrast(tokenizer, contrast, hparams).ids) <= longest
    ]


def answered(model: nn.Module, tokenizer: Any, prompts: Sequence[Encoded], tokens: int) -> list[Encoded]:
    """Prompts with the first ``tokens`` tokens of what the model answers."""
    found = []
    for start in progress(range(0, len(prompts), ASKED), "answers of the unedited model"):
        part = prompts[start : start + ASKED]
        written = continuations(model, tokenizer, part, [tokens] * len(part))
        found += [Encoded(row.prompt_ids, tuple(ids), row.key_index) for row, ids in zip(part, written)]
    return found
