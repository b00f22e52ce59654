"""The whole panel on tiny models: truthful figures, clean weights, resuming, rescoring, refusals."""

from __future__ import annotations

import errno
import json
from contextlib import contextmanager

import pytest

from easyedit_personal.baselines.base import Session
from easyedit_personal.errors import ConfigError, DataError, ModelError, RegistryError
from easyedit_personal.evaluate import Plan, ask, evaluate, rescore
from easyedit_personal.evaluate.evaluator import find_evaluators
from easyedit_personal.evaluate.evaluators.retention import later_preferences
from easyedit_personal.evaluate.plan import STANDARD
from easyedit_personal.evaluate.result_folder import ResultFolder
from easyedit_personal.generation.generate import generate
from easyedit_personal.kernels import base as kernels_base
from easyedit_personal.modeling.layout import weights_digest
from easyedit_personal.modeling.tokens import encode
from easyedit_personal.registry import EVALUATORS
from tests.evaluate.people import people, person, quick_hparams
from tests.tiny import tiny_model

SHORT = {"max_new_tokens": 8}


class Counting:
    """A method that personalises nothing, counts its users, and may fail or hand out another model."""

    edits = True

    def __init__(self, name="counting", fails_at=None, error=None):
        self.name, self.fails_at, self.error, self.seen = name, fails_at, error or RuntimeError("out of luck"), []

    def prepare(self, items, seed):
        """Nothing."""

    @contextmanager
    def personalize(self, model, tokenizer, preferences, cluster_size):
        self.seen.append(preferences[0].id)
        if len(self.seen) == self.fails_at:
            raise self.error
        yield Session(model, nbytes=7, shared_bytes=11)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One full run: fine-tuning against nothing, every evaluator."""
    from tests.tiny import tiny_tokenizer

    folder = tmp_path_factory.mktemp("result")
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    before = weights_digest(model)
    plan = Plan((*STANDARD, "retention", "capability", "acknowledged"), turns=[0, 1], later=2, **SHORT)
    result = evaluate(model, tokenizer, people(), ["zero_shot", "ft_m"], plan=plan, out=folder, hparams=quick_hparams())
    assert weights_digest(model) == before
    return folder, result


def test_every_evaluator_reports_and_the_truth_comes_out(outcome):
    _, result = outcome
    assert result["schema"] == 1
    assert set(result["methods"]["ft_m"]["metrics"]) == set(EVALUATORS.names())
    nothing, tuned = result["methods"]["zero_shot"]["metrics"], result["methods"]["ft_m"]["metrics"]
    assert nothing["direct"]["mean"] == 0 and tuned["direct"]["mean"] == 1
    assert tuned["direct"]["exact"] == tuned["direct"]["teacher_forced"] == tuned["direct"]["stopped"] == 1
    assert nothing["locality"]["mean"] == 1 and tuned["locality"]["mean"] < 1
    assert tuned["undo"]["mean"] == 1 and tuned["undo"]["n"] == 4
    assert nothing["health"]["mean"] == 1 and tuned["health"]["mean"] != 1
    assert tuned["health"]["relative_norm"] > 0
    assert (tuned["cost"]["bytes"], tuned["cost"]["shared_bytes"]) == (32 * 48 * 4, 0)


def test_what_the_health_check_refuses_is_no_edit_and_is_counted(llama, tokenizer, tmp_path):
    """The user has the model as it was; the figures say so, and the kept answers say why."""
    strict = quick_hparams(2).replace(health={"on_unhealthy": "refuse", "max_relative_norm": 1e-9})
    plan = Plan(["direct", "locality", "health", "undo"], **SHORT)
    result = evaluate(llama, tokenizer, people()[:2], ["ft_m"], plan=plan, out=tmp_path, hparams=strict)
    method = result["methods"]["ft_m"]
    assert method["status"] == "ok" and method["cost"]["bytes_per_user"] == 0
    figures = {name: metric["mean"] for name, metric in method["metrics"].items()}
    assert figures == {"direct": 0.0, "locality": 1.0, "health": 1.0, "undo": 1.0}
    assert method["metrics"]["health"]["refused"] == 1.0
    assert "relative_norm" in (tmp_path / "answers" / "ft_m.jsonl").read_text()


def test_stops_are_held_against_the_untouched_models(outcome):
    """Only answers that it ends by itself can show that an edit goes on and on."""
    said = [{"text": "a", "stopped": stopped, "before_stopped": True} for stopped in (True, True, False)]
    said += [{"text": "a", "stopped": False, "before_stopped": False}, {"text": "a", "stopped": True}]
    user = {"user": "ann", "figures": {"health": {"perplexity_ratio": 1.0}}, "answers": said}
    plan = Plan(["health"])
    found = find_evaluators(plan)[0].metric([user], plan)
    assert found["stops"] == pytest.approx(2 / 3) and found["stopped"] == pytest.approx(3 / 5)
    assert found["refused"] == 0.0
    nothing = outcome[1]["methods"]["zero_shot"]["metrics"]["health"]
    assert nothing["stops"] in (1.0, None), "the untouched model ends what it ends"


def test_setup_says_what_a_reviewer_asks(outcome):
    _, result = outcome
    setup = result["setup"]
    assert {"model", "fingerprint", "data", "n", "seed", "protocol", "versions", "commit", "hardware"} <= set(setup)
    assert setup["n"] == 4 and "torch" in setup["versions"]


def test_result_file_is_plain_json_with_intervals(outcome):
    folder, _ = outcome
    text = (folder / "result.json").read_text()
    stored = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in result.json"))
    for method in stored["methods"].values():
        assert method["status"] == "ok" and method["error"] is None
        assert set(method["cost"]) == {
            "seconds_per_user",
            "asking_seconds_per_user",
            "bytes_per_user",
            "shared_bytes_per_user",
            "peak_mib",
        }
        for name, metric in method["metrics"].items():
            low, high = metric["ci95"]
            if name == "helpful" and metric["mean"] is None:  # no answer had the value, so none could be helpful
                assert metric["n"] == 0 and low is high is None and metric["of_all"] == 0
                continue
            # Of a plain "drink" the lexicon has no other values, and only an answer with the value can be helpful.
            assert metric["n"] == {"context_wins": 3, "helpful": 3}.get(name, 4), name
            assert low <= metric["mean"] <= high
    compared = {c["evaluator"]: c for c in stored["comparisons"]}
    assert compared["direct"]["of"] == "ft_m" and compared["direct"]["mean"] == 1


def test_turns_are_counted_and_reported(outcome):
    _, result = outcome
    table = result["methods"]["ft_m"]["metrics"]["multi_turn"]["by_turns"]
    assert set(table) == {"0", "1"}
    assert table["0"]["direct"]["mean"] == 1 and table["0"]["direct"]["n"] + table["0"]["not_fitting"] / 3 == 4


def test_rescoring_needs_no_model_and_changes_nothing(outcome):
    folder, _ = outcome
    before = (folder / "result.json").read_text()
    rescore(folder)
    assert (folder / "result.json").read_text() == before


def test_a_finished_run_is_not_done_again(llama, tokenizer, tmp_path):
    method = Counting()
    for _ in range(2):
        evaluate(llama, tokenizer, people(), [method], plan=Plan(["direct"], **SHORT), out=tmp_path)
    assert method.seen == [item.id for item in people()]


def test_an_interrupted_run_goes_on_where_it_stopped(llama, tokenizer, tmp_path):
    plan = Plan(["direct", "undo"], **SHORT)
    whole = evaluate(llama, tokenizer, people(), [Counting()], plan=plan)
    with pytest.raises(KeyboardInterrupt):
        evaluate(llama, tokenizer, people(), [Counting(fails_at=3, error=KeyboardInterrupt())], plan=plan, out=tmp_path)
    lines = tmp_path / "answers" / "counting.jsonl"
    with lines.open("a") as file:
        file.write('{"user": "torn by kill -9')
    second = Counting()
    result = evaluate(llama, tokenizer, people(), [second], plan=plan, out=tmp_path)
    assert second.seen == [item.id for item in people()[2:]]
    assert len(lines.read_text().splitlines()) == 4
    assert result["methods"]["counting"]["metrics"] == whole["methods"]["counting"]["metrics"]


def test_a_failing_method_is_reported_and_the_others_run(llama, tokenizer, tmp_path):
    methods = [Counting("bad", fails_at=3), Counting("good")]
    result = evaluate(llama, tokenizer, people(), methods, plan=Plan(["direct"], **SHORT), out=tmp_path)
    bad, good = result["methods"]["bad"], result["methods"]["good"]
    assert bad["status"] == "failed" and "out of luck" in bad["error"] and bad["metrics"]["direct"]["n"] == 3
    assert good["status"] == "ok"
    repaired = evaluate(llama, tokenizer, people(), [Counting("bad")], plan=Plan(["direct"], **SHORT), out=tmp_path)
    assert repaired["methods"]["bad"]["status"] == "ok" and repaired["methods"]["good"]["status"] == "ok"


def test_a_method_that_fails_for_everybody_is_left(llama, tokenizer):
    class Broken(Counting):
        def personalize(self, model, tokenizer, preferences, cluster_size):
            self.seen.append(preferences[0].id)
            raise ModelError("no such layer")

    method = Broken()
    result = evaluate(llama, tokenizer, people(), [method], plan=Plan(["direct"], **SHORT))
    assert len(method.seen) == 3
    bad = result["methods"]["counting"]
    assert bad["status"] == "failed" and "no such layer" in bad["error"] and bad["metrics"] == {}


def test_a_method_that_does_not_clean_up_is_caught_by_undo(llama, tokenizer):
    class Dirty(Counting):
        @contextmanager
        def personalize(self, model, tokenizer, preferences, cluster_size):
            model.lm_head.weight.data[0, 0] += 1
            yield Session(model)

    result = evaluate(llama, tokenizer, people(), [Dirty()], plan=Plan(["undo"], **SHORT))
    assert result["methods"]["counting"]["metrics"]["undo"]["mean"] == 0


def test_a_folder_of_another_setup_is_refused_with_the_difference(llama, tokenizer, tmp_path):
    evaluate(llama, tokenizer, people(), [Counting()], plan=Plan(["direct"], **SHORT), out=tmp_path)
    with pytest.raises(DataError, match=r"another setup(.|\n)*seed: 0 there, 5 now"):
        evaluate(llama, tokenizer, people(), [Counting()], plan=Plan(["direct"], seed=5, **SHORT), out=tmp_path)
    other = tiny_model("llama", seed=9)
    with pytest.raises(DataError, match="fingerprint"):
        evaluate(other, tokenizer, people(), [Counting()], plan=Plan(["direct"], **SHORT), out=tmp_path)


def test_a_full_disk_is_said_and_earlier_users_are_kept(llama, tokenizer, tmp_path, monkeypatch):
    import easyedit_personal.evaluate.result_folder as folder

    plan, synced, real = Plan(["direct"], **SHORT), [], folder.os.fsync

    def full(handle):
        synced.append(handle)
        if len(synced) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(folder.os, "fsync", full)
    with pytest.raises(DataError, match="disk is full"):
        evaluate(llama, tokenizer, people(), [Counting()], plan=plan, out=tmp_path)
    monkeypatch.undo()
    second = Counting()
    result = evaluate(llama, tokenizer, people(), [second], plan=plan, out=tmp_path)
    assert result["methods"]["counting"]["status"] == "ok" and len(second.seen) <= 2


def test_a_disk_without_room_is_refused_at_the_start(tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(DataError, match="full"):
        ResultFolder(tmp_path)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "here").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        ResultFolder(tmp_path / "here")


def test_damaged_answers_are_named(tmp_path):
    folder = ResultFolder(tmp_path)
    (folder.answers / "rome.jsonl").write_text("no json\n")
    with pytest.raises(DataError, match=r"rome\.jsonl is damaged"):
        folder.users("rome")


def test_conversations_that_do_not_fit_are_counted_not_cut(tokenizer, tmp_path):
    small = tiny_model("llama", max_position_embeddings=110)
    plan = Plan(["multi_turn"], turns=[0, 6], **SHORT)
    result = evaluate(small, tokenizer, people()[:2], ["zero_shot"], plan=plan, hparams=quick_hparams())
    table = result["methods"]["zero_shot"]["metrics"]["multi_turn"]["by_turns"]
    assert table["6"]["not_fitting"] == 6 and table["6"]["direct"]["mean"] is None
    assert table["0"]["not_fitting"] == 0 and table["0"]["direct"]["n"] == 2


def test_the_papers_protocol_cuts_and_says_so(llama, tokenizer):
    plan = Plan(["direct", "implicit"], protocol="paper", **SHORT)
    result = evaluate(llama, tokenizer, people(), ["zero_shot"], plan=plan, hparams=quick_hparams())
    assert result["setup"]["plan"]["protocol"]["prompts"] == "raw"
    metric = result["methods"]["zero_shot"]["metrics"]["implicit"]
    assert {"plus0", "plus8", "plus32"} <= set(metric) and metric["mean"] == metric["plus8"]
    assert metric["plus0"] <= metric["plus8"] <= metric["plus32"]


def test_the_papers_protocol_edits_in_the_format_that_it_asks_in(llama, tokenizer, monkeypatch):
    seen = {}

    def encoded(tokenizer, text, **given):
        seen.setdefault("edits", set()).add((given["prompt_format"], given["end_of_turn"]))
        return encode(tokenizer, text, **given)

    def answered(model, tokenizer, prompts, **given):
        seen.setdefault("asks", set()).add(given["prompt_format"])
        return generate(model, tokenizer, prompts, **given)

    monkeypatch.setattr(kernels_base, "encode", encoded)
    monkeypatch.setattr(ask, "generate", answered)
    plan = Plan(["direct", "context_wins", "multi_turn"], turns=[1], protocol="paper", **SHORT)
    evaluate(llama, tokenizer, people()[:1], ["ft_m"], plan=plan, hparams=quick_hparams(2))
    assert seen == {"edits": {("raw", False)}, "asks": {"raw"}}


def test_a_protocol_says_how_methods_edit():
    given = quick_hparams().replace(answers="natural")
    assert Plan().rules.editing(given) is given
    paper = Plan(protocol="paper").rules
    changed = paper.editing(given)
    assert (changed.prompt_format, changed.end_of_turn, changed.answers) == ("raw", False, "short")
    assert paper.describe()["edits"] == "raw prompts, bare values" and "edits" not in Plan().rules.describe()
    with pytest.raises(ConfigError, match="bare prompts"):
        paper.editing(given.replace(prompt_format="chat"))


def test_without_restore_edits_pile_up_and_undo_tells(llama, tokenizer):
    before = weights_digest(llama)
    plan = Plan(["direct", "undo"], protocol="paper", restores=False, **SHORT)
    result = evaluate(llama, tokenizer, people()[:2], ["ft_m"], plan=plan, hparams=quick_hparams())
    assert result["methods"]["ft_m"]["metrics"]["undo"]["mean"] == 0
    assert not result["setup"]["plan"]["protocol"]["restores_between_users"]
    assert weights_digest(llama) == before


def test_plans_refuse_before_any_model():
    with pytest.raises(RegistryError, match="Did you mean 'locality'"):
        Plan(["localty"])
    with pytest.raises(ConfigError, match="turns is out of range"):
        Plan(turns=[-1])
    with pytest.raises(ConfigError, match="multi_turn needs"):
        Plan(["multi_turn"])
    with pytest.raises(ConfigError, match="protocol"):
        Plan(protocol="papre")
    with pytest.raises(ConfigError, match="paper's protocol only"):
        Plan(restores=False)
    with pytest.raises(DataError, match="cannot be cut"):
        Plan(cluster_size=3).check_items(people())
    with pytest.raises(DataError, match="twice"):
        Plan().check_items([person(), person()])
    with pytest.raises(DataError, match="nobody"):
        Plan().check_items([])


def test_later_preferences_are_about_other_things():
    items = [*people(), person("hobby", "chess")]
    later = later_preferences(items, items[1], 3)
    assert [item.subject for item in later] == ["job", "drink", "hobby"]
    assert later_preferences([items[0]], items[0], 3) == []
