"""The `result` command: waits for a task and prints what it returned."""

from __future__ import annotations

import click

from celerylite.bin.base import CeleryCommand, CeleryOption, handle_preload_options

__all__ = ("result",)

_GROUP = "Result Options"


@click.command(cls=CeleryCommand)
@click.argument("task_id")
@click.option(
    "-t",
    "--task",
    cls=CeleryOption,
    help_group=_GROUP,
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
    """Print the return value of the task TASK_ID; waits for it."""
    app = ctx.obj.app
    found = (app.tasks[task] if task else app).AsyncResult(task_id)
    ctx.obj.echo(found.traceback if traceback else found.get())
