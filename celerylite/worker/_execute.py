"""One execution, step by step: resolve, announce, admit, begin, perform, judge, settle, tell, end.

Each step takes the `Execution` record and decides one thing. A step that decides the outcome early sets
its state; later steps let it pass to `settle`. Workers and eager mode run the same steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kombu.exceptions import ContentDisallowed, DecodeError, EncodeError, OperationalError

from celerylite import _clock, _state, _workflow, signals, states
from celerylite._call_keys import UNIQUE
from celerylite._einfo import ExceptionInfo
from celerylite._message import decode_body
from celerylite._outbox import Outbox
from celerylite._request import DELIVERY_OF_EXECUTION, Context
from celerylite._store import ClaimLost
from celerylite.exceptions import (
    Ignore,
    InvalidTaskError,
    NotRegistered,
    Reject,
    Retry,
    TaskRevokedError,
    Terminated,
    WorkerLostError,
)
from celerylite.result import EagerResult
from celerylite.utils.functional import maybe_list
from celerylite.utils.log import get_logger
from celerylite.utils.nodenames import gethostname
from celerylite.utils.serialization import get_pickleable_etype, get_pickleable_exception
from celerylite.worker import _coroutines, _report
from celerylite.worker._execution import Execution
from celerylite.worker.request import Request

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = (
    "EagerCall",
    "admit",
    "after_return",
    "announce",
    "begin",
    "bind_outbox",
    "body_of",
    "conclude",
    "end",
    "judge",
    "perform",
    "prepare",
    "receive",
    "resolve",
    "run",
    "run_eagerly",
    "sent_with_outcome",
    "settle",
    "tell",
)

logger = get_logger("celery.app.trace")

#: States in which a task is not over, or is over without an outcome.
_NO_RETURN = frozenset({states.IGNORED, states.RETRY, states.REJECTED})

#: The execution whose task is being performed in this context keeps its outbox here.
_OUTBOX_OF_EXECUTION = "_celerylite_outbox"


def run(x: Execution) -> None:
    """Run a call in this thread from the first step to the last. Blocks until it is settled."""
    prepare(x)
    if x.entered:
        perform(x)
    conclude(x)


def prepare(x: Execution) -> None:
    """The steps up to the call."""
    receive(x)
    begin(x)


def receive(x: Execution) -> None:
    """The steps before the task is entered: afterwards it is known whether it may run."""
    resolve(x)
    announce(x)
    admit(x)


def conclude(x: Execution) -> None:
    """The steps after the call. Raises what the task raised where the site propagates."""
    if _is_raised_through(x):
        end(x)
        raise x.raised or WorkerLostError()
    try:
        if x.abandoned:
            # Not even judged: that would call errbacks a second time.
            raise ClaimLost(x.id, x.site.hostname)
        judge(x)
        if _report.tells_nobody(x):
            x.site.settle_later(x)
        else:
            settle(x)
            tell(x)
    except ClaimLost:
        _report.outcome_discarded(x)
    finally:
        end(x)


def _is_raised_through(x: Execution) -> bool:
    # As Celery: with task_eager_propagates an exception leaves at once, without failure handlers.
    return x.site.propagates and x.raised is not None and not isinstance(x.raised, Ignore | Reject)


# -- the steps ---------------------------------------------------------------------------------------


def resolve(x: Execution) -> None:
    """Find the task and read the arguments; what nobody can run fails here, visibly."""
    if x.delivery is None:
        return  # Eager: the caller had both in hand.
    message = x.delivery.message
    x.task = x.app._tasks.get(x.name)
    try:
        body = decode_body(message, x.app.amqp.accept_content)
    except (ContentDisallowed, DecodeError, InvalidTaskError) as exc:
        _fail_unread(x, exc)
        return
    x.args, x.kwargs = body.args, body.kwargs
    x.request.update(body.embed, args=body.args, kwargs=body.kwargs)
    if x.task is None:
        _fail_unread(x, NotRegistered(x.name))
    elif x.task.__trace__ is None:
        x.app.prepare_task(x.task)


def _fail_unread(x: Execution, exc: Exception) -> None:
    x.state, x.retval, x.unread = states.FAILURE, exc, True
    x.einfo = ExceptionInfo((type(exc), exc, exc.__traceback__))
    backend = x.app.backend
    with x.outbox:
        failed = _workflow.follow_failure(x.app, x.request, exc, None)
    x.results.append(backend.result_row(x.id, exc, states.FAILURE, traceback=None, request=x.request))
    _take_along(x, failed)


def announce(x: Execution) -> None:
    """Say that the call has arrived."""
    if x.state is None and not x.site.eager:
        _report.received(x)
        if x.site.events is not None:
            x.site.events.received(x)


def admit(x: Execution) -> None:
    """Turn away what was revoked or has expired while it waited."""
    if x.state is not None or x.site.eager or x.delivery is None:
        return  # Decided already, or called here and now.
    key = x.delivery.message.headers.get(UNIQUE)
    if key is not None and "holder" in key:
        # Somebody waits for this one, so that it could not simply be left out.
        _report.turned_away(x)
        _revoke(x, f"duplicate of {key['holder']}")
        return
    expires_at = x.delivery.message.expires_at
    expired = expires_at is not None and _clock.time() > expires_at
    if expired or x.site.is_revoked(x):
        _report.turned_away(x)
        _revoke(x, "expired" if expired else "revoked")
        return
    if signals.task_received.receivers:
        signals.task_received.send(sender=x.site, request=Request(x))


def _revoke(x: Execution, reason: str) -> None:
    exc = TaskRevokedError(reason)
    x.state, x.retval = states.REVOKED, exc
    if x.stores_error:
        x.results.append(_row(x, exc, states.REVOKED))
    _settle_chord_part(x, states.REVOKED, exc)


def begin(x: Execution) -> None:
    """Enter the task: request on the stack, signals and handlers before it, STARTED where it is tracked."""
    if x.state is not None:
        return  # It will not run.
    x.entered = True
    x.started_at, x.began = _clock.time(), _clock.monotonic()
    _state._task_stack.push(x.task)
    x.task.request_stack.push(x.request)
    if x.site.events is not None:
        x.site.events.started(x)
    try:
        signals.task_prerun.send(sender=x.task, task_id=x.id, task=x.task, args=x.args, kwargs=x.kwargs)
        x.app.loader.on_task_init(x.id, x.task)
        if x.task.track_started and x.stores_result and not x.site.eager:
            _store_started(x)
        x.task.before_start(x.id, x.args, x.kwargs)
    except BaseException as exc:
        x.raised = exc


def _store_started(x: Execution) -> None:
    meta = {"pid": os.getpid(), "hostname": x.site.hostname}
    try:
        x.task.backend.store_result(x.id, meta, states.STARTED, request=x.request)
    except OperationalError as exc:
        # Nothing depends on it; the outcome waits until the database is back.
        logger.warning("Task %s[%s]: could not store that it has started: %r", x.shown_name, x.id, exc)


def perform(x: Execution) -> None:
    """Call the task, in this thread. A plain function; a coroutine runs to its end in a loop."""
    if x.raised is not None:
        return  # A handler before the task failed it.
    try:
        x.retval = _coroutines.finished(body_of(x)(*x.args, **x.kwargs))
    except BaseException as exc:
        x.raised = exc


def body_of(x: Execution) -> Callable[..., Any]:
    """What is called: the task itself where a subclass overrides ``__call__``, else its ``run``."""
    # The base class marks its own `__call__`: anything else was written, or patched in, to be called.
    plain = getattr(type(x.task).__call__, "runs_the_body", False)
    call: Callable[..., Any] = x.task.run if plain else x.task
    return call


def judge(x: Execution) -> None:
    """Decide the outcome, and what follows from it; nothing leaves yet."""
    if x.state is not None:
        return  # Decided before the call.
    x.runtime = _clock.monotonic() - x.began
    exc = x.raised
    if exc is None:
        _judge_success(x)
    elif isinstance(exc, Reject):
        _judge_reject(x, exc)
    elif isinstance(exc, Ignore):
        x.state, x.retval, x.einfo = states.IGNORED, exc, _einfo_of(exc, internal=True)
    elif isinstance(exc, Retry):
        _judge_retry(x, exc)
    elif isinstance(exc, Terminated):
        _revoke(x, "terminated")
    elif isinstance(exc, Exception):
        _judge_failure(x, exc)
    else:
        # SystemExit and the like: as with a child process of Celery's that ends in a task.
        _judge_failure(x, WorkerLostError(repr(exc)))


def _judge_success(x: Execution) -> None:
    sent_before = len(x.outbox.messages)
    try:
        with _publishing(x):
            _workflow.follow_success(x.app, x.request, x.retval)
        if x.stores_result:
            x.results.append(_row(x, x.retval, states.SUCCESS))
        _settle_chord_part(x, states.SUCCESS, x.retval)
    except (EncodeError, OperationalError) as exc:
        del x.outbox.messages[sent_before:]
        _judge_failure(x, exc)
    else:
        x.state = states.SUCCESS


def _judge_retry(x: Execution, exc: Retry) -> None:
    x.state, x.retval, x.einfo = states.RETRY, exc, _einfo_of(exc)
    if x.stores_error:
        x.results.append(_row(x, exc.exc, states.RETRY, x.einfo.traceback))


def _judge_reject(x: Execution, exc: Reject) -> None:
    x.state, x.retval, x.einfo = states.REJECTED, exc, _einfo_of(exc, internal=True)
    if exc.requeue:
        x.requeue_at = _clock.time()
    elif x.stores_error and not x.site.eager:
        # As Celery since 5.7: a call that will never run again is not left PENDING.
        x.results.append(_row(x, exc, states.FAILURE, x.einfo.traceback))


def _judge_failure(x: Execution, exc: Exception) -> None:
    x.state = states.FAILURE
    safe = get_pickleable_exception(exc)
    if safe.__traceback__ is None:
        safe.__traceback__ = exc.__traceback__
    x.retval = safe
    x.einfo = ExceptionInfo((get_pickleable_etype(type(exc)), safe, safe.__traceback__))
    # As Celery: handlers of a failure find the exception itself here, those of a retry find it wrapped.
    x.einfo.exception = safe
    if x.stores_error and not x.site.eager and _workflow.calls_errbacks_here(x.app, x.request):
        _store_early(x)
    with _publishing(x):
        failed = _workflow.follow_failure(
            x.app, x.request, safe, x.einfo.traceback, store_result=x.stores_error
        )
    if x.stores_error:
        x.results.append(_row(x, safe, states.FAILURE, x.einfo.traceback))
    _settle_chord_part(x, states.FAILURE, safe)
    _take_along(x, failed)


def _store_early(x: Execution) -> None:
    """Store a failure before it is settled.

    As Celery: an errback that is called right here finds the failure stored, and so does whoever it tells.
    """
    # While the database is away it is stored by `settle`, which waits.
    with suppress(OperationalError):
        x.task.backend.save_row(_row(x, x.retval, states.FAILURE, x.einfo.traceback if x.einfo else None))


def settle(x: Execution) -> None:
    """Make the outcome, and everything that follows from it, durable in one transaction."""
    x.site.settle(x)


def tell(x: Execution) -> None:
    """Tell handlers, signals and the log what became of the call. The outcome cannot change any more."""
    _report.outcome(x)
    if x.site.events is not None:
        x.site.events.ended(x)


def end(x: Execution) -> None:
    """Leave the task: last handlers and signals, request off the stack."""
    if not x.entered:
        return
    try:
        if not x.abandoned:
            after_return(x)
    finally:
        _report.postrun(x)
        _state._task_stack.pop()
        x.task.request_stack.pop()
        if not x.site.eager:
            _clean_up_process(x)


def after_return(x: Execution) -> None:
    """Call the task's last handler, for outcomes that are final."""
    if x.state is not None and x.state not in _NO_RETURN:
        _report.call_handler(x, x.task.after_return, x.state, x.retval, x.id, x.args, x.kwargs, None)


