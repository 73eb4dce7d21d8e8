"""Loaders by name: a loader reads the configuration, imports task modules and hears of a worker's steps."""

from __future__ import annotations

from typing import Any

from celerylite.utils.imports import import_from_cwd, symbol_by_name

__all__ = ("get_loader_cls",)

#: Short names of loaders.
LOADER_ALIASES = {
    "app": "celerylite.loaders.app:AppLoader",
    "default": "celerylite.loaders.default:Loader",
}


def get_loader_cls(loader: Any) -> Any:
    """Give the class of a loader by alias or path; a class is given back."""
    return symbol_by_name(loader, LOADER_ALIASES, imp=import_from_cwd)
