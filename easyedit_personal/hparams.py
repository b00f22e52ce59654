"""Hyper-parameters: EasyEdit's names where EasyEdit has one, ours in groups, every fault reported at once.

YAML files live under ``hparams/PersonalizationEditor/<model>.yaml`` and travel inside the wheel.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_validator

from . import DEFAULT_MODEL
from .errors import ConfigError, RegistryError, did_you_mean, listing
from .files import read_json_mapping, read_yaml_mapping
from .registry import BASELINES, EVALUATORS, KERNELS, PHRASE_SOURCES, Registry
from .validation import Section, fault_lines, section_of, sections_faults

ALG_NAME: Literal["PersonalizationEditor"] = "PersonalizationEditor"
# Where a model lies and computes, and which one the numbers were found on, does not change what is computed.
LOCATION_KEYS = ("device", "model_name", "model_parallel", "stats_dir", "made_for")
MAX_RATE = 1e37  # Adam divides its rate by 0.1 in the first step: more overflows inside of torch


def _known(registry: Registry, name: str) -> str:
    """The name, if it is registered; else what pydantic reports as a fault."""
    try:
        return registry.check(name)
    except RegistryError as error:
        raise ValueError(error.what) from None


class ClusterParams(Section):
    """How a preference gets its phrases.

    ``size`` phrases at most (1 edits the bare question), plus ``indirect`` shipped questions that do not name the
    attribute ("What should I do this weekend?"), where its kind is known. ``behind`` of them are asked once more,
    behind one or two exchanges about other things: an edit fades in conversations that it never saw. ``source`` says
    where the other phrases come from: a name in ``PHRASE_SOURCES`` ("dataset": only those of the request), or "auto",
    which takes those of the request and falls back on the lexicon.
    ``method``, ``distance_threshold`` and ``template`` go to ``PreferenceClusterer``.
    """

    size: int = Field(9, ge=1, le=64)
    indirect: int = Field(0, ge=0, le=64)
    behind: int = Field(0, ge=0, le=64)
    source: str = "auto"
    method: str = "agglomerative"
    distance_threshold: float | None = Field(None, gt=0)
    template: str = "a person's {}"

    @field_validator("source")
    @classmethod
    def _source_exists(cls, source: str) -> str:
        return source if source == "auto" else _known(PHRASE_SOURCES, source)

    @field_validator("template")
    @classmethod
    def _has_a_place(cls, template: str) -> str:
        if "{}" not in template:
            raise ValueError("needs {} where the phrase goes")
        return template


class LowRankParams(Section):
    """The ``lowrank`` kernel: how many directions are kept, Adam's rate and steps, the metric's ridge.

    What is optimised first is a whole update, as large as the matrix; with its gradient and Adam's two moments it takes
    four times the matrix's size in float32 (0.9 GB for Llama 3 8B). It is cut to ``rank`` directions afterwards.
    ``rank`` and ``polish`` count per preference; so do ``steps`` up to four preferences learned together.
    ``lr`` is the share of a projection's output that one step may change. After the cut to ``rank`` directions come
    ``polish`` steps on the factors, each changing their entries by ``polish_lr`` of their size. A step sees about
    ``batch`` phrases per preference. ``ridge``, relative to
    the mean of the keys' second moments (with ``mom2_adjustment``), says how rare a direction may be before it costs
    no less than others. Two numbers turn the metric towards questions about the user: ``spare`` is how much the
    positions where answers to other questions begin weigh against ordinary text (which counts 1), ``reach`` how much
    further a step goes along the direction in which questions about the user stand out most. ``stop_loss`` ends the
    optimisation once every phrase's target loss (nats per token) is below it, and the preservation term below
    ``preserve.stop_kl``.
    """

    rank: int = Field(16, ge=1, le=512)
    lr: float = Field(0.2, gt=0, le=MAX_RATE)
    steps: int = Field(40, ge=1)
    polish: int = Field(20, ge=0)
    polish_lr: float = Field(0.05, gt=0)
    ridge: float = Field(0.1, gt=0)
    batch: int = Field(64, ge=1)
    spare: float = Field(0.0, ge=0)
    reach: float = Field(0.0, ge=0)
    stop_loss: float = Field(0.02, ge=0)


class NaturalParams(Section):
    """The ``lowrank`` kernel with ``answers: natural``: a gate per kind of attribute, and each user's value.

    A gate has ``gate_rank`` directions per layer and is learned in ``gate_steps`` of Adam, each on ``gate_batch``
    questions and on ``contrast_batch`` contrasts of every pool (own kind, other kinds by name, without, the rest).
    ``contrast_weight`` is the weight of their KL divergence, ``quiet_weight`` that of the quadratic form that stands
    for ordinary text; raise either for locality, lower it for generality. Rates are shares of the outputs (``*_lr``)
    and of the right factors (``right_lr``). A value has ``value_rank`` directions at most, learned in ``value_steps``
    on ``value_phrases`` phrases, and stops early once every token of it costs less than ``stop_loss`` nats.
    ``contrasts`` prompts and twice ``ordinary`` answers of ``answer_tokens`` are looked at once per model; ``ridge``
    and ``ordinary_weight`` (against where answers begin) shape the metric.
    """

    gate_rank: int = Field(10, ge=1, le=512)
    gate_steps: int = Field(100, ge=1)
    gate_batch: int = Field(16, ge=1)
    gate_lr: float = Field(0.5, gt=0, le=MAX_RATE)
    right_lr: float = Field(0.1, gt=0)
    contrast_batch: dict[str, int] = Field(default_factory=lambda: {"own": 8, "named": 6, "indirect": 6, "rest": 4})
    contrast_weight: float = Field(1.5, ge=0)
    quiet_weight: float = Field(30.0, ge=0)
    value_rank: int = Field(4, ge=1, le=512)
    value_steps: int = Field(30, ge=1)
    value_lr: float = Field(0.5, gt=0, le=MAX_RATE)
    value_phrases: int = Field(16, ge=2)
    value_quiet_weight: float = Field(3.0, ge=0)
    stop_loss: float = Field(0.25, ge=0)
    contrasts: int = Field(500, ge=8)
    ordinary: int = Field(60, ge=4)
    answer_tokens: int = Field(16, ge=1)
    ridge: float = Field(0.3, gt=0)
    ordinary_weight: float = Field(4.0, ge=0)


class FinetuneParams(Section):
    """The dense comparison: FT-M (``target_new``: loss on all target tokens) or FT-L (``prompt_last``)."""

    objective: Literal["target_new", "prompt_last"] = "target_new"
    lr: float = Field(1e-3, gt=0, le=MAX_RATE)
    steps: int = Field(25, ge=1)
    norm_constraint: float | None = Field(None, gt=0)
    stop_loss: float = Field(0.01, ge=0)


class PreserveParams(Section):
    """What an edit must leave alone: weight of the KL term and how many prompts of each kind it sees.

    ``other_attribute`` asks for other attributes by name, ``other_indirect`` without naming them. ``negated`` and
    ``other_user`` count per preference, the others per edit. ``kind_weights`` multiplies a kind's
    share ("negated": 2.0). Every step sees ``batch`` of the prompts, and the first ``answer_tokens`` tokens of what
    the unedited model answers. ``stop_kl`` (nats) must be reached before the optimisation stops early.
    """

    weight: float = Field(1.0, ge=0)
    neutral: int = Field(32, ge=0)
    other_attribute: int = Field(11, ge=0)
    other_indirect: int = Field(11, ge=0)
    negated: int = Field(2, ge=0)
    other_user: int = Field(2, ge=0)
    kind_weights: dict[Literal["neutral", "other_attribute", "other_indirect", "negated", "other_user"], float] = Field(
        default_factory=dict
    )
    batch: int = Field(16, ge=1)
    answer_tokens: int = Field(12, ge=1)
    stop_kl: float = Field(0.05, ge=0)
    file: str | None = None


class HealthParams(Section):
    """Limits that an edit must keep: perplexity after/before, ||update|| / ||weight||, and what the model then says.

    ``min_natural_stops`` is a share of the answers that the unedited model ends by itself; ``max_surprise`` is in nats
    per token: by how much less likely than its own answers the unedited model may find those after the edit.
    ``self_test`` is what becomes of a preference that the edited model does not say, or says where something else is
    asked (``editing.self_test``): "words" keeps it in words instead, "warn" keeps the edit and says so, "skip" does not
    ask. With ``on_unhealthy: ignore`` nothing is asked either.
    """

    on_unhealthy: Literal["refuse", "warn", "ignore"] = "warn"
    self_test: Literal["words", "warn", "skip"] = "words"
    max_perplexity_ratio: float = Field(1.5, gt=1)
    max_relative_norm: float = Field(2.0, gt=0)
    min_natural_stops: float = Field(0.7, ge=0, le=1)
    max_surprise: float = Field(1.0, gt=0)


class MadeFor(Section):
    """Which model the numbers were chosen for; with another one they are refused (``settings.resolve``).

    ``family`` is transformers' ``model_type``, ``n_layers`` the number of decoder layers. ``status`` says how the
    numbers were found: "measured" on that model (``source`` names the result), "trial" in first trials on it,
    "derived" from those of another model (``source`` names its file).
    """

    family: str | None = None
    n_layers: int | None = Field(None, ge=1)
    status: Literal["measured", "trial", "derived"] | None = None
    source: str | None = None


class PersonalizationHyperParams(Section):
    """All settings of the PersonalizationEditor; see the YAML files for what each number means and why.

    Module templates (``rewrite_module_tmp`` and its siblings) are found from the model when left out.
    ``per_kernel`` holds what differs for kernels other than ``kernel``, so that one file serves a comparison of
    all of them: ``with_kernel("rome")`` is this file with ``per_kernel.rome`` on top.

    Parts that were added to a registry and have settings bring sections of their own: a kernel under its name, as
    ``lowrank`` has one; others under ``evaluators``, ``baselines`` and ``phrase_sources``. See ``settings_of``.
    """

    # What EasyEdit's BaseEditor reads.
    alg_name: Literal["PersonalizationEditor"] = ALG_NAME
    model_name: Any = DEFAULT_MODEL
    made_for: MadeFor = Field(default_factory=MadeFor)
    device: int | str = "cpu"
    model_parallel: bool = False
    max_length: int = Field(256, ge=1)
    batch_size: int = Field(1, ge=1)
    fp16: bool = False
    evaluation_type: str | None = None
    seed: int = Field(0, ge=0)

    # The method.
    kernel: str = "lowrank"
    strategy: Literal["joint", "sequential"] = "joint"
    prompt_format: Literal["auto", "chat", "raw"] = "auto"
    end_of_turn: bool = True
    layers: list[int] = Field(default_factory=lambda: [2], min_length=1)
    fact_token: Literal["subject_last", "last"] = "subject_last"
    cluster: ClusterParams = Field(default_factory=ClusterParams)
    answers: Literal["natural", "short"] = "short"  # what lowrank teaches: a beginning to go on from, or the bare value
    lowrank: LowRankParams = Field(default_factory=LowRankParams)
    natural: NaturalParams = Field(default_factory=NaturalParams)
    finetune: FinetuneParams = Field(default_factory=FinetuneParams)
    preserve: PreserveParams = Field(default_factory=PreserveParams)
    health: HealthParams = Field(default_factory=HealthParams)
    per_kernel: dict[str, dict[str, Any]] = Field(default_factory=dict)
    evaluators: dict[str, dict[str, Any]] = Field(default_factory=dict)
    baselines: dict[str, dict[str, Any]] = Field(default_factory=dict)
    phrase_sources: dict[str, dict[str, Any]] = Field(default_factory=dict)
    _kernels: dict[str, dict[str, Any]] = PrivateAttr(default_factory=dict)

    # ROME and MEMIT, in EasyEdit's words.
    v_num_grad_steps: int = Field(25, ge=1)
    v_lr: float = Field(0.5, gt=0, le=MAX_RATE)
    v_loss_layer: int | None = Field(None, ge=0)
    v_weight_decay: float = Field(1e-3, ge=0)
    v_stop_loss: float = Field(5e-2, ge=0)
    clamp_norm_factor: float = Field(4.0, gt=0)
    kl_factor: float = Field(0.0625, ge=0)
    context_template_length_params: list[list[int]] = Field(default_factory=lambda: [[5, 10], [10, 10]])
    context_templates: list[str] | None = None
    host_mode: bool = False  # EasyEdit's contexts, key averaging and raw prompts, for comparison with its kernels
    mom2_adjustment: bool = False
    mom2_update_weight: float = Field(15000.0, gt=0)
    mom2_dataset: str = "self"
    mom2_n_samples: int = Field(1000, ge=1)
    mom2_dtype: Literal["float32", "float64"] = "float32"
    stats_dir: str | None = None

    # Where things are in the model; None means: find it.
    rewrite_module_tmp: str | None = None
    layer_module_tmp: str | None = None
    mlp_module_tmp: str | None = None
    attn_module_tmp: str | None = None
    ln_f_module: str | None = None
    lm_head_module: str | None = None

    @field_validator("kernel")
    @classmethod
    def _kernel_exists(cls, kernel: str) -> str:
        if kernel.startswith("easyedit:"):
            return kernel  # looked up in the host, which may not be loaded yet
        return _known(KERNELS, kernel)

    @field_validator("layers")
    @classmethod
    def _layers_are_distinct(cls, layers: list[int]) -> list[int]:
        if len(set(layers)) != len(layers) or min(layers) < 0:
            raise ValueError("needs distinct layer numbers from 0")
        return layers

    @field_validator("per_kernel")
    @classmethod
    def _overrides_are_valid(cls, per_kernel: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        faults = []
        for kernel, changes in per_kernel.items():
            try:
                cls(**{**changes, "kernel": kernel})
            except ConfigError as error:
                faults += [f"{kernel}.{line.strip(' -')}" for line in str(error).splitlines()[1:]]
        if faults:
            raise ValueError("\n".join(faults))
        return per_kernel

    @field_validator("evaluators", "baselines", "phrase_sources")
    @classmethod
    def _sections_are_valid(
        cls, sections: dict[str, dict[str, Any]], info: ValidationInfo
    ) -> dict[str, dict[str, Any]]:
        faults = sections_faults(_REGISTRIES[info.field_name or ""], sections)
        if faults:
            raise ValueError("\n".join(faults))
        return sections

    def __init__(self, **values: Any) -> None:
        kernels = {key: value for key, value in values.items() if self._is_section(key)}
        faults = sections_faults(KERNELS, kernels)
        try:
            super().__init__(**{key: value for key, value in values.items() if key not in kernels})
        except ValidationError as error:
            faults += fault_lines(error, type(self))
        if faults:
            raise ConfigError(f"The hyper-parameters are not valid.\n{listing(faults)}")
        self._kernels = kernels

    @classmethod
    def _is_section(cls, key: str) -> bool:
        """Whether a key that is no field of ours is the section of a kernel that was added."""
        return key not in cls.model_fields and key in KERNELS and key in KERNELS.added()

    def settings_of(self, registry: Registry, name: str) -> Any:
        """The settings of a part that was registered with ``settings=``: its section, or the defaults without one.

        None for a part that has no settings of its own.
        """
        sections = self._kernels if registry is KERNELS else getattr(self, registry.group)
        return section_of(registry, name, sections)

    @classmethod
    def from_hparams(cls, name_or_path: str | Path) -> PersonalizationHyperParams:
        """Read a YAML file, by path or by the name of one that ships with the package ("llama3-8b").

        Raises:
            ConfigError: the file is missing, is no YAML mapping, or has faults; all of them are listed.
        """
        path = find_yaml(name_or_path)
        try:
            return cls(**read_yaml_mapping(path))
        except ConfigError as error:
            raise ConfigError(f"In {path}: {error.what}", remedy=error.remedy) from None

    @classmethod
    def from_json(cls, path: str | Path) -> PersonalizationHyperParams:
        """As ``from_hparams``, from a JSON file (EasyEdit has both)."""
        try:
            return cls(**read_json_mapping(path))
        except ConfigError as error:
            raise ConfigError(f"In {path}: {error.what}", remedy=error.remedy) from None

    def with_kernel(self, kernel: str) -> PersonalizationHyperParams:
        """These settings for another kernel: ``per_kernel``'s entries for it win.

        Raises:
            ConfigError: there is no such kernel, or its entries have faults.
        """
        return self.replace(kernel=kernel, **self.per_kernel.get(kernel, {}))

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values; a model given as objects is left out."""
        exclude = set() if isinstance(self.model_name, str) else {"model_name"}
        return {**self.model_dump(exclude=exclude), **self._kernels}

    def values(self) -> dict[str, Any]:
        """All settings as they are given to the constructor."""
        return {**{name: getattr(self, name) for name in type(self).model_fields}, **self._kernels}

    def replace(self, **changes: Any) -> PersonalizationHyperParams:
        """A changed copy, validated again; a group may be given as a mapping of the keys to change."""
        values = self.values()
        for key, value in changes.items():
            old = values.get(key)
            known = old.model_dump() if isinstance(old, Section) else self._kernels.get(key)
            values[key] = {**known, **value} if known and isinstance(value, dict) else value
        return type(self)(**values)


