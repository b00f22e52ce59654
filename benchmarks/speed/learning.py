"""Seconds to a given quality: ours beside EasyEdit's fine-tuning (FT-M) and LoRA, one preference from nothing.

The end: the preference's question and one in other words are answered with the value, and both answers stop by
themselves. Ours is ``personalize`` with its health check, the gate of the kind learned before; theirs get nine phrases
of the preference, the settings that the sweep chose, the fewest passes that reach the end, and no check.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from benchmarks.easyedit.editors import chosen_settings, grids
from easyedit_personal import EditRequest, Preference, generate
from easyedit_personal.cli.session import find_settings
from easyedit_personal.editing.algorithm import personalize
from easyedit_personal.generation.score import contained
from easyedit_personal.integrations.easyedit import host_method
from easyedit_personal.kernels.apply import in_weights

from .host import need_host
from .options import Options
from .pairs import Side, compare
from .shapes import cluster, model_of

HOBBY = Preference("hobby", "What's my hobby?", "falconry", user="ann")
QUESTIONS = {
    "direct": HOBBY.question,
    "paraphrased": "Could you remind me what I like to do in my spare time?",
    "somebody else's": "What's my brother's hobby?",
    "a fact": "What is the capital of France?",
}
PASSES = {"FT-M": (1, 2, 4, 8, 16), "LoRA": (1, 2, 4, 8)}  # over the nine phrases, tried in turn

Said = dict[str, Any]
Edit = Callable[[int], AbstractContextManager[Any]]  # of a number of passes


def ft_m(options: Options) -> dict[str, Any]:
    """EasyEdit's fine-tuning of one matrix, on all of the answer's tokens."""
    return _against("FT-M", options)


def lora(options: Options) -> dict[str, Any]:
    """EasyEdit's LoRA."""
    return _against("LoRA", options)


def _against(name: str, options: Options) -> dict[str, Any]:
    """``ratio`` is theirs over ours; ``said`` has what both edited models say, and whether the end was reached."""
    need_host()
    model, tokenizer = model_of(options.model, options.device, hparams=options.hparams)
    hparams = find_settings(options.model, options.hparams, "lowrank", options.device)
    wanted = [EditRequest(one.prompt, HOBBY.target, one.subject, cluster="hobby") for one in cluster(9)]
    chosen = {**grids()[name]["fixed"], **chosen_settings().get(name, {})}

    def theirs(steps: int) -> AbstractContextManager[Any]:
        return host_method(name, {**chosen, "num_steps": steps})(model, tokenizer, wanted, hparams)

    def ours() -> list[Any]:
        return personalize(model, tokenizer, [HOBBY], hparams).deltas

    with in_weights(model, ours()) as changed:  # the gate, too, and what a model's first edit reads
        said = {"ours": _answers(changed, tokenizer)}
    steps, said["theirs"] = _fewest(theirs, tokenizer, (options.steps,) if options.steps else PASSES[name])
    outcome = compare(Side(ours), Side(lambda: _left(theirs(steps))), options.pairs, model)
    return {
        "case": options.case,
        "ratio": outcome.ratio,
        "ours": outcome.ours,
        "theirs": outcome.theirs,
        "difference": None,
        "said": said,
        "their_passes": steps,
        "their_settings": chosen,
        "model": options.model,
    }


def _fewest(edit: Edit, tokenizer: Any, ladder: tuple[int, ...]) -> tuple[int, Said]:
    """The first number of passes that reaches the end, or the last, and what the model says after it."""
    for steps in ladder:
        with edit(steps) as changed:
            said = _answers(changed, tokenizer)
        if said["reached"]:
            break
    return steps, said


def _left(editing: AbstractContextManager[Any]) -> None:
    with editing:
        pass


def _answers(model: Any, tokenizer: Any) -> Said:
    """What a model says to ``QUESTIONS``, and whether the end is reached."""
    answers = generate(model, tokenizer, list(QUESTIONS.values()))
    reached = [contained(answer.text, HOBBY.target) and answer.stopped for answer in answers[:2]]
    return {**{kind: answer.text for kind, answer in zip(QUESTIONS, answers)}, "reached": all(reached)}
