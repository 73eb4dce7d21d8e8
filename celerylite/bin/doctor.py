"""The `doctor` command: says what a project uses that is different here, and what will not work."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from celerylite import _clock
from celerylite.bin.base import CeleryCommand, handle_preload_options

__all__ = ("doctor",)

_DIFFERENCES = "docs/differences.md"
_SETTINGS = "docs/settings.md"
#: Settings about brokers and their connections: read by nobody here.
_WITHOUT_EFFECT = (
    "broker_",
    "redis_",
    "result_backend_transport_options",
    "worker_pool_putlocks",
    "control_",
)
_RUNS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report."""

    #: "ok", "differs" or "fails".
    kind: str
    text: str
    link: str = _DIFFERENCES


@click.command(cls=CeleryCommand)
@click.pass_context
@handle_preload_options
def doctor(ctx: click.Context, **kwargs: Any) -> None:
    """Import the project and list what differs here; exit code 1 when something will not work."""
    app = ctx.obj.app
    app.loader.import_default_modules()
    app.finalize()
    fails = False
    for finding in examine(app):
        color = {"ok": "green", "differs": "yellow", "fails": "red"}[finding.kind]
        link = "" if finding.kind == "ok" else f"  -> {finding.link}"
        ctx.obj.echo(f"{ctx.obj.style(f'{finding.kind:8}', fg=color)} {finding.text}{link}")
        fails = fails or finding.kind == "fails"
    ctx.exit(1 if fails else 0)


def examine(app: Any) -> Iterator[Finding]:
    """What is to be said about a project."""
    yield from _database(app)
    yield from _settings(app)
    yield from _tasks(app)
    yield from _schedule(app)


def _database(app: Any) -> Iterator[Finding]:
    try:
        waiting = sum(app.store.queue_lengths().values())
    except Exception as exc:
        yield Finding(kind="fails", text=f"database {app.shown_database}: {exc}", link="docs/failures.md")
        return
    yield Finding(kind="ok", text=f"database {app.shown_database}: {waiting} call(s) wait")
    broker = app.conf.broker_url
    if broker and not str(broker).startswith("memory:"):
        scheme = str(broker).split(":", 1)[0]
        yield Finding(
            kind="differs", text=f"broker_url ({scheme}://) is not contacted: the database is the queue"
        )


def _settings(app: Any) -> Iterator[Finding]:
    changed = app.conf.table(with_defaults=False)
    for name in sorted(changed):
        if name.startswith(_WITHOUT_EFFECT) and name != "broker_url":
            yield Finding(kind="differs", text=f"setting {name} has no effect", link=_SETTINGS)
    if app.conf.task_serializer == "pickle" or "pickle" in (app.conf.accept_content or ()):
        yield Finding(kind="differs", text="pickle is accepted: who can write to the database can run code")


def _tasks(app: Any) -> Iterator[Finding]:
    own = {name: task for name, task in app.tasks.items() if not name.startswith("celery")}
    yield Finding(kind="ok", text=f"{len(own)} task(s)")
    for name, task in sorted(own.items()):
        only = [
            parameter.name
            for parameter in inspect.signature(task.run).parameters.values()
            if parameter.kind is parameter.POSITIONAL_ONLY
        ]
        if only:
            yield Finding(
                kind="differs", text=f"task {name}: {', '.join(only)} can only be given by position"
            )
        if inspect.iscoroutinefunction(task.run):
            yield Finding(kind="ok", text=f"task {name} is a coroutine: it runs on the loop")


def _schedule(app: Any) -> Iterator[Finding]:
    for name, entry in app.schedule.entries().items():
        if entry.task not in app.tasks:
            yield Finding(kind="fails", text=f"schedule {name!r}: no task {entry.task!r} is registered")
        try:
            runs = ", ".join(_next_runs(entry.schedule))
        except Exception as exc:
            yield Finding(kind="fails", text=f"schedule {name!r}: {exc}")
            continue
        yield Finding(kind="ok", text=f"schedule {name!r} of {entry.task}: {runs}")


def _next_runs(schedule: Any) -> Iterator[str]:
    """The next runs, by the clocks of the schedule's own zone."""
    moment = _clock.utcnow()
    for _ in range(_RUNS):
        if hasattr(schedule, "next_run_after"):
            moment = schedule.next_run_after(moment)
        elif hasattr(schedule, "run_every"):
            moment = moment + schedule.run_every
        else:
            return  # Only the sun, or the user's own class, knows.
        yield moment.astimezone(schedule.tz).strftime("%Y-%m-%d %H:%M:%S %Z")
