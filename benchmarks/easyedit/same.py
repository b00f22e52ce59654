"""Our ``rome`` and ``memit`` beside EasyEdit's at equal settings: are the updates the same, and the answers?

Ours run in ``host_mode``, which is EasyEdit's arithmetic; both get the model's own settings for the kernel, the same
beginnings before prompts and the same second moments. A line per kernel and user of the tune half.
"""

from __future__ import annotations

from typing import Any

from benchmarks.models import chosen
from benchmarks.speed.edits import apart, of_deltas
from benchmarks.speed.shapes import contexts
from benchmarks.sweep import RESULTS, ask, probes_of, requests_of, tune_records
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.modeling.loading import load_model
from easyedit_personal.registry import KERNELS

from .log import append, rows_of

LOG = RESULTS / "easyedit-same-smollm2.jsonl"
KERNEL_NAMES = ("rome", "memit")
BEGINNINGS = 6  # of 21: the bare prompt and five more


def same(options: Any) -> int:
    """Edit with both and compare."""
    log = options.log or LOG
    done = {(row["kernel"], row["user"]) for row in rows_of(log)}
    model, tokenizer = load_model(chosen(options))
    records = tune_records(options.users)
    for name in KERNEL_NAMES:
        changes = {"host_mode": True, "context_templates": contexts(tokenizer)[:BEGINNINGS], "v_stop_loss": 0.0}
        hparams = chosen(options, name).replace(**changes, v_num_grad_steps=options.steps)
        for record in records:
            if (name, record["id"]) not in done:
                row = {"kernel": name, "user": record["id"], "steps": options.steps, "layers": hparams.layers}
                append(log, row | _compared(model, tokenizer, record, records, hparams))
    return 0


def _compared(
    model: Any, tokenizer: Any, record: Any, records: Any, hparams: PersonalizationHyperParams
) -> dict[str, Any]:
    wanted, questions = requests_of(record, 1), [question for _, question in probes_of(record, records)]
    bare = hparams.replace(prompt_format="raw", end_of_turn=False)
    found = {}
    for name in (hparams.kernel, f"easyedit:{hparams.kernel}"):
        deltas = KERNELS.get(name)(model, tokenizer, wanted, hparams)
        with in_weights(model, deltas):
            found[name] = of_deltas(deltas), ask(model, tokenizer, questions, bare)
    (ours, mine), (theirs, others) = found.values()
    equal = sum(one == other for one, other in zip(mine, others))
    return {"update_difference": apart(ours, theirs), "questions": len(questions), "equal_answers": equal}
