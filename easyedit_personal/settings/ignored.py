"""Which kernel reads which of EasyEdit's keys: what is set and not read is said, once.

EasyEdit's YAML files may be used as they are, so keys are accepted that mean nothing here; that must not pass in
silence. A test records what every kernel reads, and compares.
"""

from __future__ import annotations

import warnings

from ..errors import IgnoredSettingWarning
from ..hparams import PersonalizationHyperParams

GRADIENT = frozenset({"lowrank", "finetune"})
CLOSED_FORM = frozenset({"rome", "memit"})
HOST = frozenset({"easyedit:rome", "easyedit:memit"})
OURS = GRADIENT | CLOSED_FORM
MOMENTS = frozenset({"lowrank"}) | CLOSED_FORM | HOST
VALUES = CLOSED_FORM | HOST
BASE_EDITOR = "EasyEdit's BaseEditor"

# Key -> who reads it. "rome+host_mode" is rome where host_mode is on. Not listed: what is read for every kernel
# (model_name, device, layers, fact_token, rewrite_module_tmp, ...), and the sections named after kernels.
READERS: dict[str, frozenset[str]] = {
    "evaluation_type": frozenset({BASE_EDITOR}),
    "max_length": MOMENTS | {BASE_EDITOR},
    "cluster.indirect": GRADIENT,
    "cluster.behind": GRADIENT,
    "v_num_grad_steps": VALUES,
    "v_lr": VALUES,
    "v_loss_layer": HOST,  # ours take the last layer
    "v_weight_decay": VALUES,
    "v_stop_loss": CLOSED_FORM,
    "clamp_norm_factor": VALUES,
    "kl_factor": VALUES,
    "context_templates": VALUES,
    "context_template_length_params": frozenset({"rome+host_mode", "easyedit:rome"}),
    "host_mode": VALUES,
    "mom2_adjustment": MOMENTS,
    "mom2_update_weight": frozenset({"memit", "easyedit:memit"}),
    "mom2_dataset": MOMENTS,
    "mom2_n_samples": MOMENTS,
    "mom2_dtype": MOMENTS,
    "mlp_module_tmp": HOST,  # ours need the down projection and the layer only
    "attn_module_tmp": HOST,
}


def ignored_settings(hparams: PersonalizationHyperParams, *, in_host: bool = False) -> dict[str, frozenset[str]]:
    """Keys that are not at their default and that nobody reads, each with those who would.

    Args:
        in_host: whether EasyEdit's BaseEditor holds these settings, too.
    """
    kernel = hparams.kernel
    if kernel not in OURS | HOST:
        return {}  # a kernel from outside may read anything
    here = {kernel, *([f"{kernel}+host_mode"] if hparams.host_mode else []), *([BASE_EDITOR] if in_host else [])}
    defaults = PersonalizationHyperParams()
    return {
        key: readers
        for key, readers in READERS.items()
        if not readers & here and _value(hparams, key) != _value(defaults, key)
    }


def warn_of_ignored(hparams: PersonalizationHyperParams, *, in_host: bool = False) -> None:
    """One warning about everything that ``ignored_settings`` finds; Python shows an equal one only once."""
    found = ignored_settings(hparams, in_host=in_host)
    if not found:
        return
    listed = "; ".join(f"{key} (read by {', '.join(sorted(readers))})" for key, readers in found.items())
    warnings.warn(f"kernel {hparams.kernel!r} does not read: {listed}", IgnoredSettingWarning, stacklevel=2)


def _value(hparams: PersonalizationHyperParams, key: str) -> object:
    group, _, name = key.rpartition(".")
    return getattr(getattr(hparams, group) if group else hparams, name)
