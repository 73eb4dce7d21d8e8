"""The configured schedule and the database's rows of it, brought together when a program starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from celerylite._entries import Entry, cleanup_entry, read_entry, row_name
from celerylite._specs import is_of_configuration
from celerylite._store import PeriodicRow, Store
from celerylite.utils.log import get_logger

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("app_name", "read_schedule", "reconcile")

logger = get_logger("celery.beat")


def app_name(app: Celery) -> str:
    """The name under which an app's entries are in the database."""
    return app.main or "__main__"


def read_schedule(app: Celery) -> tuple[dict[str, Entry], set[str]]:
    """The usable entries of ``beat_schedule`` and the names of the others, as the database names them."""
    conf = app.conf
    given = dict(conf.beat_schedule or {})
    if conf.result_expires and not app.backend.supports_autoexpire:
        given.setdefault("celery.backend_cleanup", cleanup_entry())
    entries, broken = {}, set()
    for name, values in given.items():
        try:
            entry = read_entry(app, name, values)
            entries[entry.key] = entry
        except Exception:
            # One entry that cannot be used must not stop the others.
            logger.exception("beat: Cannot use the entry %r of the schedule, leaving it out.", name)
            broken.add(row_name(str(name)))
    return entries, broken


def reconcile(
    app: Celery, store: Store, entries: Mapping[str, Entry], broken: Collection[str], now: float
) -> dict[str, PeriodicRow]:
    """Make the rows those of the app's entries: new, changed and removed ones; the rows then.

    Rows of other apps, and those of entries that were added at run time, are left alone.
    """
    mine = app_name(app)
    rows = store.periodic()
    for name, row in list(rows.items()):
        if name in entries:
            _check_shared(entries[name], row, mine)
            if row.app == mine and row.spec is None and row.task != entries[name].task:
                # Else programs that share the entry would be warned of a task that nobody sends any more.
                store.edit_periodic(name, task=entries[name].task)
                rows[name] = replace(row, task=entries[name].task)
        elif _is_of_configuration(row) and name not in broken and row.app in (mine, None):
            store.delete_periodic(name)
            del rows[name]
    # As Celery: what has never run counts from the moment it was first seen.
    new = [
        PeriodicRow(name=name, last_run_at=now, app=mine, task=entry.task)
        for name, entry in entries.items()
        if name not in rows
    ]
    if new:
        store.add_periodic(new)
        # Another process may have been first: then its row counts.
        rows = store.periodic()
    return rows


def _is_of_configuration(row: PeriodicRow) -> bool:
    return row.spec is None or is_of_configuration(row.spec)


def _check_shared(entry: Entry, row: PeriodicRow, mine: str) -> None:
    """Two apps of one database that give a name to different things would take each other's ticks."""
    if row.app not in (mine, None) and row.task not in (entry.task, None):
        logger.warning(
            "beat: The entry %r is in the schedule of the app %r too, where it sends %s instead of %s: each "
            "tick fires only one of them. Give one of the entries another name.",
            entry.name,
            row.app,
            row.task,
            entry.task,
        )
