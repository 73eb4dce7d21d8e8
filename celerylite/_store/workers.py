"""Processes in SQL: who has joined, until when each lease runs, who is dead. Runs in a given transaction."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from celerylite._store import WorkerRow
from celerylite._store.dialect import Dialect
from celerylite._store.engine import Statement, Transaction
from celerylite._store.schema import Tables

__all__ = ("Workers",)


class Workers:
    """The table of processes. Leases are in the database's time, the one clock that all of them share."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        workers, bind = tables.workers, sa.bindparam
        c = workers.c
        values = [column.name for column in c if column.name != "owner"]
        self._now = Statement(lambda: sa.select(dialect.now()))
        self._join = Statement(lambda: dialect.upsert(workers, ["owner"], values))
        self._renew = Statement(
            lambda: (
                workers.update()
                .where(c.owner == bind("who"), c.departed == 0)
                .values(lease_until=dialect.now() + bind("lease", type_=sa.Double()))
            )
        )
        self._leave = Statement(lambda: workers.update().where(c.owner == bind("who")).values(departed=1))
        self._all = Statement(lambda: sa.select(*c, dialect.now()).order_by(c.hostname, c.owner))
        # Whoever rescues a worker holds its row, so that two do not: the second passes it over.
        self._lock = Statement(lambda: dialect.skip_locked(sa.select(*c).where(c.owner == bind("who"))))
        self._remove = Statement(lambda: workers.delete().where(c.owner == bind("who")))

    def now(self, tx: Transaction) -> float:
        """The time by the database's clock."""
        return float(tx.scalar(self._now))

    def join(self, tx: Transaction, worker: WorkerRow, lease_s: float) -> None:
        queues = None if worker.queues is None else json.dumps(list(worker.queues))
        tx.run(
            self._join,
            owner=worker.owner,
            hostname=worker.hostname,
            machine=worker.machine,
            pid=worker.pid,
            pid_started=worker.pid_started,
            queues=queues,
            lease_until=self.now(tx) + lease_s,
            departed=0,
        )

    def renew(self, tx: Transaction, owner: str, lease_s: float) -> bool:
        """Prolong the lease; False if the owner is not there any more."""
        return tx.run(self._renew, who=owner, lease=lease_s) == 1

    def leave(self, tx: Transaction, owner: str) -> None:
        tx.run(self._leave, who=owner)

    def remove(self, tx: Transaction, owner: str) -> None:
        tx.run(self._remove, who=owner)

    def everybody(self, tx: Transaction) -> tuple[list[WorkerRow], float]:
        """All rows, the dead ones too, and the database's time."""
        rows = tx.rows(self._all)
        return [_worker(row) for row in rows], float(rows[0][-1]) if rows else 0.0

    def alive(self, tx: Transaction) -> list[WorkerRow]:
        workers, now = self.everybody(tx)
        return [worker for worker in workers if not worker.left and worker.lease_until > now]

    def dead(
        self, tx: Transaction, dead: Callable[[WorkerRow], bool], by_lease: bool
    ) -> tuple[list[str], set[str]]:
        """The owners that are dead, and all that have a row."""
        workers, now = self.everybody(tx)
        limit = now if by_lease else 0.0
        gone = [each.owner for each in workers if each.left or each.lease_until <= limit or dead(each)]
        return gone, {worker.owner for worker in workers}

    def still_dead(
        self, tx: Transaction, owner: str, dead: Callable[[WorkerRow], bool], by_lease: bool
    ) -> bool:
        """Lock a dead worker's row; False if it lives after all or another process is at it."""
        locked = tx.one(self._lock, who=owner)
        if locked is None:
            # Nobody's row: an orphan, unless it is only locked by another that rescues it.
            return not any(each.owner == owner for each in self.everybody(tx)[0])
        limit = float(tx.scalar(self._now)) if by_lease else 0.0
        worker = _worker(locked)
        return worker.left or worker.lease_until <= limit or dead(worker)


def _worker(row: Any) -> WorkerRow:
    return WorkerRow(
        owner=row[0],
        hostname=row[1],
        machine=row[2],
        pid=int(row[3]),
        pid_started=row[4],
        queues=None if row[5] is None else tuple(json.loads(row[5])),
        lease_until=float(row[6]),
        left=bool(row[7]),
    )
