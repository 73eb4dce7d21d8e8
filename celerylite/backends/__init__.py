"""Result backends: where states and values of tasks are kept."""

from __future__ import annotations

__all__ = ()
