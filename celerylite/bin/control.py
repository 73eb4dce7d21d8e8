"""The `status`, `inspect` and `control` commands: ask and tell the processes that run tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import click
from kombu.utils.json import dumps

from celerylite.bin.base import (
    COMMA_SEPARATED_LIST,
    CeleryCommand,
    CeleryOption,
    handle_preload_options,
    handle_remote_command_error,
    require_database,
)
from celerylite.exceptions import AlreadyQueued, CeleryCommandException
from celerylite.platforms import EX_FAILURE, EX_UNAVAILABLE, signals
from celerylite.utils import text
from celerylite.worker.control import Panel, controller_info_t

__all__ = ("control", "inspect", "status")

_GROUP = "Remote Control Options"
_Command = Callable[..., Any]


def _options(fun: _Command) -> _Command:
    """The options that all three commands have."""
    for option in reversed(
        (
            click.option(
                "-t",
                "--timeout",
                cls=CeleryOption,
                type=float,
                default=1.0,
                help_group=_GROUP,
                help="Seconds to wait for replies; it takes less when everybody has answered.",
            ),
            click.option(
                "-d",
                "--destination",
                cls=CeleryOption,
                type=COMMA_SEPARATED_LIST,
                help_group=_GROUP,
                help="Only these nodes, with commas between their names.",
            ),
            click.option(
                "-j", "--json", cls=CeleryOption, is_flag=True, help_group=_GROUP, help="Print JSON."
            ),
        )
    ):
        fun = option(fun)
    return fun


def _list_option(type_: str) -> Callable[[_Command], _Command]:
    def show(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if not value:
            return  # Not asked for.
        formatter = click.HelpFormatter()
        with formatter.section(f"{type_.capitalize()} Commands"):
            formatter.write_dl(sorted(_described(type_)))
        ctx.obj.echo(formatter.getvalue(), nl=False)
        ctx.exit()

    return click.option(
        "--list",
        is_flag=True,
        help=f"List available {type_} commands and exit.",
        expose_value=False,
        is_eager=True,
        callback=show,
    )


def _described(type_: str) -> Iterator[tuple[str, str]]:
    for name, info in _commands(type_).items():
        yield f"{name} {info.signature}" if info.signature else name, info.help
    if type_ == "control":
        for name, command in _FOR_NOBODY.items():
            yield f"{name} {command.signature}", command.help


def _complete(type_: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        return [name for name in _names(type_) if name.startswith(incomplete)]

    return complete


def _names(type_: str) -> list[str]:
    return sorted([*_commands(type_), *(_FOR_NOBODY if type_ == "control" else ())])


def _commands(type_: str) -> dict[str, controller_info_t]:
    return {name: info for name, info in sorted(Panel.meta.items()) if info.type == type_ and info.visible}


def _verify(type_: str, command: str) -> None:
    if command not in _commands(type_):
        known = ", ".join(_names(type_))
        raise click.UsageError(f"Command {command} not recognized. Available {type_} commands: {known}")


def _arguments(command: str, args: Sequence[str]) -> dict[str, Any]:
    """What the words after the command mean to it."""
    meta = Panel.meta[command]
    named = list(meta.args or ())
    usage = f"Command {command!r} takes arguments: {meta.signature or 'none'}"
    if len(args) > len(named) and not meta.variadic:
        raise click.UsageError(usage)
    arguments = dict(_converted(named, args, usage))
    rest = list(args[len(named) :])
    # What is to be changed must be named; what is looked at may be all there is.
    if meta.variadic and (rest or meta.type == "inspect"):
        arguments[meta.variadic] = rest
    try:
        signature(Panel.data[command]).bind(None, **arguments)
    except TypeError as exc:
        raise click.UsageError(f"{usage}; {exc}") from exc
    return arguments


def _converted(
    named: Sequence[tuple[str, Any]], args: Sequence[str], usage: str
) -> Iterator[tuple[str, Any]]:
    for (name, convert), word in zip(named, args, strict=False):
        convert = _signal_name if name == "signal" else convert
        try:
            yield name, word if convert is None else convert(word)
        except (TypeError, ValueError) as exc:
            raise click.UsageError(f"{usage}; {name}: {exc}") from exc


def _signal_name(word: str) -> str:
    if not signals.supported(word.upper()):
        raise ValueError(f"expected the name of a signal such as TERM, got {word!r}")
    return word.upper()


def _say_reply(ctx: click.Context, replies: dict[str, Any], show_reply: bool = False) -> None:
    for node, reply in replies.items():
        title = ctx.obj.style(f"{node}: ", fg="cyan", bold=True)
        word, body = ctx.obj.pretty(reply)
        shown = text.indent(body, 4) if show_reply else ""
        ctx.obj.say_chat("->", f"{title}{word}", shown, show_body=show_reply)


def _say_silent(ctx: click.Context, silent: Sequence[str]) -> None:
    for node in silent:
        ctx.obj.error(f"{node}: no reply", fg="red")


def _exit_as_replied(ctx: click.Context, replies: Iterable[dict[str, Any]]) -> None:
    """End with a failure when one of the nodes could not do it."""
    each = (reply for by_node in replies for reply in by_node.values())
    if any(isinstance(reply, dict) and "error" in reply for reply in each):
        ctx.exit(EX_FAILURE)


def _is_stored(command: str, silent: Sequence[str]) -> bool:
    """Whether the command holds although nobody has answered."""
    # What runs in a process that is silent has not been ended.
    return command in _STORED and not (silent and command == "terminate")


def _require(replies: Any, silent: Sequence[str], ctx: click.Context) -> None:
    _say_silent(ctx, silent)
    if not replies:
        raise CeleryCommandException("No nodes replied within time constraint", EX_UNAVAILABLE)


def _say_count(ctx: click.Context, replies: Any) -> None:
    count = len(replies)
    if not ctx.obj.quiet:
        ctx.obj.echo(f"\n{count} {text.pluralize(count, 'node')} online.")


@click.command(cls=CeleryCommand)
@_options
@click.pass_context
@handle_preload_options
def status(
    ctx: click.Context, timeout: float, destination: list[str] | None, json: bool, **kwargs: Any
) -> None:
    """Show list of workers that are online."""
    require_database(ctx)
    callback = None if json else partial(_say_reply, ctx)
    asked = ctx.obj.app.control.inspect(timeout=timeout, destination=destination, callback=callback)
    try:
        replies = asked.ping()
    except Exception as exc:
        handle_remote_command_error("status", exc)
    _require(replies, asked.silent, ctx)
    if json:
        ctx.obj.echo(dumps(replies))
        return
    _say_count(ctx, replies)


@click.command(cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.argument("command", shell_complete=_complete("inspect"))
@_list_option("inspect")
@_options
@click.pass_context
@handle_preload_options
def inspect(
    ctx: click.Context, command: str, timeout: float, destination: list[str] | None, json: bool, **kwargs: Any
) -> None:
    """Inspect the workers by sending them the COMMAND inspect command."""
    _verify("inspect", command)
    callback = None if json else partial(_say_reply, ctx, show_reply=True)
    arguments = _arguments(command, ctx.args)
    require_database(ctx)
    asked = ctx.obj.app.control.inspect(timeout=timeout, destination=destination, callback=callback)
    try:
        replies = asked._request(command, **arguments)
    except Exception as exc:
        handle_remote_command_error(f"inspect {command}", exc)
    _require(replies, asked.silent, ctx)
    if json:
        ctx.obj.echo(dumps(replies))
    else:
        _say_count(ctx, replies)
    _exit_as_replied(ctx, [replies])


@click.command(cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.argument("command", shell_complete=_complete("control"))
@_list_option("control")
@_options
@click.pass_context
@handle_preload_options
def control(
    ctx: click.Context, command: str, timeout: float, destination: list[str] | None, json: bool, **kwargs: Any
) -> None:
    """Send the COMMAND control command to the workers."""
    if command in _FOR_NOBODY:
        # Ours: the database is told, and nobody has to answer.
        _tell_the_database(ctx, command, json)
        return
    _verify("control", command)
    callback = None if json else partial(_say_reply, ctx, show_reply=True)
    arguments = _arguments(command, ctx.args)
    try:
        replies = ctx.obj.app.control.broadcast(
            command,
            timeout=timeout,
            destination=destination,
            callback=callback,
            reply=True,
            arguments=arguments,
        )
    except Exception as exc:
        handle_remote_command_error(f"control {command}", exc)
    silent = getattr(replies, "silent", ())
    if not replies and _is_stored(command, silent):
        _say_silent(ctx, silent)
        if not json:
            ctx.obj.echo("stored: it holds for every process that starts within 7 days; none has replied now")
    else:
        _require(replies, silent, ctx)
    if json:
        ctx.obj.echo(dumps(replies))
    _exit_as_replied(ctx, replies)


def _tell_the_database(ctx: click.Context, command: str, json: bool) -> None:
    told = _FOR_NOBODY[command]
    if not ctx.args:
        raise click.UsageError(f"expected at least one {told.noun}: {command} {told.signature}", ctx=ctx)
    for word in ctx.args:
        try:
            getattr(ctx.obj.app.control, command)(word)
        except AlreadyQueued as exc:
            raise CeleryCommandException(str(exc), EX_FAILURE) from exc
        except (LookupError, ValueError) as exc:
            raise CeleryCommandException(str(exc.args[0]), EX_FAILURE) from exc
    if json:
        ctx.obj.echo(dumps({"ok": list(ctx.args)}))
    else:
        ctx.obj.echo(f"{told.done}: {', '.join(ctx.args)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _ForNobody:
    """A command of ours which the database carries out, so that it works also while no process lives."""

    noun: str
    signature: str
    help: str
    done: str


#: Commands that the database remembers for processes to come.
_STORED = frozenset({"revoke", "revoke_by_stamped_headers", "terminate"})

#: By the name of the method of `app.control`.
_FOR_NOBODY = {
    "pause_queue": _ForNobody(
        noun="queue",
        signature="<queue> [queue2 [...]]",
        help="Have no process take from a queue, until resume_queue.",
        done="paused for all processes",
    ),
    "resume_queue": _ForNobody(
        noun="queue",
        signature="<queue> [queue2 [...]]",
        help="End the pause of a queue.",
        done="resumed for all processes",
    ),
    "retry_task": _ForNobody(
        noun="task id",
        signature="<id> [id2 [...]]",
        help="Send a call that has ended again, with its arguments.",
        done="sent again",
    ),
}