def _clean_up_process(x: Execution) -> None:
    try:
        x.task.backend.process_cleanup()
        x.app.loader.on_process_cleanup()
    except Exception as exc:
        logger.exception("Process cleanup failed: %r", exc)


# -- what steps share --------------------------------------------------------------------------------


def _row(x: Execution, value: Any, state: str, traceback: str | None = None) -> Any:
    return x.task.backend.result_row(x.id, value, state, traceback=traceback, request=x.request)


def _settle_chord_part(x: Execution, state: str, value: Any) -> None:
    part = _workflow.chord_part(x.app, x.request, state, value)
    if part is not None:
        x.chord_parts.append(part)


def _take_along(x: Execution, failed: _workflow.Failed) -> None:
    x.results.extend(failed.results)
    x.chord_parts.extend(failed.chord_parts)


def _einfo_of(exc: BaseException, internal: bool = False) -> ExceptionInfo:
    return ExceptionInfo((type(exc), exc, exc.__traceback__), internal=internal)


@contextmanager
def _publishing(x: Execution) -> Iterator[None]:
    if x.site.eager:
        # Nothing is settled: what follows is published (or run) at once.
        yield
        return
    with x.outbox:
        yield


@contextmanager
def sent_with_outcome() -> Iterator[None]:
    """Inside a running task: what is published in this block leaves when the task is settled.

    Outside of a worker's execution it is published at once.
    """
    task = _state.get_current_task()
    outbox: Outbox | None = vars(task.request).get(_OUTBOX_OF_EXECUTION) if task is not None else None
    if outbox is None:
        yield
        return
    with outbox:
        yield


