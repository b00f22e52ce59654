"""Errors, records and the registry: what everything else stands on."""

from __future__ import annotations

import os
import sys

import pytest
import torch

from easyedit_personal import plugins
from easyedit_personal.errors import (
    ModelError,
    PersonalizationError,
    RegistryError,
    RequestError,
    did_you_mean,
    shorten,
)
from easyedit_personal.registry import (
    BASELINES,
    CLUSTERERS,
    ENGINES,
    EVALUATORS,
    JUDGES,
    KERNELS,
    PHRASE_SOURCES,
    Registry,
)
from easyedit_personal.types import (
    EditRequest,
    EditResult,
    WeightDelta,
    as_kept,
    from_kept,
    narrowed,
    own_bytes,
    shared_bytes,
)


def test_error_says_got_needed_cause_and_remedy():
    error = RequestError("It broke.", got="x" * 1000, needed="less", cause="size", remedy="cut it")
    text = str(error)
    assert [line.split(":")[0].strip() for line in text.splitlines()[1:]] == ["got", "needed", "cause", "remedy"]
    assert len(text) < 400 and "1,002 characters" in text
    assert isinstance(error, PersonalizationError) and isinstance(error, ValueError)


def test_shorten_keeps_short_values():
    assert shorten("abc") == "'abc'"


def test_a_hint_names_the_nearest_only():
    assert did_you_mean("lowrnk", ["rome", "lowrank"]) == " Did you mean 'lowrank'?"
    assert did_you_mean("nothing like it", ["rome"]) == did_you_mean(3, ["3"]) == did_you_mean("x" * 201, ["x"]) == ""


def test_registry_names_the_nearest():
    registry = Registry("fruit")
    registry.register("apple")(object())
    registry.register_lazy("ordered", "collections:OrderedDict")
    assert registry.names() == ["apple", "ordered"] and registry.get("ordered").__name__ == "OrderedDict"
    with pytest.raises(RegistryError, match=r"Did you mean 'apple'"):
        registry.get("aple")
    registry.unregister("apple")
    registry.unregister("apple")
    assert "apple" not in registry


def test_a_name_is_taken_only_once_unless_it_is_said():
    registry = Registry("fruit")
    registry.register_lazy("apple", "collections:OrderedDict")
    registry.register("pear")(dict)
    for name, owner in (("apple", "easyedit-personal itself"), ("pear", "module builtins")):
        with pytest.raises(RegistryError, match=f"already is a fruit named '{name}'(.|\n)*{owner}(.|\n)*replace=True"):
            registry.register(name)
    registry.register("apple", replace=True)(list)
    assert registry.get("apple") is list and registry.added() == ["apple", "pear"]
    registry.unregister("apple")
    assert registry.get("apple").__name__ == "OrderedDict"


@pytest.mark.parametrize("item", [3, lambda model: [], lambda a, b, c, d, e: []])
def test_what_no_kernel_can_be_is_refused(item):
    with pytest.raises(RegistryError, match=r"'odd' cannot be(.|\n)*a function of \(model, tokenizer"):
        KERNELS.register("odd")(item)
    assert "odd" not in KERNELS


def test_a_class_that_lacks_something_is_refused():
    with pytest.raises(RegistryError, match="it lacks edits, prepare, personalize"):
        BASELINES.register("odd")(type("Odd", (), {}))
    with pytest.raises(RegistryError, match="no pydantic class"):
        BASELINES.register("odd", settings=dict)
    assert "odd" not in BASELINES


def test_everything_that_ships_passes_its_registrys_check():
    for registry in (KERNELS, EVALUATORS, BASELINES, PHRASE_SOURCES, CLUSTERERS, JUDGES, ENGINES):
        for name in set(registry.names()) - set(registry.added()):
            assert registry._fault(registry.get(name)) is None, name


