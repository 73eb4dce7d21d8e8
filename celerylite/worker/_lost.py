"""What becomes of a call whose process died while it ran."""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING

from celerylite import _clock
from celerylite._store import ClaimLost, Delivery
from celerylite.exceptions import Retry, WorkerLostError
from celerylite.utils.log import get_logger
from celerylite.worker import _execute, _report, _settlement

if TYPE_CHECKING:
    from celerylite.worker import Runtime
    from celerylite.worker._execution import Execution

__all__ = ("MAX_DELIVERIES", "conclude_lost", "deliver_again", "retry_or")

logger = get_logger("celery.worker")

#: A call that took its process down this often is not delivered again: it may be what kills it.
MAX_DELIVERIES = 5


def conclude_lost(runtime: Runtime, delivery: Delivery) -> None:
    """Decide, by the delivery contract, about a call that a dead process had started.

    ``acks_late``: delivered again, up to `MAX_DELIVERIES` times. ``retry_on_worker_lost``: retried within
    ``max_retries``. Otherwise FAILURE(WorkerLostError), with everything that follows a failure.
    """
    if delivery.message.name == _settlement.CHORD_BODY:
        deliver_again(runtime, delivery)
        return
    x = runtime.execution(delivery, has_place=False)
    copy_context().run(_conclude, runtime, x, delivery)


def _conclude(runtime: Runtime, x: Execution, delivery: Delivery) -> None:
    try:
        _execute.resolve(x)
        if x.state is None and x.task.acks_late and delivery.deliveries < MAX_DELIVERIES:
            deliver_again(runtime, delivery)
            return
        x.raised = _verdict(x, delivery)
        # When it started is not known any more, and now is not when it did.
        x.began = _clock.monotonic()
        _tell_as_task(x)
    except ClaimLost:
        _report.outcome_discarded(x)
    finally:
        runtime.forget_execution(x)


def deliver_again(runtime: Runtime, delivery: Delivery) -> None:
    """Put a delivery that was ours back into its queue, counted."""
    try:
        _settlement.commit(runtime, delivery, requeue_at=_clock.time())
    except ClaimLost:
        logger.debug("delivery %s was taken over meanwhile", delivery.row)


def _verdict(x: Execution, delivery: Delivery) -> BaseException | None:
    if x.state is not None:
        return None  # It cannot even be read; that is its failure.
    lost = WorkerLostError(f"The process that ran {x.name}[{x.id}] is gone (delivery {delivery.deliveries})")
    return retry_or(x, lost)


def retry_or(x: Execution, lost: WorkerLostError) -> Retry | WorkerLostError:
    """A retry, which leaves with the outcome of `x`, if the task wants one and has any left; else `lost`."""
    retries, most = x.request.retries or 0, x.task.max_retries
    if not x.task.retry_on_worker_lost or (most is not None and retries >= most):
        return lost
    again = x.task.signature_from_request(
        x.request, countdown=x.task.default_retry_delay, retries=retries + 1
    )
    with x.outbox:
        again.apply_async()
    return Retry(exc=lost, when=x.task.default_retry_delay, sig=again)


def _tell_as_task(x: Execution) -> None:
    if x.task is None:
        _settle_and_tell(x)
        return
    # Receivers of task_failure look at the request of the task.
    x.task.request_stack.push(x.request)
    try:
        _settle_and_tell(x)
    finally:
        x.task.request_stack.pop()


def _settle_and_tell(x: Execution) -> None:
    _execute.judge(x)
    _execute.settle(x)
    _execute.tell(x)
