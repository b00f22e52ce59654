"""What documents quote exists: paths, anchors, commands, options, names; and their Python runs, on the tests' model."""

from __future__ import annotations

import ast
import importlib
import json
import re
from functools import cache
from pathlib import Path

import pytest
import typer.main

import easyedit_personal
from easyedit_personal.cli.main import app
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.modeling.layout import weights_digest
from easyedit_personal.registry import OPEN
from tests import tiny_model
from tests.house.documents import DOCUMENTS, ROOT, anchors, blocks, command_lines, links, spans, text_of
from tests.house.test_imports import FLOORS

every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))

SUFFIXES = (".py", ".md", ".ipynb", ".yaml", ".toml", ".cff", ".json", ".jsonl", ".png", ".txt")
# What commands write, and examples of what readers have.
OUTPUTS = re.compile(r"(cluster9|adapters|alice[-@]|my-|users\.|path/to|pictures/|/)")
# Options and names of others: servers, EasyEdit, PyTorch, PEFT, the standard library, environment variables of theirs.
FOREIGN_OPTIONS = set(
    "--max-loras --max-cpu-loras --max-lora-rank --lora-target-modules --middleware --api-key --lora-modules".split()
)
FOREIGN = set(
    """
    ALG_DICT DS_DICT BaseEditor BatchEditor LoRAResolver PeftModel is_batchable_method restore_after_edit
    AutoModelForCausalLM KeyboardInterrupt WebSockets modules_to_save rank_pattern layers_to_transform generate_texts
    execute_rome execute_memit apply_rome_to_model device_map auto_map target_modules base_model_name_or_path
    lora_A lora_B lora_filesystem_resolver SOURCE_DATE_EPOCH RAY_ADDRESS HF_HUB_OFFLINE OMP_NUM_THREADS
    VLLM_PLUGINS VLLM_LORA_RESOLVER_CACHE_DIR VLLM_ALLOW_RUNTIME_LORA_UPDATING OPENAI_API_KEY load_lora_adapter
    unload_lora_adapter load_lora_adapter_from_tensors max_tokens top_p Idempotency
    """.split()
)


@every_document
def test_links_lead_somewhere(path):
    text = text_of(path)
    for target, anchor in links(text):
        place = (path.parent / target).resolve() if target else path
        assert place.exists(), f"{target} is not there"
        assert not anchor or anchor[1:] in anchors(text_of(place)), f"{target} has no heading for {anchor}"


@every_document
def test_quoted_paths_exist(path):
    folders = (ROOT, ROOT / "easyedit_personal", ROOT / "benchmarks", path.parent)
    for span in spans(text_of(path)):
        name = span.partition("::")[0].partition("[")[0].partition(":")[0]
        if re.fullmatch(r"[\w./-]+", name) and name.endswith(SUFFIXES) and not OUTPUTS.match(name):
            if "/" in name:
                assert any((folder / name).exists() for folder in folders), f"`{span}` is not there"
            elif name.endswith((".py", ".md")):
                assert name in _files(), f"there is no `{span}`"
        elif re.fullmatch(r"(easyedit_personal|benchmarks|tests|docs|examples|hparams)(/[\w.-]+)*/?", name):
            assert (ROOT / name).exists(), f"`{span}` is not there"


@every_document
def test_quoted_commands_exist(path):
    for words in command_lines(text_of(path)):
        fault = _fault(words)
        assert fault is None, f"{' '.join(words)}: {fault}"


@every_document
def test_quoted_options_exist(path):
    known = _all_options() | FOREIGN_OPTIONS
    for span in spans(text_of(path)):
        if span.startswith("--"):
            option = re.split(r"[ =]", span)[0]
            assert option in known, f"`{span}` is no option of ours"


