"""What people say, as preferences: by rules, or by a language model behind an endpoint."""

from .parser import understand
from .records import Statement

__all__ = ["Statement", "understand"]
