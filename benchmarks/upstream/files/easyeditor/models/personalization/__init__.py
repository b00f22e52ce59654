from .personalization_hparams import PersonalizationHyperParams
from .personalization_main import apply_personalization_to_model

__all__ = ["PersonalizationHyperParams", "apply_personalization_to_model"]
