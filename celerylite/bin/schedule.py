"""The `schedule` command: shows the beat schedule and edits it while programs run. Celery has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime, tzinfo
from typing import Any

import click
from kombu.utils.json import dumps

from celerylite._schedule import ScheduledTask
from celerylite.bin.base import (
    JSON_ARRAY,
    JSON_OBJECT,
    CeleryCommand,
    CeleryOption,
    handle_preload_options,
)

__all__ = ("schedule",)

_GROUP = "Entry Options"
_COLUMNS = "{:<28} {:<36} {:<23} {:<23} {:>6}  {:<8} {}"
_Command = Callable[..., Any]

_json_option = click.option("-j", "--json", cls=CeleryOption, is_flag=True, help="Print JSON.")


@click.group(invoke_without_command=True)
@_json_option
@click.pass_context
@handle_preload_options
def schedule(ctx: click.Context, json: bool) -> None:
    """Show the beat schedule, or edit it while programs run."""
    ctx.obj.app.loader.import_default_modules()
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, json=json)


@schedule.command(cls=CeleryCommand, name="list")
@_json_option
@click.pass_context
def list_(ctx: click.Context, json: bool) -> None:
    """Show every entry, with its last and its next run in the app's time zone."""
    entries, zone = ctx.obj.app.schedule.entries().values(), ctx.obj.app.timezone
    if json:
        ctx.obj.echo(dumps([_plain(entry, zone) for entry in entries]))
        return
    ctx.obj.echo(_COLUMNS.format("Entry", "Schedule", "Last run", "Next run", "Runs", "State", "Task"))
    for entry in entries:
        state = entry.origin if entry.enabled else "paused"
        last, following = _minute(entry.last_run_at, zone), _minute(entry.next_run_at, zone)
        runs = entry.total_run_count
        ctx.obj.echo(
            _COLUMNS.format(entry.name, repr(entry.schedule), last, following, runs, state, entry.task)
        )


def _minute(moment: datetime | None, zone: tzinfo) -> str:
    return "-" if moment is None else moment.astimezone(zone).strftime("%Y-%m-%d %H:%M %Z")


def _plain(entry: ScheduledTask, zone: tzinfo) -> dict[str, Any]:
    values = {field.name: getattr(entry, field.name) for field in fields(entry)}
    # Arguments of entries in the configuration may be anything.
    values.update({name: values[name] if _is_json(values[name]) else repr(values[name]) for name in values})
    for name in ("last_run_at", "next_run_at"):
        moment = getattr(entry, name)
        values[name] = None if moment is None else moment.astimezone(zone).isoformat()
    return {**values, "schedule": repr(entry.schedule)}


def _is_json(value: Any) -> bool:
    try:
        dumps(value)
    except TypeError:
        return False
    return True


def _entry_options(fun: _Command) -> _Command:
    """What `add` and `change` can say of an entry; None is what was not said."""
    for names, options in (
        (("--overlap",), {"help": "allow, skip or buffer_one."}),
        (("--catch-up",), {"help": "once, skip or all."}),
        (("--kwargs",), {"type": JSON_OBJECT, "help": "JSON object."}),
        (("--args",), {"type": JSON_ARRAY, "help": "JSON array."}),
        (("--timezone",), {"help": "Zone whose clocks count."}),
        (("--cron",), {"help": "A line of cron, as '0 9 * * 1-5'."}),
        (("--every",), {"type": float, "help": "Seconds between two runs, more than 0."}),
        (("--task",), {"help": "Name of the task."}),
    ):
        fun = click.option(*names, cls=CeleryOption, help_group=_GROUP, **options)(fun)
    return fun


def _said(
    ctx: click.Context, every: float | None, cron: str | None, values: dict[str, Any]
) -> dict[str, Any]:
    """The keys of the entry that were given. Warns of a task that nobody may be able to run."""
    if every is not None and cron is not None:
        raise click.UsageError("expected either --every or --cron", ctx=ctx)
    when = every if cron is None else cron
    said = {name: value for name, value in {**values, "schedule": when}.items() if value is not None}
    task = said.get("task")
    if task is not None and task not in ctx.obj.app.tasks:
        ctx.obj.error(
            f"warning: this app has no task {task!r}; its runs fail unless another program has it",
            fg="yellow",
        )
    return said


@schedule.command(cls=CeleryCommand)
@click.argument("name")
@_entry_options
@click.pass_context
def add(ctx: click.Context, /, name: str, every: float | None, cron: str | None, **values: Any) -> None:
    """Add the entry NAME; --task and either --every or --cron are needed."""
    if values["task"] is None:
        raise click.UsageError("expected --task, the name of the task", ctx=ctx)
    if (every is None) == (cron is None):
        raise click.UsageError("expected either --every or --cron", ctx=ctx)
    with _told():
        ctx.obj.app.schedule.add(name, **_said(ctx, every, cron, values))
    ctx.obj.echo(f"{name}: added")


@schedule.command(cls=CeleryCommand)
@click.argument("name")
@_entry_options
@click.pass_context
def change(ctx: click.Context, /, name: str, every: float | None, cron: str | None, **values: Any) -> None:
    """Change what the options say of the entry NAME."""
    said = _said(ctx, every, cron, values)
    if not said:
        raise click.UsageError("expected at least one option that says what to change", ctx=ctx)
    with _told():
        ctx.obj.app.schedule.change(name, **said)
    ctx.obj.echo(f"{name}: changed")


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
