"""EasyEdit's editors under their names in our registry of methods: ``find_method("easyedit:ROME")``.

One class per algorithm, made when its name is looked up; the work is done by ``HostMethod`` and ``HostEditor``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...baselines.host import HostEditor
from ...data.records import UPQAItem
from ...hparams import HostParams, PersonalizationHyperParams
from .host_methods import PREFIX, host_method


class HostBaseline(HostEditor):
    """One of the host's editors as a method of the evaluation.

    Args:
        hparams: ours; see ``HostMethod.__call__`` for what of it counts.
        settings: the method's section under ``baselines``: keys of the host's YAML file with other values.
    """

    algorithm = ""

    def __init__(self, hparams: PersonalizationHyperParams | None = None, settings: HostParams | None = None) -> None:
        self.overrides = (settings or HostParams()).model_dump()
        editor = lambda *args: host_method(self.algorithm, self.overrides)(*args)
        super().__init__(f"{PREFIX}{self.algorithm}", editor, hparams or PersonalizationHyperParams())

    def prepare(self, items: Sequence[UPQAItem], seed: int) -> None:
        """Load the host, so that what lacks is said before the first user.

        Raises:
            HostError: EasyEdit is not there, or has no such algorithm.
            MissingDependencyError: the algorithm cannot run here.
        """
        self.editor = host_method(self.algorithm, self.overrides)


def __getattr__(name: str) -> type[HostBaseline]:
    """The class for an algorithm, by its name with "_" for "-"; ``BASELINES`` looks it up here."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(f"Host{name}", (HostBaseline,), {"algorithm": name.replace("_", "-")})
