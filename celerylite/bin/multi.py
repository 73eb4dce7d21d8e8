"""The `multi` command, which is refused: it says what to use instead."""

from __future__ import annotations

from typing import Any

import click

from celerylite.bin.base import CeleryCommand, handle_preload_options
from celerylite.exceptions import CeleryCommandException
from celerylite.platforms import EX_USAGE

__all__ = ("multi",)

_WHY = (
    "multi: expected `celerylite worker`, once for each process, kept alive by systemd, supervisord or "
    "containers. Starting daemons and keeping their pid files by hand is not done here: a web application "
    "needs no worker at all, and `worker -P prefork -c N` is several processes in one program. "
    "See docs/differences.md."
)


@click.command(
    cls=CeleryCommand,
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    },
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
@handle_preload_options
def multi(ctx: click.Context, words: Any, **kwargs: Any) -> None:
    """Not supported: use a service manager."""
    raise CeleryCommandException(_WHY, EX_USAGE)
