"""The `schedule` command: shows the beat schedule and edits it while programs run. Celery has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click

from celerylite.bin.base import (
    JSON_ARRAY,
    JSON_OBJECT,
    CeleryCommand,
    CeleryOption,
    handle_preload_options,
)

__all__ = ("schedule",)

_GROUP = "Entry Options"
_COLUMNS = "{:<28} {:<36} {:<17} {:<17} {:>6}  {:<8} {}"


@click.group(invoke_without_command=True)
@click.pass_context
@handle_preload_options
def schedule(ctx: click.Context) -> None:
    """Show the beat schedule, or edit it while programs run."""
    app = ctx.obj.app
    app.loader.import_default_modules()
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@schedule.command(cls=CeleryCommand, name="list")
@click.pass_context
def list_(ctx: click.Context) -> None:
    """Show every entry, with its last and its next run (UTC)."""
    ctx.obj.echo(_COLUMNS.format("Entry", "Schedule", "Last run", "Next run", "Runs", "State", "Task"))
    for entry in ctx.obj.app.schedule.entries().values():
        state = entry.origin if entry.enabled else "paused"
        last, following = _minute(entry.last_run_at), _minute(entry.next_run_at)
        runs = entry.total_run_count
        ctx.obj.echo(
            _COLUMNS.format(entry.name, repr(entry.schedule), last, following, runs, state, entry.task)
        )


def _minute(moment: datetime | None) -> str:
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M")


@schedule.command(cls=CeleryCommand)
@click.argument("name")
@click.option("--task", cls=CeleryOption, required=True, help_group=_GROUP, help="Name of the task.")
@click.option("--every", cls=CeleryOption, type=float, help_group=_GROUP, help="Seconds between two runs.")
@click.option("--cron", cls=CeleryOption, help_group=_GROUP, help="A line of cron, as '0 9 * * 1-5'.")
@click.option("--timezone", cls=CeleryOption, help_group=_GROUP, help="Zone whose clocks count.")
@click.option(
    "--args", cls=CeleryOption, type=JSON_ARRAY, default="[]", help_group=_GROUP, help="JSON array."
)
@click.option("--kwargs", cls=CeleryOption, type=JSON_OBJECT, default="{}", help_group=_GROUP, help="JSON.")
@click.option("--catch-up", cls=CeleryOption, default="once", help_group=_GROUP, help="once, skip or all.")
@click.option(
    "--overlap", cls=CeleryOption, default="allow", help_group=_GROUP, help="allow, skip or buffer_one."
)
@click.pass_context
def add(ctx: click.Context, /, name: str, every: float | None, cron: str | None, **values: Any) -> None:
    """Add the entry NAME."""
    if (every is None) == (cron is None):
        raise click.UsageError("expected either --every or --cron", ctx=ctx)
    with _told():
        ctx.obj.app.schedule.add(name, schedule=every if cron is None else cron, **values)
    ctx.obj.echo(f"{name}: added")


@schedule.command(cls=CeleryCommand)
@click.argument("name")
@click.pass_context
def run(ctx: click.Context, name: str) -> None:
    """Send the task of the entry NAME now and print its id."""
    with _told():
        ctx.obj.echo(ctx.obj.app.schedule.run_now(name).id)


def _add_simple_commands(sentences: Mapping[str, tuple[str, str]]) -> None:
    """Commands that take a name and do what the method of the same name does."""
    for method, (sentence, done) in sentences.items():

        @click.argument("name")
        @click.pass_context
        def command(ctx: click.Context, name: str, method: str = method, done: str = done) -> None:
            with _told():
                getattr(ctx.obj.app.schedule, method)(name)
            ctx.obj.echo(f"{name}: {done}")

        schedule.command(cls=CeleryCommand, name=method, help=sentence)(command)


_add_simple_commands(
    {
        "pause": ("Stop the entry NAME from firing.", "paused"),
        "resume": ("Let the entry NAME fire again, from now on.", "fires again"),
        "remove": ("Remove the entry NAME, which was added.", "removed"),
        "reset": ("Make the configured entry NAME what the configuration says.", "is as configured"),
    }
)


@contextmanager
def _told() -> Iterator[None]:
    """Say what is wrong with a name or an entry without a traceback."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as exc:
        raise click.ClickException(str(exc.args[0] if exc.args else exc)) from exc
