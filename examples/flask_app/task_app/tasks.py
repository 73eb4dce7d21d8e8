"""Tasks that need the Flask application, without importing it."""

from __future__ import annotations

import time

from flask import current_app

from celerylite import Task, shared_task


@shared_task(ignore_result=False)
def greet(name: str) -> str:
    """Reads the application's configuration: it runs inside the application context."""
    return f"{current_app.config['GREETING']}, {name}!"


@shared_task(ignore_result=False)
def divide(a: float, b: float) -> float:
    return a / b


@shared_task(bind=True, ignore_result=False)
def count_up(self: Task, to: int) -> int:
    for number in range(1, to + 1):
        self.update_state(state="PROGRESS", meta={"current": number, "total": to})
        time.sleep(0.1)
    return to


@shared_task
def log_visit(page: str) -> None:
    """Nobody asks for this result, so none is kept."""
    current_app.logger.info("a visit to %s", page)
