"""``easyedit-personal demo``: personalise a model for a few users, and show it before and after.

Users' values come from the bundled set's test half, on which no setting was chosen.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .. import DEFAULT_MODEL
from ..registry import KERNELS

if TYPE_CHECKING:
    from rich.console import Console

    from ..data.upqa import UPQAItem
    from ..hparams import PersonalizationHyperParams

# A user has one preference or several; the demo takes the first bundled test items about these attributes.
USERS = {"Ada": ["hobby"], "Ben": ["pet", "food preference"], "Chloé": ["career goal"]}


def demo(
    out: Path = typer.Option(None, "--out", help="Keep the users' files in this folder.", show_default=False),
    kernel: str = typer.Option("lowrank", "--kernel", help=f"One of {KERNELS.listed()}."),
    tiny: bool = typer.Option(False, "--tiny", help="In a checkout: on the tests' small model, in seconds."),
) -> None:
    """Personalise a model for three users and show what changes."""
    import tempfile

    from rich.console import Console

    from ..hparams import PersonalizationHyperParams

    KERNELS.check(kernel)
    hparams = _tiny_settings() if tiny else PersonalizationHyperParams.from_hparams(DEFAULT_MODEL)
    with tempfile.TemporaryDirectory() as scratch:
        _run(Console(), Path(out or scratch), hparams.with_kernel(kernel))
    if out:
        print(f"The users' files are in {out}.")


def _tiny_settings() -> PersonalizationHyperParams:
    """Those of the tests' model, which stands beside the package in a checkout and in no wheel."""
    from ..errors import ModelError
    from ..hparams import PersonalizationHyperParams

    folder = Path(__file__).resolve().parents[2] / "tests" / "tiny_model"
    if not (folder / "settings.yaml").is_file():
        raise ModelError(
            "The tests' small model is not here.",
            got=f"no settings.yaml in {folder}",
            cause="the package was installed without its tests",
            remedy="run --tiny in a checkout of the repository, or leave it out",
        )
    hparams = PersonalizationHyperParams.from_hparams(folder / "settings.yaml")
    return hparams.replace(model_name=str(folder / "llama-personal"))


def _run(console: Console, folder: Path, hparams: PersonalizationHyperParams) -> None:
    from ..editing.algorithm import personalize
    from ..kernels.apply import edited
    from ..modeling.layout import fingerprint
    from ..modeling.loading import load_model
    from ..progress import progress
    from ..store.factors import save_factors

    folder.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_model(hparams)
    base = fingerprint(model)
    users = _preferences()
    panels = {user: [question for item in items for question in _panel(item)] for user, items in users.items()}
    before = {user: _answers(model, tokenizer, panel) for user, panel in panels.items()}
    results = {}
    for user in progress(users, "Personalising", len(users)):
        preferences = [item.preference() for item in users[user]]
        results[user] = personalize(model, tokenizer, preferences, hparams)
        size = save_factors(folder / f"{user}.safetensors", results[user].deltas, fingerprint=base)
        with edited(model, results[user].deltas):
            after = _answers(model, tokenizer, panels[user])
        _show(console, user, panels[user], before[user], after, f"{size / 1000:.1f} kB, {results[user].seconds:.1f} s")
    _undo(console, model, tokenizer, "Ada", results["Ada"].deltas, panels["Ada"][0])


def _preferences() -> dict[str, list[UPQAItem]]:
    from ..data.upqa import UPQADataset

    items = UPQADataset.bundled(split="test").items
    first: dict[str, UPQAItem] = {}
    for item in items:
        first.setdefault(item.subject, item)
    return {user: [first[subject] for subject in subjects] for user, subjects in USERS.items()}


def _panel(item: UPQAItem) -> list[tuple[str, str, str]]:
    """(kind of question, question, target) of everything that a preference is asked in the demo."""
    kinds = {
        "direct": item.question,
        "paraphrased": item.paraphrase,
        "implicit": item.implicit,
        "product": item.product,
        "unrelated": item.locality[0][0],
    }
    return [(kind, question, item.target) for kind, question in kinds.items()]


def _answers(model: Any, tokenizer: Any, panel: list[tuple[str, str, str]]) -> list[str]:
    from ..generation.generate import generate

    return [answer.text for answer in generate(model, tokenizer, [question for _, question, _ in panel])]


def _show(
    console: Console, user: str, panel: list[tuple[str, str, str]], before: list[str], after: list[str], cost: str
) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ..generation.score import contained

    wanted = ", ".join(dict.fromkeys(target for _, _, target in panel))
    table = Table(title=f"{user}: {escape(wanted)}  ({cost})", title_justify="left", min_width=100)
    for column in ("asked", "question", "before", "after"):
        table.add_column(column, overflow="fold")
    for (kind, question, target), old, new in zip(panel, before, after):
        good = (contained(new, target) > 0) != (kind == "unrelated")
        colour = "green" if good else "red"
        table.add_row(kind, escape(question), f"[dim]{escape(old)}[/]", f"[{colour}]{escape(new)}[/]")
    console.print(table)


def _undo(console: Console, model: Any, tokenizer: Any, user: str, deltas: Any, asked: tuple[str, str, str]) -> None:
    """Apply one user's edit in place, take it back, and compare every byte of the weights."""
    from ..kernels.apply import apply_deltas, revert
    from ..modeling.layout import weights_digest

    original = weights_digest(model)
    saved = apply_deltas(model, deltas)
    changed = weights_digest(model)
    with_edit = _answers(model, tokenizer, [asked])[0]
    revert(model, saved)
    restored = weights_digest(model)
    console.print(f"Undo, shown on {user}'s edit and {asked[1]!r}:")
    console.print(f"  edited    weights {changed[:12]}  answer: {with_edit}")
    console.print(f"  undone    weights {restored[:12]}  answer: {_answers(model, tokenizer, [asked])[0]}")
    equal = "bit for bit the original" if restored == original != changed else "NOT the original: please report this"
    console.print(f"  original  weights {original[:12]}  -> the undone model is {equal}")
