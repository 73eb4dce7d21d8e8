"""The events of one runtime: what it tells monitors about its tasks and about itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from celerylite import signals, states
from celerylite.exceptions import Reject, Terminated
from celerylite.utils.log import get_logger
from celerylite.utils.saferepr import saferepr
from celerylite.worker import state as worker_state
from celerylite.worker._keeper import Keeper

if TYPE_CHECKING:
    from celerylite.worker._execution import Execution

__all__ = ("Event", "Telling", "of_outcome")

#: Type and fields of an event.
Event = tuple[str, dict[str, Any]]

logger = get_logger(__name__)

#: Seconds between heartbeats, as Celery's.
_FREQUENCY = 2.0


class Telling:
    """Sends Celery's events in the name of a runtime. Costs one look at a flag when nobody wants them."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._app = runtime.app
        self.dispatcher: Any = None
        self._active = 0

    def start(self, keeper: Keeper) -> None:
        """Say that the worker is there, and go on saying so."""
        groups = ["worker", "task"] if self._app.conf.worker_send_task_events else ["worker"]
        self.dispatcher = self._app.events.Dispatcher(hostname=self._runtime.hostname, groups=groups)
        self._beat("worker-online")
        keeper.add("heartbeat", self._heartbeat, after=_FREQUENCY)

    def stop(self) -> None:
        """Say that the worker goes."""
        if self.dispatcher is not None:
            self._beat("worker-offline")
            self.dispatcher.close()
            self._app.events.close()

    def _heartbeat(self) -> float:
        signals.heartbeat_sent.send(sender=self)
        if self._app.events.has_audience():
            self._beat("worker-heartbeat")
        return _FREQUENCY

    def _beat(self, type: str) -> None:
        if not self._app.events.has_audience():
            return  # Costs nothing when nobody listens.
        self.dispatcher.send(
            type,
            freq=_FREQUENCY,
            active=sum(1 for x in self._runtime.running() if x.started_at),
            processed=worker_state.all_total_count[0],
            loadavg=_load(),
            **worker_state.SOFTWARE_INFO,
        )

    # -- tasks ---------------------------------------------------------------------------------------

    def wants(self, x: Execution) -> bool:
        """Whether anybody would get an event about `x` now."""
        dispatcher = self.dispatcher
        return (
            dispatcher is not None
            and "task" in dispatcher.groups
            and (x.task is None or bool(x.task.send_events))
            and bool(self._app.events.has_audience())
        )

    def received(self, x: Execution) -> None:
        """A call has arrived."""
        if not self.wants(x):
            return
        request = x.request
        self._send(
            "task-received",
            x,
            name=x.shown_name,
            args=x.shown_args,
            kwargs=x.shown_kwargs,
            root_id=request.root_id,
            parent_id=request.parent_id,
            retries=request.retries or 0,
            eta=request.eta,
            expires=request.expires,
        )

    def started(self, x: Execution) -> None:
        """A call's task begins."""
        worker_state.count_begun(x.shown_name)
        if self.wants(x):
            self._send("task-started", x)

    def ended(self, x: Execution) -> None:
        """A call's outcome is settled."""
        if x.state == states.SUCCESS:
            worker_state.successful_requests.add(x.id)
        if self.wants(x):
            event = of_outcome(x)
            if event is not None:
                self._send(event[0], x, **event[1])

    def ended_as(self, x: Execution, event: Event | None) -> None:
        """As `ended`, for an outcome that a child process describes."""
        if event is not None and event[0] == "task-succeeded":
            worker_state.successful_requests.add(x.id)
        if event is not None and self.wants(x):
            self._send(event[0], x, **event[1])

    def _send(self, type: str, x: Execution, **fields: Any) -> None:
        self.dispatcher.send(type, uuid=x.id, **fields)


def of_outcome(x: Execution) -> Event | None:
    """Type and fields of the event about an outcome; None for outcomes of which there is none."""
    if x.state == states.SUCCESS:
        result = saferepr(x.retval, getattr(x.task, "resultrepr_maxsize", 1024))
        return "task-succeeded", {"result": result, "runtime": x.runtime}
    trace = x.einfo.traceback if x.einfo else None
    if x.state == states.FAILURE:
        # No event has named a task that is not registered before.
        named = {"name": x.shown_name} if x.task is None else {}
        return "task-failed", {"exception": saferepr(x.retval), "traceback": trace, **named}
    if x.state == states.RETRY:
        return "task-retried", {"exception": saferepr(x.retval.exc), "traceback": trace}
    if x.state == states.REVOKED:
        return "task-revoked", _revoked(x)
    if x.state == states.REJECTED:
        return "task-rejected", {"requeue": isinstance(x.retval, Reject) and bool(x.retval.requeue)}
    return None


def _revoked(x: Execution) -> dict[str, Any]:
    exc = x.raised
    terminated = isinstance(exc, Terminated)
    signum = exc.args[0] if terminated and exc is not None and exc.args else None
    return {"terminated": terminated, "signum": signum, "expired": str(x.retval) == "expired"}


def _load() -> list[float]:
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else [0.0, 0.0, 0.0]
