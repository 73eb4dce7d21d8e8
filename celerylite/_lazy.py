"""Modules that are loaded when something in them is first used: what an `import celerylite` need not cost."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ("lazy_module",)


class _LazyModule(ModuleType):
    """Stands for the module of its name, and loads it at the first look inside."""

    _loaded: ModuleType | None = None

    def __getattr__(self, attribute: str) -> Any:
        if self._loaded is None:
            self._loaded = import_module(self.__name__)
        return getattr(self._loaded, attribute)


def lazy_module(name: str) -> Any:
    """The module called `name`, loaded at first use. For the type checker, import it under TYPE_CHECKING."""
    return _LazyModule(name)