@every_document
def test_quoted_names_exist(path):
    for span in spans(text_of(path)):
        found = re.fullmatch(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(\(.*\)|: .*|:|=.*)?", span)
        if found is None or span.endswith((*SUFFIXES, ".gguf")):
            continue
        name, more = found[1], found[2] or ""
        first, *parts = name.split(".")
        if first in easyedit_personal.__all__ and isinstance(getattr(easyedit_personal, first), type):
            assert _has(getattr(easyedit_personal, first), parts), f"`{span}`: {first} has no {'.'.join(parts)}"
        elif first in ("easyedit_personal", "benchmarks", "tests"):
            assert _resolves(name), f"`{span}` cannot be imported"
        elif first in PersonalizationHyperParams.model_fields and parts:
            kind = PersonalizationHyperParams.model_fields[first].annotation
            assert parts[0] in getattr(kind, "model_fields", {}), f"`{span}` is no setting"
        elif more.startswith("(") or re.search(r"_|[a-z][A-Z]", name):
            unknown = [part for part in (first, *parts) if "_" in part or part != part.lower()]
            unknown = [part for part in unknown if part not in _words() | FOREIGN]
            assert not unknown, f"`{span}`: no {unknown[0]} in our sources"


@every_document
def test_imports_in_python_blocks_exist(path):
    for code in blocks(text_of(path), "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("easyedit_personal"):
                assert all(_resolves(f"{node.module}.{alias.name}") for alias in node.names), ast.unparse(node)


def test_checks_notice_what_is_not_there():
    """Each check of this file, on something that is wrong."""
    assert _fault(["easyedit-personal", "edti"]) and _fault(["easyedit-personal", "store", "ls", "--limits", "3"])
    assert _fault(["python", "-m", "benchmarks.gone"]) and _fault(["python", "-m", "benchmarks.fuzz", "--gone"])
    assert _fault(["make", "coffee"]) and _fault(["python", "examples/gone.py"])
    assert not _fault(["easyedit-personal", "models", "settings", "smollm2"]) and not _fault(["ls", "--gone"])
    assert not _has(easyedit_personal.EditStore, ["opened"]) and not _resolves("easyedit_personal.editing.gone")
    assert anchors("# What's `a_b` -- really?\n") == {"whats-a_b----really"}
    assert spans("`one`\n```sh\nno `span`\n```\n`three\nfour`") == ["one", "three four"]
    assert links("[a](b.md#c) [d](#e) [f](https://g.example)") == [("b.md", "#c"), ("", "#e")]
    assert [*command_lines("```sh\nA=1 easyedit-personal serve \\\n  --port 1 # why\n```")] == [
        ["easyedit-personal", "serve", "--port", "1"]
    ]


def test_the_layers_in_contributing_are_those_that_are_checked():
    shown = re.findall(r"^floor (\d+): (.*)$", (ROOT / "docs" / "contributing.md").read_text(), re.MULTILINE)
    assert shown == [(str(level), " ".join(sorted(packages))) for level, packages in enumerate(FLOORS)]


def runnable(path):
    """A document's Python, but for what needs the host: tests/integrations/test_examples.py runs examples/easyedit."""
    return [code for code in blocks(text_of(path), "python") if "easyeditor" not in code and "register()" not in code]


# docs/serving.md has a test of its own, which also looks at what its blocks write (tests/store/test_lora.py).
RUN = [path for path in DOCUMENTS if runnable(path) and path != ROOT / "docs" / "serving.md"]


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_run(path, tmp_path, monkeypatch):
    """One after the other in one namespace, on the tests' model with few steps, which is as it was afterwards."""
    settings = tiny_model.settings(
        cluster={"size": 2, "indirect": 0, "behind": 0}, lowrank={"steps": 4, "polish": 1}, mom2_adjustment=False
    )
    monkeypatch.setattr("easyedit_personal.editing.editor.settings_named", lambda name: settings)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    model, tokenizer = tiny_model.load()
    before = weights_digest(model)
    names = {"model": model, "tokenizer": tokenizer, "key": bytes(32)}
    for code in runnable(path):
        exec(compile(code, str(path), "exec"), names)
    assert weights_digest(model) == before


def test_the_notebook_shows_what_it_does():
    """Executed from the first cell to the last, with pictures, without errors, warnings or this machine's folders."""
    path = ROOT / "examples" / "quickstart.ipynb"
    text = path.read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    shown = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in shown} == {"stream", "display_data"}
    assert all(output.get("name", "stdout") == "stdout" for output in shown)
    assert sum("image/png" in output.get("data", ()) for output in shown) == 2
    assert len(text) < 400_000 and not re.search(r"/(tmp|home|root|work)/", text)


def _fault(words: list[str]) -> str | None:
    """What is wrong with a command, if it is one of ours."""
    program, *rest = words
    if program == "easyedit-personal":
        return _cli_fault(rest)
    if program in _group().commands and rest and (rest[0].startswith("-") or rest[0] in _subcommands(program)):
        return _cli_fault(words)  # quoted without the program's name
    if program == "make":
        known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return next((f"no target {word}" for word in rest if word not in known), None)
    if program.endswith(("python", "python3", "pytest")):
        gone = [word for word in rest if re.match(r"(tests|examples|benchmarks)/", word) and not (ROOT / word).exists()]
        if gone and ">" not in rest:
            return f"{gone[0]} is not there"
        if rest[:1] == ["-m"] and rest[1].startswith(("benchmarks.", "tests.", "easyedit_personal.")):
            return _module_fault(*rest[1:])
    return None


def _cli_fault(words: list[str]) -> str | None:
    command = _group()
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        name, *words = words
        if name in ("COMMAND", "..."):
            return None
        if name not in command.commands:
            return f"no command {name}"
        command = command.commands[name]
    given = [word.partition("=")[0] for word in words if word.startswith("-") and word != "-"]
    return next((f"no option {option}" for option in given if option not in _options(command)), None)


def _module_fault(module: str, *words: str) -> str | None:
    place = ROOT.joinpath(*module.split("."))
    files = sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    if not all(file.is_file() for file in files):
        return f"no module {module}"
    text = "".join(file.read_text(encoding="utf-8") for file in [*files, ROOT / "benchmarks" / "models.py"])
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    return next((f"no option {option}" for option in options if f'"{option}"' not in text), None)


@cache
def _group():
    return typer.main.get_command(app)


def _subcommands(name: str) -> dict:
    return getattr(_group().commands[name], "commands", {})


def _options(command) -> set[str]:
    return {"--help", *(name for one in command.params for name in (*one.opts, *one.secondary_opts))}


@cache
def _all_options() -> set[str]:
    """Of all commands and benchmarks."""
    commands = [_group(), *_group().commands.values()]
    commands += [sub for command in commands[1:] for sub in getattr(command, "commands", {}).values()]
    sources = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "benchmarks").rglob("*.py"))
    return set().union(*map(_options, commands), re.findall(r'"(--[\w-]+)"', sources))