def bind_outbox(x: Execution) -> None:
    """Let `sent_with_outcome` find the outbox of the execution through its request."""
    setattr(x.request, _OUTBOX_OF_EXECUTION, x.outbox)
    # And the backend, whether this run is still the one that counts.
    setattr(x.request, DELIVERY_OF_EXECUTION, x.delivery)


# -- eager mode --------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class EagerCall:
    """A call that its caller runs here and now."""

    app: Celery
    task: Any
    task_id: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    link: Any
    link_error: Any
    retries: int
    throw: bool
    logfile: str | None
    loglevel: int
    headers: dict[str, Any] | None
    options: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class _EagerSite:
    """The caller's own thread: nothing is claimed, and stored only where the task says so."""

    propagates: bool
    hostname: str = field(default_factory=gethostname)
    eager: bool = True
    events: None = None

    def is_revoked(self, x: Execution) -> bool:
        return False

    def settle(self, x: Execution) -> None:
        for row in x.results:
            x.task.backend.save_row(row)

    def settle_later(self, x: Execution) -> None:
        self.settle(x)


def run_eagerly(call: EagerCall) -> Any:
    """Run a call in this thread and return its EagerResult; retries follow on the spot."""
    if call.task.__trace__ is None:
        call.app.prepare_task(call.task)
    x = Execution(
        app=call.app,
        site=_EagerSite(propagates=call.throw),
        id=call.task_id,
        name=call.task.name,
        request=_eager_request(call),
        task=call.task,
        args=call.args,
        kwargs=call.kwargs,
    )
    run(x)
    if isinstance(x.retval, Retry) and x.retval.sig is not None:
        return x.retval.sig.apply(retries=call.retries + 1)
    trace = x.einfo.traceback if x.einfo else None
    return EagerResult(x.id, x.retval, x.state or "", traceback=trace, name=x.name)


