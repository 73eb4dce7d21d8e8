"""One call of a task as a frozen record: Celery's protocol 2, headers and serialised body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ("Message",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What waits in the store until somebody runs it."""

    id: str
    name: str
    queue: str
    #: Celery's protocol 2 headers, and whatever publish handlers added.
    headers: dict[str, Any]
    properties: dict[str, Any]
    #: Serialised ``(args, kwargs, embed)``; see `encode_body`.
    body: str | bytes
    content_type: str
    content_encoding: str
    #: 0 to 9, higher first.
    priority: int = 0
    #: Seconds since the epoch; None is now.
    due_at: float | None = None
    #: Seconds since the epoch; None is never.
    expires_at: float | None = None
