"""What is preserved: honest sentences (none is an evaluation prompt), and the right ones for each edit."""

from __future__ import annotations

import json
from importlib import resources

import pytest
import torch
import yaml

from easyedit_personal.clustering.lexicon import Lexicon, normalise
from easyedit_personal.data.beginnings import contrasts
from easyedit_personal.errors import ConfigError, DataError
from easyedit_personal.generation import base_answers as answers
from easyedit_personal.generation.base_answers import with_answers
from easyedit_personal.generation.generate import continuations
from easyedit_personal.hparams import PersonalizationHyperParams, PreserveParams
from easyedit_personal.kernels.phrasings import edited_groups, shipped_phrasings, with_indirect
from easyedit_personal.kernels.preserve import KINDS, Material, preserve_prompts
from easyedit_personal.modeling.tokens import encode
from easyedit_personal.types import EditRequest
from tests.tiny import tiny_model

BUNDLED = resources.files("easyedit_personal").joinpath("data", "bundled")
MANY = PreserveParams(neutral=200, other_attribute=500, other_indirect=500, negated=12, other_user=12)


def requests_about(*subjects: str, target: str = "falconry", cluster: str = "c") -> list[EditRequest]:
    return [EditRequest(f"What's my {subject}?", target, subject, cluster=cluster) for subject in subjects]


def evaluation_prompts() -> set[str]:
    """Every question that the bundled evaluation asks, except those that teach an edit."""
    prompts: list[str] = []
    for record in json.loads(BUNDLED.joinpath("upqa_bundled.json").read_text(encoding="utf-8")):
        prompts += [text for key, text in record.items() if key.endswith("_question") and isinstance(text, str)]
        prompts += [record["question_paraphrased"], *record["question"], *record["unrelated"]]
        prompts += [fact["question"] for fact in record["locality"]]
    facts = yaml.safe_load(BUNDLED.joinpath("facts.yaml").read_text(encoding="utf-8"))["facts"]
    prompts += [text for fact in facts for text in fact["heldout_phrasings"]]
    return {normalise(prompt) for prompt in prompts}


def all_sentences() -> set[str]:
    """Everything that could be preserved or serve as an indirect phrase, with every name and person filled in."""
    material, lexicon = Material.load(), Lexicon.load()
    names = [name for entry in lexicon.entries for name in entry.names]
    alone = (*material.own, *material.negated, *material.yourself, *contrasts().begun_not)
    own = [t.replace("{n}", n) for t in alone for n in names]
    theirs = [
        t.replace("{n}", n).replace("{who}", w) for t in material.somebody_else for n in names for w in material.people
    ]
    indirect = [text for texts in material.indirect.values() for text in texts]
    shipped = [text for parts in shipped_phrasings().values() for part in parts for text in part]
    return {normalise(text) for text in (*material.neutral, *own, *theirs, *indirect, *shipped)}


def test_no_sentence_is_an_evaluation_prompt():
    assert not all_sentences() & evaluation_prompts()


def test_no_sentence_is_an_official_question(official_data):
    asked: set[str] = set()
    for path in (official_data / "upqa").glob("*.json"):
        for record in json.loads(path.read_text(encoding="utf-8")):
            for key in ("question_paraphrased", "implicit_question", "product_recommendation_question"):
                asked |= {normalise(record[key])} if isinstance(record.get(key), str) else set()
    shared = all_sentences() & asked
    assert len(asked) > 100
    assert not shared, sorted(shared)


def test_no_template_is_an_evaluation_template():
    frames = yaml.safe_load(BUNDLED.joinpath("upqa_material.yaml").read_text(encoding="utf-8"))
    theirs = {normalise(frame) for key in ("negated_frames", "other_frames", "cluster_frames") for frame in frames[key]}
    material = Material.load()
    ours = {normalise(t) for t in (*material.own, *material.negated, *material.somebody_else, *material.yourself)}
    near = contrasts()
    ours |= {normalise(text) for text in (*near.negated, *near.general, *near.begun_else, *near.begun_not)}
    assert not ours & theirs
    assert not set(material.people) & {*frames["people"], *frames["relations"]}


@pytest.mark.parametrize("subject", ["hobby", "pastime", "line of work", "ice cream flavor"])
def test_the_edited_attribute_is_never_preserved_away(subject):
    lexicon = Lexicon.load()
    requests = requests_about(subject)
    (group,) = edited_groups(requests, lexicon)
    material, names = Material.load(), [n for e in lexicon.entries if e.group == group for n in e.names]
    forbidden = {template.replace("{n}", name) for template in material.own for name in names}
    forbidden |= {*material.indirect[group], *(text for part in shipped_phrasings()[group] for text in part)}
    others = {p.text for p in preserve_prompts(requests, MANY) if p.kind.startswith("other_")} - {
        p.text for p in preserve_prompts(requests, MANY) if p.kind == "other_user"
    }
    assert len(others) > 60
    assert not others & forbidden


def test_each_kind_gets_its_number_per_preference():
    params = PreserveParams(neutral=5, other_attribute=7, other_indirect=4, negated=3, other_user=2)
    requests = [*requests_about("hobby", "pastime"), *requests_about("pet", target="a newt", cluster="d")]
    kinds = [prompt.kind for prompt in preserve_prompts(requests, params)]
    assert [kinds.count(kind) for kind in KINDS] == [5, 7, 4, 6, 4]
    negated = [p.text for p in preserve_prompts(requests, params) if p.kind == "negated"]
    assert sum("pet" in text for text in negated) and any("pastime" in text or "hobby" in text for text in negated)


