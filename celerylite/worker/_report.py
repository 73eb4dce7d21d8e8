"""What is said about an execution: log lines, signals and the task's own handlers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from celerylite import signals, states
from celerylite.exceptions import Reject, Terminated
from celerylite.utils.log import get_logger
from celerylite.utils.saferepr import saferepr

if TYPE_CHECKING:
    from celerylite.worker._execution import Execution

__all__ = (
    "LOG_FAILURE",
    "LOG_IGNORED",
    "LOG_INTERNAL_ERROR",
    "LOG_RECEIVED",
    "LOG_REJECTED",
    "LOG_RETRY",
    "LOG_SUCCESS",
    "call_handler",
    "outcome",
    "outcome_discarded",
    "postrun",
    "received",
    "tells_nobody",
    "turned_away",
)

# Logger names and sentences are Celery's: people match them.
_receiving = get_logger("celery.worker.strategy")
_requests = get_logger("celery.worker.request")
_consuming = get_logger("celery.worker.consumer.consumer")
_tracing = get_logger("celery.app.trace")

LOG_RECEIVED = "Task %(name)s[%(id)s] received"
LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s"
LOG_FAILURE = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
LOG_INTERNAL_ERROR = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
LOG_IGNORED = "Task %(name)s[%(id)s] %(description)s"
LOG_REJECTED = "Task %(name)s[%(id)s] %(exc)s"
LOG_RETRY = "Task %(name)s[%(id)s] retry: %(exc)s"


class _Policy(NamedTuple):
    """How an exception is logged."""

    format: str
    description: str
    severity: int
    traceback: bool


_REJECTED = _Policy(LOG_REJECTED, "rejected", logging.WARNING, True)
_IGNORED = _Policy(LOG_IGNORED, "ignored", logging.INFO, False)
_EXPECTED = _Policy(LOG_FAILURE, "raised expected", logging.INFO, False)
_UNEXPECTED = _Policy(LOG_FAILURE, "raised unexpected", logging.ERROR, True)


def received(x: Execution) -> None:
    """Log that a call has arrived."""
    if not _receiving.isEnabledFor(logging.INFO):
        return  # Costs nothing when it is off.
    data = {
        "id": x.id,
        "name": x.shown_name,
        "args": x.shown_args,
        "kwargs": x.shown_kwargs,
        "eta": x.request.eta,
    }
    _receiving.info(LOG_RECEIVED, data, extra={"data": data})


def turned_away(x: Execution) -> None:
    """Log that a call was revoked or expired before it started."""
    _requests.info("Discarding revoked task: %s[%s]", x.shown_name, x.id)


def outcome_discarded(x: Execution) -> None:
    """Log that somebody else decided about this delivery while the task ran."""
    _requests.warning(
        "Task %s[%s]: the outcome of this run is discarded, the delivery was taken over or ended meanwhile.",
        x.shown_name,
        x.id,
        extra={"action": "outcome-discarded"},
    )


def tells_nobody(x: Execution) -> bool:
    """Whether no handler, signal, event or log line will speak of a success.

    Then nobody can tell whether the task ended before or after its outcome was committed.
    """
    if x.state != states.SUCCESS or _tracing.isEnabledFor(logging.INFO):
        return False
    if x.site.events is not None and x.site.events.wants(x):
        return False
    if signals.task_success.receivers or signals.task_postrun.receivers:
        return False
    return all(getattr(x.task, name).__dict__.get("does_nothing") for name in ("on_success", "after_return"))


def outcome(x: Execution) -> None:
    """Call the handlers, send the signals and log the line that belong to the outcome."""
    _BY_STATE.get(x.state or "", _other)(x)


def _success(x: Execution) -> None:
    call_handler(x, x.task.on_success, x.retval, x.id, x.args, x.kwargs)
    signals.task_success.send(sender=x.task, result=x.retval, runtime=x.runtime)
    if not _tracing.isEnabledFor(logging.INFO):
        return  # Costs nothing when it is off.
    data = {
        "id": x.id,
        "name": x.shown_name,
        "return_value": saferepr(x.retval, x.task.resultrepr_maxsize),
        "runtime": x.runtime,
        "args": x.shown_args,
        "kwargs": x.shown_kwargs,
    }
    _tracing.info(LOG_SUCCESS, data, extra={"data": data})


def _failure(x: Execution) -> None:
    if x.task is None:
        _unregistered(x)
    elif x.unread:
        _unreadable(x)
    else:
        call_handler(x, x.task.on_failure, x.retval, x.id, x.args, x.kwargs, x.einfo)
        _send_failure(x)
        expected = x.task.throws and isinstance(x.retval, x.task.throws)
        _log_exception(x, _EXPECTED if expected else _UNEXPECTED)


def _unregistered(x: Execution) -> None:
    _consuming.error(
        "Received unregistered task of type %r.\n"
        "It is kept as a FAILURE (NotRegistered) under its id %s. Import the module that defines it where "
        "the app is made (include, imports, autodiscover_tasks), then send the task again.",
        x.name,
        x.id,
        extra={"action": "unregistered"},
    )
    signals.task_unknown.send(
        sender=x.site, message=x.delivery and x.delivery.message, exc=x.retval, name=x.name, id=x.id
    )


def _unreadable(x: Execution) -> None:
    _consuming.error(
        "Received a message that cannot be read: %r. Task %s[%s] is kept as a FAILURE.",
        x.retval,
        x.name,
        x.id,
        extra={"action": "unreadable"},
    )
    signals.task_rejected.send(sender=x.site, message=x.delivery and x.delivery.message, exc=x.retval)


def _retry(x: Execution) -> None:
    reason = x.retval
    call_handler(x, x.task.on_retry, reason.exc, x.id, x.args, x.kwargs, x.einfo)
    signals.task_retry.send(sender=x.task, request=x.request, reason=reason, einfo=x.einfo)
    data = {"id": x.id, "name": x.shown_name, "exc": str(reason)}
    _tracing.info(LOG_RETRY, data, extra={"data": data})


def _ignored(x: Execution) -> None:
    _log_exception(x, _IGNORED)


def _rejected(x: Execution) -> None:
    _log_exception(x, _REJECTED)
    if isinstance(x.retval, Reject) and not x.retval.requeue and not x.site.eager:
        _send_failure(x)


def _revoked(x: Execution) -> None:
    exc = x.raised
    terminated = isinstance(exc, Terminated)
    signals.task_revoked.send(
        sender=x.task,
        request=x.request,
        terminated=terminated,
        signum=exc.args[0] if terminated and exc is not None and exc.args else None,
        expired=str(x.retval) == "expired",
    )


def _other(x: Execution) -> None:
    _tracing.debug("Task %s[%s] ended in state %s", x.shown_name, x.id, x.state)


_BY_STATE: dict[str, Callable[[Execution], None]] = {
    states.SUCCESS: _success,
    states.FAILURE: _failure,
    states.RETRY: _retry,
    states.IGNORED: _ignored,
    states.REJECTED: _rejected,
    states.REVOKED: _revoked,
}


def _send_failure(x: Execution) -> None:
    signals.task_failure.send(
        sender=x.task,
        task_id=x.id,
        exception=x.retval,
        args=x.args,
        kwargs=x.kwargs,
        traceback=x.retval.__traceback__,
        einfo=x.einfo,
    )


def _log_exception(x: Execution, policy: _Policy) -> None:
    if x.einfo is not None:
        # As Celery: handlers and signals saw the wrapper, who looks later finds the exception itself.
        x.einfo.exception = x.retval
    data = {
        "hostname": x.site.hostname,
        "id": x.id,
        "name": x.shown_name,
        "exc": saferepr(x.retval),
        "traceback": x.einfo.traceback if x.einfo else None,
        "args": x.shown_args,
        "kwargs": x.shown_kwargs,
        "description": policy.description,
        "internal": bool(x.einfo and x.einfo.internal),
    }
    info = x.einfo.exc_info if policy.traceback and x.einfo else None
    _tracing.log(policy.severity, policy.format, data, exc_info=info, extra={"data": data})


def postrun(x: Execution) -> None:
    """Send the last signal of a call."""
    signals.task_postrun.send(
        sender=x.task,
        task_id=x.id,
        task=x.task,
        args=x.args,
        kwargs=x.kwargs,
        retval=x.retval,
        state=x.state,
    )


def call_handler(x: Execution, handler: Callable[..., Any], *args: Any) -> None:
    """Call a handler of the task's own. What it raises is logged: the outcome is stored already.

    Eager callers see the exception, as in Celery.
    """
    try:
        handler(*args)
    except Exception as exc:
        if x.site.eager:
            raise
        name = getattr(handler, "__name__", repr(handler))
        _tracing.exception("Task %s[%s] %s handler raised: %r", x.shown_name, x.id, name, exc)
