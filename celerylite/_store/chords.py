"""Chords in SQL: a counter per chord and a row per finished part. Runs in a given transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from celerylite import _clock
from celerylite._store import ChordPart
from celerylite._store.dialect import Dialect
from celerylite._store.engine import Statement, Transaction
from celerylite._store.schema import Tables

__all__ = ("Chords",)


class Chords:
    """Counts parts: the same work for the thousandth as for the first."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        chords, parts = tables.chords, tables.chord_parts
        group: sa.BindParameter[str] = sa.bindparam("group")
        size = sa.case((chords.c.size == 0, sa.bindparam("size", type_=sa.Integer)), else_=chords.c.size)
        self._open = Statement(
            lambda: dialect.insert_ignore(
                chords, ["group_id", "size", "done", "awaited", "body", "created_at"]
            )
        )
        self._add = Statement(
            lambda: dialect.insert_ignore(parts, ["group_id", "task_id", "part", "state", "result"])
        )
        self._count = Statement(
            lambda: (
                chords.update()
                .where(chords.c.group_id == group, chords.c.closed_at.is_(None))
                .values(
                    done=chords.c.done + sa.bindparam("counts", type_=sa.Integer),
                    awaited=chords.c.awaited + sa.bindparam("awaits", type_=sa.Integer),
                    size=size,
                )
            )
        )
        self._progress = Statement(
            lambda: sa.select(chords.c.done, chords.c.size, chords.c.awaited).where(
                chords.c.group_id == group
            )
        )
        self._close = Statement(
            lambda: chords.update().where(chords.c.group_id == group).values(closed_at=sa.bindparam("now"))
        )
        self._drop_parts = Statement(lambda: parts.delete().where(parts.c.group_id == group))
        self._parts = Statement(
            lambda: (
                sa.select(
                    parts.c.part, parts.c.task_id, parts.c.state, parts.c.result, chords.c.size, chords.c.body
                )
                .join_from(parts, chords, parts.c.group_id == chords.c.group_id)
                .where(parts.c.group_id == group)
                .order_by(parts.c.part, parts.c.task_id)
            )
        )

    def add(self, tx: Transaction, parts: Sequence[ChordPart]) -> bool:
        """Count parts of one chord, once per task; whether they were the last ones."""
        group_id, size = parts[0].group_id, max(part.size for part in parts)
        # The order matters: whoever inserts the part waits, on its key, for another transaction that
        # has just done so, and the counter's row is locked only by those who really count.
        tx.run(
            self._open,
            group_id=group_id,
            size=size,
            done=0,
            awaited=0,
            body=parts[0].body,
            created_at=_clock.time(),
        )
        added = [part for part in parts if self._is_added(tx, part)]
        if not added:
            return False
        extra = sum(part.extra for part in added)
        counted = tx.run(
            self._count,
            group=group_id,
            size=size,
            counts=len(added) - extra,
            awaits=sum(part.added for part in added) - extra,
        )
        if not counted:
            # The body has gone out: a part that settles again must not begin a second chord.
            tx.run(self._drop_parts, group=group_id)
            return False
        done, size, awaited = tx.rows(self._progress, group=group_id)[0]
        # Added members are counted apart: one may settle before the part that tells of it. They may even
        # be more than were told of, when a part that added some was tried again.
        return bool(size and done == size and awaited <= 0)

    def _is_added(self, tx: Transaction, part: ChordPart) -> bool:
        values = {"task_id": part.task_id, "part": part.index, "state": part.state, "result": part.result}
        return tx.run(self._add, group_id=part.group_id, **values) > 0

    def close(self, tx: Transaction, group_id: str) -> None:
        """Drop the parts; the chord's own row stays, closed, until it is pruned."""
        tx.run(self._close, group=group_id, now=_clock.time())
        tx.run(self._drop_parts, group=group_id)

    def parts(self, tx: Transaction, group_id: str) -> list[ChordPart]:
        rows: list[Any] = tx.rows(self._parts, group=group_id)
        return [
            ChordPart(
                group_id=group_id, index=part, task_id=task, state=state, result=result, size=size, body=body
            )
            for part, task, state, result, size, body in rows
        ]
