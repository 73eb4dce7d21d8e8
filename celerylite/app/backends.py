"""Which class keeps the results: ours on the app's database, or one that the user names."""

from __future__ import annotations

import types
from typing import Any

from kombu.utils.imports import symbol_by_name

from celerylite import _state
from celerylite.app._database import is_unserved
from celerylite.exceptions import ImproperlyConfigured
from celerylite.utils.imports import load_extension_class_names

__all__ = ("BACKEND_ALIASES", "by_name", "by_url")

_DATABASE = "celerylite.backends.database:DatabaseBackend"

#: Short names of backends. Servers that celerylite does not talk to are served by the database.
BACKEND_ALIASES = {
    "cache": _DATABASE,
    "memory": _DATABASE,
    "db": _DATABASE,
    "database": _DATABASE,
    "disabled": "celerylite.backends.base:DisabledBackend",
}


def by_name(
    backend: Any = None, loader: Any = None, extension_namespace: str = "celery.result_backends"
) -> type[Any]:
    """The backend class called `backend`: an alias, an entry point, a dotted path or the class itself.

    Raises ImproperlyConfigured for a name that leads nowhere.
    """
    loader = loader or _state.get_current_app().loader
    aliases = {**BACKEND_ALIASES, **loader.override_backends}
    aliases.update(load_extension_class_names(extension_namespace))
    try:
        found = symbol_by_name(backend or "database", aliases)
    except (ValueError, ImportError, AttributeError) as exc:
        raise ImproperlyConfigured(
            f"Unknown result backend: {backend!r}.  Did you spell that correctly? ({exc!r})"
        ) from exc
    if isinstance(found, types.ModuleType):
        raise ImproperlyConfigured(
            f"Unknown result backend: {backend!r}.  Did you spell that correctly? "
            "('is a Python module, not a backend class.')"
        )
    cls: type[Any] = found
    return cls


def by_url(backend: Any = None, loader: Any = None) -> tuple[type[Any], str | None]:
    """The backend class for an URL or name, and the URL to give it."""
    if is_unserved(backend):
        return by_name("database", loader), None
    if not isinstance(backend, str) or "://" not in backend:
        return by_name(backend, loader), None
    name, plus, rest = backend.partition("+")
    if plus and "://" not in name:
        return by_name(name, loader), rest
    return by_name(backend.partition("://")[0], loader), backend
