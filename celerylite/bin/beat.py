"""The `beat` command: a process that fires the schedule and runs nothing itself."""

from __future__ import annotations

from typing import Any

import click

from celerylite import platforms
from celerylite.bin.base import (
    LOG_LEVEL,
    CeleryDaemonCommand,
    CeleryOption,
    configure_from_arguments,
    handle_preload_options,
)
from celerylite.bin.worker import go_on_detached

__all__ = ("beat",)

_GROUP = "Beat Options"


@click.command(cls=CeleryDaemonCommand, context_settings={"allow_extra_args": True})
@click.option(
    "--detach",
    cls=CeleryOption,
    is_flag=True,
    default=False,
    help_group=_GROUP,
    help="Go on in the background.",
)
@click.option(
    "-s",
    "--schedule",
    cls=CeleryOption,
    help_group=_GROUP,
    callback=lambda ctx, _, value: value or ctx.obj.app.conf.beat_schedule_filename,
    help="File that keeps the last runs.",
)
@click.option(
    "-S",
    "--scheduler",
    cls=CeleryOption,
    help_group=_GROUP,
    callback=lambda ctx, _, value: value or ctx.obj.app.conf.beat_scheduler,
    help="Class that fires the schedule.",
)
@click.option(
    "--max-interval",
    cls=CeleryOption,
    type=int,
    help_group=_GROUP,
    help="Most seconds between two looks at the schedule.",
)
@click.option(
    "--enable-remote-control/--no-enable-remote-control",
    "remote_control",
    cls=CeleryOption,
    default=None,
    help_group=_GROUP,
    help="Whether to answer remote control.",
)
@click.option(
    "-n", "--hostname", cls=CeleryOption, default=None, help_group=_GROUP, help="Name of this node."
)
@click.option(
    "-l",
    "--loglevel",
    default="WARNING",
    cls=CeleryOption,
    type=LOG_LEVEL,
    help_group=_GROUP,
    help="What is logged.",
)
@click.pass_context
@handle_preload_options
def beat(
    ctx: click.Context,
    detach: bool,
    logfile: str | None,
    uid: str | None,
    gid: str | None,
    umask: str | None,
    executable: str | None,
    **options: Any,
) -> None:
    """Start the beat periodic task scheduler."""
    configure_from_arguments(ctx)
    if detach:
        ctx.exit(go_on_detached(logfile=logfile, uid=uid, gid=gid, umask=umask, executable=executable))
    platforms.maybe_drop_privileges(uid=uid, gid=gid)
    ctx.obj.app.Beat(logfile=logfile, quiet=ctx.obj.quiet, no_color=ctx.obj.no_color or None, **options).run()
