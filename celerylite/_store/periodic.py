"""Schedule entries and ticks in SQL. Each function runs in a given transaction."""

from __future__ import annotations

import sqlalchemy as sa

from celerylite import _clock
from celerylite._store import PeriodicRow
from celerylite._store.dialect import Dialect
from celerylite._store.engine import Statement, Transaction
from celerylite._store.schema import Tables

__all__ = ("Periodic",)


class Periodic:
    """What is known of each entry, and which ticks are taken."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        table, ticks, bind = tables.periodic, tables.ticks, sa.bindparam
        c = table.c
        self._columns = ["name", "spec", "enabled", "last_run_at", "next_run_at", "total_run_count"]
        self._take = Statement(lambda: dialect.insert_ignore(ticks, ["name", "due_at", "created_at"]))
        self._add = Statement(lambda: dialect.insert_ignore(table, self._columns))
        self._ran = Statement(
            lambda: (
                table.update()
                .where(c.name == bind("entry"))
                .values(
                    last_run_at=bind("ran_at"),
                    next_run_at=bind("next_at"),
                    total_run_count=c.total_run_count + 1,
                )
            )
        )
        self._all = Statement(lambda: sa.select(*(c[name] for name in self._columns)).order_by(c.name))
        self._save = Statement(lambda: dialect.upsert(table, ["name"], self._columns[1:]))
        self._delete = Statement(lambda: table.delete().where(c.name == bind("entry")))

    def take(self, tx: Transaction, entry: str, due_at: float) -> bool:
        """Take a tick; False if another process has it."""
        return tx.run(self._take, name=entry, due_at=due_at, created_at=_clock.time()) == 1

    def ran(self, tx: Transaction, entry: str, ran_at: float, next_run_at: float | None) -> None:
        """Note a run, for an entry that may be new."""
        values = {"spec": None, "enabled": 1, "last_run_at": None, "next_run_at": None, "total_run_count": 0}
        tx.run(self._add, name=entry, **values)
        tx.run(self._ran, entry=entry, ran_at=ran_at, next_at=next_run_at)

    def all(self, tx: Transaction) -> dict[str, PeriodicRow]:
        found = {}
        for name, spec, enabled, last, following, count in tx.rows(self._all):
            found[name] = PeriodicRow(
                name=name,
                spec=spec,
                enabled=bool(enabled),
                last_run_at=last,
                next_run_at=following,
                total_run_count=int(count),
            )
        return found

    def save(self, tx: Transaction, row: PeriodicRow) -> None:
        values = {name: getattr(row, name) for name in self._columns}
        tx.run(self._save, **{**values, "enabled": int(row.enabled)})

    def delete(self, tx: Transaction, name: str) -> None:
        tx.run(self._delete, entry=name)
