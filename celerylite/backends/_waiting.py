"""Waiting for results by looking again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

from celerylite import _clock, states
from celerylite.exceptions import ImproperlyConfigured, TimeoutError
from celerylite.result import ResultSet

__all__ = ("SyncBackendMixin",)


class SyncBackendMixin:
    """Waiting by looking again and again."""

    __module__ = "celerylite.backends.base"

    get_many: Callable[..., Any]
    get_task_meta: Callable[..., Any]
    _ensure_not_eager: Callable[[], None]

    def iter_native(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
    ) -> Iterator[Any]:
        """Ids and metas of a set of results, as they become ready."""
        self._ensure_not_eager()
        task_ids: set[str] = set()
        for member in cast("list[Any]", result.results):
            if isinstance(member, ResultSet):
                yield cast("Any", member).id, member.results
            else:
                task_ids.add(member.id)
        if task_ids:
            yield from self.get_many(
                task_ids,
                timeout=timeout,
                interval=interval,
                no_ack=no_ack,
                on_message=on_message,
                on_interval=on_interval,
            )

    def wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
        callback: Any = None,
        propagate: bool = True,
    ) -> Any:
        """Wait until `result` is ready and return its value, or raise its exception. Blocks.

        Raises celerylite's TimeoutError after `timeout` seconds.
        """
        self._ensure_not_eager()
        if on_message is not None:
            raise ImproperlyConfigured("Backend does not support on_message callback")
        meta = self.wait_for(result.id, timeout=timeout, interval=interval, on_interval=on_interval)
        if not meta:
            return None
        result._maybe_set_cache(meta)
        return result.maybe_throw(propagate=propagate, callback=callback)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Any = None,
    ) -> Any:
        """The meta of a task once it is ready. Looks every `interval` seconds. Blocks."""
        self._ensure_not_eager()
        end = None if timeout is None else _clock.monotonic() + timeout
        while True:
            meta = self.get_task_meta(task_id)
            if meta["status"] in states.READY_STATES:
                return meta
            if on_interval:
                on_interval()
            left = interval if end is None else min(interval, end - _clock.monotonic())
            if end is not None and left <= 0:
                raise TimeoutError("The operation timed out.")
            self._pause(task_id, left)

    def _pause(self, task_id: str, seconds: float) -> None:
        """Wait before the next look."""
        threading.Event().wait(seconds)

    def add_pending_result(self, result: Any, weak: bool = False) -> Any:
        """Called when somebody begins to wait."""
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """Called when nobody waits any more."""
        return result

    @property
    def is_async(self) -> bool:
        """Whether results are pushed; Celery's name."""
        return False
