"""Where users' edits are kept: factors as files of a few kilobytes, never pickled."""

from .compact import CompactReport
from .encryption import Encryption
from .maintenance import Fault
from .rows import StoredEdit
from .store import EditStore

__all__ = ["CompactReport", "EditStore", "Encryption", "Fault", "StoredEdit"]
