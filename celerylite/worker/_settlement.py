"""Making an outcome durable: one record for one transaction, and patience while the database is away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from kombu.exceptions import OperationalError
from kombu.utils.json import dumps

from celerylite import _clock, states
from celerylite._call_keys import UNIQUE
from celerylite._message import Message, to_text
from celerylite._store import Delivery, Outgoing, ResultRow, RunRow, Settlement
from celerylite.utils import uuid
from celerylite.utils.log import get_logger
from celerylite.worker._places import limit_of

if TYPE_CHECKING:
    from celerylite.worker import Runtime
    from celerylite.worker._execution import Execution

__all__ = ("CHORD_BODY", "KeepsHistory", "commit", "outcome", "Retry", "patiently", "settle", "settle_later")

#: Name of the internal message that sends the body of a chord. No task has it: a runtime knows what to do.
CHORD_BODY = "celerylite.chord_body"

logger = get_logger("celery.worker")

T = TypeVar("T")
Retry = Callable[[], None]

#: Seconds between tries while the database is away: doubling from the first to the last.
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 5.0
#: Tries that a runtime makes when it is stopping: the lease will tell others about what is left.
_LAST_TRIES = 3


def patiently(work: Callable[[], T], stopping: threading.Event) -> T | None:
    """`work()`, tried again until the database answers. Blocks.

    Gives up, with None, only when the runtime stops meanwhile. The store tells the log of the outage.
    """
    tries, last_tries = 0, 0
    while True:
        try:
            return work()
        except OperationalError:
            last_tries += stopping.is_set()
            if last_tries > _LAST_TRIES:
                logger.warning("the database does not answer and the runtime stops: giving up")
                return None
            pause = min(_FIRST_PAUSE * 2 ** min(tries, 10), _LAST_PAUSE)
            # A real wait: an outage takes its own time, whatever clock a test has set.
            threading.Event().wait(0.2) if stopping.is_set() else stopping.wait(pause)
            tries += 1


class KeepsHistory(Protocol):
    """Where an execution happens, as the history tells it."""

    hostname: str
    keeps_history: bool


def settle(runtime: Runtime, x: Execution) -> None:
    """Commit the outcome of `x` with all that follows from it; what follows starts at once where it can.

    Raises ClaimLost when the delivery is not this runtime's any more; nothing is written then.
    """
    if x.delivery is None:
        return  # Nothing was claimed: an eager call.
    commit(runtime, x.delivery, **outcome(runtime, x))


def settle_later(
    runtime: Runtime, x: Execution, delivery: Delivery, done: Callable[[Retry | None], None]
) -> None:
    """As `settle`, together with others: soon, or now if something waits for it.

    `done` is told when it is over. It gets None, or, where it could not be committed, what tries again as
    patiently as `settle` does.
    """
    committing = _Committing(runtime, delivery, **outcome(runtime, x))

    def over(deliveries: list[Delivery | None] | None, error: BaseException | None) -> None:
        if deliveries is None:
            # The same again, with its places: the commit may have arrived, and only the answer be lost.
            done(partial(_commit, runtime, committing))
        else:
            committing.succeeded(deliveries)
            done(None)

    runtime.store.settle_later(committing.settlement, over, urgent=_is_urgent(runtime, committing.settlement))


def _is_urgent(runtime: Runtime, settlement: Settlement) -> bool:
    """Whether something may wait for the commit: what follows, what a key or a limit keeps back, the end."""
    frees = settlement.limit is not None or UNIQUE in settlement.delivery.message.headers
    follows = bool(settlement.publish) or (bool(settlement.chord_parts) and runtime.is_last())
    return frees or follows or runtime.stop_event.is_set()


def outcome(site: KeepsHistory, x: Execution) -> dict[str, Any]:
    """What `commit` needs to know about the outcome of `x`; can be sent to another process.

    Results for a backend of the user's own are stored right here.
    """
    return {
        "outbox": list(x.outbox.messages),
        "results": tuple(_own_rows(x.results)),
        "chord_parts": tuple(x.chord_parts),
        "run": _history(site, x),
        "requeue_at": x.requeue_at,
    }


def commit(runtime: Runtime, delivery: Delivery, **fields: Any) -> None:
    """Settle `delivery` with the messages of `outbox`, `results` and the other fields of a `Settlement`."""
    _commit(runtime, _Committing(runtime, delivery, **fields))


def _commit(runtime: Runtime, committing: _Committing) -> None:
    try:
        deliveries = patiently(lambda: runtime.store.settle(committing.settlement), runtime.stop_event)
    except BaseException:
        committing.failed()
        raise
    if deliveries is None:
        committing.failed()
    else:
        committing.succeeded(deliveries)


class _Committing:
    """One settlement, and the places of what it publishes here."""

    __slots__ = ("_bodies", "_delivery", "_outgoing", "_runtime", "settlement")

    def __init__(
        self,
        runtime: Runtime,
        delivery: Delivery,
        *,
        outbox: Any = (),
        results: Iterable[Any] = (),
        **fields: Any,
    ) -> None:
        self._runtime, self._delivery = runtime, delivery
        rows = tuple(_own_rows(results))
        self._outgoing: list[Outgoing] = [runtime.outgoing(message) for message in outbox]
        self._bodies: dict[str, Outgoing] = {}
        self.settlement = Settlement(
            delivery=delivery,
            results=rows,
            publish=tuple(self._outgoing),
            on_chord_complete=self._complete,
            limit=limit_of(runtime.app, delivery.message),
            **fields,
        )

    def _complete(self, group_id: str) -> Outgoing:
        # Kept by id: the transaction may be tried again, and a place must be taken only once. Put in anew,
        # so that those of the last try stand last, in the order in which their deliveries come.
        body = self._bodies.pop(group_id, None)
        if body is None:
            body = self._runtime.outgoing(_message_of_body(group_id, self._delivery))
        self._bodies[group_id] = body
        return body

    def succeeded(self, deliveries: Sequence[Delivery | None]) -> None:
        """Start what was published, where there is a place for it."""
        bodies = list(self._bodies.values())
        completed = len(deliveries) - len(self._outgoing)
        # A try that failed may have completed a chord that another part has completed since.
        self._runtime.not_published(bodies[: len(bodies) - completed])
        if deliveries:
            self._runtime.published([*self._outgoing, *bodies[len(bodies) - completed :]], deliveries)

    def failed(self) -> None:
        """Give the places back."""
        self._runtime.not_published([*self._outgoing, *self._bodies.values()])


def _own_rows(results: Iterable[Any]) -> Iterator[ResultRow]:
    """The rows of the app's own database. Results for a backend of the user's own are stored right here."""
    for result in results:
        if isinstance(result, ResultRow):
            yield result
        else:
            # Before the commit, so that a crash repeats it and never loses it.
            result.save()


def _message_of_body(group_id: str, last: Delivery) -> Message:
    """The internal message that sends the body of a chord; `last` is the part that completed the header."""
    parent = {"parent_id": last.message.id, "root_id": last.message.headers.get("root_id")}
    return Message(
        id=uuid(),
        name=CHORD_BODY,
        queue=last.message.queue,
        headers={"task": CHORD_BODY, "group": group_id, **parent},
        properties={},
        body=dumps(([group_id], {}, {})),
        content_type="application/json",
        content_encoding="utf-8",
        priority=last.message.priority,
    )


def _history(site: KeepsHistory, x: Execution) -> RunRow | None:
    if not site.keeps_history or x.delivery is None:
        return None
    failed = x.raised is not None and x.retval is not None
    return RunRow(
        task_id=x.id,
        name=x.name,
        queue=x.delivery.message.queue,
        worker=site.hostname,
        retries=x.request.retries or 0,
        started_at=x.started_at or None,
        finished_at=_clock.time(),
        state=x.state or "",
        error=repr(x.retval) if failed else None,
        message=None if x.state == states.RETRY else to_text(x.delivery.message),
    )
