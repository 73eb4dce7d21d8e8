"""The asking end of remote control: puts commands into the database's mailbox and collects the replies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from kombu import pidbox
from kombu.utils.json import dumps, loads

from celerylite import _clock, states
from celerylite._call_keys import UNIQUE
from celerylite._message import from_text
from celerylite._store.processes import is_gone
from celerylite.app._engine import runtime_of_process
from celerylite.backends.database import DatabaseBackend
from celerylite.exceptions import AlreadyQueued, TaskRevokedError
from celerylite.utils import uuid
from celerylite.utils.functional import maybe_list
from celerylite.utils.log import get_logger
from celerylite.worker._mailbox import CONTROL_TOPIC, PAUSES_TOPIC, STAMPS_TOPIC, Call, reply_topic

if TYPE_CHECKING:
    from celerylite._store import WorkerRow
    from celerylite.app.base import Celery

__all__ = ("Mailbox", "Replies", "paused_queues", "send_again", "tell_of_pause")

logger = get_logger(__name__)

#: Seconds for which a command waits in the mailbox, on top of its timeout: clocks of hosts differ.
_COMMAND_LASTS = 30.0
#: Seconds for which revoked ids and stamps are remembered.
_REVOKE_LASTS = 7 * 24 * 3600.0
#: Seconds for which a pause lasts when nobody ends it: ten years.
_PAUSE_LASTS = 10 * 365 * 24 * 3600.0

#: Replies come in real time, whatever clock a test has put in place.
_real = _clock.Clock()

Callback = Callable[[Any], Any]


class Replies(list[dict[str, Any]]):
    """The replies to a broadcast, one mapping per process."""

    #: Node names of processes that are alive, were meant, and did not answer in time.
    silent: tuple[str, ...] = ()


class Mailbox(pidbox.Mailbox):
    """kombu's mailbox by its names and options, whose letters are rows of the app's database."""

    app: Any = None

    def _broadcast(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        destination: Any = None,
        reply: bool = False,
        timeout: float | None = 1,
        limit: int | None = None,
        callback: Callback | None = None,
        channel: Any = None,
        serializer: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> Replies | None:
        """See `Control.broadcast`."""
        arguments = dict(arguments or {})
        call = Call(
            method=command,
            arguments=arguments,
            destination=_names(destination),
            pattern=pattern,
            matcher=matcher,
            ticket=uuid() if reply else None,
        )
        _make_durable(self.app, call)
        return _Broadcast(self.app, call, limit, callback).run(timeout)


def _names(destination: Any) -> list[str] | None:
    if destination is None:
        return None
    return [str(name) for name in maybe_list(destination) or []]


def _make_durable(app: Celery, call: Call) -> None:
    """Write down what has to hold for processes that start later, too."""
    arguments, until = call.arguments, _clock.time() + _REVOKE_LASTS
    if call.method in ("revoke", "terminate"):
        _revoke(app, [str(one) for one in maybe_list(arguments.get("task_id")) or []], until)
    elif call.method == "revoke_by_stamped_headers":
        headers = arguments["headers"]
        if isinstance(headers, list | tuple):
            headers = dict(header.split("=")[:2] for header in headers)
        stamps = {header: list(maybe_list(values) or []) for header, values in headers.items()}
        app.store.post(STAMPS_TOPIC, dumps(stamps), until=until)
    elif call.method == "add_consumer" and not call.destination and arguments["queue"] in paused_queues(app):
        tell_of_pause(app, arguments["queue"], paused=False)


def _revoke(app: Celery, ids: list[str], until: float) -> None:
    """Remember the ids as revoked; what of them has not begun is REVOKED from now on, known or not."""
    backend, revoked = app.backend, TaskRevokedError("revoked")
    if isinstance(backend, DatabaseBackend):
        rows = [backend.result_row(each, revoked, states.REVOKED) for each in ids]
        app.store.revoke(ids, until=until, results=rows)
        return
    app.store.revoke(ids, until=until)
    for each in ids:
        try:
            if backend.get_state(each) in states.UNREADY_STATES - {states.STARTED}:
                backend.mark_as_revoked(each, reason="revoked")
        except Exception as exc:
            # It is revoked all the same; whoever takes the call stores it again.
            logger.warning("Failed to mark task %s as revoked in backend: %s", each, exc)


def tell_of_pause(app: Celery, queue: str, *, paused: bool) -> None:
    """Tell every process, those to come included, whether to take from a queue."""
    payload = dumps({"queue": queue, "paused": paused})
    app.store.post(PAUSES_TOPIC, payload, until=_clock.time() + _PAUSE_LASTS)
    if app._runtime is not None:
        # Told at once, so that nothing starts here while the news travels.
        (app._runtime.pause if paused else app._runtime.resume)(queue)


def paused_queues(app: Celery) -> set[str]:
    """The queues that are paused for all processes."""
    said = [loads(letter.payload) for letter in app.store.letters({PAUSES_TOPIC})]
    last = {one["queue"]: bool(one["paused"]) for one in said}
    return {queue for queue, paused in last.items() if paused}


def send_again(app: Any, task_id: str, timeout: float | None) -> None:
    """See `Control.retry_task`."""
    if app.store.is_outstanding(task_id):
        raise ValueError(f"expected a call that has ended, got {task_id!r}, which still waits or runs")
    kept = [run.message for run in app.store.runs(task_id) if run.message is not None]
    if not kept:
        raise LookupError(
            f"expected the id of a call whose run is in the history (celerylite_history), got {task_id!r}"
        )
    message = from_text(kept[-1])
    message.headers.update(retries=0, eta=None, expires=None)
    key = message.headers.get(UNIQUE)
    if key is not None:
        # A call with the same key must not be taken for this one; nor is it a duplicate for ever.
        again = {name: value for name, value in key.items() if name != "holder"}
        message.headers[UNIQUE] = {**again, "raise": True}
    # A revoke is over when its time is; processes that remember it are told.
    app.store.revoke([task_id], until=_clock.time() - 1.0)
    app.control.broadcast("retry_task", {"task_id": task_id}, reply=True, timeout=timeout)
    # A SUCCESS is never overwritten: it has to go. What it was is in the history.
    kept_result = app.store.get_result(task_id)
    app.store.forget(task_id)
    try:
        app._publish(message)
    except AlreadyQueued:
        if kept_result is not None:
            app.store.save_result(kept_result)
        raise


class _Broadcast:
    """One command on its way, and the replies that come back."""

    def __init__(self, app: Any, call: Call, limit: int | None, callback: Callback | None) -> None:
        self._app = app
        self._store = app.store
        self._callback = callback
        # What is told to nobody in particular may come after the next call; in this process it must not.
        own = runtime_of_process(app)
        self._own = own if own is not None and call.reaches(own.hostname) else None
        self._call = call if self._own is None else _answered_by(call, self._own.owner)
        if limit is None and call.destination:
            limit = len(call.destination)
        self._limit = limit
        self._replies = Replies()
        self._read: set[int] = set()

    def run(self, timeout: float | None) -> Replies | None:
        """Send it; None when nobody asked for replies."""
        others = self._others()
        if self._call.ticket is None:
            self._post(others, timeout)
            if self._own is not None:
                self._own.listener.answer(self._call)
            return None
        rung = threading.Event()
        end = self._store.on_letters(rung.set)
        try:
            self._post(others, timeout)
            if self._own is not None:
                # In this process: no detour.
                self._take(self._own.hostname, self._own.listener.answer(self._call))
            self._collect(others, rung, timeout)
        finally:
            end()
        return self._replies

    def _others(self) -> dict[str, WorkerRow]:
        """The live processes that are meant, but this one."""
        own = self._own.owner if self._own is not None else None
        return {
            each.owner: each
            for each in self._store.workers()
            if each.owner != own and self._is_meant(each) and not is_gone(each)
        }

    def _is_meant(self, worker: WorkerRow) -> bool:
        # As Celery: a beat leaves what it does not know to the workers, and is not waited for.
        knows_it = self._call.method == "ping" or not worker.is_beat
        return knows_it and self._call.reaches(worker.hostname)

    def _post(self, others: dict[str, WorkerRow], timeout: float | None) -> None:
        if others:
            until = _clock.time() + (timeout or 0.0) + _COMMAND_LASTS
            self._store.post(CONTROL_TOPIC, self._call.letter(), until=until)

    def _take(self, hostname: str, reply: Any) -> None:
        body = {hostname: reply}
        self._replies.append(body)
        if self._callback is not None:
            self._callback(body)

    def _is_complete(self, missing: Iterable[str]) -> bool:
        return not missing or (self._limit is not None and len(self._replies) >= self._limit)

    def _collect(self, missing: dict[str, WorkerRow], rung: threading.Event, timeout: float | None) -> None:
        end = None if timeout is None else _real.monotonic() + timeout
        while not self._is_complete(missing):
            left = None if end is None else end - _real.monotonic()
            if left is not None and left <= 0:
                break
            rung.wait(left)
            rung.clear()
            self._read_replies(missing)
        if not self._is_complete(missing):
            self._name_silent(missing)

    def _read_replies(self, missing: dict[str, WorkerRow]) -> None:
        for letter in self._store.letters({reply_topic(self._call.ticket or "")}):
            said = loads(letter.payload)
            if letter.row in self._read or self._is_complete(missing):
                continue
            self._read.add(letter.row)
            missing.pop(said["owner"], None)
            for hostname, reply in said["reply"].items():
                self._take(hostname, reply)

    def _name_silent(self, missing: dict[str, WorkerRow]) -> None:
        # One that has left or died since is not silent, it is not there.
        alive = {each.owner for each in self._store.workers() if not is_gone(each)}
        self._replies.silent = tuple(sorted(row.hostname for owner, row in missing.items() if owner in alive))
        if self._replies.silent:
            logger.warning(
                "no reply to %r in time from %s", self._call.method, ", ".join(self._replies.silent)
            )


def _answered_by(call: Call, owner: str) -> Call:
    return Call(
        method=call.method,
        arguments=call.arguments,
        destination=call.destination,
        pattern=call.pattern,
        matcher=call.matcher,
        ticket=call.ticket,
        answered_by=owner,
    )
