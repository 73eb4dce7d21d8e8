"""Revoked ids and the mailbox in SQL. Each function runs in a given transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import sqlalchemy as sa

from celerylite import _clock
from celerylite._store import Letter
from celerylite._store.dialect import Dialect
from celerylite._store.engine import Statement, Transaction, chunks
from celerylite._store.schema import Tables

__all__ = ("Control",)


class Control:
    """What one process has to say to the others."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        revoked, mailbox, bind = tables.revoked, tables.mailbox, sa.bindparam
        now: sa.BindParameter[float] = bind("now", type_=sa.Double())
        self._revoke = Statement(lambda: dialect.upsert(revoked, ["task_id"], ["until"]))
        self._revoked = Statement(lambda: sa.select(revoked.c.task_id).where(revoked.c.until > now))

        def post() -> sa.Insert:
            names = ("topic", "payload", "until")
            statement = sa.insert(mailbox).values({name: bind(name) for name in names})
            return statement.returning(mailbox.c.id) if dialect.insert_returns_id else statement.inline()

        self._post = Statement(post)
        self._letters = Statement(
            lambda: (
                sa.select(mailbox.c.id, mailbox.c.topic, mailbox.c.payload)
                .where(mailbox.c.topic.in_(bind("topics", expanding=True)), mailbox.c.until > now)
                .order_by(mailbox.c.id)
            )
        )
        self._last = Statement(lambda: sa.select(sa.func.max(mailbox.c.id)))
        self._revocations = Statement(lambda: sa.select(sa.func.count()).select_from(revoked))

    def revoke(self, tx: Transaction, task_ids: Iterable[str], until: float) -> None:
        for task_id in sorted(set(task_ids)):
            tx.run(self._revoke, task_id=task_id, until=until)
        tx.changes.letters = True

    def revoked(self, tx: Transaction) -> set[str]:
        return {row[0] for row in tx.rows(self._revoked, now=_clock.time())}

    def post(self, tx: Transaction, topic: str, payload: str, until: float) -> int:
        tx.changes.letters = True
        return tx.insert(self._post, {"topic": topic, "payload": payload, "until": until})

    def letters(self, tx: Transaction, topics: Collection[str]) -> list[Letter]:
        found: list[Letter] = []
        for some in chunks(topics, 500):
            rows = tx.rows(self._letters, topics=some, now=_clock.time())
            found += [Letter(row=row, topic=topic, payload=payload) for row, topic, payload in rows]
        return sorted(found, key=lambda letter: letter.row)

    def signature(self, tx: Transaction) -> tuple[int, int]:
        """Changes whenever there is something new to read."""
        return int(tx.scalar(self._last) or 0), int(tx.scalar(self._revocations) or 0)
