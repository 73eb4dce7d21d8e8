"""The task that tells whether a worker answers."""

from __future__ import annotations

from celerylite import shared_task

__all__ = ("ping",)


@shared_task(name="celery.ping")
def ping() -> str:
    """Return 'pong'."""
    return "pong"
