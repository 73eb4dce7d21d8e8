"""The `worker` command: a process that runs tasks and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import click

from celerylite import platforms
from celerylite.bin.base import (
    COMMA_SEPARATED_LIST,
    EX_FAILURE,
    EX_OK,
    LOG_LEVEL,
    CeleryDaemonCommand,
    CeleryOption,
    ParamType,
    StringChoice,
    configure_from_arguments,
    handle_preload_options,
)
from celerylite.exceptions import SecurityError
from celerylite.utils.nodenames import default_nodename, host_format, node_format

__all__ = ("AUTOSCALE", "CELERY_BEAT", "HOSTNAME", "WORKERS_POOL", "detach", "go_on_detached", "worker")

_WORKER = "Worker Options"
_POOL = "Pool Options"
_QUEUES = "Queue Options"
_FEATURES = "Features"
_BEAT = "Embedded Beat Options"


class CeleryBeat(ParamType):
    """Whether the worker fires the schedule."""

    name = "beat"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value


class WorkersPool(StringChoice):
    """The name of a pool."""

    name = "pool"
    #: Celery's names that are refused, so that nobody believes to run on green threads.
    refused = ("eventlet", "gevent", "custom")

    def __init__(self) -> None:
        super().__init__(("prefork", "eventlet", "gevent", "solo", "processes", "threads", "custom"))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        pool = super().convert(value, param, ctx)
        if pool in self.refused:
            self.fail(f"expected threads, solo or prefork, got {pool!r}: see docs/differences.md", param, ctx)
        return pool


class Hostname(ParamType):
    """The name of the node, with %h, %n and %d filled in."""

    name = "hostname"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return host_format(default_nodename(value))


class Autoscale(ParamType):
    """Two numbers of workers, as (most, least)."""

    name = "<min workers>, <max workers>"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        numbers = value.split(",")
        if len(numbers) > 2:
            self.fail(
                f"Expected two comma separated integers or one integer.Got {len(numbers)} instead.",
                param,
                ctx,
            )
        try:
            most, least = sorted((int(number) for number in (*numbers, "0")[:2]), reverse=True)
        except ValueError:
            self.fail(f"Expected two comma separated integers.Got {value} instead.", param, ctx)
        return most, least


CELERY_BEAT = CeleryBeat()
WORKERS_POOL = WorkersPool()
HOSTNAME = Hostname()
AUTOSCALE = Autoscale()


def _concurrency_value(ctx: click.Context, _param: click.Parameter | None, value: str | None) -> Any:
    """A number, 'auto', or what is configured."""
    if not value:
        return ctx.obj.app.conf.worker_concurrency
    if value.strip().lower() == "auto":
        return "auto"
    try:
        number = int(value)
    except ValueError:
        number = -1
    if number < 0:
        raise click.BadParameter(f"must be a non-negative integer or 'auto', got {value!r}")
    return number or ctx.obj.app.conf.worker_concurrency


def detach(
    argv: list[str],
    *,
    logfile: str | None = None,
    uid: str | int | None = None,
    gid: str | int | None = None,
    umask: str | int | None = None,
    executable: str | None = None,
) -> int:
    """Start this program once more with `argv`, on its own and without a terminal; returns the exit code."""
    command = [executable or sys.executable, "-m", "celerylite", *argv]
    options: dict[str, Any] = {
        "user": platforms.parse_uid(uid) if uid else None,
        "group": platforms.parse_gid(gid) if gid else None,
        "umask": int(str(umask), 8) if umask else -1,
    }
    with open(logfile or os.devnull, "ab") as log:
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **options
        )
    return EX_OK


def go_on_detached(**options: Any) -> int:
    """Start this program with the arguments it was given, but in the background; returns the exit code."""
    return detach([argument for argument in sys.argv[1:] if argument not in ("-D", "--detach")], **options)


@click.command(cls=CeleryDaemonCommand, context_settings={"allow_extra_args": True})
@click.option(
    "-n",
    "--hostname",
    default="",
    cls=CeleryOption,
    type=HOSTNAME,
    help_group=_WORKER,
    help="Name of this node, such as 'w1@%h'. %h is the host, %n the name, %d the domain.",
)
@click.option(
    "-D",
    "--detach",
    "detached",
    cls=CeleryOption,
    is_flag=True,
    default=False,
    help_group=_WORKER,
    help="Go on in the background.",
)
@click.option(
    "-S",
    "--statedb",
    cls=CeleryOption,
    type=click.Path(),
    help_group=_WORKER,
    callback=lambda ctx, _, value: value or ctx.obj.app.conf.worker_state_db,
    help="File that keeps what was revoked.",
)
@click.option(
    "-l",
    "--loglevel",
    default="WARNING",
    cls=CeleryOption,
    type=LOG_LEVEL,
    help_group=_WORKER,
    help="What is logged.",
)
@click.option(
    "-O",
    "--optimization",
    default="default",
    cls=CeleryOption,
    help_group=_WORKER,
    type=click.Choice(("default", "fair")),
    help="How tasks are given to child processes.",
)
@click.option(
    "--prefetch-multiplier",
    type=int,
    metavar="<prefetch multiplier>",
    cls=CeleryOption,
    callback=lambda ctx, _, value: value or ctx.obj.app.conf.worker_prefetch_multiplier,
    help_group=_WORKER,
    help="How many tasks are claimed ahead for each that runs.",
)
@click.option(
    "--disable-prefetch",
    is_flag=True,
    default=None,
    cls=CeleryOption,
    help_group=_WORKER,
    callback=lambda ctx, _, value: ctx.obj.app.conf.worker_disable_prefetch if value is None else value,
    help="Claim no task ahead of time.",
)
@click.option(
    "-c",
    "--concurrency",
    type=str,
    metavar="<concurrency>",
    callback=_concurrency_value,
    cls=CeleryOption,
    help_group=_POOL,
    help="How many tasks run at a time, or 'auto'. The default is the number of CPUs.",
)
@click.option(
    "-P",
    "--pool",
    type=WORKERS_POOL,
    cls=CeleryOption,
    help_group=_POOL,
    help="Where plain functions run: threads (the default), solo or prefork.",
)
@click.option(
    "-E",
    "--task-events",
    "--events",
    is_flag=True,
    default=None,
    cls=CeleryOption,
    help_group=_POOL,
    help="Send task events to other processes.",
)
@click.option(
    "--time-limit",
    type=float,
    cls=CeleryOption,
    help_group=_POOL,
    help="Seconds after which a task is failed.",
)
@click.option(
    "--soft-time-limit",
    type=float,
    cls=CeleryOption,
    help_group=_POOL,
    help="Seconds after which SoftTimeLimitExceeded is raised in a task.",
)
@click.option(
    "--max-tasks-per-child",
    type=int,
    cls=CeleryOption,
    help_group=_POOL,
    help="Tasks after which a child process is replaced (prefork only).",
)
@click.option(
    "--pool-start-method",
    type=click.Choice(["fork", "spawn"]),
    cls=CeleryOption,
    help_group=_POOL,
    help="How child processes are made (prefork only).",
)
@click.option(
    "--max-memory-per-child",
    type=int,
    cls=CeleryOption,
    help_group=_POOL,
    help="KiB of memory above which a child process is replaced (prefork only).",
)
@click.option(
    "--purge",
    "--discard",
    is_flag=True,
    cls=CeleryOption,
    help_group=_QUEUES,
    help="Delete all waiting messages first.",
)
@click.option(
    "--queues",
    "-Q",
    type=COMMA_SEPARATED_LIST,
    cls=CeleryOption,
    help_group=_QUEUES,
    help="Run only what is in these queues.",
)
@click.option(
    "--exclude-queues",
    "-X",
    type=COMMA_SEPARATED_LIST,
    cls=CeleryOption,
    help_group=_QUEUES,
    help="Run nothing of these queues.",
)
@click.option(
    "--include",
    "-I",
    type=COMMA_SEPARATED_LIST,
    cls=CeleryOption,
    help_group=_QUEUES,
    help="Further modules to import.",
)
@click.option("--without-gossip", is_flag=True, cls=CeleryOption, help_group=_FEATURES)
@click.option("--without-mingle", is_flag=True, cls=CeleryOption, help_group=_FEATURES)
@click.option("--without-heartbeat", is_flag=True, cls=CeleryOption, help_group=_FEATURES)
@click.option("--heartbeat-interval", type=int, cls=CeleryOption, help_group=_FEATURES)
@click.option(
    "--autoscale",
    type=AUTOSCALE,
    cls=CeleryOption,
    help_group=_FEATURES,
    help="Most and least tasks at a time. Threads are made on demand: the most counts.",
)
@click.option(
    "-B",
    "--beat",
    type=CELERY_BEAT,
    cls=CeleryOption,
    is_flag=True,
    help_group=_BEAT,
    help="Fire the schedule even if `celerylite_beat` says off.",
)
@click.option(
    "-s",
    "--schedule-filename",
    "--schedule",
    cls=CeleryOption,
    help_group=_BEAT,
    callback=lambda ctx, _, value: value or ctx.obj.app.conf.beat_schedule_filename,
    help="File that keeps the last runs.",
)
@click.option("--scheduler", cls=CeleryOption, help_group=_BEAT, help="Class that fires the schedule.")
@click.pass_context
@handle_preload_options
def worker(
    ctx: click.Context,
    hostname: str,
    detached: bool,
    logfile: str | None,
    pidfile: str | None,
    uid: str | None,
    gid: str | None,
    umask: str | None,
    executable: str | None,
    **options: Any,
) -> None:
    """Start worker instance.

    \b
    celerylite -A proj worker -l INFO
    celerylite -A proj worker -l INFO -Q hipri,lopri
    celerylite -A proj worker --concurrency=4
    """
    configure_from_arguments(ctx, namespace="worker")
    if detached:
        log = node_format(logfile, hostname) if logfile else None
        ctx.exit(go_on_detached(logfile=log, uid=uid, gid=gid, umask=umask, executable=executable))
    try:
        platforms.maybe_drop_privileges(uid=uid, gid=gid)
        program = ctx.obj.app.Worker(
            hostname=hostname,
            logfile=logfile,
            pidfile=node_format(pidfile, hostname) if pidfile else None,
            no_color=ctx.obj.no_color,
            quiet=ctx.obj.quiet,
            **options,
        )
        program.start()
    except SecurityError as exc:
        ctx.obj.error(exc.args[0])
        ctx.exit(EX_FAILURE)
    ctx.exit(program.exitcode)
