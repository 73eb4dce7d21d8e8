"""Which calls run under a limit over all processes, and under which."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from celerylite._call_keys import PLACE, place_key
from celerylite._message import Message, decode_body
from celerylite._store import Delivery, Limit
from celerylite.utils.log import get_logger

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("is_limited", "limit_of", "limits_of")

logger = get_logger("celery.worker")


def is_limited(app: Celery, name: str) -> bool:
    """Whether calls of that task have to find a place first."""
    task = app._tasks.get(name)
    return task is not None and task.concurrency_limit is not None


def limits_of(app: Celery, deliveries: Iterable[Delivery]) -> dict[int, Limit]:
    """The limits of deliveries by their rows, as `Store.begin` takes them; calls without are left out."""
    limits = ((delivery.row, limit_of(app, delivery.message)) for delivery in deliveries)
    return {row: limit for row, limit in limits if limit is not None}


def limit_of(app: Celery, message: Message) -> Limit | None:
    """The limit under which the call of `message` runs.

    The number is that of the task as it is here and now; the key that of the call, made here where who sent
    it did not know the task. What makes no key counts against the task as a whole.
    """
    task = app._tasks.get(message.name)
    if task is None or task.concurrency_limit is None:
        return None
    key = message.headers.get(PLACE)
    if not isinstance(key, str):
        try:
            body = decode_body(message, app.amqp.accept_content)
            key = place_key(task, message.name, body.args, body.kwargs)
        except Exception as exc:
            # A call that cannot be read fails by itself once it has begun.
            logger.warning("%s[%s] has no key of its own for its limit: %r", message.name, message.id, exc)
            key = message.name
    return Limit(key=key, places=max(1, int(task.concurrency_limit)))
