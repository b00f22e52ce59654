"""``easyedit-personal demo``: personalise a model for a few users, and show it before and after.

Users' values come from the bundled set's test half, on which no setting was chosen.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from .. import DEFAULT_MODEL
from ..registry import KERNELS

if TYPE_CHECKING:
    from rich.console import Console

    from ..data.upqa import UPQAItem
    from ..hparams import PersonalizationHyperParams

TOKENS = 40  # of an answer
LENGTH = 150  # characters of it that are shown
TINY = Path(__file__).resolve().parents[2] / "tests" / "tiny_model"  # stands beside the package in a checkout only
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

    KERNELS.check(kernel)
    hparams = _tiny_settings() if tiny else _default_settings()
    with tempfile.TemporaryDirectory() as scratch:
        _run(Console(), Path(out or scratch), hparams.with_kernel(kernel))
    if out:
        print(f"The users' files are in {out}.")


def _default_settings() -> PersonalizationHyperParams:
    """Those of the default model; where it cannot be had, a checkout has another to offer."""
    from ..errors import ModelError
    from ..hparams import PersonalizationHyperParams
    from ..modeling.prepare import find_model

    try:
        find_model(DEFAULT_MODEL)
    except ModelError as error:
        if not (TINY / "settings.yaml").is_file():
            raise
        offer = "the tests' small model is here, and shows how the demo works: `easyedit-personal demo --tiny`"
        remedy = "; or ".join(filter(None, (error.remedy, offer)))
        raise ModelError(error.what, got=error.got, needed=error.needed, cause=error.cause, remedy=remedy) from error
    return PersonalizationHyperParams.from_hparams(DEFAULT_MODEL)


def _tiny_settings() -> PersonalizationHyperParams:
    """Those of the tests' model."""
    from ..errors import ModelError
    from ..hparams import PersonalizationHyperParams

    if not (TINY / "settings.yaml").is_file():
        raise ModelError(
            "The tests' small model is not here.",
            got=f"no settings.yaml in {TINY}",
            cause="the package was installed without its tests",
            remedy="run --tiny in a checkout of the repository, or leave it out",
        )
    hparams = PersonalizationHyperParams.from_hparams(TINY / "settings.yaml")
    return hparams.replace(model_name=str(TINY / "llama-personal"))


def _run(console: Console, folder: Path, hparams: PersonalizationHyperParams) -> None:
    from ..editing.algorithm import personalize
    from ..kernels.beside import edited
    from ..modeling.layout import fingerprint
    from ..modeling.loading import load_model
    from ..progress import progress
    from ..store.factors import save_factors

    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    model, tokenizer = load_model(hparams)
    base = fingerprint(model)
    console.print(f"{hparams.model_name}: loaded in {time.perf_counter() - started:.1f} s")
    users = _preferences()
    asked = {user: [one for item in items for one in _panel(item)] for user, items in users.items()}
    before = {user: _answers(model, tokenizer, panel) for user, panel in asked.items()}
    results, shown = {}, []
    for user in progress(users, "Personalising", len(users)):
        preferences = [item.preference() for item in users[user]]
        results[user] = personalize(model, tokenizer, preferences, hparams)
        size = save_factors(folder / f"{user}.safetensors", results[user].deltas, fingerprint=base)
        with edited(model, results[user].deltas):
            after = _answers(model, tokenizer, asked[user])
        told = " and ".join(f"{item.subject} = {item.target}" for item in users[user])
        rows = [Shown(*one, old, new) for one, old, new in zip(asked[user], before[user], after)]
        shown += rows
        _show(console, f"{user}: {told}", f"{size / 1000:.1f} kB, {results[user].seconds:.1f} s", rows)
    _sum_up(console, shown)
    _undo(console, model, tokenizer, "Ada", results["Ada"].deltas, asked["Ada"][0])
    console.print(f"All in {time.perf_counter() - started:.0f} s.")


