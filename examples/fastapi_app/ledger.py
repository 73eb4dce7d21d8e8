"""The booked payments: one row per event, however often the event arrives."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

DATABASE = os.environ.get("LEDGER", "ledger.sqlite3")


def book(event_id: str, amount: int) -> bool:
    """Book a payment; False if this event was booked before."""
    with closing(sqlite3.connect(DATABASE, timeout=30)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS payment (event TEXT PRIMARY KEY, amount INTEGER)")
        cursor = connection.execute("INSERT OR IGNORE INTO payment VALUES (?, ?)", (event_id, amount))
        return cursor.rowcount == 1
