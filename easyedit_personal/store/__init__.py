"""Where users' edits are kept: factors as files of a few kilobytes, never pickled."""

from .compact import CompactReport
from .encryption import Encryption
from .job_rows import Claim, Job
from .records import StoredEdit
from .store import EditStore
from .verify import Fault

__all__ = ["Claim", "CompactReport", "EditStore", "Encryption", "Fault", "Job", "StoredEdit"]
