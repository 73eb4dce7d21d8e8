"""The one exception that needs click, apart so that nobody else loads click."""

from __future__ import annotations

from click import ClickException

__all__ = ("CeleryCommandException",)


class CeleryCommandException(ClickException):
    """A command failed; the program ends with `exit_code`."""

    __module__ = "celerylite.exceptions"

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click has it on the class
