"""The `list` command: shows which routing key leads to which queue."""

from __future__ import annotations

import click

from celerylite.bin.base import CeleryCommand, handle_preload_options, missing_database

__all__ = ("list_",)


@click.group(name="list")
@click.pass_context
@handle_preload_options
def list_(ctx: click.Context) -> None:
    """Get info about queues."""


@list_.command(cls=CeleryCommand)
@click.pass_context
def bindings(ctx: click.Context) -> None:
    """Show the queues that are configured, with exchange and routing key."""
    missing = missing_database(ctx.obj.app)
    if missing:
        ctx.obj.error(missing)
    rows = [("Queue", "Exchange", "Routing Key"), ("-" * 16, "-" * 16, "-" * 16)]
    for name, queue in sorted(ctx.obj.app.amqp.queues.items()):
        rows.append((name, queue.exchange.name, queue.routing_key))
    for row in rows:
        ctx.obj.echo("{:<28} {:<28} {}".format(*row))
