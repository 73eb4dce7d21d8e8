"""What becomes of a call when a step of the runtime itself fails: it costs no place and stays visible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celerylite import _clock, _workflow, signals, states
from celerylite._einfo import ExceptionInfo
from celerylite._message import decode_body
from celerylite._store import ClaimLost, Delivery
from celerylite.utils.log import get_logger
from celerylite.utils.serialization import get_pickleable_exception
from celerylite.worker import _settlement
from celerylite.worker._execution import request_of
from celerylite.worker._lost import MAX_DELIVERIES

if TYPE_CHECKING:
    from celerylite.worker import Runtime

__all__ = ("conclude_defect",)

# As Celery: its logger, severity and words for an error of the machinery around a task.
logger = get_logger("celery.app.trace")

#: Seconds until the body of a chord that could not be sent is tried again.
_TRY_BODY_AGAIN_S = 5.0


def conclude_defect(runtime: Runtime, delivery: Delivery, exc: BaseException) -> None:
    """End `delivery` as a FAILURE with the exception of the step that failed. Raises nothing."""
    message = delivery.message
    logger.critical("Task %s[%s] INTERNAL ERROR: %r", message.name, message.id, exc, exc_info=exc)
    signals.task_internal_error.send(
        sender=runtime.app._tasks.get(message.name),
        task_id=message.id,
        args=(),
        kwargs={},
        request=request_of(delivery, runtime.hostname),
        exception=exc,
        traceback=exc.__traceback__,
        einfo=ExceptionInfo((type(exc), exc, exc.__traceback__)),
    )
    try:
        if message.name == _settlement.CHORD_BODY and delivery.deliveries < MAX_DELIVERIES:
            _settlement.commit(runtime, delivery, requeue_at=_clock.time() + _TRY_BODY_AGAIN_S)
        else:
            _fail(runtime, delivery, exc)
    except ClaimLost:
        logger.debug("Task %s[%s]: its outcome had been stored before the error", message.name, message.id)
    except Exception:
        logger.critical(
            "Task %s[%s] could not even be stored as a FAILURE; the next start finds it lost",
            message.name,
            message.id,
            exc_info=True,
        )


def _fail(runtime: Runtime, delivery: Delivery, exc: BaseException) -> None:
    backend = runtime.app.backend
    safe = get_pickleable_exception(exc) if isinstance(exc, Exception) else RuntimeError(repr(exc))
    row = backend.result_row(delivery.message.id, safe, states.FAILURE, traceback=None, request=None)
    failed = _what_follows(runtime, delivery, safe)
    _settlement.commit(
        runtime, delivery, results=(row, *failed.results), chord_parts=tuple(failed.chord_parts)
    )


def _what_follows(runtime: Runtime, delivery: Delivery, exc: Exception) -> _workflow.Failed:
    """The rest of the chain and the chord fail too: nobody else would ever tell them."""
    failed = _workflow.Failed()
    try:
        body = decode_body(delivery.message, runtime.app.amqp.accept_content)
        request = request_of(delivery, runtime.hostname)
        request.update(body.embed, args=body.args, kwargs=body.kwargs)
        # Errbacks are code of the user's: one of them may be what failed.
        failed.add(_workflow.follow_failure(runtime.app, request, exc, None, call_errbacks=False))
        part = _workflow.chord_part(runtime.app, request, states.FAILURE, exc)
        failed.chord_parts.extend([part] if part is not None else [])
    except Exception:
        logger.warning("what follows %s could not be found out", delivery.message.id, exc_info=True)
    return failed
