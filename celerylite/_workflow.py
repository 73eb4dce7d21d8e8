"""What follows a finished call: callbacks, the next step of its chain, errbacks, and its chord."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError
from kombu.utils.functional import maybe_list
from kombu.utils.json import dumps, loads

from celerylite import states
from celerylite._request import Context
from celerylite._store import ChordPart, ResultRow
from celerylite.canvas import chord, group, maybe_signature
from celerylite.exceptions import ChordError, NotRegistered
from celerylite.result import EagerResult, GroupResult
from celerylite.utils._ids import uuid
from celerylite.utils.functional import arity_greater
from celerylite.utils.log import get_logger

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = (
    "Failed",
    "body_of",
    "chord_part",
    "eager_result",
    "fail_chord_body",
    "follow_failure",
    "follow_success",
    "send_chord_body",
)

logger = get_logger(__name__)

#: Place of a member that has none (added to a chord that was already running): after all others.
_LAST_INDEX = 2**31 - 1


#: Key beside an encoded exception: the errbacks that were called for it.
_TOLD = "errbacks_told"


@dataclass(slots=True, kw_only=True)
class Failed:
    """What fails along with a call. It is stored in the transaction that settles the call."""

    results: list[ResultRow] = field(default_factory=list)
    #: Members of chords among what failed: their chords must not wait for them.
    chord_parts: list[ChordPart] = field(default_factory=list)

    def add(self, other: Failed) -> None:
        """Take in what failed elsewhere."""
        self.results.extend(other.results)
        self.chord_parts.extend(other.chord_parts)


def eager_result(
    id: str, retval: Any, state: str, traceback: str | None, name: str | None
) -> EagerResult[Any]:
    """The result of a call that was run at once."""
    return EagerResult(id, retval, state, traceback=traceback, name=name)


# -- success -----------------------------------------------------------------------------------------


def follow_success(app: Celery, request: Any, retval: Any) -> None:
    """Send the callbacks of the call, and the next step of its chain, with `retval` as argument.

    Publishes by ``apply_async``: into the outbox of the context, if there is one.
    """
    options = {
        "parent_id": request.id,
        "root_id": request.root_id or request.id,
        "priority": _inherited_priority(app, request),
    }
    for callback in _callbacks_to_send(app, request.callbacks or ()):
        callback.apply_async((retval,), **options)
    if request.chain:
        # Last to first: what is next stands at the end.
        *rest, next_step = request.chain
        maybe_signature(next_step, app=app).apply_async((retval,), chain=rest, **options)


def _inherited_priority(app: Celery, request: Any) -> Any:
    if not app.conf.task_inherit_parent_priority:
        return None
    return (request.delivery_info or {}).get("priority")


def _callbacks_to_send(app: Celery, callbacks: Sequence[Any]) -> list[Any]:
    """The callbacks as signatures: groups as they are, and the others, if several, as one group."""
    linked = [maybe_signature(callback, app=app) for callback in callbacks]
    if len(linked) < 2:
        return linked
    singles = [sig for sig in linked if not isinstance(sig, group)]
    groups = [sig for sig in linked if isinstance(sig, group)]
    return [*groups, group(singles, app=app)] if singles else groups


# -- failure -----------------------------------------------------------------------------------------


def follow_failure(
    app: Celery,
    request: Any,
    exc: BaseException,
    traceback: str | None,
    *,
    state: str = states.FAILURE,
    store_result: bool = True,
    call_errbacks: bool = True,
) -> Failed:
    """Call or send the errbacks of the call, and say what fails with it: the rest of its chain.

    The call itself, and its part in a chord, are the caller's to settle. Runs code of the user: an
    errback of more than one argument is called right here, with ``(request, exc, traceback)``.
    """
    failed = _fail_chain(app, request.chain, exc, traceback, state=state, store_result=store_result)
    if call_errbacks and request.errbacks:
        _call_errbacks(app, request, exc, traceback)
    return failed


def _fail_chain(
    app: Celery,
    chain: Iterable[Any] | None,
    exc: BaseException,
    traceback: str | None = None,
    *,
    state: str = states.FAILURE,
    store_result: bool = True,
) -> Failed:
    """Everything in `chain`, bodies of chords and tasks of groups included, fails like the call before it."""
    failed = Failed()
    waiting = deque(chain or ())
    while waiting:
        step = waiting.popleft()
        context = _context_of(step)
        # A body may have failed already, with its own chord; it reports to an outer chord only once.
        reported = context.chord and context.id and _has_failed(app, context.id)
        # A chain has the id of its last step, a group reports to a chord by its tasks.
        kind = step.get("subtask_type")
        if store_result and state in states.PROPAGATE_STATES and context.id and kind != "chain":
            failed.results.append(
                app.backend.result_row(context.id, exc, state, traceback=traceback, request=context)
            )
        if not reported and kind != "group":
            _add_part(failed, chord_part(app, context, state, exc))
        waiting.extend(_steps_inside(step))
    return failed


def _steps_inside(step: Any) -> list[Any]:
    """What would have run in the place of `step`, when it stands for several calls."""
    kind, parts = step.get("subtask_type"), step.get("kwargs") or {}
    if kind == "chord":
        return [parts["body"]] if parts.get("body") is not None else []
    return list(parts.get("tasks") or ()) if kind in ("group", "chain") else []


def _has_failed(app: Celery, task_id: str) -> bool:
    try:
        return app.backend.get_state(task_id) in states.PROPAGATE_STATES
    except OperationalError:
        # Then it may report twice, and is counted once: better than that what follows never learns of it.
        return False


def _context_of(sig: Any) -> Context:
    """The request that the call which `sig` describes would have had."""
    options = sig.get("options") or {}
    context = Context({key: value for key, value in sig.items() if key != "options"})
    context.update(options)
    context.id = options.get("task_id")
    context.group = options.get("group_id")
    return context


def _add_part(failed: Failed, part: ChordPart | None) -> None:
    if part is not None:
        failed.chord_parts.append(part)


def _call_errbacks(app: Celery, request: Any, exc: BaseException, traceback: str | None) -> None:
    by_id = []
    for linked in request.errbacks:
        errback = app.signature(linked)
        if not errback._app:
            errback._app = app
        if not _takes_error(errback):
            by_id.append(errback)
            continue
        try:
            errback(request, exc, traceback)
        except Exception:
            logger.exception("Errback %r raised an exception", errback.name)
    if by_id:
        _send_errbacks(app, request, by_id)


def calls_errbacks_here(app: Celery, request: Any) -> bool:
    """Whether an errback of the call is called in this process, with the error itself."""
    errbacks = [app.signature(linked) for linked in request.errbacks or ()]
    for errback in errbacks:
        errback._app = errback._app or app
    return any(_takes_error(errback) for errback in errbacks)


def _send_errbacks(app: Celery, request: Any, errbacks: list[Any]) -> None:
    """Send errbacks of the old style as tasks, with the id of the failed call as argument."""
    together = group(errbacks, app=app)
    options = {"parent_id": request.id, "root_id": request.root_id or request.id}
    eager = app.conf.task_always_eager or (request.delivery_info or {}).get("is_eager", False)
    send = together.apply if eager else together.apply_async
    send((request.id,), **options)


def _takes_error(errback: Any) -> bool:
    """Whether the errback takes more than the failed id, and so is called with the error itself."""
    try:
        header = getattr(errback.type, "__header__", None)
    except NotRegistered:
        return False  # it is another process's task: only an id can be sent there
    if header is None or isinstance(header, partial):
        return False
    if errback.immutable or not (errback.args or errback.kwargs):
        return bool(arity_greater(header, 1))
    try:
        return bool(arity_greater(partial(header, *errback.args, **errback.kwargs), 1))
    except (TypeError, ValueError):
        return bool(arity_greater(header, 1))


# -- chords ------------------------------------------------------------------------------------------


def chord_part(app: Celery, request: Any, state: str, value: Any) -> ChordPart | None:
    """The part that this finished call plays in its chord; None if it is in none.

    The size is 0 where the header was not known to its end when the call was sent: of a generator only
    the last call knows it. Raises `EncodeError` for a value that cannot be encoded.
    """
    if not request.chord or not request.group or not request.id:
        return None
    backend = app.backend
    encoded = backend.encode(backend.encode_result(value, state))
    index = request.group_index
    return ChordPart(
        group_id=request.chord.get("chord_run") or request.group,
        size=request.chord.get("chord_size") or 0,
        added=request.get("chord_added", 0),
        extra=bool(request.chord.get("chord_extra")),
        index=_LAST_INDEX if index is None else index,
        task_id=request.id,
        state=state,
        result=encoded if isinstance(encoded, bytes) else encoded.encode(),
        body=dumps(request.chord),
    )


def body_of(parts: Sequence[ChordPart]) -> dict[str, Any]:
    """The body of the chord that `parts` belong to, as the dict of its signature."""
    body: dict[str, Any] = loads(parts[0].body)
    return body


def send_chord_body(
    app: Celery,
    group_id: str,
    body: Any,
    parts: Sequence[ChordPart],
    *,
    parent_id: str | None = None,
    root_id: str | None = None,
) -> Failed:
    """Send `body` with the values of `parts`, or fail it if one of them failed.

    `group_id` is the one in `parts`. `parent_id` is the header's task that was done last. Returns what
    fails: nothing if all is well.
    """
    callback = maybe_signature(body, app=app)
    options = {"parent_id": parent_id, "root_id": root_id or callback.options.get("root_id")}
    try:
        values = _values(app, _header_of(group_id), parts)
    except ChordError as exc:
        logger.exception("Chord %r raised: %r", group_id, exc)
        return fail_chord_body(app, callback, exc)
    try:
        callback.apply_async((values,), **options)
    except Exception as exc:
        logger.exception("Chord %r raised: %r", group_id, exc)
        return fail_chord_body(app, callback, _chord_error(f"Callback error: {exc!r}", exc))
    return Failed()


def _header_of(run: str) -> str:
    """The id of the header's group; a chord frozen before counts each of its runs under ``group/run``."""
    return run.rpartition("/")[0] or run


