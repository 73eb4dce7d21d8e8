"""The address of a database: the URL and options that users give, and the dialect they name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import sqlalchemy as sa

from celerylite._store.dialect import Dialect
from celerylite.exceptions import ImproperlyConfigured

__all__ = ("load_dialect", "parse", "usable")

#: Where each database's differences are; loaded with its driver when it is used.
_DIALECTS = {
    "sqlite": ("celerylite._store.sqlite", "SQLite", ""),
    "postgresql": ("celerylite._store.postgresql", "PostgreSQL", "postgresql"),
    "mysql": ("celerylite._store.mysql", "MySQL", "mysql"),
    "mariadb": ("celerylite._store.mysql", "MySQL", "mysql"),
}

_CORRECT_IT = "correct result_backend, database_url or the variable CELERYLITE_DATABASE"


def parse(url: str) -> sa.URL:
    """The URL that the user gave, as SQLAlchemy reads it. Raises ImproperlyConfigured."""
    text = url.removeprefix("db+")
    try:
        parsed = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise ImproperlyConfigured(
            f"database: expected a URL such as 'sqlite:///jobs.db', got {url!r}; {_CORRECT_IT}"
        ) from error
    if parsed.get_backend_name() not in _DIALECTS:
        raise ImproperlyConfigured(
            f"database: expected one of {', '.join(_DIALECTS)}, got {parsed.get_backend_name()!r} "
            f"in {parsed.render_as_string()!r}; {_CORRECT_IT}"
        )
    return parsed


def load_dialect(name: str) -> Dialect:
    """What is special about this kind of database. Raises ImproperlyConfigured without its driver."""
    # The one place that loads a driver: each is an extra that may not be installed.
    module, class_name, extra = _DIALECTS[name]
    try:
        dialect: Dialect = getattr(import_module(module), class_name)()
    except ImportError as error:
        raise ImproperlyConfigured(
            f"database {name}: expected its driver to be installed, got {error}; "
            f"run: pip install 'celerylite[{extra}]'"
        ) from error
    return dialect


def usable(options: Mapping[str, Any]) -> dict[str, Any]:
    """The engine options of the user's that have an effect here."""
    # As Celery: what belongs to a connection pool has no meaning with NullPool.
    refused = {"max_overflow", "echo_pool", "isolation_level"}
    return {
        name: value for name, value in options.items() if not name.startswith("pool") and name not in refused
    }
