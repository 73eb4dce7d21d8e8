"""The `events` command: shows events as they come, or has a camera take pictures of the cluster."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, NoReturn

import click

from celerylite.bin.base import (
    LOG_LEVEL,
    CeleryDaemonCommand,
    CeleryOption,
    handle_preload_options,
    handle_remote_command_error,
    require_database,
)
from celerylite.events.dumper import evdump
from celerylite.events.snapshot import evcam
from celerylite.platforms import detached, set_process_title, strargv

__all__ = ("events",)


def _set_title(program: str) -> None:
    set_process_title(f"celery events:{program}", info=strargv(sys.argv))


@click.command(cls=CeleryDaemonCommand)
@click.option("-d", "--dump", cls=CeleryOption, is_flag=True, help_group="Dumper", help="Print each event.")
@click.option(
    "-c", "--camera", cls=CeleryOption, help_group="Snapshot", help="Class that takes the pictures."
)
@click.option("--detach", cls=CeleryOption, is_flag=True, help_group="Snapshot", help="Go to the background.")
@click.option(
    "-F",
    "--frequency",
    "--freq",
    type=float,
    default=1.0,
    cls=CeleryOption,
    help_group="Snapshot",
    help="Seconds between pictures.",
)
@click.option("-r", "--maxrate", cls=CeleryOption, help_group="Snapshot", help="Most pictures, such as 10/m.")
@click.option(
    "-l",
    "--loglevel",
    default="WARNING",
    cls=CeleryOption,
    type=LOG_LEVEL,
    help_group="Snapshot",
    help="Logging level.",
)
@click.pass_context
@handle_preload_options
def events(
    ctx: click.Context,
    dump: bool,
    camera: str | None,
    detach: bool,
    frequency: float,
    maxrate: str | None,
    loglevel: int,
    **kwargs: Any,
) -> None:
    """Event-stream utilities."""
    app = ctx.obj.app
    if dump or camera:
        require_database(ctx)
    try:
        if dump:
            _run_evdump(app)
        elif camera:
            _run_evcam(app, camera, detach, freq=frequency, maxrate=maxrate, loglevel=loglevel, **kwargs)
        else:
            _run_evtop()
    except Exception as exc:
        handle_remote_command_error("events", exc)


def _run_evdump(app: Any) -> None:
    _set_title("dump")
    evdump(app=app)


def _run_evtop() -> NoReturn:
    raise click.UsageError(
        "expected --dump or --camera: there is no curses monitor here; see docs/control.md"
    )


def _run_evcam(
    app: Any,
    camera: str,
    detach: bool,
    logfile: str | None = None,
    pidfile: str | None = None,
    uid: Any = None,
    gid: Any = None,
    umask: Any = None,
    workdir: str | None = None,
    executable: str | None = None,
    **options: Any,
) -> None:
    _set_title("cam")
    take = partial(evcam, camera, app=app, logfile=logfile, pidfile=pidfile, **options)
    if detach:
        with detached(logfile, pidfile, uid, gid, umask, workdir):
            take()
    else:
        take()
