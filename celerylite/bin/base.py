"""What the commands share: their options' types, their context, and the way user options reach them."""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from pprint import pformat
from typing import TYPE_CHECKING, Any, NoReturn, cast

import click
from kombu.exceptions import OperationalError

from celerylite._commands import CeleryCommandException
from celerylite._state import get_current_app
from celerylite.app._database import DEFAULT_DATABASE
from celerylite.signals import user_preload_options
from celerylite.utils import text
from celerylite.utils.log import mlevel
from celerylite.utils.time import maybe_iso8601

if TYPE_CHECKING:
    from celerylite.app.base import Celery

    ParamType = click.ParamType[Any]
    StringChoice = click.Choice[str]
else:
    # Generic in click's stubs and newer releases, but not in 8.1.
    ParamType, StringChoice = click.ParamType, click.Choice

__all__ = (
    "CLIContext",
    "CeleryCommand",
    "CeleryDaemonCommand",
    "CeleryOption",
    "CommaSeparatedList",
    "DaemonOption",
    "ISO8601DateTime",
    "ISO8601DateTimeOrFloat",
    "JsonArray",
    "JsonObject",
    "LogLevel",
    "ParamType",
    "StringChoice",
    "COMMA_SEPARATED_LIST",
    "ISO8601",
    "ISO8601_OR_FLOAT",
    "JSON_ARRAY",
    "JSON_OBJECT",
    "LOG_LEVEL",
    "EX_FAILURE",
    "EX_OK",
    "EX_UNAVAILABLE",
    "configure_from_arguments",
    "consume_preload_options",
    "handle_preload_options",
    "handle_remote_command_error",
    "missing_database",
    "require_database",
)

EX_OK = 0
EX_FAILURE = 1
EX_UNAVAILABLE = getattr(os, "EX_UNAVAILABLE", 69)

_Callback = Callable[..., Any]


class CLIContext:
    """What every command finds as `ctx.obj`: the app, and how to speak to the terminal."""

    def __init__(
        self,
        app: Celery | None,
        no_color: bool,
        workdir: Path | str | None,
        quiet: bool = False,
        is_program: bool = False,
    ) -> None:
        self.app: Celery = app or get_current_app()
        self.no_color = no_color
        self.quiet = quiet
        self.workdir = workdir
        #: This is the program at a shell, not a call from Python: errors are for eyes.
        self.is_program = is_program

    @cached_property
    def OK(self) -> str:
        return str(self.style("OK", fg="green", bold=True))

    @cached_property
    def ERROR(self) -> str:
        return str(self.style("ERROR", fg="red", bold=True))

    def style(self, message: Any = None, **kwargs: Any) -> Any:
        """The message in colour, or as it is with --no-color."""
        return message if self.no_color else click.style(message, **kwargs)

    def secho(self, message: Any = None, **kwargs: Any) -> None:
        self._print(click.secho, message, kwargs)

    def echo(self, message: Any = None, **kwargs: Any) -> None:
        self._print(click.echo, message, kwargs)

    def error(self, message: Any = None, **kwargs: Any) -> None:
        self._print(click.secho, message, {**kwargs, "err": True})

    def _print(self, how: Callable[..., None], message: Any, kwargs: dict[str, Any]) -> None:
        if self.no_color:
            click.echo(message, **_without_style(kwargs), color=False)
        else:
            how(message, **kwargs)

    def pretty(self, n: Any) -> tuple[str, Any]:
        """A status word and the text for a node's reply."""
        if isinstance(n, list):
            return self.OK, self.pretty_list(n)
        if isinstance(n, dict) and ("ok" in n or "error" in n):
            return self.pretty_dict_ok_error(n)
        if isinstance(n, dict):
            return self.OK, json.dumps(n, sort_keys=True, indent=4, default=str)
        return self.OK, n if isinstance(n, str) else pformat(n)

    def pretty_list(self, n: Sequence[Any]) -> str:
        if not n:
            return "- empty -"
        star = self.style("*", fg="white")
        return "\n".join(f"{star} {item}" for item in n)

    def pretty_dict_ok_error(self, n: dict[str, Any]) -> tuple[str, str]:
        if "ok" in n:
            return self.OK, text.indent(self.pretty(n["ok"])[1], 4)
        return self.ERROR, text.indent(self.pretty(n["error"])[1], 4)

    def say_chat(self, direction: str, title: str, body: str = "", show_body: bool = False) -> None:
        """One line of a conversation with the nodes; --quiet keeps only what we ask, not what they say."""
        if self.quiet and direction == "<-":
            return
        arrow = "" if self.quiet else f"{self.style(direction, fg='white', bold=True)} "
        self.echo(f"{arrow} {title}")
        if show_body and body:
            self.echo(body)


