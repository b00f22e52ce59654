"""``PersonalizationHyperParams``: EasyEdit's names where EasyEdit has one, ours in sections, every fault at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_validator

from .. import DEFAULT_MODEL
from ..errors import ConfigError, listing
from ..files import read_json_mapping, read_yaml_mapping
from ..registry import BASELINES, EVALUATORS, KERNELS, PHRASE_SOURCES, Registry
from ..validation import Section, fault_lines, section_of, sections_faults
from .sections import (
    MAX_RATE,
    ClusterParams,
    FinetuneParams,
    HealthParams,
    LowRankParams,
    MadeFor,
    NaturalParams,
    PreserveParams,
    registered,
)
from .shipped import ALG_NAME, find_yaml

# Where a model lies and computes, and which one the numbers were found on, does not change what is computed.
LOCATION_KEYS = ("device", "model_name", "model_parallel", "stats_dir", "made_for")


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
        return registered(KERNELS, kernel)

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
