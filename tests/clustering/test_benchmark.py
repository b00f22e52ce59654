"""benchmarks.clustering: its grouping rules, and that the command prints what it measured."""

from __future__ import annotations

import json

import pytest

from benchmarks import clustering as benchmark

RECORDS = [
    {"attribute_type": ["occupation", "Career", "trade", "profession"]},
    {"attribute_type": ["occupation", "career", "position", "job"]},
    {"attribute_type": ["position", "address", "place", "location"]},
    {"attribute_type": ["pastime", "interest", "hobby"]},
    {"attribute_type": ["interest", "pursuit", "hobby"]},
]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "clustered.json"
    path.write_text(json.dumps(RECORDS))
    return path


def test_names_under_two_types_are_left_out_and_overlapping_types_merged(data):
    groups = benchmark.upqa_groups(data)
    assert groups["hobby"] == {"pastime", "interest", "pursuit", "hobby"}
    alone = benchmark.unambiguous(groups)
    assert "occupation" not in alone and "position" not in alone and alone["trade"] == "profession"
    joined = benchmark.unambiguous(benchmark.merged(groups))
    assert joined["occupation"] == joined["trade"] == joined["job"] == "job / profession"
    assert "position" not in joined and joined["place"] == "location"


def test_the_command_writes_what_it_measured(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "RESAMPLES", 3)
    target = tmp_path / "deep" / "result.json"
    assert benchmark.main(["--data", str(data), "--embedder", "tfidf", "--json", str(target)]) == 0
    result = json.loads(target.read_text())
    assert set(result) == {"schema", "setup", "embedders"} and result["setup"]["commit"]
    figures = result["embedders"]["tfidf"]
    lexicon = {"lexicon, all", "lexicon, held out"}
    assert set(figures) == {"UPQA, own groups", "UPQA, merged", "UPQA, merged, lexicon helps", *lexicon}
    assert figures["UPQA, merged"]["groups"] == 3
    for one in figures.values():
        assert -1 <= one["ci95"][0] <= one["ci95"][1] <= 1 and one["n"] > 0
    assert "tfidf" in capsys.readouterr().out


def test_a_missing_file_is_said_at_once(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--data", "nowhere.json"])
    assert "nowhere.json" in capsys.readouterr().err


def test_the_untrained_model_is_a_floor():
    embedder = benchmark.random_model()
    assert embedder.embed(["hobby", "pet"]).shape == (2, 64)
