"""The `run` command, which Celery has not: starts a program in which `import celery` gives celerylite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

import celerylite
from celerylite.bin.base import CeleryCommand, CeleryOption

__all__ = ("run",)

#: Holds the file that sets the alias up in every Python process below the program.
_HOOK_DIRECTORY = Path(celerylite.__file__).parent / "_run"

_COMMAND_NOT_FOUND = 127
_COMMAND_NOT_EXECUTABLE = 126


@click.command(
    cls=CeleryCommand, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.option(
    "-A",
    "--app",
    "app_name",
    cls=CeleryOption,
    metavar="APP",
    help="Start the runtime of this app once the program is up.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def run(ctx: click.Context, app_name: str | None, command: tuple[str, ...]) -> None:
    """Run COMMAND, unedited, with celerylite in the place of Celery.

    In the program and in every Python process it starts, `import celery` gives celerylite. A program that
    serves (uvicorn, gunicorn, flask run, ...) runs its tasks itself. Its signals and exit code are its own.

    \b
    celerylite run -- uvicorn api:app
    celerylite run -A proj -- python bot.py
    """
    # Given to the group, `-A` was not followed there: importing the project is up to the program.
    environment = _environment(app_name or ctx.obj)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        _become(command, environment)
    except FileNotFoundError as exc:
        _refuse(ctx, f"{command[0]}: command not found ({exc})", _COMMAND_NOT_FOUND)
    except PermissionError as exc:
        _refuse(ctx, f"{command[0]}: command cannot be executed ({exc})", _COMMAND_NOT_EXECUTABLE)


def _environment(app_name: str | None) -> dict[str, str]:
    environment = dict(os.environ)
    path = [str(_HOOK_DIRECTORY), *environment.get("PYTHONPATH", "").split(os.pathsep)]
    environment["PYTHONPATH"] = os.pathsep.join(entry for entry in path if entry)
    environment["CELERYLITE_RUN"] = str(os.getpid())
    environment.pop("CELERYLITE_RUN_APP", None)
    if app_name:
        environment["CELERYLITE_RUN_APP"] = app_name
    return environment


def _become(command: tuple[str, ...], environment: dict[str, str]) -> None:
    if os.name == "posix":
        # Not a child: signals, exit code, terminal and process id are the program's.
        os.execvpe(command[0], command, environment)
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)


def _refuse(ctx: click.Context, reason: str, exit_code: int) -> None:
    click.echo(f"celerylite run: {reason}", err=True)
    ctx.exit(exit_code)
