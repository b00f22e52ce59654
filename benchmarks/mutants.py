"""Mutation testing of the kernels, of applying factors and of the store: can the tests fail?

``python -m benchmarks.mutants --json benchmarks/results/mutants.json`` (needs ``pip install cosmic-ray``, whose
operators do the mutating) takes one mutant per family of operators and place, draws a sample with a seed, and runs the
tests that belong to the module, ``-x``, on a copy of the tree. Every mutant has a process of its own, forked from one
that has imported torch before. Mutants that differ in annotations only are no programs of their own and are not drawn.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("easyedit_personal", "tests", "hparams", "benchmarks", "pyproject.toml", "README.md", "setup.py")
# Module -> the test files that promise something about it, the one that fails soonest first.
TARGETS = {
    "kernels": {
        f"kernels/{name}.py": (*(f"kernels/test_{test}.py" for test in tests), "house/test_records.py")
        for name, tests in {
            "solve": ("solve", "metric", "rome"),
            "metric": ("metric", "lowrank"),
            "rome": ("rome", "numbers"),
            "memit": ("memit", "numbers"),
            "values": ("descent", "values", "rome"),
            "keys": ("keys", "packing", "values", "rome"),
            "packing": ("packing", "values"),
            "lowrank": ("lowrank", "training_prompts", "numbers"),
            "finetune": ("finetune", "training_prompts", "numbers"),
            "objective": ("lowrank", "finetune", "natural", "training_prompts"),
            "edited_rows": ("edited_rows", "carried", "natural", "gate_parts", "lowrank", "finetune"),
            "training_prompts": ("training_prompts", "lowrank"),
            "preserve": ("preserve", "lowrank", "metric"),
            "factors": ("factors", "gate_parts", "natural"),
            "kinds": ("kinds", "gate_parts", "natural"),
            "contrasts": ("contrasts", "gate_parts", "natural"),
            "spoken": ("spoken", "gate_parts", "natural"),
            "ground": ("ground", "gate_parts", "natural"),
            "ground_numbers": ("ground_numbers", "gate_parts", "natural"),
            "target_gradients": ("target_gradients", "value_start", "natural"),
            "quiet_keys": ("quiet_keys", "gate_parts", "natural"),
            "gate": ("gate", "gate_parts", "natural"),
            "gate_loss": ("gate_loss", "gate_parts", "natural"),
            "natural": ("natural", "gate_parts"),
            "carried": ("carried", "value_start", "natural"),
            "value_start": ("value_parts", "value_start", "natural"),
            "user_value": ("user_value", "value_start", "natural"),
        }.items()
    }
    | {
        "generation/base_answers.py": ("kernels/test_preserve.py", "kernels/test_lowrank.py"),
        "serving/multi_adapter.py": ("serving/test_multi_adapter.py", "serving/test_row_adapters.py"),
    },
    "apply": {
        "kernels/apply.py": ("kernels/test_apply.py", "test_swapping.py"),
    },
    "store": {
        f"store/{name}.py": (*(f"store/test_{test}.py" for test in tests), "house/test_records.py")
        for name, tests in {
            "store": ("store", "blobs", "forget", "faults", "compact", "fleet"),
            "reader": ("store", "blobs", "faults", "words", "fleet"),
            "writer": ("store", "blobs", "compact", "encryption", "fleet"),
            "rows": ("rows", "checksum", "store", "forget", "compact", "faults"),
            "ids": ("ids", "store", "forget"),
            "records": ("store", "words", "compact"),
            "factors": ("factors", "store", "faults"),
            "entries": ("store", "blobs", "compact"),
            "compact": ("compact", "store", "blobs"),
            "queries": ("store", "blobs", "compact", "forget", "schema"),
            "maintenance": ("forget", "store", "schema", "faults", "blobs", "compact"),
            "blobs": ("blobs",),
            "schema": ("schema", "checksum", "store"),
        }.items()
    },
}
SHARES = {"kernels": 0.4, "apply": 0.2, "store": 0.4}
LIMIT_S = 180.0  # of CPU, of one mutant; the slowest test files take 16 s
PATIENCE = 6  # times the limit, by the clock: a mutant that waits for ever uses no CPU
# What an operator is replaced by; all pairs would be ten times as many mutants, most of them killed by a TypeError.
KINDS = [
    f"ReplaceBinaryOperator_{a}_{b}"
    for a, b in (
        pair.split()
        for pair in (
            "Add Sub",
            "Sub Add",
            "Mul Div",
            "Div Mul",
            "Mul Add",
            "FloorDiv Mul",
            "Mod FloorDiv",
            "Pow Mul",
            "BitOr BitAnd",
            "BitAnd BitOr",
        )
    )
]
KINDS += [
    f"ReplaceComparisonOperator_{a}_{b}"
    for a, b in (
        pair.split()
        for pair in (
            "Eq NotEq",
            "NotEq Eq",
            "Lt LtE",
            "Lt GtE",
            "LtE Lt",
            "LtE Gt",
            "Gt GtE",
            "Gt LtE",
            "GtE Gt",
            "GtE Lt",
            "Is IsNot",
            "IsNot Is",
        )
    )
]
KINDS += ["ReplaceUnaryOperator_USub_UAdd", "ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Not"]
KINDS += ["AddNot", "ExceptionReplacer", "NumberReplacer", "RemoveDecorator", "ReplaceAndWithOr", "ReplaceOrWithAnd"]
KINDS += ["ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ReplaceFalseWithTrue", "ReplaceTrueWithFalse"]
KINDS += ["ZeroIterationForLoop"]


def plain(code: str) -> str | None:
    """A module's meaning: its syntax tree without annotations, which are never evaluated; None if it is no Python."""
    try:
        tree = ast.parse(code)
    except SyntaxError:  # the bare * and / between parameters are no products
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)  # type: ignore[assignment]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def places(code: str) -> dict[tuple[str, tuple[int, int]], list[tuple[str, int]]]:
    """(family of operators, place in the code) -> the operators that can change something there, with their counts."""
    from cosmic_ray.ast import Visitor, get_ast
    from cosmic_ray.plugins import get_operator

    operators = {name: get_operator(f"core/{name}")() for name in KINDS}
    times: Counter[str] = Counter()
    found: dict[tuple[str, tuple[int, int]], list[tuple[str, int]]] = {}

    class Look(Visitor):
        def visit(self, node: Any) -> Any:
            for name, operator in operators.items():
                for start, _ in operator.mutation_positions(node):
                    found.setdefault((name.split("_")[0], start), []).append((name, times[name]))
                    times[name] += 1
            return node

    Look().walk(get_ast(code))
    return found


