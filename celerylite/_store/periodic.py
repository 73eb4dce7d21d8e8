"""Schedule entries and ticks in SQL. Each function runs in a given transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from celerylite import _clock
from celerylite._store import PeriodicRow
from celerylite._store.dialect import Dialect
from celerylite._store.engine import Statement, Transaction, chunks
from celerylite._store.schema import Tables

__all__ = ("Periodic",)

_COLUMNS = [field.name for field in fields(PeriodicRow)]


class Periodic:
    """What is known of each entry, and which ticks are taken."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        table, ticks, bind = tables.periodic, tables.ticks, sa.bindparam
        self._table, c = table, table.c
        this = c.name == bind("entry")
        self._take = Statement(lambda: dialect.insert_ignore(ticks, ["name", "due_at", "created_at"]))
        self._add = Statement(lambda: dialect.insert_ignore(table, _COLUMNS))
        ran: dict[str, Any] = {
            "last_run_at": bind("ran_at"),
            "next_run_at": bind("next_at"),
            "total_run_count": c.total_run_count + bind("counted", type_=sa.Integer),
        }
        self._ran = Statement(lambda: table.update().where(this).values(**ran))
        self._discount = Statement(
            lambda: table.update().where(this).values(total_run_count=c.total_run_count - 1)
        )
        self._sent = Statement(lambda: table.update().where(this).values(last_task_id=bind("sent")))
        self._held_back = Statement(lambda: sa.select(c.last_task_id, c.buffered_at).where(this))
        self._buffer = Statement(
            lambda: table.update().where(this, c.buffered_at.is_(None)).values(buffered_at=bind("due"))
        )
        self._unbuffer = Statement(
            lambda: (
                table.update()
                .where(this, c.buffered_at == bind("due"))
                .values(buffered_at=sa.null(), total_run_count=c.total_run_count + 1)
            )
        )
        self._all = Statement(lambda: sa.select(*(c[name] for name in _COLUMNS)).order_by(c.name))
        self._some = Statement(
            lambda: sa.select(*(c[name] for name in _COLUMNS)).where(
                c.name.in_(bind("names", expanding=True))
            )
        )
        self._exists = Statement(lambda: sa.select(c.name).where(this))
        self._delete = Statement(lambda: table.delete().where(this))
        #: By the names of the columns that they set.
        self._edits: dict[tuple[str, ...], Statement] = {}

    # -- ticks --------------------------------------------------------------------------------------

    def take(self, tx: Transaction, entry: str, due_at: float) -> bool:
        """Take a tick; False if another process has it."""
        return tx.run(self._take, name=entry, due_at=due_at, created_at=_clock.time()) == 1

    def ran(
        self, tx: Transaction, entry: str, ran_at: float, next_run_at: float | None, counts: bool
    ) -> None:
        """Note a run, and count it."""
        tx.run(self._ran, entry=entry, ran_at=ran_at, next_at=next_run_at, counted=int(counts))

    def discount(self, tx: Transaction, entry: str) -> None:
        """Do not count the run that was noted: it was held back."""
        tx.run(self._discount, entry=entry)

    def sent(self, tx: Transaction, entry: str, task_id: str) -> None:
        """Note which task the entry has sent."""
        tx.run(self._sent, entry=entry, sent=task_id)

    def last_sent(self, tx: Transaction, entry: str) -> tuple[str | None, float | None]:
        """The id of the task that was sent last, and the due time of the run that waits, if any."""
        row = tx.one(self._held_back, entry=entry)
        return (None, None) if row is None else (row[0], row[1])

    def buffer(self, tx: Transaction, entry: str, due_at: float) -> None:
        """Remember a run for later, unless one is remembered already."""
        tx.run(self._buffer, entry=entry, due=due_at)

    def unbuffer(self, tx: Transaction, entry: str, due_at: float) -> bool:
        """Take the remembered run, and count it; False if another process has."""
        return tx.run(self._unbuffer, entry=entry, due=due_at) == 1

    # -- entries ------------------------------------------------------------------------------------

    def all(self, tx: Transaction) -> dict[str, PeriodicRow]:
        return {row[0]: _row(row) for row in tx.rows(self._all)}

    def some(self, tx: Transaction, names: Collection[str]) -> dict[str, PeriodicRow]:
        found = (row for some in chunks(names, 500) for row in tx.rows(self._some, names=some))
        return {row[0]: _row(row) for row in found}

    def add(self, tx: Transaction, row: PeriodicRow) -> bool:
        """Insert an entry; False if there is one of that name."""
        values = {name: getattr(row, name) for name in _COLUMNS}
        return tx.run(self._add, **{**values, "enabled": int(row.enabled)}) == 1

    def edit(self, tx: Transaction, name: str, values: Mapping[str, Any]) -> bool:
        """Set some columns of an entry."""
        if tx.one(self._exists, entry=name) is None:
            return False
        tx.run(self._edit(tuple(sorted(values))), entry=name, **{f"new_{key}": values[key] for key in values})
        return True

    def _edit(self, columns: tuple[str, ...]) -> Statement:
        if columns not in self._edits:
            table = self._table
            new: dict[str, Any] = {column: sa.bindparam(f"new_{column}") for column in columns}
            self._edits[columns] = Statement(
                lambda: table.update().where(table.c.name == sa.bindparam("entry")).values(**new)
            )
        return self._edits[columns]

    def delete(self, tx: Transaction, name: str) -> bool:
        return tx.run(self._delete, entry=name) == 1


def _row(values: Sequence[Any]) -> PeriodicRow:
    fields = dict(zip(_COLUMNS, values, strict=True))
    return PeriodicRow(**{**fields, "enabled": bool(fields["enabled"])})