_REGISTRIES = {registry.group: registry for registry in (EVALUATORS, BASELINES, PHRASE_SOURCES)}


def shipped_yaml() -> dict[str, Path]:
    """The YAML files at hand by model name: those of a checkout, or those inside the wheel."""
    checkout = Path(__file__).resolve().parent.parent / "hparams" / ALG_NAME
    installed = Path(str(resources.files("easyedit_personal"))) / "_hparams" / ALG_NAME
    folder = checkout if checkout.is_dir() else installed
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}


def find_yaml(name_or_path: str | Path) -> Path:
    """Resolve a path, a path without ".yaml", EasyEdit's usual relative path, or a shipped name."""
    given = Path(name_or_path)
    for path in (given, given.with_name(given.name + ".yaml")):
        if os.path.isfile(path):  # Path.is_file raises where a name is too long
            return path
    shipped = shipped_yaml()
    stem = given.name.removesuffix(".yaml")
    if stem in shipped and (len(given.parts) == 1 or given.parts[-2:-1] == (ALG_NAME,)):
        return shipped[stem]
    raise ConfigError(
        f"There is no hyper-parameter file {str(name_or_path)!r}.{did_you_mean(stem, shipped, cutoff=0.4)}",
        needed=f"a path, or one of {', '.join(shipped) or '(none installed)'}",
    )
