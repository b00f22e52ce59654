"""Writes the shipped settings of models that were never measured again, from those of a measured one.

    python -m benchmarks.derived_settings

To be run when hparams/PersonalizationEditor/smollm2.yaml has changed; a test says so. A file keeps its title, what it
needs, its device, and ``per_kernel``: the numbers that others have published for ROME, MEMIT and FT-M on that model.
"""

from __future__ import annotations

from pathlib import Path

from easyedit_personal.hparams import PersonalizationHyperParams, shipped_yaml
from easyedit_personal.settings.derive import derived_text
from easyedit_personal.settings.facts import shipped_facts

PER_KERNEL = "\nper_kernel:\n"
DEVICE = "\ndevice: "


def derived_files() -> dict[str, Path]:
    """The files to be written, by name."""
    made = {name: PersonalizationHyperParams.from_hparams(name).made_for for name in shipped_yaml()}
    return {name: path for name, path in shipped_yaml().items() if made[name].status == "derived"}


def text_for(name: str) -> str:
    """What a file should say."""
    old = shipped_yaml()[name].read_text(encoding="utf-8")
    settings, facts = PersonalizationHyperParams.from_hparams(name), shipped_facts(name)
    assert facts is not None, name
    title = old.partition(", personalised by")[0].removeprefix("# ")
    needs = old.partition("\n# Needs: ")[2].partition("\n")[0]
    new = derived_text(str(settings.model_name), facts, title, needs)
    head, _, rest = new.partition(PER_KERNEL)[0].partition(DEVICE)
    device = old.partition(DEVICE)[2].partition("\n")[0]
    return f"{head}{DEVICE}{device}\n{rest.partition(chr(10))[2]}{PER_KERNEL}{old.partition(PER_KERNEL)[2]}"


def main() -> None:
    """Write all of them."""
    for name, path in derived_files().items():
        path.write_text(text_for(name), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
