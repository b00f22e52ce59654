"""The doors through which strangers' material comes in, each as one function of one input.

What goes through a door works or ends in an error of ours; any other exception is a hole.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from easyedit_personal.clustering.cluster import PreferenceClusterer
from easyedit_personal.clustering.expand import expand
from easyedit_personal.data.items import upqa_items
from easyedit_personal.data.records import check_records
from easyedit_personal.data.upqa import UPQADataset
from easyedit_personal.editing.algorithm import personalize
from easyedit_personal.editing.editor import PersonalizationEditor
from easyedit_personal.editing.phrases import cluster_phrases
from easyedit_personal.editing.requests import as_request, check_requests, prepare_requests
from easyedit_personal.errors import PersonalizationError
from easyedit_personal.generation.generate import generate
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels.base import encode_requests
from easyedit_personal.modeling.tokens import encode
from easyedit_personal.statements.preferences import Unclear, read
from easyedit_personal.store.factors import factors_from_bytes, factors_to_bytes
from easyedit_personal.types import Preference, WeightDelta
from tests.robustness import strategies as s
from tests.tiny import tiny_model, tiny_tokenizer


@dataclass(frozen=True)
class Door:
    """One way in. ``share`` says how many of a thousand cases go through it."""

    name: str
    share: int
    inputs: st.SearchStrategy[Any]
    enter: Callable[[Any], Any]


@cache
def llama() -> Any:
    """The model that must stay as it is."""
    return tiny_model("llama")


@cache
def gpt2() -> Any:
    """Absolute positions: a text that is too long is an index error inside torch."""
    return tiny_model("gpt2", n_positions=64)


@cache
def quick() -> PersonalizationHyperParams:
    """An edit that takes one step of everything."""
    return PersonalizationHyperParams(
        layers=[1],
        max_length=64,
        cluster={"size": 2},
        lowrank={"rank": 1, "steps": 1, "polish": 1},
        preserve={
            **{"neutral": 1, "negated": 1, "answer_tokens": 1},
            **{"other_attribute": 0, "other_indirect": 0, "other_user": 0},
        },
        health={"on_unhealthy": "ignore"},
    )


@cache
def scratch() -> Path:
    """A folder for files that are read once."""
    return Path(tempfile.mkdtemp(prefix="doors-"))


def _file(name: str, data: bytes) -> Path:
    path = scratch() / name
    path.write_bytes(data)
    return path


def enter_encode(case: tuple[Any, ...]) -> None:
    """Text becomes tokens; whatever it says, the only control tokens are the template's own."""
    prompt, target, subject, history, style = case
    row = encode(tiny_tokenizer(), prompt, target=target, subject=subject, history=history, prompt_format=style)
    turns = [*history, {"role": "user"}] if style == "auto" else []
    own = sum(2 if f"<|{turn['role']}|>" in s.SPECIAL else 1 for turn in turns) + bool(turns)
    control = [token for token in row.prompt_ids if token < len(s.SPECIAL)]
    if len(control) != own or not 0 <= row.key_index < len(row.prompt_ids):
        raise AssertionError(f"{len(control)} control tokens instead of {own}, key at {row.key_index}")


def enter_arguments(case: tuple[Any, ...]) -> None:
    """The arguments of ``edit``."""
    prompts, targets, options = case
    prepare_requests(prompts, targets, **options)


def enter_phrases(requests: list[Any]) -> None:
    """Requests become phrases, and those tokens."""
    checked = check_requests([as_request(one) for one in requests])
    phrases, _ = cluster_phrases(llama(), tiny_tokenizer(), checked, quick())
    encode_requests(tiny_tokenizer(), phrases, quick(), 256)


def _digest() -> float:
    return float(sum(parameter.detach().double().sum() for parameter in llama().parameters()))


def enter_edit(requests: list[Any]) -> None:
    """A whole edit with the ``lowrank`` kernel; the model stays as it is."""
    before = _digest()
    try:
        personalize(llama(), tiny_tokenizer(), requests, quick())
    finally:
        if _digest() != before:
            raise AssertionError("the model was changed")


def enter_editor(request: Any) -> None:
    """The editor with metrics, the ``rome`` kernel, on a model with a small context."""
    editor = PersonalizationEditor(
        quick().replace(model_name=(gpt2(), tiny_tokenizer()), kernel="rome", v_num_grad_steps=2)
    )
    editor.edit_requests([request], verbose=False)


def enter_records(records: list[Any]) -> None:
    """Records of a data set."""
    check_records(records, "records")
    upqa_items(records)


def enter_yaml(data: bytes) -> None:
    """A YAML file of settings."""
    PersonalizationHyperParams.from_hparams(_file("hparams.yaml", data))