def _values(app: Celery, group_id: str, parts: Sequence[ChordPart]) -> list[Any]:
    """The values of a header in its order, nested where its members are groups; or `ChordError`."""
    values: dict[str, Any] = {}
    for part in parts:
        value = None if part.result is None else app.backend.decode(part.result)
        if part.state in states.PROPAGATE_STATES:
            exc = app.backend.exception_to_python(value)
            error = _chord_error(f"Dependency {part.task_id} raised {exc!r}", exc)
            vars(error)[_TOLD] = value.get(_TOLD, ()) if isinstance(value, dict) else ()
            raise error
        values[part.task_id] = value
    # Only a header whose members are groups themselves was saved; its shape is not in the parts.
    header = app.GroupResult.restore(group_id, backend=app.backend)
    if header is None:
        return list(values.values())
    return list(_shaped(header.results, values))


def _shaped(results: Iterable[Any], values: dict[str, Any]) -> Iterator[Any]:
    for result in results:
        if isinstance(result, GroupResult):
            yield list(_shaped(result.results, values))
        else:
            yield values[result.id]


def _chord_error(message: str, cause: Any) -> ChordError:
    error = ChordError(message)
    if isinstance(cause, Exception):
        error.__cause__ = cause
    return error


def fail_chord_body(app: Celery, callback: Any, exc: BaseException) -> Failed:
    """Fail the body `callback` of a chord with `exc`: its errbacks are called, what follows it fails."""
    if isinstance(callback, group):
        failed = _fail_group_body(app, callback, exc)
    else:
        failed = _fail_single_body(app, callback, exc)
    failed.add(_fail_chain(app, callback.options.get("chain"), exc))
    return failed


