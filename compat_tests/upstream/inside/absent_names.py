"""Stands in for the names that Celery's test modules import and celerylite has not.

Without it, one absent name at the top of a module would fail all tests of the module. With it, exactly those
fail that use the name.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

__all__ = ("Absent", "AbsentNameError", "supply")


class AbsentNameError(Exception):
    """A test used what celerylite has not."""


class Absent:
    """A name that celerylite has not. It may be passed around and inherited from, not used."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AbsentNameError(f"celerylite has no {self.__name__}")

    def __mro_entries__(self, bases: Any) -> tuple[type[Any], ...]:
        return ()

    def __repr__(self) -> str:
        return f"<celerylite has no {self.__name__}>"


class _AbsentModule(ModuleType):
    """A module that celerylite has not."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self.__name__}.{name}")


def supply(path: Path) -> None:
    """Put a stand-in wherever the module at `path` would fail to import something of Celery's."""
    for module, names in _imported(ast.parse(path.read_text())):
        found = _module(module)
        for name in names:
            if not hasattr(found, name) and not _is_module(f"{module}.{name}"):
                setattr(found, name, Absent(f"{module}.{name}"))


def _imported(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _is_of_celery(node.module or "") and not node.level:
            yield node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names if _is_of_celery(alias.name))


def _is_of_celery(name: str) -> bool:
    return name.partition(".")[0] == "celery"


def _module(name: str) -> ModuleType:
    """The module, or a stand-in for it that is also its parent's attribute."""
    if _is_module(name):
        return importlib.import_module(name)
    parent, _, last = name.rpartition(".")
    stand_in = sys.modules[name] = _AbsentModule(name)
    stand_in.__path__ = []
    setattr(_module(parent), last, stand_in)
    return stand_in


def _is_module(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return False
    return True
