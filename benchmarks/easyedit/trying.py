"""Does every editor of EasyEdit edit this model? One user of the tune half each, with what it then says, or why not."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.models import chosen
from benchmarks.sweep import GAINS, RESULTS, ask, probes_of, requests_of, tune_records
from easyedit_personal.errors import PersonalizationError
from easyedit_personal.integrations.easyedit import load_host
from easyedit_personal.integrations.easyedit.host_hparams import settings_for
from easyedit_personal.integrations.easyedit.host_methods import VARIANTS
from easyedit_personal.modeling.loading import load_model

from .editors import chosen_settings, editor_of
from .log import append, rows_of

LOG = RESULTS / "easyedit-try-smollm2.jsonl"
# Enough to see an editor run to its end; keys that an editor does not have are left out.
FEW_STEPS = {"v_num_grad_steps": 3, "n_iter": 10, "num_steps": 10, "context_template_length_params": [[5, 5]]}
FEW_TEXTS = 60  # for second moments: some 4,000 keys of 1,536 numbers


def try_all(options: Any) -> int:
    """A line per editor: seconds, bytes and its first answers, or the error."""
    log = options.log or LOG
    done = {(row["method"], row["cluster"]) for row in rows_of(log)}
    hparams = chosen(options)
    if options.few_steps:
        hparams = hparams.replace(mom2_n_samples=FEW_TEXTS)
    model, tokenizer = load_model(hparams)
    record = tune_records(1)[0]
    for name in options.methods:
        if (name, options.cluster) in done:
            continue
        settings = chosen_settings().get(name, {})
        if options.few_steps:
            settings |= _few(name, model)
        row = {"method": name, "cluster": options.cluster, "settings": settings}
        append(log, row | _one(model, tokenizer, record, hparams, name, row))
    return 0


def _few(name: str, model: Any) -> dict[str, Any]:
    known = settings_for(load_host(), VARIANTS.get(name, (name, {}))[0], model)
    return {key: value for key, value in FEW_STEPS.items() if hasattr(known, key)}


def _one(model: Any, tokenizer: Any, record: Any, hparams: Any, name: str, row: Any) -> dict[str, Any]:
    probes = [(kind, question) for kind, question in probes_of(record, [record]) if kind in (*GAINS, "neg", "facts")]
    started, used = time.perf_counter(), time.process_time()
    try:
        editor = editor_of(name, row["settings"])
        with editor(model, tokenizer, requests_of(record, row["cluster"]), hparams) as (changed, nbytes):
            spent = {
                "seconds": round(time.perf_counter() - started, 1),
                "cpu_seconds": round(time.process_time() - used, 1),
                "bytes": nbytes,
            }
            answers = ask(changed, tokenizer, [question for _, question in probes], hparams)
    except (PersonalizationError, RuntimeError) as error:  # the latter from edited models of the host's, when asked
        return {"error": str(error), "cpu_seconds": round(time.process_time() - used, 1)}
    said = [(kind, text) for (kind, _), (text, _) in zip(probes, answers)]
    return {**spent, "target": record["target"][-1], "said": said}
