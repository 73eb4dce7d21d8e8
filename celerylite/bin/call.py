"""The `call` command: sends a task by its name."""

from __future__ import annotations

from typing import Any

import click

from celerylite.bin._completion import complete_tasks
from celerylite.bin.base import (
    ISO8601,
    ISO8601_OR_FLOAT,
    JSON_ARRAY,
    JSON_OBJECT,
    CeleryCommand,
    CeleryOption,
    handle_preload_options,
)

__all__ = ("call",)

_CALLING = "Calling Options"
_ROUTING = "Routing Options"


@click.command(cls=CeleryCommand)
@click.argument("name", shell_complete=complete_tasks)
@click.option(
    "-a",
    "--args",
    cls=CeleryOption,
    type=JSON_ARRAY,
    default="[]",
    help_group=_CALLING,
    help="Positional arguments, as a JSON array.",
)
@click.option(
    "-k",
    "--kwargs",
    cls=CeleryOption,
    type=JSON_OBJECT,
    default="{}",
    help_group=_CALLING,
    help="Keyword arguments, as a JSON object.",
)
@click.option(
    "--eta", cls=CeleryOption, type=ISO8601, help_group=_CALLING, help="Not before this time (ISO 8601)."
)
@click.option(
    "--countdown",
    cls=CeleryOption,
    type=float,
    help_group=_CALLING,
    help="Not before so many seconds from now.",
)
@click.option(
    "--expires",
    cls=CeleryOption,
    type=ISO8601_OR_FLOAT,
    help_group=_CALLING,
    help="Not after this time (ISO 8601) or so many seconds from now.",
)
@click.option(
    "--serializer",
    cls=CeleryOption,
    default="json",
    help_group=_CALLING,
    help="How the arguments are written.",
)
@click.option("--queue", cls=CeleryOption, help_group=_ROUTING, help="Queue to send to.")
@click.option("--exchange", cls=CeleryOption, help_group=_ROUTING, help="Exchange to name in the message.")
@click.option("--routing-key", cls=CeleryOption, help_group=_ROUTING, help="Routing key of the message.")
@click.pass_context
@handle_preload_options
def call(ctx: click.Context, name: str, **options: Any) -> None:
    """Send the task NAME and print its id."""
    ctx.obj.echo(ctx.obj.app.send_task(name, **options).id)