def _fail_single_body(app: Celery, callback: Any, exc: BaseException) -> Failed:
    callback.options.setdefault("task_id", uuid())
    told = vars(exc).get(_TOLD, ())
    errbacks = [sig for sig in maybe_list(callback.options.get("link_error")) or [] if sig not in told]
    context = _failed_request(callback, errbacks)
    try:
        _call_errbacks(app, context, exc, None)
    except Exception as errback_exc:
        # As Celery: an errback that cannot be sent takes the place of the error.
        exc = errback_exc
    return _failed_member(app, context, exc)


def _fail_group_body(app: Celery, body: group, exc: BaseException) -> Failed:
    # As Celery: the tasks of a group fail with what went wrong, not with the ChordError about it.
    original = exc.__cause__ if isinstance(exc, ChordError) and exc.__cause__ else exc
    frozen = body.freeze()
    own_errbacks = maybe_list(body.options.get("link_error")) or []
    failed = Failed()
    for task in body.tasks:
        task_id, errbacks, last = _end_of(app, task)
        context = _failed_request(last, _distinct([*errbacks, *own_errbacks]))
        context.id = task_id
        try:
            _call_errbacks(app, context, original, None)
        except Exception as errback_exc:
            logger.exception("Failed to handle chord error for task %s: %r", task_id, errback_exc)
        failed.add(_failed_member(app, context, original))
    failed.results.append(app.backend.result_row(frozen.id, original, states.FAILURE, traceback=None))
    return failed


