"""Twenty unselected transcripts: ``python -m benchmarks.transcripts --out docs/transcripts.md``.

The first users of the bundled set's test half, some of each kind in its order: what they said, ten questions, and the
answers of the unedited and of the edited model side by side, as they came.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import add_options, chosen
from easyedit_personal import PersonalizationError
from easyedit_personal.data.records import UPQAItem
from easyedit_personal.data.upqa import UPQADataset
from easyedit_personal.editing.many import edit_many
from easyedit_personal.generation.generate import Answer, generate
from easyedit_personal.generation.score import contained
from easyedit_personal.kernels.beside import edited
from easyedit_personal.modeling.loading import load_model

EVERYDAY = ("Hi, how are you?", "Write a two-line poem about the moon.")
LONG = 96
HEAD = """# Twenty transcripts

*Unselected: the first {each} users of each of the first {kinds} kinds in the bundled set's test half, {model}, greedy
answers of at most {long} tokens ("..." where one was cut). Made by `python -m benchmarks.transcripts --out
docs/transcripts.md`.*

An edit knows the sentence that the user said, nothing else. The value belongs into the first four answers of each and
into none of the others; it is **bold** where it stands. Of {users} edited models, {told} of {askable} answers have it
where it belongs, {leaked} of {apart} where it does not.
"""


def main(argv: list[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--kinds", type=int, default=10)
    parser.add_argument("--each", type=int, default=2, help="users of each kind")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    hparams = chosen(options)
    model, tokenizer = load_model(hparams)
    items = list(first_items(options.kinds, options.each))
    results = edit_many(model, tokenizer, [[item.preference(1)] for item in items], hparams)
    asked = [question for item in items for question, _ in questions(item)]
    plain = answers(model, tokenizer, asked)
    pages, told, leaked = [], [], []
    for number, (item, result) in enumerate(zip(items, results)):
        if isinstance(result, PersonalizationError):
            pages.append(f"## {number + 1}. {item.persona}\n\nNot learned: {str(result).splitlines()[0]}\n")
            continue
        with edited(model, result.deltas):
            found = answers(model, tokenizer, [question for question, _ in questions(item)])
        pages.append(page(number + 1, item, [plain[question] for question, _ in questions(item)], list(found.values())))
        for (_, belongs), answer in zip(questions(item), found.values()):
            (told if belongs else leaked).append(contained(answer.text, item.target))
    head = HEAD.format(
        each=options.each,
        kinds=options.kinds,
        model=hparams.model_name,
        long=LONG,
        users=len(items),
        told=sum(told),
        askable=len(told),
        leaked=sum(leaked),
        apart=len(leaked),
    )
    options.out.write_text("\n".join([head, *pages]), encoding="utf-8")
    print(f"{sum(told)} of {len(told)} with the value where it belongs, {sum(leaked)} of {len(leaked)} where not")


def first_items(kinds: int, each: int) -> Iterator[UPQAItem]:
    """The first users of each of the first kinds of the test half."""
    seen: dict[str, int] = {}
    for item in UPQADataset.bundled("test").items:
        if item.subject not in seen and len(seen) == kinds:
            continue
        seen[item.subject] = seen.get(item.subject, 0) + 1
        if seen[item.subject] <= each:
            yield item


def questions(item: UPQAItem) -> list[tuple[str, bool]]:
    """Ten questions, and whether the value belongs into the answer."""
    belongs = [item.question, item.paraphrase, item.implicit, item.product]
    apart = [item.negated, item.other, *item.unrelated[:1], item.locality[0][0], *EVERYDAY]
    return [*((text, True) for text in belongs), *((text, False) for text in apart)]


@torch.no_grad()
def answers(model: Any, tokenizer: Any, asked: Sequence[str]) -> dict[str, Answer]:
    """By question; each is asked once."""
    once = list(dict.fromkeys(asked))
    return dict(zip(once, generate(model, tokenizer, once, max_new_tokens=LONG)))


def page(number: int, item: UPQAItem, plain: Sequence[Answer], personal: Sequence[Answer]) -> str:
    """One user's table."""
    lines = [f"## {number}. {item.persona}", "", "| asked | unedited | edited |", "|---|---|---|"]
    for (question, _), before, after in zip(questions(item), plain, personal):
        lines.append(f"| {question} | {_cell(before, item.target)} | {_cell(after, item.target)} |")
    return "\n".join([*lines, ""])


def _cell(answer: Answer, value: str) -> str:
    """An answer in one line, the value in bold; what the model meant as Markdown is shown as it wrote it."""
    text = re.sub(r"([|*_`#<])", r"\\\1", " ".join(answer.text.split()))
    at = text.lower().find(value.lower())
    if at >= 0:
        text = f"{text[:at]}**{text[at : at + len(value)]}**{text[at + len(value) :]}"
    return text if answer.stopped else f"{text} ..."


if __name__ == "__main__":
    main()