def test_prompts_follow_the_seed_and_only_differ_where_users_do():
    hobby, pet = requests_about("hobby"), requests_about("pet")
    assert preserve_prompts(hobby, MANY, 3) == preserve_prompts(hobby, MANY, 3)
    assert preserve_prompts(hobby, PreserveParams(), 3) != preserve_prompts(hobby, PreserveParams(), 4)
    neutral = [[p for p in preserve_prompts(r, PreserveParams(), 0) if p.kind == "neutral"] for r in (hobby, pet)]
    assert neutral[0] == neutral[1]


def test_a_preference_without_subject_is_found_in_its_prompt():
    lexicon = Lexicon.load()
    assert edited_groups([EditRequest("Tell me, what is my hobby?", "chess")], lexicon) == {"hobby"}
    prompts = preserve_prompts([EditRequest("What do I breed?", "newts")], PreserveParams())
    assert {prompt.kind for prompt in prompts} == {"neutral", "other_attribute", "other_indirect"}, (
        "no name: nothing to negate"
    )


def test_an_asked_question_is_never_preserved():
    material = Material.load()
    asked = material.indirect["food"][0]
    requests = [EditRequest(asked, "borscht", cluster="x")]
    assert asked in [p.text for p in preserve_prompts(requests_about("hobby"), MANY)]
    assert asked not in [p.text for p in preserve_prompts(requests, MANY)]


def test_indirect_phrases_are_added_where_the_kind_is_known():
    requests = [*requests_about("pastime", "hobby"), EditRequest("What do I breed?", "newts", cluster="d")]
    longer = with_indirect(requests, 6, seed=1)
    added = [request for request in longer if request not in requests]
    assert len(added) == 6
    assert {(r.cluster, r.target_new, r.subject) for r in added} == {("c", "falconry", None)}
    assert with_indirect(requests, 0) == requests
    assert longer == with_indirect(requests, 6, seed=1)


def test_a_malformed_file_is_refused_with_every_fault(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("neutral: [Hello., '']\nown:\n- What is mine?\ncolour: [x]\n")
    with pytest.raises(DataError) as error:
        Material.load(path)
    text = str(error.value)
    assert "neutral: needs lists" in text and "lacks {n}" in text and "circles: missing" in text
    with pytest.raises(ConfigError):
        Material.load(tmp_path / "absent.yaml")


def test_an_own_file_replaces_the_shipped_sentences(tmp_path):
    values = yaml.safe_load(BUNDLED.joinpath("preserve.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**values, "neutral": ["Only this one."]}))
    prompts = preserve_prompts(requests_about("hobby"), PreserveParams(file=str(path)))
    assert [p.text for p in prompts if p.kind == "neutral"] == ["Only this one."]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gptj"])
def test_answers_are_the_models_own_greedy_ones(family, tokenizer):
    model = tiny_model(family)
    prompts = ["What is fog?", "Name a river.", "What is the difference between a lake and a pond?"]
    rows = [encode(tokenizer, prompt) for prompt in prompts]
    for row, answer in zip(rows, continuations(model, tokenizer, rows, [6] * len(rows))):
        ids = list(row.prompt_ids)
        for token in answer:  # one by one, without padding and cache
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1]
            assert logits[token] >= logits.max() - 1e-4
            ids.append(token)


def test_answers_are_generated_once_per_model(llama, tokenizer, monkeypatch):
    calls = []

    def counting(model, tok, rows, limits):
        calls.append(len(rows))
        return continuations(model, tok, rows, limits)

    monkeypatch.setattr(answers, "continuations", counting)
    hparams = PersonalizationHyperParams(preserve={"answer_tokens": 3, "weight": 1.5})
    first = with_answers(llama, tokenizer, ["What is fog?", "Name a river."], hparams)
    again = with_answers(llama, tokenizer, ["Name a river.", "Name a metal."], hparams)
    with_answers(tiny_model("llama", seed=5), tokenizer, ["Name a river."], hparams)
    assert calls == [2, 1, 1]
    assert first[1] == again[0] and 0 < len(first[1].target_ids) <= 3


def test_the_first_name_is_in_every_other_sentence():
    from random import Random

    from easyedit_personal.kernels.preserve import _fill

    texts = _fill(["is it {n}?", "not {n}, {who}"], ["hobby", "pastime", "leisure"], ["Ann"], 24, Random(0))
    assert all("hobby" in text for text in texts[::2]) and not all("hobby" in text for text in texts[1::2])
    assert all(text[0].isupper() and "{" not in text for text in texts) and len(texts) == 24


def test_the_bundled_material_is_read_once():
    assert Material.load() is Material.load()


def test_answers_are_written_without_a_graph(llama, tokenizer):
    graphs = []
    llama.lm_head.register_forward_hook(lambda module, args, out: graphs.append(out.requires_grad))
    continuations(llama, tokenizer, [encode(tokenizer, "What's my hobby?")], [3])
    assert graphs and not any(graphs)


def test_both_sides_ask_about_every_attribute_under_its_first_four_names_with_templates_in_turn():
    material = Material.load()
    names = [*dict.fromkeys(name for entry in Lexicon.load().entries for name in entry.names[:4])]
    shipped = {text for parts in shipped_phrasings().values() for part in parts for text in part}
    turns = [material.own[i % len(material.own)].replace("{n}", name) for i, name in enumerate(names)]
    assert material.personal() == [*sorted(shipped), *(text[0].upper() + text[1:] for text in turns)]
    assert len(material.impersonal()) == len(material.neutral) + len(material.open) + 2 * len(names)


def test_direct_questions_use_up_to_five_names_of_a_group():
    from easyedit_personal.kernels.preserve import _named

    lexicon = Lexicon.load()
    counts = {group: len(names) for group, names in lexicon.groups().items()}
    asked = {group: len(texts) for group, texts in _named(Material.load(), lexicon, 0).items()}
    assert asked == {group: min(5, count) for group, count in counts.items()} and max(counts.values()) > 5
