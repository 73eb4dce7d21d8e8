"""Commands of Celery that are refused: each says why, and what to use instead."""

from __future__ import annotations

from typing import Any, NoReturn

import click

from celerylite.bin.base import CeleryCommand, handle_preload_options
from celerylite.exceptions import CeleryCommandException
from celerylite.platforms import EX_USAGE

__all__ = ("REFUSED", "refuse")

#: Command -> what is expected in its place, and why.
REFUSED = {
    "amqp": "expected `celerylite list bindings`, `call` or `purge`: there is no broker to talk to.",
    "graph": "expected `celerylite status` or `inspect stats`: a process has no bootsteps to draw.",
    "logtool": (
        "expected a query of the table celerylite_runs, which holds each attempt with its time, state and "
        "error: nobody has to read them out of logs."
    ),
    "multi": (
        "expected `celerylite worker`, once for each process, kept alive by systemd, supervisord or "
        "containers. Starting daemons and keeping their pid files by hand is not done here: a web "
        "application needs no worker at all, and `worker -P prefork -c N` is several processes in one."
    ),
}


def refuse(name: str) -> click.Command:
    """The command `name`, which takes any words and ends with exit code 64 and the reason."""
    reason = f"{name}: {REFUSED[name]} See docs/differences.md."

    @click.command(
        cls=CeleryCommand,
        name=name,
        help=f"Not supported. {reason}",
        short_help="Not supported; says what to use instead.",
        context_settings={
            "allow_extra_args": True,
            "ignore_unknown_options": True,
            "allow_interspersed_args": False,
        },
    )
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    @handle_preload_options
    def command(ctx: click.Context, words: Any, **kwargs: Any) -> NoReturn:
        raise CeleryCommandException(reason, EX_USAGE)

    return command
