"""The `result` command: waits for a task and prints what it returned."""

from __future__ import annotations

from typing import Any

import click

from celerylite.backends.database import DatabaseBackend
from celerylite.bin._completion import complete_tasks
from celerylite.bin._waiting import wait_for
from celerylite.bin.base import (
    EX_FAILURE,
    CeleryCommand,
    CeleryOption,
    handle_preload_options,
    require_database,
)
from celerylite.exceptions import CeleryCommandException

__all__ = ("result",)

_GROUP = "Result Options"


@click.command(cls=CeleryCommand)
@click.argument("task_id")
@click.option(
    "-t",
    "--task",
    cls=CeleryOption,
    help_group=_GROUP,
    shell_complete=complete_tasks,
    help="Name of the task, if it has a result backend of its own.",
)
@click.option(
    "--traceback",
    cls=CeleryOption,
    is_flag=True,
    help_group=_GROUP,
    help="Print the traceback instead of the value.",
)
@click.pass_context
@handle_preload_options
def result(ctx: click.Context, task_id: str, task: str | None, traceback: bool) -> None:
    """Print the return value of the task TASK_ID; waits for it.

    On a terminal a line says how it is going meanwhile. Of a task that failed one line says why, and the exit
    code is 1; --traceback says where.
    """
    found = (_task(ctx, task) if task else ctx.obj.app).AsyncResult(task_id)
    if isinstance(found.backend, DatabaseBackend):
        require_database(ctx)
    if traceback:
        ctx.obj.echo(found.traceback)
        return
    try:
        value = wait_for(found, quiet=ctx.obj.quiet)
    except Exception as exc:
        # Who calls this from Python gets the exception itself.
        if not ctx.obj.is_program or not found.ready():
            raise
        line = " ".join(f"{type(exc).__name__}: {exc}".split())
        raise CeleryCommandException(f"{line} (--traceback shows where)", EX_FAILURE) from exc
    ctx.obj.echo(value)


def _task(ctx: click.Context, name: str) -> Any:
    tasks = ctx.obj.app.tasks
    if name not in tasks:
        raise click.BadParameter(f"expected the name of a task of this app, got {name!r}", ctx=ctx)
    return tasks[name]