class Shown(NamedTuple):
    """A question of the demo: what it is about, whether the value belongs into its answer, and both answers."""

    kind: str
    question: str
    target: str
    wanted: bool
    before: str
    after: str

    @property
    def good(self) -> bool:
        """Whether the value is where it belongs, or is not where it does not."""
        from ..generation.score import contained

        return (contained(self.after, self.target) > 0) == self.wanted


def _preferences() -> dict[str, list[UPQAItem]]:
    from ..data.upqa import UPQADataset

    items = UPQADataset.bundled(split="test").items
    first: dict[str, UPQAItem] = {}
    for item in items:
        first.setdefault(item.subject, item)
    return {user: [first[subject] for subject in subjects] for user, subjects in USERS.items()}


def _panel(item: UPQAItem) -> list[tuple[str, str, str, bool]]:
    """(kind of question, question, target, whether it belongs into the answer) for all that the demo asks."""
    kinds = [
        ("direct", item.question, True),
        ("paraphrased", item.paraphrase, True),
        ("implicit", item.implicit, True),
        ("product", item.product, True),
        ("negated", item.negated, False),
        ("somebody else", item.other, False),
        ("a fact", item.locality[0][0], False),
    ]
    return [(kind, question, item.target, wanted) for kind, question, wanted in kinds]


def _answers(model: Any, tokenizer: Any, panel: list[tuple[str, str, str, bool]]) -> list[str]:
    from ..generation.generate import generate

    questions = [question for _, question, *_ in panel]
    return [" ".join(answer.text.split()) for answer in generate(model, tokenizer, questions, max_new_tokens=TOKENS)]


def _show(console: Console, told: str, cost: str, rows: list[Shown]) -> None:
    """A user's questions, each with both answers below it, so that 80 columns are enough."""
    from rich.markup import escape
    from rich.table import Table

    console.print(f"\n[bold]{escape(told)}[/]  ({cost})")
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        mark = "[green]+[/]" if row.good else "[red]-[/]"
        table.add_row(row.kind, f"[bold]{escape(row.question)}[/]")
        table.add_row("  before", f"[dim]{escape(_cut(row.before))}[/]")
        table.add_row(f"{mark} after", escape(_cut(row.after)))
    console.print(table)


def _cut(answer: str) -> str:
    return answer if len(answer) <= LENGTH else answer[:LENGTH].rsplit(" ", 1)[0] + " ..."


def _sum_up(console: Console, shown: list[Shown]) -> None:
    """How often the value was where it belongs and where it does not: what went wrong is told, too."""
    for wanted, title in ((True, "where it belongs"), (False, "where it does not")):
        rows = [row for row in shown if row.wanted == wanted]
        count = sum(row.good == wanted for row in rows)
        console.print(f"{'' if not wanted else chr(10)}The value is in the answer {title}: {count} of {len(rows)}")


def _undo(console: Console, model: Any, tokenizer: Any, user: str, deltas: Any, asked: Any) -> None:
    """Apply one user's edit in place, take it back, and compare every byte of the weights."""
    from rich.markup import escape
    from rich.table import Table

    from ..kernels.apply import apply_deltas, revert
    from ..modeling.layout import weights_digest

    original = weights_digest(model)
    saved = apply_deltas(model, deltas)
    changed = weights_digest(model)
    with_edit = _answers(model, tokenizer, [asked])[0]
    revert(model, saved)
    restored = weights_digest(model)
    console.print(f"\nUndo, shown on {user}'s edit and {asked[1]!r}:", markup=False)
    table = Table.grid(padding=(0, 2))
    table.add_row("  edited", changed[:12], escape(_cut(with_edit)))
    table.add_row("  undone", restored[:12], escape(_cut(_answers(model, tokenizer, [asked])[0])))
    console.print(table)
    equal = "bit for bit the original" if restored == original != changed else "NOT the original: please report this"
    console.print(f"  original  {original[:12]}  -> the undone weights are {equal}")
