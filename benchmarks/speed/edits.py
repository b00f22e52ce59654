"""Closed-form edits beside EasyEdit's: rome-1, rome-32, cluster-9, memit-100.

Both sides get the same prompts, the same beginnings before them, the same number of steps, and no early stop. Ours runs
in ``host_mode``, which is EasyEdit's arithmetic to the last average, so that results can be held against each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.registry import KERNELS
from easyedit_personal.types import WeightDelta

from .host import host_kernel, need_host
from .options import Options
from .pairs import Outcome, Side, compare
from .shapes import EDITED_LAYER, contexts, model_of, requests

Updates = Mapping[str, Tensor]


def settings(shape: str, tokenizer: Any, kernel: str, options: Options, **changes: Any) -> PersonalizationHyperParams:
    """EasyEdit's shipped numbers (gpt2-xl.yaml) for one of our shapes."""
    layer = EDITED_LAYER[shape]
    values: dict[str, Any] = {
        "kernel": kernel,
        "layers": [layer],
        "host_mode": True,
        "context_templates": contexts(tokenizer),
        "v_num_grad_steps": options.steps,
        "v_stop_loss": 0.0,
        "v_weight_decay": 1e-3,
        "stats_dir": str(options.stats_dir),
        "mom2_n_samples": 100,
    }
    return PersonalizationHyperParams(**{**values, **changes})


def rome_1(options: Options) -> dict[str, Any]:
    """One request, ours against ``execute_rome``."""
    need_host()
    model, tokenizer = model_of(options.model)
    hparams, wanted = settings(options.model, tokenizer, "rome", options), requests(1)
    with host_kernel("rome", model, tokenizer, wanted, hparams) as execute:
        passes = Passes(model)
        ours = Side(lambda: KERNELS.get("rome")(model, tokenizer, wanted, hparams))
        theirs = Side(lambda: execute(wanted))
        outcome = compare(ours, theirs, options.pairs, model)
        steps = passes.of(theirs.run)
    difference = apart(of_deltas(outcome.ours_result), of_host(outcome.theirs_result))
    return report(options, outcome, difference, host_passes=steps)


class Passes:
    """Counts a model's forward passes, to tell whether the host stopped before its last step."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def of(self, run: Any) -> int:
        """How many there are in one run."""
        seen: list[int] = []
        handle = self.model.register_forward_hook(lambda *_: seen.append(1))
        try:
            run()
        finally:
            handle.remove()
        return len(seen)


def of_deltas(deltas: Sequence[WeightDelta]) -> Updates:
    """Our updates by layer, [d_out, d_in]."""
    return {delta.layer: delta.update() for delta in deltas}


def of_host(factors: Mapping[str, tuple[Tensor, Tensor]]) -> Updates:
    """The host's: ROME's (u [d_in], v [d_out]) or MEMIT's (keys [d_in, n], residuals [d_out, n])."""
    return {
        name.removesuffix(".weight"): (b[:, None] @ a[None] if a.ndim == 1 else b @ a.T).float()
        for name, (a, b) in factors.items()
    }


def apart(ours: Updates, theirs: Updates) -> float:
    """The largest relative difference of two updates over the layers (Frobenius norms)."""
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


def report(options: Options, outcome: Outcome, difference: float | None, **more: Any) -> dict[str, Any]:
    """What goes into the JSON."""
    return {
        "case": options.case,
        "ratio": outcome.ratio,
        "ours": outcome.ours,
        "theirs": outcome.theirs,
        "difference": difference,
        "model": options.model,
        "steps": options.steps,
        **more,
    }
