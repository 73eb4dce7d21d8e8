"""Retention: what is outdated, deleted in small batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from celerylite import _clock
from celerylite._store.dialect import Dialect
from celerylite._store.engine import Statement, Transaction, chunks
from celerylite._store.schema import Tables

__all__ = ("Pruning",)

#: Seconds until a chord that has gone on for so long counts as given up (its members were purged).
#: Its parts hold their results themselves: `result_expires` does not take them from a slow chord.
_OPEN_CHORD_S = 366 * 86400.0


class Pruning:
    """One statement pair per table: find a batch by index, delete it by key."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        before_date = sa.bindparam("before", type_=sa.DateTime())
        before: sa.BindParameter[float] = sa.bindparam("before", type_=sa.Double())
        t = tables
        self._dialect = dialect
        self.results = self._pair(t.results, t.results.c.id, t.results.c.date_done < before_date)
        self.groups = self._pair(t.groups, t.groups.c.id, t.groups.c.date_done < before_date)
        self.runs = self._pair(t.runs, t.runs.c.id, t.runs.c.finished_at < before)
        self.letters = self._pair(t.mailbox, t.mailbox.c.id, t.mailbox.c.until < before)
        self.revoked = self._pair(t.revoked, t.revoked.c.task_id, t.revoked.c.until < before)
        gone = ~sa.exists().where(t.messages.c.id == t.unique.c.message)
        over = sa.or_(t.unique.c.until < before, sa.and_(t.unique.c.until.is_(None), gone))
        # Looked at again as it is deleted: a row that was locked after the look may be another's by then.
        self.keys = self._pair(t.unique, t.unique.c.unique_key, over, still=over)
        self.chords = self._pair(t.chords, t.chords.c.group_id, t.chords.c.closed_at < before)
        self.open_chords = self._pair(t.chords, t.chords.c.group_id, t.chords.c.created_at < before)
        parts = t.chord_parts
        self._drop_parts = Statement(
            lambda: parts.delete().where(parts.c.group_id.in_(sa.bindparam("ids", expanding=True)))
        )
        ticks = t.ticks
        self._old_ticks = Statement(
            lambda: (
                sa.select(ticks.c.name, ticks.c.due_at)
                .where(ticks.c.created_at < before)
                .limit(sa.bindparam("batch"))
            )
        )
        self._drop_tick = Statement(
            lambda: ticks.delete().where(
                ticks.c.name == sa.bindparam("entry"), ticks.c.due_at == sa.bindparam("due")
            )
        )

    def _pair(
        self,
        table: sa.Table,
        key: sa.Column[Any],
        old: sa.ColumnElement[bool],
        still: sa.ColumnElement[bool] | None = None,
    ) -> tuple[Statement, Statement]:
        find = sa.select(key).where(old).limit(sa.bindparam("batch"))
        found = key.in_(sa.bindparam("ids", expanding=True))
        delete = table.delete().where(found if still is None else sa.and_(found, still))
        return (
            Statement(lambda: self._dialect.skip_locked(find)),
            Statement(lambda: delete),
        )

    def steps(
        self, results_before: float | None, runs_before: float | None, batch: int
    ) -> Iterator[Callable[[Transaction], int]]:
        """One transaction each; what each returns is how many rows it deleted."""
        if results_before is not None:
            moment = datetime.fromtimestamp(results_before, UTC).replace(tzinfo=None)
            for pair in (self.results, self.groups):
                yield functools.partial(self._delete, pair=pair, before=moment, batch=batch)
            yield functools.partial(self._delete_chords, pair=self.chords, before=results_before, batch=batch)
            given_up = min(results_before, _clock.time() - _OPEN_CHORD_S)
            yield functools.partial(self._delete_chords, pair=self.open_chords, before=given_up, batch=batch)
        if runs_before is not None:
            yield functools.partial(self._delete, pair=self.runs, before=runs_before, batch=batch)
            yield functools.partial(self._delete_ticks, before=runs_before, batch=batch)
        for pair in (self.letters, self.revoked, self.keys):
            yield functools.partial(self._delete, pair=pair, before=_clock.time(), batch=batch)

    def _delete(self, tx: Transaction, *, pair: tuple[Statement, Statement], before: Any, batch: int) -> int:
        find, delete = pair
        keys = [row[0] for row in tx.rows(find, before=before, batch=batch)]
        for some in chunks(keys, 500):
            tx.run(delete, ids=some, before=before)
        return len(keys)

    def _delete_chords(
        self, tx: Transaction, *, pair: tuple[Statement, Statement], before: float, batch: int
    ) -> int:
        find, delete = pair
        keys = [row[0] for row in tx.rows(find, before=before, batch=batch)]
        for some in chunks(keys, 500):
            tx.run(self._drop_parts, ids=some)
            tx.run(delete, ids=some)
        return len(keys)

    def _delete_ticks(self, tx: Transaction, *, before: float, batch: int) -> int:
        keys = tx.rows(self._old_ticks, before=before, batch=batch)
        for entry, due in keys:
            tx.run(self._drop_tick, entry=entry, due=due)
        return len(keys)