def _end_of(app: Celery, sig: Any) -> tuple[str | None, list[Any], Any]:
    """Id of the last task that `sig` leads to, the errbacks on the way there, and that task."""
    errbacks: list[Any] = []
    last = maybe_signature(sig, app=app)
    while isinstance(last, chord) and last.body is not None:
        errbacks.extend(maybe_list(last.options.get("link_error")) or [])
        last = maybe_signature(last.body, app=app)
    errbacks.extend(maybe_list(last.options.get("link_error")) or [])
    if isinstance(last, group):
        for task in last.tasks:
            errbacks.extend(_end_of(app, task)[1])
    return last.options.get("task_id"), errbacks, last


def _distinct(items: Iterable[Any]) -> list[Any]:
    seen: list[Any] = []
    for item in items:
        if item not in seen:
            seen.append(item)
    return seen


def _failed_request(sig: Any, errbacks: Any) -> Context:
    """The request of a body that never ran, for its errbacks."""
    context = _context_of(sig)
    context.update(errbacks=maybe_list(errbacks) or [], delivery_info={}, children=[])
    return context


def _failed_member(app: Celery, context: Context, exc: BaseException) -> Failed:
    failed = Failed()
    failed.results.append(
        app.backend.result_row(context.id, exc, states.FAILURE, traceback=None, request=context)
    )
    part = chord_part(app, context, states.FAILURE, exc)
    if part is not None:
        failed.chord_parts.append(_noting_errbacks(app, part, context.errbacks))
    return failed


def _noting_errbacks(app: Celery, part: ChordPart, errbacks: list[Any]) -> ChordPart:
    """`part` with the errbacks that were told of its failure: an outer chord need not tell them again.

    ``chord.link_error`` gives an errback to the chords in the header too, which must not multiply it.
    """
    value = app.backend.decode(part.result)
    if not isinstance(value, dict):
        return part  # a pickled exception: nothing can be noted on it
    encoded = app.backend.encode({**value, _TOLD: [*value.get(_TOLD, ()), *errbacks]})
    return replace(part, result=encoded if isinstance(encoded, bytes) else encoded.encode())