def _without_style(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name in ("file", "nl", "err")}


def handle_remote_command_error(command: str, exc: Exception) -> NoReturn:
    """Turn what went wrong while nodes were asked into one line for the user; the exit code is 69."""
    if isinstance(exc, click.ClickException):
        raise exc
    if isinstance(exc, OperationalError):
        message = (
            "Could not connect to the message broker. Please make sure your broker "
            "(e.g., RabbitMQ or Redis) is running and the connection settings are correct. "
            f"Reason: {exc}"
        )
    else:
        message = f"Unable to run the `{command}` command. Reason: {exc}"
    raise CeleryCommandException(message, EX_UNAVAILABLE) from exc


def missing_database(app: Celery) -> str | None:
    """What to say when the default database is not here, which a look at it would make; else None."""
    path = Path(DEFAULT_DATABASE.removeprefix("sqlite:///"))
    if app._database.url != DEFAULT_DATABASE or path.exists():
        return None
    return (
        f"there is no database here: expected {path} in {Path.cwd()}, where programs of this app keep it; go "
        "there, name the app with -A, or set CELERYLITE_DATABASE"
    )


def require_database(ctx: click.Context) -> None:
    """Refuse to look into a database that is not here yet, instead of making one."""
    missing = missing_database(ctx.obj.app)
    if missing:
        raise CeleryCommandException(missing, EX_UNAVAILABLE)


def configure_from_arguments(ctx: click.Context, namespace: str | None = None) -> None:
    """Take what follows the options, such as `worker.prefetch_multiplier=2`, as settings."""
    if not ctx.args:
        return
    try:
        ctx.obj.app.config_from_cmdline(ctx.args, **({"namespace": namespace} if namespace else {}))
    except (KeyError, ValueError) as exc:
        raise click.UsageError(
            f"Unable to parse extra configuration from command line.\nReason: {exc}", ctx=ctx
        ) from exc


def handle_preload_options(f: _Callback) -> _Callback:
    """Announce the app's own global options by `user_preload_options` before the command runs.

    The command is called with its context first, and gets only those of the options that it can take.
    """
    if _announces_preload_options(f):
        return f

    @functools.wraps(f)
    def announce_and_run(ctx: click.Context, /, *args: Any, **kwargs: Any) -> Any:
        _announce_preload_options(ctx.obj.app, f, kwargs)
        return f(ctx, *args, **kwargs)

    return _mark(announce_and_run)


def consume_preload_options(fun: _Callback | None) -> _Callback | None:
    """The same for a command of somebody else, such as Flower's, which knows nothing of such options."""
    if fun is None or _announces_preload_options(fun):
        return fun

    @functools.wraps(fun)
    def announce_and_run(*args: Any, **kwargs: Any) -> Any:
        _announce_preload_options(click.get_current_context().obj.app, fun, kwargs)
        return fun(*args, **kwargs)

    return _mark(announce_and_run)


def _announce_preload_options(app: Celery, fun: _Callback, kwargs: dict[str, Any]) -> None:
    given = {
        option.name: kwargs[option.name]
        for option in app.user_options.get("preload", ())
        if option.name in kwargs
    }
    for name in given:
        if not _takes(fun, name):
            del kwargs[name]
    if given:
        user_preload_options.send(sender=fun, app=app, options=given)


def _takes(fun: _Callback, name: str) -> bool:
    try:
        parameters = inspect.signature(fun).parameters
    except (TypeError, ValueError):
        return False
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return True
    found = parameters.get(name)
    return found is not None and found.kind is not found.POSITIONAL_ONLY


def _mark(fun: _Callback) -> _Callback:
    fun._announces_preload_options = True  # type: ignore[attr-defined]
    return fun


