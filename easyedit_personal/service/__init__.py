"""The service: users' models behind the OpenAI chat-completions protocol, for teams that do not import our package.

``batcher`` writes answers of many users together, ``core`` joins it with the store and the learner, ``app`` puts HTTP
around them; ``middleware`` and ``access`` decide who may. Needs the extra ``serve``.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError

if TYPE_CHECKING:
    from .access import Access
    from .core import Service

__all__ = ["create_app", "require"]


def require() -> None:
    """Check that the extra ``serve`` is installed.

    Raises:
        MissingDependencyError: it is not; names what is missing.
    """
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"The service needs {', '.join(missing)}.", remedy="pip install 'easyedit-personal[serve]'"
        )


def create_app(service: Service, access: Access | None = None) -> Any:
    """The service as an ASGI application, for a server of one's own; see ``app.create_app``."""
    require()
    from .app import create_app

    return create_app(service, access)
