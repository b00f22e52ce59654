"""The bundled set: its counts, its rules, and that it is what its generator makes."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
import yaml

from easyedit_personal import UPQADataset
from easyedit_personal.data import bundle
from easyedit_personal.data.jsonfile import read_json_list
from easyedit_personal.data.material import BUNDLED, entry_faults, fill, read_material

SINGLE = ("question_paraphrased", "implicit_question", "product_recommendation_question")
PROBES = ("negated_question", "other_question")


@pytest.fixture(scope="module")
def records():
    return read_json_list(BUNDLED / "upqa_bundled.json")


@pytest.fixture(scope="module")
def lexicon():
    rows = yaml.safe_load((BUNDLED / "attributes.yaml").read_text(encoding="utf-8"))["attributes"]
    return {row["name"]: set(row["synonyms"]) for row in rows}


def asked(record: dict) -> list[str]:
    """Every question that the value answers."""
    return [*record["question"], *(record[key] for key in SINGLE)]


def test_file_is_what_the_generator_makes():
    assert (BUNDLED / "upqa_bundled.json").read_text(encoding="utf-8") == bundle.render()


def test_command_writes_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundle, "BUNDLED", tmp_path)
    assert bundle.main() == 0
    assert json.loads((tmp_path / "upqa_bundled.json").read_text(encoding="utf-8")) == bundle.make_records()
    assert "260 items over 26 attribute types" in capsys.readouterr().out


def test_counts(records):
    types = Counter(record["attribute_type"][-1] for record in records)
    assert len(records) >= 200 and len(types) >= 20 and min(types.values()) >= 10
    splits = Counter((record["attribute_type"][-1], record["split"]) for record in records)
    assert all(splits[name, "tune"] == splits[name, "test"] for name in types)


def test_data_set_and_its_splits():
    both, tune, test = UPQADataset("bundled"), UPQADataset.bundled("tune"), UPQADataset.bundled("test")
    assert len(both) == len(UPQADataset.bundled()) == len(tune) + len(test) and len(tune) == len(test)
    assert {item.split for item in tune.items} == {"tune"}
    assert all(len(item.cluster) == 9 and len(item.locality) == 3 and item.variants == () for item in both.items)


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'tune', 'test'"):
        UPQADataset.bundled("train")


def test_ids_and_values_are_unique_and_values_short(records):
    assert len({record["id"] for record in records}) == len(records)
    values = [record["target"][-1] for record in records]
    assert len({value.lower() for value in values}) == len(values)
    assert all(1 <= len(value.split()) <= 6 for value in values)
    assert all(record["target"] == [value] * 9 for record, value in zip(records, values))


def test_clusters_have_nine_distinct_names_the_original_last(records):
    for record in records:
        names, questions = record["attribute_type"], record["question"]
        assert len(set(names)) == len(set(questions)) == 9
        for name, question in zip(names, questions):
            assert question.count(name) == 1, (name, question)
            assert len(re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", question)) == 1, (name, question)


def test_attribute_types_and_names_are_known_to_the_lexicon(records, lexicon):
    for record in records:
        *others, name = record["attribute_type"]
        assert set(others) <= lexicon[name], name


def test_personas_state_the_value_and_questions_do_not_give_it_away(records):
    for record in records:
        value = record["target"][-1]
        assert record["input_attribute"].count(value) == 1
        told = re.compile(rf"(?<!\w){re.escape(value)}(?!\w)", re.IGNORECASE)
        for question in (*asked(record), *(record[key] for key in PROBES), *record["unrelated"]):
            assert not told.search(question), (value, question)
        assert all(value.lower() != probe["answer"].lower() for probe in record["locality"])


def test_indirect_questions_do_not_name_the_attribute(records):
    for record in records:
        for key in ("question_paraphrased", "implicit_question"):
            for name in record["attribute_type"]:
                assert not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", record[key], re.IGNORECASE), (
                    name,
                    record[key],
                )


def test_halves_share_no_indirect_question(records):
    for key in SINGLE:
        tune, test = ({record[key] for record in records if record["split"] == split} for split in bundle.SPLITS)
        assert tune and test and not tune & test


def test_indirect_questions_vary_and_belong_to_one_type(records):
    for key in SINGLE:
        types: dict[str, set[str]] = {}
        for record in records:
            types.setdefault(record[key], set()).add(record["attribute_type"][-1])
        assert all(len(names) == 1 for names in types.values()), [q for q, names in types.items() if len(names) > 1]
        counts = Counter(next(iter(names)) for names in types.values())
        assert min(counts.values()) >= 4


def test_probes(records):
    who = Counter()
    for record in records:
        name = record["attribute_type"][-1]
        assert "not" in record["negated_question"] or re.search("n't|wrong|never", record["negated_question"])
        assert f"my {name}" in record["negated_question"]
        person = re.search(r"my [a-z ]+ ([A-Z][a-z]+)", record["other_question"])
        assert person and name in record["other_question"] and f"my {name}" not in record["other_question"]
        who[person[0]] += 1
        assert len(set(record["unrelated"])) == len(record["locality"]) == 3
    assert len(who) > 100


def test_nothing_is_a_question_twice(records):
    for record in records:
        questions = [*asked(record), *(record[key] for key in PROBES), *record["unrelated"]]
        assert len(set(questions)) == len(questions)
        assert all(re.search(r"[?.]$", question) for question in questions)


def test_texts_are_clean(records):
    text = json.dumps(records, ensure_ascii=False)
    assert "{" not in "".join(question for record in records for question in asked(record))
    assert not re.search(r"\ba [aeio]|\ban [^aeioAEIO\"]", " ".join(record["input_attribute"] for record in records))
    assert not re.search(r"(?<! )  (?! )\S", text.replace("\n", ""))


def test_nothing_is_taken_from_the_official_file(records, official_data):
    official = json.loads((official_data / "upqa" / "balanced_subset_cluster9.json").read_text(encoding="utf-8"))
    targets = {target.lower() for record in official for target in record["target"]}
    questions = {question.lower() for record in official for question in asked(record)}
    personas = {record["input_attribute"].lower() for record in official}
    for record in records:
        assert record["target"][-1].lower() not in targets
        assert not {question.lower() for question in asked(record)} & questions
        assert record["input_attribute"].lower() not in personas


def test_material_is_checked():
    entry = next(iter(read_material()["types"].values()))
    assert entry_faults("hobby", entry) == []
    broken = {**entry, "names": entry["names"][1:], "implicit": entry["implicit"][1:], "values": ["a", "A"]}
    assert [fault.split(" ", 1)[0] for fault in entry_faults("hobby", broken)] == ["hobby:"] * 3


def test_frames_are_filled_as_text():
    assert fill("{v} and {n}", v="{n} \\1", n="x") == "{n} \\1 and x"
