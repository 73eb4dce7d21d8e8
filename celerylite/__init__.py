"""Celery code in one process: same API, no broker, nothing lost."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from celerylite._shim import install_as_celery
    from celerylite._state import current_app, current_task
    from celerylite.app import Celery, bugreport, shared_task
    from celerylite.app.task import Task
    from celerylite.canvas import (
        Signature,
        chain,
        chord,
        chunks,
        group,
        maybe_signature,
        signature,
        subtask,
        xmap,
        xstarmap,
    )
    from celerylite.utils import uuid

#: The version of Celery whose behaviour this is; programs compare it. Our own is the package's metadata.
__version__ = "5.7.0"
SERIES = "collider"
VERSION_BANNER = f"{__version__} ({SERIES})"

__all__ = (
    "Celery",
    "bugreport",
    "shared_task",
    "Task",
    "current_app",
    "current_task",
    "maybe_signature",
    "chain",
    "chord",
    "chunks",
    "group",
    "signature",
    "Signature",
    "subtask",
    "xmap",
    "xstarmap",
    "uuid",
    "install_as_celery",
)


class version_info_t(NamedTuple):
    """A version in parts."""

    major: int
    minor: int
    micro: int
    releaselevel: str
    serial: str


_parts = re.match(r"(\d+)\.(\d+)\.(\d+)(.*)", __version__)
assert _parts is not None
VERSION = version_info = version_info_t(
    int(_parts.group(1)), int(_parts.group(2)), int(_parts.group(3)), _parts.group(4), ""
)

#: Where each name lives: modules are loaded when a name is first asked for.
_HOMES = {
    "Celery": "celerylite.app",
    "bugreport": "celerylite.app",
    "shared_task": "celerylite.app",
    "Task": "celerylite.app.task",
    "current_app": "celerylite._state",
    "current_task": "celerylite._state",
    "uuid": "celerylite.utils",
    "install_as_celery": "celerylite._shim",
    **dict.fromkeys(
        (
            "Signature",
            "chain",
            "chord",
            "chunks",
            "group",
            "maybe_signature",
            "signature",
            "subtask",
            "xmap",
            "xstarmap",
        ),
        "celerylite.canvas",
    ),
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def maybe_patch_concurrency(*args: Any, **kwargs: Any) -> None:
    """Celery's hook for green threads; nothing is patched here, there are no such pools."""
