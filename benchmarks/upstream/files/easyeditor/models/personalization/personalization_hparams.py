"""Hyper-parameters of PersonalizationEditor, read from hparams/PersonalizationEditor."""

from ...util.hparams import HyperParams
from ...util.personal_package import personal_package


class PersonalizationHyperParams(HyperParams):
    """Reads the YAML files; every fault in one is reported at once, with the key's name."""

    @classmethod
    def from_hparams(cls, hparams_name_or_path):
        """The settings, as the class of the same name in easyedit_personal."""
        return personal_package().PersonalizationHyperParams.from_hparams(hparams_name_or_path)
