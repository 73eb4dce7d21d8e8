"""The program `celerylite`, also `python -m celerylite` and, under the alias, `python -m celery`."""

from __future__ import annotations

import sys

__all__ = ("main",)


def main() -> None:
    """Run the command line."""
    # Here and not above: `celery.__main__` is imported by code that wants no click.
    from celerylite.bin.celery import main as run_command_line

    sys.exit(run_command_line())


if __name__ == "__main__":
    main()
