"""The `purge` command: deletes the messages that wait."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from celerylite.bin.base import COMMA_SEPARATED_LIST, CeleryCommand, CeleryOption, handle_preload_options
from celerylite.utils import text

__all__ = ("purge",)

_GROUP = "Purging Options"


@click.command(cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.option("-f", "--force", cls=CeleryOption, is_flag=True, help_group=_GROUP, help="Do not ask first.")
@click.option(
    "-Q",
    "--queues",
    cls=CeleryOption,
    type=COMMA_SEPARATED_LIST,
    help_group=_GROUP,
    help="Only these queues, with commas between them.",
)
@click.option(
    "-X",
    "--exclude-queues",
    cls=CeleryOption,
    type=COMMA_SEPARATED_LIST,
    help_group=_GROUP,
    help="All but these queues, with commas between them.",
)
@click.pass_context
@handle_preload_options
def purge(
    ctx: click.Context,
    force: bool,
    queues: Iterable[str] | None,
    exclude_queues: Iterable[str] | None,
    **kwargs: Any,
) -> None:
    """Erase all messages from all known task queues.

    What runs already goes on. There is no undo.
    """
    app = ctx.obj.app
    names = sorted(set(queues or app.amqp.queues.keys()) - set(exclude_queues or ()))
    if not names:
        return
    headline = text.pluralize(len(names), "queue")
    if not force:
        _confirm(ctx, f"{headline}: {', '.join(names)}")
    count = app.store.purge(names)
    if count:
        messages = f"{count} {text.pluralize(count, 'message')}"
        ctx.obj.echo(f"Purged {messages} from {len(names)} known task {headline}.")
    else:
        ctx.obj.echo(f"No messages purged from {len(names)} {headline}.")


def _confirm(ctx: click.Context, what: str) -> None:
    warning = ctx.obj.style("WARNING", fg="red")
    click.confirm(
        f"{warning}: This will remove all tasks from {what}.\n"
        "         There is no undo for this operation!\n\n"
        "(to skip this prompt use the -f option)\n"
        "Are you sure you want to delete all tasks?",
        abort=True,
    )