def _announces_preload_options(fun: _Callback | None) -> bool:
    while fun is not None:
        if getattr(fun, "_announces_preload_options", False):
            return True
        fun = getattr(fun, "__wrapped__", None)
    return False


class CeleryOption(click.Option):
    """An option that `--help` shows under the heading of its `help_group`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.help_group: str | None = kwargs.pop("help_group", None)
        #: Name of an entry of `ctx.obj` that is the default.
        self.default_value_from_context: str | None = kwargs.pop("default_value_from_context", None)
        super().__init__(*args, **kwargs)

    def get_default(self, ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
        if self.default_value_from_context:
            self.default = ctx.obj[self.default_value_from_context]
        return super().get_default(ctx, *args, **kwargs)


_WRONG_APP_OPTION = """\
You are using `{0}` as an option of the {1} sub-command:
celery {1} {0} celeryapp <...>

The support for this usage was removed in Celery 5.0. Instead you should use `{0}` as a global option:
celery {0} celeryapp {1} <...>"""


class CeleryCommand(click.Command):
    """A command whose `--help` groups the options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as exc:
            if exc.option_name not in ("-A", "--app"):
                raise
            raise click.UsageError(_WRONG_APP_OPTION.format(exc.option_name, ctx.info_name), ctx=ctx) from exc

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(param, "help_group", None) or "Options", []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


class DaemonOption(CeleryOption):
    """An option whose default is the setting of the command: `worker --pidfile` and `worker_pidfile`."""

    def __init__(self, *args: str, **kwargs: Any) -> None:
        kwargs.setdefault("help_group", "Daemonization Options")
        kwargs.setdefault("callback", self.daemon_setting)
        super().__init__(args, **kwargs)

    def daemon_setting(self, ctx: click.Context, opt: CeleryOption, value: Any) -> Any:
        return value or getattr(ctx.obj.app.conf, f"{ctx.command.name}_{self.name}", None)


class CeleryDaemonCommand(CeleryCommand):
    """A command that runs until it is stopped."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            DaemonOption("--logfile", "-f", help="File that takes the log; without it the log is on stderr"),
            DaemonOption("--pidfile", help="File that holds the process id while the program runs"),
            DaemonOption("--uid", help="User to become after the start"),
            DaemonOption("--gid", help="Group to become after the start"),
            DaemonOption("--umask", help="Mode mask of files that are made"),
            DaemonOption("--executable", help="Python interpreter that the detached program runs on"),
        ]


class CommaSeparatedList(ParamType):
    """Strings with commas between them, as a list."""

    name = "comma separated list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return text.str_to_list(value)


class _Json(ParamType):
    expected: type
    noun: str

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, self.expected):
            return value
        try:
            parsed = json.loads(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if not isinstance(parsed, self.expected):
            self.fail(f"{value} was not an {self.noun}", param, ctx)
        return parsed


class JsonArray(_Json):
    """A list, written as JSON."""

    name = "json array"
    expected = list
    noun = "array"


class JsonObject(_Json):
    """A dictionary, written as JSON."""

    name = "json object"
    expected = dict
    noun = "object"


class ISO8601DateTime(ParamType):
    """A point in time."""

    name = "iso-86091"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return maybe_iso8601(value)
        except (TypeError, ValueError) as exc:
            self.fail(str(exc), param, ctx)


class ISO8601DateTimeOrFloat(ISO8601DateTime):
    """A point in time, or a number of seconds."""

    name = "iso-86091 or float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return float(value)
        except (TypeError, ValueError):
            return super().convert(value, param, ctx)


class LogLevel(StringChoice):
    """The name of a logging level in any case; the value is its number."""

    def __init__(self) -> None:
        super().__init__(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL"))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int):
            return value
        return mlevel(super().convert(cast(str, value).upper(), param, ctx))


JSON_ARRAY = JsonArray()
JSON_OBJECT = JsonObject()
ISO8601 = ISO8601DateTime()
ISO8601_OR_FLOAT = ISO8601DateTimeOrFloat()
LOG_LEVEL = LogLevel()
COMMA_SEPARATED_LIST = CommaSeparatedList()
