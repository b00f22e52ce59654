"""Where users' edits are kept: factors as files of a few kilobytes, never pickled."""

from .rows import StoredEdit
from .store import EditStore

__all__ = ["EditStore", "StoredEdit"]
