"""``python -m benchmarks.easyedit COMMAND``: EasyEdit's editors on a real model, beside ours. Needs EASYEDIT_HOME.

``try`` edits one user with every editor and says which run; ``sweep`` tries settings on the tune half and ``choose``
keeps the best; ``table`` evaluates all methods, ``figures`` repeats the paper's; ``same`` holds our ROME and MEMIT
against theirs. All but ``choose`` go on where they stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.models import add_options

from .editors import EDITORS
from .figures import METHODS, figures
from .same import same
from .sweep import MOST, choose, sweep
from .table import OURS, table
from .trying import try_all


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in _names(text)]


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.easyedit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    names = argparse.ArgumentParser(add_help=False)
    names.add_argument("--methods", type=_names, default=list(EDITORS), metavar="A,B")
    add_options(names)
    one = commands.add_parser("try", parents=[names], help="one edit with every editor: does it run, what does it say?")
    one.add_argument("--cluster", type=int, default=1)
    one.add_argument("--few-steps", action="store_true", help="only to see whether it runs")
    one.add_argument("--log", type=Path, help="a line per editor; what stands there is not run again")
    one.set_defaults(run=try_all)
    many = commands.add_parser("sweep", parents=[names], help="settings on the tune half, a line per trial")
    many.add_argument("--trials", type=int, default=MOST, help=f"of each method at most (default {MOST})")
    many.add_argument("--users", type=int, default=2)
    many.add_argument("--log", type=Path)
    many.set_defaults(run=sweep)
    best = commands.add_parser("choose", help="keep the best trial of each method")
    best.add_argument("--log", type=Path)
    best.set_defaults(run=choose)
    equal = commands.add_parser("same", help="our rome and memit beside theirs at equal settings")
    add_options(equal)
    equal.add_argument("--users", type=int, default=2)
    equal.add_argument("--steps", type=int, default=10)
    equal.add_argument("--log", type=Path)
    equal.set_defaults(run=same)
    asked = argparse.ArgumentParser(add_help=False)
    add_options(asked)
    asked.add_argument("--users", type=int, default=30, help="the first N (default 30)")
    asked.add_argument("--data", default="bundled", help="a UPQA file, or 'bundled' (its test half)")
    asked.add_argument("--out", type=Path, required=True, help="where the result folders go")
    every = commands.add_parser("table", parents=[asked], help="all methods, clusters of 9 and 1, both protocols")
    every.add_argument("--methods", type=_names, default=[*OURS, *EDITORS], metavar="A,B")
    every.add_argument("--clusters", type=_numbers, default=[9, 1], metavar="9,1")
    every.add_argument("--protocols", type=_names, default=["natural", "paper"], metavar="A,B")
    every.add_argument("--evaluators", type=_names, default=[], metavar="A,B", help="default: the standard panel")
    every.set_defaults(run=table)
    drawn = commands.add_parser("figures", parents=[asked], help="the paper's figures, beside the paper's own")
    drawn.add_argument("--methods", type=_names, default=list(METHODS), metavar="A,B")
    drawn.add_argument("--clusters", type=_numbers, default=[1, 3, 5, 7, 9], metavar="1,3")
    drawn.add_argument("--turns", type=_numbers, default=[0, 2, 4, 6, 8, 10], metavar="0,2")
    drawn.set_defaults(run=figures)
    options = parser.parse_args(arguments)
    code: int = options.run(options)
    return code


if __name__ == "__main__":
    sys.exit(main())
