"""How a long list of independent tasks is carried out: here, by processes of this machine, or on a Ray cluster.

Knows nothing of users, models or stores. Three engines, one behaviour: the same results, whoever computes them.
"""

from .base import Engine, Limits, Outcome, Work
from .find import find_engine

__all__ = ["Engine", "Limits", "Outcome", "Work", "find_engine"]