def enter_json_settings(data: bytes) -> None:
    """A JSON file of settings."""
    PersonalizationHyperParams.from_json(_file("hparams.json", data))


def enter_data_set(data: bytes) -> None:
    """A JSON file of records, up to the arguments of ``edit``."""
    UPQADataset(_file("data.json", data)).edit_kwargs()


def enter_words(text: str) -> None:
    """Statements in plain words, and a reply to the question back."""
    for found in read(text):
        if isinstance(found, Unclear):
            found.answered(text)


def enter_expand(case: tuple[Any, Any]) -> None:
    """Further phrases of a cluster."""
    cluster, source = case
    expand(cluster, source, 3, others=[Preference("hobby", "What's my hobby?", "chess")])


def enter_factors(case: tuple[bytes, list[tuple[int, int]]]) -> None:
    """A factors file with some bytes changed."""
    data, changes = bytearray(case[0]), case[1]
    for place, value in changes:
        data[place % len(data)] = value
    factors_from_bytes(bytes(data))


def enter_generate(case: tuple[list[Any], int]) -> None:
    """Prompts and conversations are answered."""
    generate(gpt2(), tiny_tokenizer(), case[0], max_new_tokens=case[1])


def enter_cluster(phrases: list[Any]) -> None:
    """Phrases are grouped."""
    PreferenceClusterer().fit(phrases)


@cache
def good_factors() -> bytes:
    """A factors file."""
    delta = WeightDelta("model.layers.1.mlp.down_proj", torch.ones(3, 1), torch.ones(1, 2))
    return factors_to_bytes([delta], fingerprint="0" * 16)


def _with_length(header: str) -> bytes:
    data = header.encode("latin-1", "replace")
    return len(data).to_bytes(8, "little") + data


pairs = st.tuples(s.texts, s.texts)
several = st.one_of(s.maybe_text, st.lists(s.maybe_text, max_size=3))
options = st.sampled_from(["ground_truth", "subject", "rephrase_prompts", "locality_inputs", "user", "cluster"])
factor_bytes = st.one_of(
    *(st.just(good_factors()), st.just(good_factors()), s.json_texts.map(_with_length)),
    st.binary(min_size=1, max_size=60),
)
changes = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=3)
clusters = st.one_of(s.texts, pairs, st.lists(st.one_of(s.maybe_text, pairs), max_size=3))
maybe_target = st.one_of(st.none(), s.texts, s.maybe_text)
maybe_subject = st.one_of(st.none(), st.none(), st.none(), s.maybe_text)
histories = st.one_of(s.good_messages, s.good_messages, s.messages)
DOORS = (
    Door(
        *("encode", 180),
        st.tuples(s.maybe_text, maybe_target, maybe_subject, histories, st.sampled_from(["auto", "raw"])),
        enter_encode,
    ),
    Door("request", 200, s.requests(), lambda one: check_requests([one])),
    Door(
        *("edit arguments", 60),
        st.tuples(
            *(several, several),
            st.dictionaries(options, st.one_of(several, st.dictionaries(s.texts, s.junk, max_size=2)), max_size=3),
        ),
        enter_arguments,
    ),
    Door("phrases", 50, st.lists(s.requests(), min_size=1, max_size=3), enter_phrases),
    Door("edit", 10, st.lists(s.requests(), min_size=1, max_size=2), enter_edit),
    Door("editor", 10, s.requests(), enter_editor),
    Door("records", 90, s.records, enter_records),
    Door("yaml", 130, s.file_bytes(s.yaml_texts), enter_yaml),
    Door("json settings", 20, s.file_bytes(s.json_texts), enter_json_settings),
    Door("data set", 60, s.file_bytes(s.json_texts), enter_data_set),
    Door("plain words", 70, s.statements, enter_words),
    Door(
        *("expand", 30),
        st.tuples(clusters, st.sampled_from(["lexicon", "neighbours", "dataset", "x"])),
        enter_expand,
    ),
    Door("cluster", 20, st.lists(s.maybe_text, max_size=4), enter_cluster),
    Door("factors", 50, st.tuples(factor_bytes, changes), enter_factors),
    Door(
        *("generate", 20),
        st.tuples(st.lists(st.one_of(s.maybe_text, s.messages), min_size=1, max_size=2), st.integers(1, 4)),
        enter_generate,
    ),
)


def outcome(door: Door, case: Any) -> str:
    """ "works", or the name of our error; everything else is raised."""
    logger = logging.getLogger("easyedit_personal")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what was not learned in one step is no news
    try:
        door.enter(case)
    except PersonalizationError as error:
        str(error).encode()  # a message that cannot be printed is no message
        return type(error).__name__
    finally:
        logger.setLevel(level)
    return "works"