def test_entry_points_are_read_late_and_a_broken_one_breaks_nothing_else(tmp_path, monkeypatch):
    info = tmp_path / "orchard-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: orchard\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[easyedit_personal.fruits]\nquince = quince:quince\nrotten = rotten:fruit\napple = quince:quince\n"
    )
    (tmp_path / "quince.py").write_text("class quince: pass\n")
    (tmp_path / "rotten.py").write_text("raise OSError('worms')\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("fruit", "fruits")
    registry.register_lazy("apple", "collections:OrderedDict")
    assert registry.names() == ["apple", "quince", "rotten"] and "quince" not in sys.modules
    assert registry.origin("rotten") == "orchard 1.2"
    with pytest.raises(RegistryError, match=r"'rotten' of orchard 1.2 cannot be loaded(.|\n)*OSError: worms"):
        registry.get("rotten")
    assert registry.get("quince").__name__ == "quince" and registry.get("apple").__name__ == "OrderedDict"
    (unused,) = registry.unused()
    assert "'apple' of orchard 1.2" in unused and "easyedit-personal itself" in unused


def test_a_plugin_file_that_fails_is_named_where_a_name_is_missing(tmp_path, monkeypatch, caplog):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(
        "from easyedit_personal.registry import CLUSTERERS\nCLUSTERERS.register('from a file')(lambda: None)\n"
    )
    bad.write_text("import no_such_module\n")
    paths = [bad, good, tmp_path / "gone.py"]
    monkeypatch.setenv(plugins.VARIABLE, os.pathsep.join(map(str, paths)))
    with pytest.raises(RegistryError, match=r"bad\.py(.|\n)*No module named 'no_such_module'(.|\n)*no such file"):
        CLUSTERERS.get("from a fil")
    assert "from a file" in CLUSTERERS and "bad.py" in caplog.text
    CLUSTERERS.unregister("from a file")


def test_request_is_frozen():
    with pytest.raises(AttributeError):
        EditRequest("a", "b").prompt = "c"


def test_delta_knows_its_shape_rank_and_bytes():
    delta = WeightDelta("l", torch.full((6, 2), 0.1), torch.full((2, 4), 0.1))
    assert (delta.rank, delta.shape, delta.nbytes) == (2, (6, 4), 2 * (6 + 4) * 4)
    assert torch.allclose(delta.update(), torch.full((6, 4), 0.02))


def test_of_a_factor_that_is_mostly_zeros_the_zeros_take_no_bytes():
    one_hot, full = torch.zeros(64, 3), torch.full((3, 4), 0.1)
    one_hot[[5, 63, 0], [0, 1, 2]] = torch.tensor([1.0, -2.5, 0.1])
    kept = {f"x{part}": tensor for part, tensor in as_kept(one_hot).items()}
    assert torch.equal(from_kept(kept, "x"), one_hot) and sum(t.nbytes for t in kept.values()) < 64
    assert as_kept(full) == {"": full}
    assert torch.equal(from_kept({f"x{k}": t for k, t in as_kept(torch.zeros(9, 0)).items()}, "x"), torch.zeros(9, 0))
    assert WeightDelta("l", one_hot, full).nbytes < 3 * (64 + 4) * 4 / 4
    with pytest.raises(KeyError):
        from_kept({"x.at": kept["x.at"]}, "x")


def test_numbers_that_bfloat16_holds_count_two_bytes_and_what_users_share_counts_apart():
    wide = WeightDelta("l", torch.full((6, 2), 0.1), torch.full((2, 4), 0.1), shared=True)
    narrow = WeightDelta("l", torch.full((6, 2), 0.5), torch.full((2, 4), 0.1))
    assert narrow.nbytes == 2 * (6 * 2 + 4 * 4) and narrow.to(torch.bfloat16).nbytes == 2 * (6 + 4) * 2
    assert narrowed(narrow.left).dtype == torch.bfloat16 and torch.equal(narrowed(narrow.left).float(), narrow.left)
    assert narrowed(wide.left) is wide.left and narrowed(wide.left.double()).dtype == torch.float64
    assert (own_bytes([wide, narrow]), shared_bytes([wide, narrow])) == (narrow.nbytes, wide.nbytes)
    assert EditResult([wide, narrow]).nbytes == narrow.nbytes
    assert wide.to(torch.float64).shared and not narrow.to("cpu").shared


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_dense_delta_is_exact_and_counts_the_matrix(shape):
    update = torch.randn(shape)
    delta = WeightDelta.dense("l", update)
    assert torch.equal(delta.update(), update) and delta.shape == shape
    assert delta.nbytes == update.numel() * 4


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (torch.ones(6, 2), torch.ones(3, 4)),
        (torch.ones(6), torch.ones(1, 4)),
        (torch.full((6, 2), float("nan")), torch.ones(2, 4)),
        (torch.ones(6, 2), torch.full((2, 4), float("inf"))),
    ],
)
def test_bad_factors_are_refused(left, right):
    with pytest.raises(ModelError, match=r"model\.layers\.1"):
        WeightDelta("model.layers.1", left, right)
