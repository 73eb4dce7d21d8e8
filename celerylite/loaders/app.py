"""The loader of apps that a user makes."""

from __future__ import annotations

from celerylite.loaders.base import BaseLoader

__all__ = ("AppLoader",)


class AppLoader(BaseLoader):
    """A loader that reads the configuration only where the app says."""
