"""A call as receivers of ``task_received`` and remote control see it: Celery's Request."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from kombu.utils.encoding import str_to_bytes

from celerylite._message import uncompressed_body
from celerylite._request import Context, actual_ignore_result
from celerylite.platforms import signals
from celerylite.utils.time import maybe_iso8601, maybe_make_aware

if TYPE_CHECKING:
    from celerylite.worker import Runtime
    from celerylite.worker._execution import Execution

__all__ = ("Request",)


class Request:
    """A read-only view of one delivery, with Celery's names."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._context: Context = execution.request
        self.id = execution.id
        self.name = execution.shown_name
        self.type = execution.name
        self.app = execution.app
        self.task = execution.task
        self.hostname = execution.site.hostname
        self.args = execution.args
        self.kwargs = execution.kwargs

    @property
    def task_id(self) -> str:
        """The id, under its old name."""
        return self.id

    @property
    def task_name(self) -> str:
        """The name, under its old name."""
        return self.name

    @property
    def time_start(self) -> float | None:
        """When the task began (epoch seconds)."""
        return self._execution.started_at or None

    @property
    def acknowledged(self) -> bool:
        """Whether the task was begun, or will be acknowledged only when it has ended and has."""
        x = self._execution
        return bool(x.started_at) and not (x.task is not None and x.task.acks_late and x.state is None)

    @property
    def worker_pid(self) -> int | None:
        """The process that runs the task."""
        return (self._execution.pid or os.getpid()) if self._execution.started_at else None

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """End the task, as far as the pool can; the outcome is REVOKED."""
        cast("Runtime", self._execution.site).terminate(self._execution, signals.signum(signal or "TERM"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def message(self) -> Any:
        """The message that was delivered."""
        return self._execution.delivery and self._execution.delivery.message

    @property
    def body(self) -> bytes:
        """The serialised ``(args, kwargs, embed)``, not compressed; embed has what follows the call."""
        message = self.message
        return b"" if message is None else str_to_bytes(uncompressed_body(message))

    @property
    def content_type(self) -> str | None:
        """How the body is serialised."""
        return self.message and str(self.message.content_type)

    @property
    def content_encoding(self) -> str | None:
        """The encoding of the body."""
        return self.message and str(self.message.content_encoding)

    @property
    def __payload(self) -> list[Any]:
        # Receivers of `task_received` that look at callbacks have no other name for them in Celery.
        embed = {name: getattr(self._context, name) for name in ("callbacks", "errbacks", "chain", "chord")}
        return [self.args, self.kwargs, embed]

    @property
    def request_dict(self) -> dict[str, Any]:
        """Every field of the request."""
        return vars(self._context)

    @property
    def argsrepr(self) -> str:
        """Positional arguments as logs show them."""
        return self._execution.shown_args

    @property
    def kwargsrepr(self) -> str:
        """Keyword arguments as logs show them."""
        return self._execution.shown_kwargs

    @property
    def eta(self) -> datetime | None:
        """The moment from which the call may run."""
        return self._moment(self._context.eta)

    @property
    def expires(self) -> datetime | None:
        """The moment from which the call may not run."""
        return self._moment(self._context.expires)

    def _moment(self, text: Any) -> datetime | None:
        if text is None:
            return None
        moment = maybe_iso8601(text)
        return None if moment is None else maybe_make_aware(moment, self.app.timezone)

    @property
    def delivery_info(self) -> dict[str, Any]:
        """Exchange, routing key, priority, and whether it was delivered before."""
        return self._context.delivery_info or {}

    @property
    def ignore_result(self) -> bool | None:
        """Whether the result is thrown away."""
        return actual_ignore_result(self.task, self._context)

    @property
    def store_errors(self) -> bool:
        """Whether a failure is stored."""
        return self._execution.stores_error

    @property
    def time_limits(self) -> Any:
        """Hard and soft limit of the call itself, in seconds."""
        return self._context.timelimit or (None, None)

    @property
    def stamped_headers(self) -> list[str]:
        """Names of the stamps."""
        return self._context.stamped_headers or []

    @property
    def stamps(self) -> dict[str, Any]:
        """The stamps."""
        stamps: Mapping[str, Any] = self._context.stamps or {}
        return {header: stamps.get(header) for header in self.stamped_headers}

    def __getattr__(self, name: str) -> Any:
        # root_id, parent_id, group, chord, errbacks, correlation_id...: fields of the request.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._context, name)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What ``inspect`` answers about the call; `safe` shows arguments as texts."""
        return {
            "id": self.id,
            "name": self.name,
            "args": self.argsrepr if safe else self.args,
            "kwargs": self.kwargsrepr if safe else self.kwargs,
            "type": self.type,
            "hostname": self.hostname,
            "time_start": self.time_start,
            "acknowledged": self.acknowledged,
            "delivery_info": self.delivery_info,
            "worker_pid": self.worker_pid,
        }

    def humaninfo(self) -> str:
        """Name and id."""
        return f"{self.name}[{self.id}]"

    def __str__(self) -> str:
        parts = [self.humaninfo()]
        parts += [f" ETA:[{self.eta}]"] if self.eta else []
        parts += [f" expires:[{self.expires}]"] if self.expires else []
        return " ".join(parts)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.humaninfo()} {self.argsrepr} {self.kwargsrepr}>"
