"""The background work of the shop: plain Celery code."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import ledger
import mailer

from celerylite import Celery, Task
from celerylite.utils.log import get_task_logger

log = get_task_logger(__name__)

app = Celery("shop")
app.conf.update(
    task_track_started=True,
    beat_schedule={
        "tally": {"task": "tasks.tally", "schedule": float(os.environ.get("TALLY_EVERY_S", "60"))},
    },
)


@app.task(bind=True, max_retries=5, default_retry_delay=float(os.environ.get("MAIL_RETRY_S", "1")))
def send_welcome(self: Task, address: str) -> str:
    """Send the welcome mail; while the mail server is busy, try again."""
    try:
        mailer.send(address, "welcome!")
    except mailer.MailServerBusy as exc:
        log.info("the mail server is busy: %s", exc)
        raise self.retry(exc=exc) from exc
    return f"sent at try {self.request.retries + 1}"


@app.task(bind=True)
def build_report(self: Task, rows: int) -> dict[str, int]:
    """Sum up some rows, and say after each how far it is."""
    total = 0
    for row in range(1, rows + 1):
        time.sleep(float(os.environ.get("REPORT_ROW_S", "0.1")))
        total += row
        self.update_state(state="PROGRESS", meta={"done": row, "of": rows})
    return {"rows": rows, "total": total}


# A booking that arrives twice does no harm, so after a crash it may run again: `acks_late`.
@app.task(acks_late=True, autoretry_for=(sqlite3.OperationalError,), retry_backoff=True, max_retries=5)
def book_payment(event: dict[str, Any]) -> str:
    """Book what the payment provider reports."""
    if event["type"] != "payment.succeeded":
        return "ignored"
    return "booked" if ledger.book(event["id"], event["amount"]) else "booked before"


@app.task
def tally() -> int:
    """Write down how many mails went out: the beat schedule calls this."""
    count = len(mailer.delivered())
    with Path(os.environ.get("TALLY", "tally.txt")).open("a") as file:
        file.write(f"{count}\n")
    return count
