"""What becomes of a call when a step of the runtime itself fails: it costs no place and stays visible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celerylite import _clock, states
from celerylite._store import ClaimLost, Delivery
from celerylite.utils.log import get_logger
from celerylite.utils.serialization import get_pickleable_exception
from celerylite.worker import _settlement
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
    if hasattr(row, "save"):
        row.save()  # A backend of the user's own.
        _settlement.commit(runtime, delivery)
    else:
        _settlement.commit(runtime, delivery, results=(row,))