def _eager_request(call: EagerCall) -> Context:
    parent = _state.get_current_task()
    parent_request = parent.request if parent else None
    task, options = call.task, call.options
    limits = [task.time_limit, task.soft_time_limit]
    fields: dict[str, Any] = {
        "id": call.task_id,
        "task": task.name,
        "parent_id": parent_request.id if parent_request else None,
        "root_id": (parent_request.root_id if parent_request else None) or call.task_id,
        "retries": call.retries,
        "is_eager": True,
        "called_directly": False,
        "logfile": call.logfile,
        "loglevel": call.loglevel,
        "hostname": gethostname(),
        "callbacks": maybe_list(call.link),
        "errbacks": maybe_list(call.link_error),
        "headers": call.headers,
        "timelimit": None if limits == [None, None] else limits,
        "ignore_result": options.get("ignore_result", task.ignore_result),
        "delivery_info": {
            "is_eager": True,
            "exchange": options.get("exchange"),
            "routing_key": options.get("routing_key"),
            "priority": options.get("priority"),
        },
        "args": call.args,
        "kwargs": call.kwargs,
    }
    if "stamped_headers" in options:
        stamped = fields["stamped_headers"] = maybe_list(options["stamped_headers"]) or []
        fields["stamps"] = {header: maybe_list(options.get(header, [])) for header in stamped}
    return Context(fields)