@cache
def _files() -> set[str]:
    folders = ("easyedit_personal", "benchmarks", "docs", "examples", "tests")
    return {file.name for folder in folders for file in (ROOT / folder).rglob("*.*")} | {
        file.name for file in ROOT.iterdir()
    }


@cache
def _words() -> set[str]:
    """Every word in our sources, so that a name that was changed everywhere else is noticed."""
    files = [
        file
        for folder in ("easyedit_personal", "benchmarks", "tests", "hparams")
        for suffix in ("*.py", "*.yaml")
        for file in (ROOT / folder).rglob(suffix)
        if file.parent != Path(__file__).parent
    ]
    return set(re.findall(r"\w+", "\n".join(file.read_text(encoding="utf-8") for file in files)))


def _has(kind: type, parts: list[str]) -> bool:
    """Whether a class has an attribute, a field or an argument of its constructor of that name."""
    return all(
        hasattr(kind, part) or part in {**getattr(kind, "model_fields", {}), **getattr(kind, "__annotations__", {})}
        for part in parts
    )


def _resolves(name: str) -> bool:
    """Whether a dotted name is a module, something in one, or a group of entry points."""
    if name in {f"easyedit_personal.{registry.group}" for registry in OPEN}:
        return True
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return bool(module) and _resolves(module) and hasattr(importlib.import_module(module), attribute)
    return True
