"""Edits by gradient descent on the same data: our ``lowrank`` beside EasyEdit's fine-tuning (FT-M) and LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from easyedit_personal.cli.session import find_settings
from easyedit_personal.generation.generate import generate
from easyedit_personal.generation.score import contained
from easyedit_personal.integrations.easyedit import host_method
from easyedit_personal.kernels.apply import edited
from easyedit_personal.registry import KERNELS
from easyedit_personal.types import EditRequest

from .host import need_host
from .options import Options
from .pairs import Side, compare
from .shapes import cluster, model_of


def lowrank(options: Options) -> dict[str, Any]:
    """A cluster of nine phrases on a trained model, with its settings (preservation and statistics on).

    ``ratio`` is FT-M over ours; ``against`` has LoRA's beside it. ``difference`` is the share of the nine phrases that
    are answered with the target, ours minus FT-M's: the methods are different, so their weights are, too.
    """
    need_host()
    model, tokenizer = model_of(options.model, options.device, hparams=options.hparams)
    hparams, wanted = find_settings(options.model, options.hparams, "lowrank", options.device), cluster(9)
    ft_m = {"objective_optimization": "target_new", "lr": hparams.with_kernel("finetune").finetune.lr}

    def edit() -> float:
        with edited(model, KERNELS.get("lowrank")(model, tokenizer, wanted, hparams)):
            return _learned(model, tokenizer, wanted)

    ours, found = Side(edit), {}
    for name, changes in (("FT", ft_m), ("LoRA", {})):
        editor = host_method(name, changes)
        theirs = Side(partial(_inside, editor, model, tokenizer, wanted, hparams))
        found[name] = compare(ours, theirs, options.pairs, model)
    mine = found["FT"].ours_result
    return {
        "case": options.case,
        "ratio": found["FT"].ratio,
        "ours": {**found["FT"].ours, "learned": mine},
        "theirs": {**found["FT"].theirs, "learned": found["FT"].theirs_result},
        "difference": round(mine - found["FT"].theirs_result, 4),
        "against": {
            name: {"ratio": outcome.ratio, "theirs": outcome.theirs, "learned": outcome.theirs_result}
            for name, outcome in found.items()
        },
        "model": options.model,
        "note": "both include asking the nine phrases once; theirs a snapshot of the weights",
    }


def _inside(editor: Any, model: Any, tokenizer: Any, wanted: Sequence[EditRequest], hparams: Any) -> float:
    with editor(model, tokenizer, wanted, hparams) as changed:
        return _learned(changed, tokenizer, wanted)


def _learned(model: Any, tokenizer: Any, wanted: Sequence[EditRequest]) -> float:
    """Share of the prompts whose answer holds the target."""
    answers = generate(model, tokenizer, [one.prompt for one in wanted], max_new_tokens=12)
    hits = [contained(answer.text, one.target_new) for answer, one in zip(answers, wanted)]
    return sum(hits) / len(hits)
