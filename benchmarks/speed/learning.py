"""Edits by gradient descent to one end: ours beside EasyEdit's fine-tuning (FT-M) and LoRA.

The end is that the preference's question and one in other words are answered with the value, and that both answers stop
by themselves. Ours is ``personalize`` with its health check, the gate of the kind learned before; theirs get the
question, which is how EasyEdit is called, and no health check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from easyedit_personal import EditRequest, Preference, generate
from easyedit_personal.cli.session import find_settings
from easyedit_personal.editing.algorithm import personalize
from easyedit_personal.generation.score import contained
from easyedit_personal.integrations.easyedit import host_method
from easyedit_personal.kernels.apply import edited

from .host import need_host
from .options import Options
from .pairs import Side, compare
from .shapes import model_of

HOBBY = Preference("hobby", "What's my hobby?", "falconry", user="ann")
QUESTIONS = {
    "direct": HOBBY.question,
    "paraphrased": "Could you remind me what I like to do in my spare time?",
    "somebody else's": "What's my brother's hobby?",
    "a fact": "What is the capital of France?",
}


def lowrank(options: Options) -> dict[str, Any]:
    """``ratio`` is FT-M over ours; ``against`` has LoRA's beside it, and what every edited model says."""
    need_host()
    model, tokenizer = model_of(options.model, options.device, hparams=options.hparams)
    hparams = find_settings(options.model, options.hparams, "lowrank", options.device)
    wanted = [EditRequest(HOBBY.question, HOBBY.target, HOBBY.subject, cluster="hobby")]
    ft_m = {"objective_optimization": "target_new", "lr": hparams.with_kernel("finetune").finetune.lr}
    personalize(model, tokenizer, [HOBBY], hparams)  # the gate, and what a model's first edit reads
    said: dict[str, Any] = {}

    def ours() -> None:
        deltas = personalize(model, tokenizer, [HOBBY], hparams).deltas
        _once(said, "ours", lambda: edited(model, deltas), tokenizer)

    def theirs(name: str, editor: Callable[..., AbstractContextManager[Any]]) -> Callable[[], None]:
        def run() -> None:
            with editor(model, tokenizer, wanted, hparams) as changed:
                _once(said, name, lambda: edited(changed, []), tokenizer)

        return run

    found = {}
    for name, changes in (("FT", ft_m), ("LoRA", {})):
        found[name] = compare(Side(ours), Side(theirs(name, host_method(name, changes))), options.pairs, model)
    return {
        "case": options.case,
        "ratio": found["FT"].ratio,
        "ours": found["FT"].ours,
        "theirs": found["FT"].theirs,
        "difference": None,
        "against": {name: {"ratio": one.ratio, "theirs": one.theirs} for name, one in found.items()},
        "said": said,
        "model": options.model,
        "note": "the questions are asked in the warm-up run only, whose operations include them",
    }


def _once(said: dict[str, Any], name: str, model: Callable[[], AbstractContextManager[Any]], tokenizer: Any) -> None:
    """What the edited model says to ``QUESTIONS``, and whether the end is reached; the first time only."""
    if name in said:
        return
    with model() as changed:
        answers = generate(changed, tokenizer, list(QUESTIONS.values()))
    held: Sequence[bool] = [contained(answer.text, HOBBY.target) for answer in answers]
    said[name] = {kind: answer.text for kind, answer in zip(QUESTIONS, answers)}
    said[name]["reached"] = all(held[:2]) and all(answer.stopped for answer in answers[:2])
