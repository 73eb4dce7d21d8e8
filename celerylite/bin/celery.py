"""The command group: the global options, the app, and the list of commands."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import click

from celerylite import VERSION_BANNER
from celerylite._shim import install_as_celery
from celerylite.bin._load import load_app
from celerylite.bin._refused import refuse
from celerylite.bin._without_effect import add_remarks
from celerylite.bin.base import (
    CeleryCommand,
    CeleryOption,
    CLIContext,
    consume_preload_options,
    handle_preload_options,
    missing_database,
)
from celerylite.bin.beat import beat
from celerylite.bin.call import call
from celerylite.bin.control import control, inspect, status
from celerylite.bin.doctor import doctor
from celerylite.bin.events import events
from celerylite.bin.list import list_
from celerylite.bin.migrate import migrate
from celerylite.bin.multi import multi
from celerylite.bin.purge import purge
from celerylite.bin.result import result
from celerylite.bin.run import run
from celerylite.bin.schedule import schedule
from celerylite.bin.shell import shell
from celerylite.bin.upgrade import upgrade
from celerylite.bin.worker import worker

__all__ = ("celery", "main", "main_for_app")

#: Packages add commands of theirs under this entry point, as for Celery.
PLUGIN_GROUP = "celery.commands"

_COMMANDS = (
    *(worker, beat, call, result, purge, list_, shell, run, schedule, upgrade),
    *(status, inspect, control, events, migrate, multi, doctor),
    *(refuse(name) for name in ("amqp", "graph", "logtool")),
)
_GLOBAL = "Global Options"
#: What the context has at first when this is the program at a shell.
_PROGRAM = object()


class CeleryGroup(click.Group):
    """The commands, with those of installed packages, and a guess at what was meant by a wrong name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_plugins()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is None and cmd_name in _plugins():
            command = _load_plugin(_plugins()[cmd_name])
            self.add_command(command, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            similar = difflib.get_close_matches(args[0], self.list_commands(ctx), 3, 0.5)
            if not similar:
                raise
            guesses = "\n".join(f"    {name}" for name in similar)
            message = f"No such command {args[0]!r}.\n\nDid you mean one of these?\n{guesses}"
            raise click.UsageError(message, ctx=ctx) from exc


def _plugins() -> dict[str, EntryPoint]:
    return {plugin.name: plugin for plugin in entry_points(group=PLUGIN_GROUP)}


def _load_plugin(plugin: EntryPoint) -> click.Command:
    try:
        command = plugin.load()
    except Exception:
        return _broken_plugin(plugin, traceback.format_exc())
    assert isinstance(command, click.Command)
    return command


def _broken_plugin(plugin: EntryPoint, reason: str) -> click.Command:
    """A command that says why the real one is missing, so that the others still work."""

    def complain() -> None:
        raise click.ClickException(f"the command {plugin.name!r} of {plugin.value!r} is broken:\n{reason}")

    return click.Command(
        plugin.name,
        callback=complain,
        help=f"(broken: {plugin.value})",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


def _go_to(_ctx: click.Context, _param: click.Parameter, workdir: Path | None) -> Path | None:
    # Before anything else, so that the app is looked for there.
    if workdir:
        os.chdir(workdir)
    return workdir


# `-A` may also be an app itself, when the group is called from Python: click must leave it alone.
@click.group(
    cls=CeleryGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "-A",
    "--app",
    envvar="APP",
    cls=CeleryOption,
    type=click.UNPROCESSED,
    help_group=_GLOBAL,
    help="The app: a module, package or module:attribute.",
)
@click.option(
    "-b", "--broker", envvar="BROKER_URL", cls=CeleryOption, help_group=_GLOBAL, help="Overrides broker_url."
)
@click.option(
    "--result-backend",
    envvar="RESULT_BACKEND",
    cls=CeleryOption,
    help_group=_GLOBAL,
    help="Overrides result_backend.",
)
@click.option(
    "--loader",
    envvar="LOADER",
    cls=CeleryOption,
    help_group=_GLOBAL,
    help="Loader class for an app that names none.",
)
@click.option(
    "--config",
    envvar="CONFIG_MODULE",
    cls=CeleryOption,
    help_group=_GLOBAL,
    help="Module of settings for an app that names none.",
)
@click.option(
    "--workdir",
    cls=CeleryOption,
    type=click.Path(path_type=Path),
    callback=_go_to,
    is_eager=True,
    help_group=_GLOBAL,
    help="Directory to change to first.",
)
@click.option("-C", "--no-color", envvar="NO_COLOR", is_flag=True, cls=CeleryOption, help_group=_GLOBAL)
@click.option("-q", "--quiet", is_flag=True, cls=CeleryOption, help_group=_GLOBAL)
@click.option("--version", cls=CeleryOption, is_flag=True, help_group=_GLOBAL)
@click.option(
    "--skip-checks",
    envvar="SKIP_CHECKS",
    cls=CeleryOption,
    is_flag=True,
    help_group=_GLOBAL,
    help="Leave Django's system checks out at the start. A non-empty variable SKIP_CHECKS does the same.",
)
@click.pass_context
def celery(
    ctx: click.Context,
    /,
    app: Any,
    workdir: Path | None,
    no_color: bool,
    quiet: bool,
    version: bool,
    **environment: Any,
) -> None:
    """Run tasks, send them, and look at them."""
    if version:
        click.echo(VERSION_BANNER)
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit()
    _export(**environment)
    if ctx.invoked_subcommand == run.name:
        ctx.obj = app
        return
    if isinstance(app, str):
        app = load_app(ctx, app)
    is_program = ctx.obj is _PROGRAM
    ctx.obj = CLIContext(app=app, no_color=no_color, workdir=workdir, quiet=quiet, is_program=is_program)
    if ctx.invoked_subcommand != worker.name:
        # A command is about to end: what it sends is for the processes that stay.
        ctx.with_resource(ctx.obj.app.leaving_tasks_to_others())
    _add_user_options(ctx, ctx.obj.app.user_options)


def _export(
    broker: str | None, result_backend: str | None, loader: str | None, config: str | None, skip_checks: bool
) -> None:
    """The app reads these when it is made, which is later and out of reach."""
    for name, value in {
        "CELERY_LOADER": loader,
        "CELERY_BROKER_URL": broker,
        "CELERY_RESULT_BACKEND": result_backend,
        "CELERY_CONFIG_MODULE": config,
        "CELERY_SKIP_CHECKS": "true" if skip_checks else None,
    }.items():
        if value:
            os.environ[name] = value


def _add_user_options(ctx: click.Context, user_options: Any) -> None:
    for command in celery.commands.values():
        command.params.extend(user_options.get(command.name, ()) if command in (worker, beat) else ())
    preload = user_options.get("preload", ())
    if not preload:
        return
    # Plug-ins are loaded on demand; the one that is wanted must be there to be given the options.
    celery.get_command(ctx, ctx.invoked_subcommand or "")
    for command in celery.commands.values():
        command.params.extend(preload)
        command.callback = consume_preload_options(command.callback)


@celery.command(cls=CeleryCommand)
@click.pass_context
@handle_preload_options
def report(ctx: click.Context) -> None:
    """Show what is useful to include in a bug report."""
    app = ctx.obj.app
    app.loader.import_default_modules()
    missing = missing_database(app)
    if missing:
        ctx.obj.error(missing)
    ctx.obj.echo(app.bugreport())


for _command in _COMMANDS:
    celery.add_command(_command)
add_remarks(celery)


def main_for_app(app: Any, argv: list[str] | None = None) -> Any:
    """Run the command line for `app` unless `argv` names another; returns the exit code."""
    arguments = sys.argv[1:] if argv is None or argv is sys.argv else argv
    option = next(param for param in celery.params if param.name == "app")
    option.default = app
    try:
        return celery.main(args=arguments, standalone_mode=False)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    finally:
        option.default = None


def main() -> Any:
    """Run the command line and end the process with its exit code."""
    # A project that still says `from celery import Celery` gets the app that these commands can use.
    install_as_celery()
    return celery(auto_envvar_prefix="CELERY", obj=_PROGRAM)
