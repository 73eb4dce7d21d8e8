"""The `multi` command, which is refused: it says what to use instead."""

from __future__ import annotations

from celerylite.bin._refused import refuse

__all__ = ("multi",)

multi = refuse("multi")