def draw(root: Path, count: int, seed: int, areas: Sequence[str]) -> list[dict[str, Any]]:
    """The sample: every area's share, drawn over its modules; in any order, so that an unfinished run is one too."""
    rng = random.Random(seed)
    sample = []
    for area in areas:
        known = []
        for module in TARGETS[area]:
            code = (root / "easyedit_personal" / module).read_text(encoding="utf-8")
            for (_, (line, _)), kinds in sorted(places(code).items()):
                operator, occurrence = rng.choice(kinds)
                known.append(
                    {"area": area, "module": module, "line": line, "operator": operator, "occurrence": occurrence}
                )
        wanted = round(count * SHARES[area] / sum(SHARES[one] for one in areas))
        for mutant in rng.sample(known, len(known)):
            made = mutated(root, mutant)
            if made and wanted:
                sample.append(mutant | made)
                wanted -= 1
            if not wanted:
                break
    return rng.sample(sample, len(sample))


def mutated(root: Path, mutant: dict[str, Any]) -> dict[str, Any] | None:
    """A mutant's code, and what is changed in it; None where it is no program of its own."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    code = (root / "easyedit_personal" / mutant["module"]).read_text(encoding="utf-8")
    try:
        new = mutate_code(code, get_operator(f"core/{mutant['operator']}")(), mutant["occurrence"])
    except AttributeError:  # its ExceptionReplacer knows bare names, not torch.OutOfMemoryError
        return None
    if new is None or plain(new) in (plain(code), None):
        return None
    lines = difflib.unified_diff(code.splitlines(), new.splitlines(), lineterm="", n=0)
    return {
        "code": new,
        "change": [text for text in lines if text[:1] in "+-" and text[:3] not in ("+++", "---")],
    }


def child(copy: Path, arguments: list[str], pipe: Any) -> None:
    """Run pytest on the copy, as it would be run there; tell its exit status and what was imported."""
    os.setpgrp()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    import pytest

    # Plugins that the parent has imported cannot be rewritten any more: nothing that a test depends on.
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    status = int(pytest.main([*arguments, *options, "-m", "not slow and not server"]))
    own = ("easyedit_personal", "tests", "benchmarks", "__main__")
    pipe.send((status, [name for name in sys.modules if name.split(".")[0] not in own]))
    pipe.close()
    os.kill(os.getpid(), signal.SIGKILL)  # no handlers at exit: they belong to the parent


def tested(copy: Path, tests: Sequence[str], *options: str) -> tuple[int | None, list[str]]:
    """pytest's exit status, None where it was stopped or died, and the modules that it imported."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    arguments = [*(str(copy / "tests" / test) for test in tests), *options]
    process = context.Process(target=child, args=(copy, arguments, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv() if _answers(ours, psutil.Process(process.pid)) else (None, [])
    except (EOFError, psutil.NoSuchProcess):
        return None, []
    finally:
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
        process.join()


def _answers(pipe: Any, process: psutil.Process) -> bool:
    """Whether a child says something within its share of CPU; other jobs on the machine take nothing away from it."""
    end = time.monotonic() + PATIENCE * LIMIT_S
    while not pipe.poll(1.0):
        spent = process.cpu_times()
        if spent.user + spent.system > LIMIT_S or time.monotonic() > end:
            return False
    return True


def warm_up(copy: Path, baseline: bool, areas: Sequence[str]) -> None:
    """Import what the tests need of other packages once, and see that all tests pass without a mutant."""
    tests = tuple(dict.fromkeys(test for area in areas for tests in TARGETS[area].values() for test in tests))
    for name in tested(copy, tests, "--collect-only")[1]:
        if name.split(".")[0] in ("torch", "transformers", "sklearn", "scipy", "numpy", "sqlalchemy", "safetensors"):
            try:
                importlib.import_module(name)
            except Exception:  # a module that only its package can import
                continue
    for test in tests if baseline else tests[:1]:
        status, _ = tested(copy, [test], "-x")
        if status != 0:
            raise SystemExit(f"{test} does not pass without a mutant (status {status})")


def outcome(copy: Path, mutant: dict[str, Any]) -> str:
    """killed, survived, or timeout where the tests were stopped or died; the copy is as before afterwards."""
    path = copy / "easyedit_personal" / mutant["module"]
    original = path.read_text(encoding="utf-8")
    path.write_text(mutant["code"], encoding="utf-8")
    try:
        status, _ = tested(copy, TARGETS[mutant["area"]][mutant["module"]], "-x")
    finally:
        path.write_text(original, encoding="utf-8")
    return {0: "survived", None: "timeout"}.get(status, "killed")


def report(done: list[dict[str, Any]], seed: int, seconds: float) -> dict[str, Any]:
    """The result: figures by area and module, and every survivor."""
    figures: dict[str, Counter[str]] = {}
    for mutant in done:
        for key in ("all", mutant["area"], mutant["module"]):
            figures.setdefault(key, Counter())[mutant["outcome"]] += 1
    shown = {
        key: dict(counts) | {"killed_percent": round(100 - 100 * counts["survived"] / counts.total(), 1)}
        for key, counts in sorted(figures.items())
    }
    fields = ("area", "module", "line", "operator", "occurrence", "change")
    survivors = [
        {key: mutant[key] for key in fields if key in mutant} for mutant in done if mutant["outcome"] == "survived"
    ]
    return {
        "seed": seed,
        "mutants": len(done),
        "seconds": round(seconds),
        "figures": shown,
        "survivors": survivors,
    }


def killed(result: dict[str, Any]) -> list[dict[str, Any]]:
    """An earlier result's mutants that did not survive."""
    area = {module: name for name, modules in TARGETS.items() for module in modules}
    counts = {module: figures for module, figures in result["figures"].items() if module in area}
    return [
        {"area": area[module], "module": module, "outcome": kind}
        for module, figures in counts.items()
        for kind in ("killed", "timeout")
        for _ in range(figures.get(kind, 0))
    ]


def located(root: Path, old: dict[str, Any]) -> list[dict[str, Any]]:
    """A survivor of an earlier run in today's code; empty, and said, where its line is there no more or twice."""
    code = (root / "easyedit_personal" / old["module"]).read_text(encoding="utf-8")
    before, after = ("\n".join(text[1:] for text in old["change"] if text[0] == sign) for sign in "-+")
    if code.count(before) != 1 and before not in code.splitlines()[old["line"] - 1 : old["line"]]:
        print(f"not there any more: {old['module']}:{old['line']} {before.strip()}", flush=True)
        return []
    start = sum(map(len, code.splitlines(keepends=True)[: old["line"] - 1])) if code.count(before) != 1 else 0
    return [old | {"code": code[:start] + code[start:].replace(before, after, 1)}]


def main() -> None:
    """Draw, run, and write the result after every mutant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--areas", nargs="+", default=list(TARGETS), choices=TARGETS, help="default: all")
    parser.add_argument("--minutes", type=float, default=40.0, help="stop after so many; what was run is a sample too")
    parser.add_argument("--part", default="0/1", help="of several processes: every n-th mutant from this one on")
    parser.add_argument("--again", type=Path, nargs="+", help="results: run their survivors, keep the rest of them")
    parser.add_argument("--no-baseline", dest="baseline", action="store_false", help="the tests are known to pass")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    sys.dont_write_bytecode = True  # two versions of a file within a second would share one
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            ignored = shutil.ignore_patterns("__pycache__", "results")
            shutil.copytree(source, copy / name, ignore=ignored) if source.is_dir() else shutil.copy(source, copy)
        first, step = map(int, given.part.split("/"))
        results = [json.loads(path.read_text(encoding="utf-8")) for path in given.again or ()]
        done = [mutant for result in results for mutant in killed(result)]
        if results:
            sample = [found for result in results for old in result["survivors"] for found in located(copy, old)]
        else:
            sample = draw(copy, given.mutants, given.seed, given.areas)[first::step]
        print(f"{len(sample)} mutants drawn", flush=True)
        warm_up(copy, given.baseline, given.areas)
        started, before = time.monotonic(), sum(result["seconds"] for result in results)
        for mutant in sample:
            done.append(mutant | {"outcome": outcome(copy, mutant)})
            seconds = time.monotonic() - started
            given.json.write_text(
                json.dumps(report(done, given.seed, before + seconds), indent=1, ensure_ascii=False) + "\n"
            )
            print(f"{len(done)}/{len(sample)} {done[-1]['outcome']} {mutant['module']}:{mutant['line']}", flush=True)
            if seconds > 60 * given.minutes:
                break


if __name__ == "__main__":
    main()
