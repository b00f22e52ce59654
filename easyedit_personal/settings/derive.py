"""Settings for a model that nobody has measured, from the shipped file of one that somebody has.

Only layers change: each moves to the same share of the depth. Rates count in shares of a projection's output, numbers
of phrases and steps per preference, so they stay. What is derived is a YAML text, with the reasons that the measured
file gives for its numbers; the settings are what that text says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..hparams import PersonalizationHyperParams, shipped_yaml
from ..modeling.families import family_named
from .facts import ModelFacts

NEEDS = "the model's weights, and memory for them."
ORIGINALS = ("measured", "trial")  # status of files that others are derived from
_LAYERS = re.compile(r"\blayers:\s*\[([\d\s,]+)\]")
_MODEL_NAME = re.compile(r"^model_name:.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Original:
    """A shipped file whose numbers were found on its own model.

    Attributes:
        neurons: it is for models with neurons that an edit can take.
    """

    name: str
    path: Path
    facts: ModelFacts
    neurons: bool = False


def moved_layers(layers: Iterable[int], depth: int, n_layers: int) -> list[int]:
    """Layers at the same share of another depth; several may fall together in a shallow model."""
    return sorted({min(n_layers - 1, int((layer + 0.5) / depth * n_layers)) for layer in layers})


def originals() -> list[Original]:
    """All shipped files that are not derived."""
    found = []
    for name, path in shipped_yaml().items():
        settings = PersonalizationHyperParams.from_hparams(path)
        made, neurons = settings.made_for, settings.natural.through == "neurons"
        if made.status in ORIGINALS and made.family and made.n_layers:
            found.append(Original(name, path, ModelFacts(made.family, made.n_layers), neurons))
    return found


def original_for(facts: ModelFacts) -> Original:
    """What to derive from: a file of the same family before others, then the nearest depth.

    Edits that take neurons are derived where the family is known to have them, and nowhere else.
    """
    gated, found = family_named(facts.family).gated, originals()
    found = [one for one in found if one.neurons == gated] or [one for one in found if not one.neurons]
    return min(found, key=lambda one: (one.facts.family != facts.family, abs(one.facts.n_layers - facts.n_layers)))


def with_model_name(text: str, name: str) -> str:
    """A YAML text with another ``model_name``."""
    return _MODEL_NAME.sub(lambda _: f"model_name: {json.dumps(name)}", text)


def derived_text(model_name: str, facts: ModelFacts, title: str = "", needs: str = "") -> str:
    """The settings as a YAML file with comments.

    Args:
        model_name: a folder, a GGUF file or a hub id.
        facts: about that model.
        title: how its first line calls the model.
        needs: what it says is needed.
    """
    original = original_for(facts)
    depth = f"family: {json.dumps(facts.family)}, n_layers: {facts.n_layers}"
    made = f"made_for: {{{depth}, status: derived, source: {original.path.name}}}"
    body = with_model_name(original.path.read_text(encoding="utf-8"), model_name).split("\n")
    while body and body[0].startswith("#"):
        del body[0]
    written = [made if line.startswith("made_for:") else _moved(line, original, facts) for line in body]
    return "\n".join([_head(title or f"{model_name} ({facts})", needs or NEEDS, original), *written])


def _head(title: str, needs: str, original: Original) -> str:
    source = original.path.name
    return (
        f"# {' '.join(title.split())}, personalised by PersonalizationEditor.\n"
        "#\n"
        f"# Needs: {needs}\n"
        '# Run:   easyedit-personal edit --hparams THIS_FILE ..., PersonalizationEditor.from_hparams("THIS_FILE"), or\n'
        "#        EasyEdit's BaseEditor with this file after easyedit_personal.register().\n"
        f"# Status: derived from {source} ({original.facts}), never measured on this model. Layers are at the same\n"
        f"#        share of the depth; where nothing else is said, other numbers, sizes and times are {source}'s."
    )


def _moved(line: str, original: Original, facts: ModelFacts) -> str:
    """The line with its layers, if it sets some, moved to the other depth; the comment says from where."""
    value, _, reason = line.partition("#")
    found = _LAYERS.search(value)
    if found is None:
        return line
    old = [int(number) for number in found[1].split(",")]
    new = moved_layers(old, original.facts.n_layers, facts.n_layers)
    moved = value[: found.start(1)] + ", ".join(map(str, new)) + value[found.end(1) :]
    there = f"{', '.join(map(str, old))} of {original.facts.n_layers} in {original.path.name}"
    return f"{moved.rstrip()}   # {there}{';' if reason else ''}{reason}"
