"""Calls that nobody waits for: kept in memory until they are committed together with others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from kombu.exceptions import OperationalError

from celerylite._store import Done, Outgoing, Published
from celerylite._store.engine import Transaction
from celerylite._store.unanswered import Proof
from celerylite._store.writer import Writer

__all__ = ("PublishBehind",)

logger = logging.getLogger("celery.store")

Insert = Callable[[Transaction, Sequence[Outgoing]], list[Published]]


class PublishBehind:
    """One `Store.publish_later`: goes on while the database is away, until its writer is to end."""

    __slots__ = ("_done", "_insert", "_outgoing", "_proof", "_published", "_writer")

    def __init__(
        self, writer: Writer, insert: Insert, outgoing: Sequence[Outgoing], done: Done[list[Published]]
    ) -> None:
        self._writer, self._insert, self._outgoing, self._done = writer, insert, outgoing, done
        #: What the attempt before this one published, if its COMMIT may have arrived unanswered.
        self._published: list[Published] = []
        self._proof: Proof | None = None

    def begin(self) -> None:
        """Commit it with whatever is committed next."""
        self._writer.run_later(self._attempt, self._over)

    def _attempt(self, tx: Transaction) -> list[Published]:
        if self._proof is None or tx.one(self._proof.statement, **self._proof.parameters) is None:
            # Of these calls, not of others in the transaction: those may be sent anew and end before these.
            others, tx.proof = tx.proof, None
            self._published = self._insert(tx, self._outgoing)
            self._proof = tx.proof
            tx.proof = others or tx.proof
        return self._published

    def _over(self, published: list[Published] | None, error: BaseException | None) -> None:
        if isinstance(error, OperationalError) and not self._writer.ends:
            # On the writer's thread: here it might be the caller of a later call who has to wait.
            self._writer.run_soon(self._attempt, self._over)
            return
        if error is not None:
            calls = ", ".join(f"{each.message.name}[{each.message.id}]" for each in self._outgoing)
            logger.error("could not be sent, and nobody waits to be told: %s: %s", calls, error)
        self._done(published, error)
