"""The sections of a YAML file, one strict record each, with what their numbers mean."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..errors import RegistryError
from ..registry import PHRASE_SOURCES, Registry
from ..validation import Section

MAX_RATE = 1e37  # Adam divides its rate by 0.1 in the first step: more overflows inside of torch
CONTRAST_BATCH = {"own": 18, "used": 12, "named": 6, "indirect": 14, "rest": 6}


def registered(registry: Registry, name: str) -> str:
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
        return source if source == "auto" else registered(PHRASE_SOURCES, source)

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
    questions and on ``contrast_batch`` contrasts of every pool (own kind, behind answers that used its value, other
    kinds by name, without, the rest).
    ``contrast_weight`` is the weight of their KL divergence, ``quiet_weight`` that of the quadratic form that stands
    for ordinary text; raise either for locality, lower it for generality. Rates are shares of the outputs (``*_lr``)
    and of the right factors (``right_lr``). A value has ``value_rank`` directions at most, learned in ``value_steps``
    on ``value_phrases`` phrases, and stops early once every token of it costs less than ``stop_loss`` nats.
    ``contrasts`` prompts and twice ``ordinary`` answers of ``answer_tokens`` are looked at once per model; ``ridge``
    and ``ordinary_weight`` (against where answers begin) shape the metric.

    ``through`` says what edits change: the down "projection", linearly, or a few "neurons" of a gated MLP, which add
    nothing below a threshold; a preference's neurons lose what they did, and rates have to be about a tenth then.
    """

    through: Literal["projection", "neurons"] = "projection"
    gate_rank: int = Field(10, ge=1, le=512)
    gate_steps: int = Field(100, ge=1)
    gate_batch: int = Field(16, ge=1)
    gate_lr: float = Field(0.5, gt=0, le=MAX_RATE)
    right_lr: float = Field(0.1, gt=0)
    contrast_batch: dict[str, int] = Field(default_factory=CONTRAST_BATCH.copy)
    contrast_weight: float = Field(1.5, ge=0)
    quiet_weight: float = Field(30.0, ge=0)
    value_rank: int = Field(4, ge=1, le=512)
    value_steps: int = Field(60, ge=1)
    value_lr: float = Field(0.5, gt=0, le=MAX_RATE)
    value_phrases: int = Field(16, ge=2)
    value_quiet_weight: float = Field(1.0, ge=0)
    stop_loss: float = Field(0.05, ge=0)
    contrasts: int = Field(800, ge=8)
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

    The size of neurons' thresholds does not count: it only says how sharp they are.
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


class LoraParams(Section):
    """The baseline ``lora``: PEFT's numbers, by default those of arXiv 2512.13676."""

    rank: int = Field(8, ge=1)
    alpha: int = Field(32, ge=1)
    steps: int = Field(70, ge=1)
    lr: float = Field(5e-3, gt=0, le=MAX_RATE)


class RetrievalParams(Section):
    """The baseline ``retrieval``: ``top_k`` preferences are restated, of ``memory`` that a user has in all."""

    top_k: int = Field(3, ge=1)
    memory: int = Field(10, ge=1)


class HostParams(BaseModel):
    """An editor of EasyEdit's as a baseline (``easyedit:FT-M``): any keys of its own YAML file, with other values.

    What they mean is EasyEdit's to say; it refuses keys that it does not know when the method is made ready.
    """

    model_config = ConfigDict(extra="allow")
