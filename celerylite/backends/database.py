"""Results in the app's database, in the tables and the encoding of Celery's own database backend."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError
from kombu.utils.encoding import ensure_bytes
from kombu.utils.url import maybe_sanitize_url

from celerylite import _clock, states
from celerylite._request import DELIVERY_OF_EXECUTION
from celerylite._store import ResultRow
from celerylite.backends.base import BaseBackend
from celerylite.exceptions import BackendGetMetaError, TimeoutError
from celerylite.result import result_from_tuple
from celerylite.utils.log import get_logger
from celerylite.utils.time import maybe_timedelta

if TYPE_CHECKING:
    from celerylite._store import Store

__all__ = ("DatabaseBackend",)

logger = get_logger(__name__)

#: Rows deleted in one transaction when results are cleaned up.
_BATCH = 1000
#: Seconds without a look at a result that this process is to commit, should it not do so after all.
_EXPECTED_S = 0.05


class DatabaseBackend(BaseBackend):
    """The backend of every app that names no other. What it writes, Celery's ``db+`` backend reads."""

    thread_safe = True
    #: It has `ready_metas`.
    answers_for_many = True
    subpolling_interval = 0.5
    supports_native_join = True

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(app, expires_type=maybe_timedelta, url=url, **kwargs)

    @property
    def _store(self) -> Store:
        store: Store = self.app.store
        return store

    @property
    def extended_result(self) -> bool:
        """Whether name, arguments, worker and queue are stored too."""
        return bool(self.app.conf.find_value_for_key("extended", "result"))

    def as_uri(self, include_password: bool = False) -> str:
        """The URL of the database."""
        url = self.app._database.url
        return url if include_password else str(maybe_sanitize_url(url))

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Whether the database could not be reached in the time that the store gives it in each attempt."""
        return isinstance(exc, OperationalError)

    # -- writing ---------------------------------------------------------------------------------------

    def result_row(
        self, task_id: Any, value: Any, state: str, *, traceback: str | None = None, request: Any = None
    ) -> ResultRow:
        """A result as a row, to be written with the settlement. Raises kombu's EncodeError."""
        return self._row(task_id, self.encode_result(value, state), state, traceback, request)

    def save_row(self, row: ResultRow) -> None:
        """Write a row now. Blocks."""
        self._store.save_result(row)

    def _row(self, task_id: str, result: Any, state: str, traceback: str | None, request: Any) -> ResultRow:
        fields: dict[str, Any] = {}
        if request is not None and self.extended_result:
            fields = self._extended_columns(request)
        children = self.current_task_children(request)
        return ResultRow(
            task_id=task_id,
            status=state,
            result=ensure_bytes(self.encode(result)),
            traceback=traceback,
            children=ensure_bytes(self.encode(children)) if children else None,
            date_done=_clock.utcnow().replace(tzinfo=None),
            **fields,
        )

    def _extended_columns(self, request: Any) -> dict[str, Any]:
        meta = self._extended_meta(request, encode=True)
        stamped = meta.pop("stamped_headers", None)
        columns = {name: meta[name] for name in ("name", "args", "kwargs", "worker", "retries", "queue")}
        if stamped:
            stamps = {"stamped_headers": stamped, "stamps": {key: meta.get(key) for key in stamped}}
            columns["stamps"] = ensure_bytes(self.encode(stamps))
        return columns

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> None:
        row = self._row(task_id, result, state, traceback, request)
        delivery = getattr(request, DELIVERY_OF_EXECUTION, None)
        if delivery is None or task_id != delivery.message.id:
            self.save_row(row)
        elif not self._store.begin([delivery], [row]):
            # The run was ended by its time limit, or taken over from a process that was taken for dead.
            logger.warning("Task %s: state %s is not stored, its outcome has been decided", task_id, state)

    def _forget(self, task_id: str) -> None:
        self._store.forget(task_id)

    # -- reading ---------------------------------------------------------------------------------------

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        row = self._store.get_result(task_id)
        return self._meta(row or ResultRow(task_id=task_id, status=states.PENDING))

    def _meta(self, row: ResultRow) -> dict[str, Any]:
        meta: dict[str, Any] = {
            "task_id": row.task_id,
            "status": row.status,
            "result": self.decode(row.result),
            "traceback": row.traceback,
            "date_done": row.date_done,
            # An empty list is not stored, as in Celery; here a task that is over has one.
            "children": self.decode(row.children) or ([] if row.status in states.READY_STATES else None),
        }
        if self.extended_result:
            meta.update(
                name=row.name,
                args=self.decode(row.args),
                kwargs=self.decode(row.kwargs),
                worker=row.worker,
                retries=row.retries,
                queue=row.queue,
            )
        stamps = self.decode(row.stamps)
        if stamps:
            meta["stamped_headers"] = stamps["stamped_headers"]
            meta.update(stamps["stamps"])
        return self.meta_from_decoded(meta)

    def ready_metas(self, task_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """What is known of those of the tasks that are done, by one statement for hundreds. May block."""
        self._ensure_not_eager()
        rows: dict[str, ResultRow] = self._ensure_retryable(
            self._store.get_results,
            task_ids,
            fallback_exc=partial(BackendGetMetaError, task_id=None),
            fallback_msg="failed to get meta",
        )
        return {key: self._meta(row) for key, row in rows.items() if row.status in states.READY_STATES}

    def task_result_exists(self, task_id: str) -> bool:
        """Whether a row is stored for a task."""
        return self._store.get_result(task_id) is not None

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Any = None,
    ) -> Any:
        """The meta of a task once it is ready: at once when it is settled in this process. Blocks.

        While this process has still to settle the call, the first look and the first `on_interval` come after
        50 ms: what is stored for its id in another way (by `store_result`, or before) is found then.
        """
        self._ensure_not_eager()
        end = None if timeout is None else _clock.monotonic() + timeout
        with self._store.watch(task_id) as watch:
            if watch.expected:
                # A look now would find nothing, and take the interpreter from the task.
                watch.wait(_EXPECTED_S if timeout is None else min(_EXPECTED_S, timeout))
            while True:
                meta = self.get_task_meta(task_id) if watch.row is None else self._meta(watch.row)
                if meta["status"] in states.READY_STATES:
                    return meta
                if on_interval:
                    on_interval()
                left = None if end is None else end - _clock.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError("The operation timed out.")
                # The interval only paces `on_interval`: a change is told, not looked for.
                pause = (interval or 0.5) if on_interval or left is None else left
                watch.wait(pause if left is None else min(pause, left))

    def get_many(
        self,
        task_ids: Any,
        timeout: float | None = None,
        interval: float | None = 0.5,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
        max_iterations: int | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Ids and metas of results, as they become ready. Looks `max_iterations` times. Blocks."""
        waiting = set(task_ids)
        end = None if timeout is None else _clock.monotonic() + timeout
        looks = 0
        while waiting:
            looks += 1
            for task_id, row in self._store.get_results(waiting).items():
                if row.status in states.READY_STATES:
                    waiting.discard(task_id)
                    meta = self._meta(row)
                    if on_message is not None:
                        on_message(meta)
                    yield task_id, meta
            if max_iterations and looks >= max_iterations:
                return
            if waiting:
                left = None if end is None else end - _clock.monotonic()
                self.wait_for(
                    next(iter(waiting)), timeout=left, interval=interval or 0.5, on_interval=on_interval
                )

    # -- groups ----------------------------------------------------------------------------------------

    def _save_group(self, group_id: str, result: Any) -> Any:
        self._store.save_group(group_id, ensure_bytes(self.encode(self.prepare_value(result))))
        return result

    def _restore_group(self, group_id: str) -> Any:
        row = self._store.get_group(group_id)
        if row is None:
            return None
        value = self.decode(row.result)
        return {
            "taskset_id": group_id,
            "result": None if value is None else result_from_tuple(value, self.app),
            "date_done": row.date_done,
        }

    def _delete_group(self, group_id: str) -> None:
        self._store.delete_group(group_id)

    # -- upkeep ----------------------------------------------------------------------------------------

    def cleanup(self) -> None:
        """Delete expired results and history, in small transactions. Blocks."""
        now = _clock.time()
        expires: timedelta | None = self.expires
        results_before = now - expires.total_seconds() if expires else None
        history = self.app.conf.celerylite_history_expires
        runs_before = now - float(history) if history else None
        while self._store.prune(results_before, runs_before, _BATCH):
            continue

    def __reduce__(self, args: Any = (), kwargs: Any = None) -> Any:
        return super().__reduce__(args, {**(kwargs or {}), "expires": self.expires})
