"""Hyper-parameters: the records, their sections, and the YAML files that ship."""

from .parameters import LOCATION_KEYS, PersonalizationHyperParams
from .sections import (
    ClusterParams,
    HealthParams,
    HostParams,
    LoraParams,
    LowRankParams,
    MadeFor,
    PreserveParams,
    RetrievalParams,
)
from .shipped import ALG_NAME, find_yaml, shipped_yaml

__all__ = [
    "ALG_NAME",
    "LOCATION_KEYS",
    "ClusterParams",
    "HealthParams",
    "HostParams",
    "LoraParams",
    "LowRankParams",
    "MadeFor",
    "PersonalizationHyperParams",
    "PreserveParams",
    "RetrievalParams",
    "find_yaml",
    "shipped_yaml",
]
