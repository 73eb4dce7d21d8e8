"""The `migrate` command: brings the messages that wait in one database to another."""

from __future__ import annotations

import os
from typing import Any

import click

from celerylite._store import MessageState, Outgoing, Settlement, Store, Waiting, open_store, this_process
from celerylite.bin._waiting import bar
from celerylite.bin.base import CeleryCommand, CeleryOption, handle_preload_options
from celerylite.utils import uuid
from celerylite.utils.nodenames import anon_nodename
from celerylite.utils.text import pluralize, str_to_list

__all__ = ("migrate",)

_GROUP = "Migration Options"
_BATCH = 1000


@click.command(cls=CeleryCommand)
@click.argument("source")
@click.argument("destination")
@click.option(
    "-n", "--limit", cls=CeleryOption, type=int, help_group=_GROUP, help="Number of messages to bring over."
)
@click.option(
    "-t",
    "--timeout",
    cls=CeleryOption,
    type=float,
    help_group=_GROUP,
    help="Seconds to wait for messages.",
)
@click.option(
    "-a",
    "--ack-messages",
    cls=CeleryOption,
    is_flag=True,
    help_group=_GROUP,
    help="Remove the messages from SOURCE; without it they are copied.",
)
@click.option("-T", "--tasks", cls=CeleryOption, help_group=_GROUP, help="Only tasks of these names.")
@click.option("-Q", "--queues", cls=CeleryOption, help_group=_GROUP, help="Only these queues.")
@click.option(
    "-F",
    "--forever",
    cls=CeleryOption,
    is_flag=True,
    help_group=_GROUP,
    help="Go on until it is stopped.",
)
@click.pass_context
@handle_preload_options
def migrate(
    ctx: click.Context,
    source: str,
    destination: str,
    limit: int | None,
    ack_messages: bool,
    tasks: str | None,
    queues: str | None,
    **kwargs: Any,
) -> None:
    """Bring waiting messages from one database to another.

    SOURCE and DESTINATION are URLs of databases, such as sqlite:///old.sqlite3.
    """
    for url in (source, destination):
        if url.removeprefix("db+").split(":", 1)[0].split("+", 1)[0] not in (
            "sqlite",
            "postgresql",
            "mysql",
            "mariadb",
        ):
            raise click.UsageError(
                f"expected the URL of a database such as sqlite:///jobs.sqlite3, got {url!r}. "
                "Messages of a broker are run by the Celery that wrote them: see docs/switching.md."
            )
    old, new = open_store(source), open_store(destination)
    try:
        moved = _Move(old, new, str_to_list(tasks), str_to_list(queues)).run(
            limit, ack_messages, quiet=ctx.obj.quiet
        )
    finally:
        old.close()
        new.close()
    ctx.obj.echo(f"{moved} {pluralize(moved, 'message')} brought over.")


class _Move:
    def __init__(self, old: Store, new: Store, tasks: Any, queues: Any) -> None:
        self._old, self._new = old, new
        self._tasks, self._queues = tasks, queues

    def _is_meant(self, one: Waiting) -> bool:
        return (not self._tasks or one.message.name in self._tasks) and (
            not self._queues or one.message.queue in self._queues
        )

    def run(self, limit: int | None, remove: bool, *, quiet: bool) -> int:
        counts = self._old.unfinished()
        total = counts.get(MessageState.READY, 0) + counts.get(MessageState.SCHEDULED, 0)
        chosen = [one for one in self._old.waiting(total) if self._is_meant(one)][:limit]
        with bar(len(chosen), "Migrating", quiet=quiet) as shown:
            for start in range(0, len(chosen), _BATCH):
                batch = chosen[start : start + _BATCH]
                # First there, then away from here: a crash in between leaves a copy, and loses nothing.
                self._new.publish([Outgoing(message=one.message, may_drop=False) for one in batch])
                shown.update(len(batch))
        if remove:
            self._remove({one.message.id for one in chosen})
        return len(chosen)

    def _remove(self, ids: set[str]) -> None:
        owner = uuid()
        self._old.join(this_process(owner, anon_nodename(), os.getpid(), []))
        try:
            for delivery in self._old.claim_scheduled(owner, ids):
                self._old.settle(Settlement(delivery=delivery))
            claimed = self._old.claim(owner, self._queues or None, len(ids) + _BATCH).deliveries
            for delivery in claimed:
                if delivery.message.id in ids:
                    self._old.settle(Settlement(delivery=delivery))
            self._old.give_back([one for one in claimed if one.message.id not in ids])
        finally:
            self._old.leave(owner)
