"""One execution as a record: what is known of one delivery of one call on its way through the steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from celerylite._outbox import Outbox
from celerylite._request import Context, actual_ignore_result
from celerylite._store import ChordPart, Delivery
from celerylite.utils.saferepr import saferepr

if TYPE_CHECKING:
    from celerylite._einfo import ExceptionInfo
    from celerylite.app.base import Celery
    from celerylite.worker._telling import Telling

__all__ = ("Execution", "Site", "request_of")


class Site(Protocol):
    """Where an execution happens: a runtime, or the caller's own thread in eager mode."""

    hostname: str
    #: No message is behind the call and nothing is stored unless the task asks for it.
    eager: bool
    #: Raise the task's exception out of the call (eager mode with ``throw``).
    propagates: bool

    @property
    def events(self) -> Telling | None:
        """What tells monitors about the execution; None: nobody is told."""
        ...

    def is_revoked(self, x: Execution) -> bool:
        """Whether somebody revoked the call while it waited."""
        ...

    def settle(self, x: Execution) -> None:
        """Make the outcome durable; raises ClaimLost when it is not ours to decide any more."""
        ...

    def settle_later(self, x: Execution) -> None:
        """Make the outcome durable soon, in one commit with others. Does not wait for it."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Execution:
    """One delivery of a call. Each step reads it and fills in what it decides."""

    app: Celery
    site: Site
    id: str
    name: str
    request: Context
    delivery: Delivery | None = None
    #: None when no task of that name is registered.
    task: Any = None
    args: Any = ()
    kwargs: Any = field(default_factory=dict)

    #: Wall clock and monotonic seconds at which the task began.
    started_at: float = 0.0
    began: float = 0.0
    #: Seconds the task took.
    runtime: float | None = None

    #: The child process that runs the task; None: this one.
    pid: int | None = None

    #: What the call raised, before it is judged.
    raised: BaseException | None = None
    #: None until the outcome is decided; steps let a decided execution pass.
    state: str | None = None
    #: The value returned, or the exception that stands for the outcome.
    retval: Any = None
    einfo: ExceptionInfo | None = None
    #: The task's code ran, or tried to: hooks and signals about its end are due.
    entered: bool = False
    #: The message could not be read, or its task is not known.
    unread: bool = False
    #: Somebody has begun to settle an outcome; there is no second one. See `Runtime.decide`.
    decided: bool = False
    #: Another thread decided the outcome (time limit, termination); what this one finds is discarded.
    abandoned: bool = False

    #: Its outcome is on its way to the database; until it is there the execution counts as running.
    settling: bool = False

    #: It takes one of the runtime's places; others are concluded beside them.
    has_place: bool = True

    #: What leaves together with the outcome.
    outbox: Outbox = field(default_factory=Outbox)
    #: Rows of the app's database, or `PendingResult`s of a backend of the user's own.
    results: list[Any] = field(default_factory=list)
    chord_parts: list[ChordPart] = field(default_factory=list)
    #: Keep the message and deliver it again from then on (epoch seconds).
    requeue_at: float | None = None

    @property
    def shown_name(self) -> str:
        """The name in logs: the call's shadow name, if it has one."""
        return self.request.shadow or self.name

    @property
    def shown_args(self) -> str:
        """Positional arguments as logs show them."""
        return self.request.get("argsrepr") or saferepr(self.args)

    @property
    def shown_kwargs(self) -> str:
        """Keyword arguments as logs show them."""
        return self.request.get("kwargsrepr") or saferepr(self.kwargs)

    @property
    def stores_result(self) -> bool:
        """Whether a value is stored for this call."""
        if actual_ignore_result(self.task, self.request):
            return False
        return not self.site.eager or bool(self.task.store_eager_result)

    @property
    def stores_error(self) -> bool:
        """Whether an exception is stored for this call."""
        if actual_ignore_result(self.task, self.request):
            return bool(self.task.store_errors_even_if_ignored)
        return not self.site.eager or bool(self.task.store_eager_result)


def request_of(delivery: Delivery, hostname: str) -> Context:
    """The request context of a delivery, its body not yet read."""
    message = delivery.message
    properties = message.properties
    info = properties.get("delivery_info")
    info = info if isinstance(info, dict) else {}
    fields = dict(message.headers)
    fields.update(
        id=message.id,
        properties=properties,
        reply_to=properties.get("reply_to"),
        correlation_id=properties.get("correlation_id"),
        hostname=hostname,
        delivery_info={
            "exchange": info.get("exchange"),
            "routing_key": info.get("routing_key"),
            "priority": properties.get("priority"),
            "redelivered": delivery.redelivered,
        },
        called_directly=False,
        is_eager=False,
        loglevel=None,
        logfile=None,
    )
    return Context(fields)
