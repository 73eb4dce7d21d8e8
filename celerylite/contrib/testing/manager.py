"""Helpers of integration tests: wait until tasks are sent, started or done, and until nothing runs."""

from __future__ import annotations

import builtins
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any, TextIO

from kombu.exceptions import ContentDisallowed
from kombu.utils.functional import retry_over_time

from celerylite import states
from celerylite.exceptions import TimeoutError
from celerylite.result import ResultSet
from celerylite.utils.text import truncate
from celerylite.utils.time import humanize_seconds as _humanize_seconds

__all__ = ("E_STILL_WAITING", "Manager", "ManagerMixin", "Sentinel", "humanize_seconds")

E_STILL_WAITING = "Still waiting for {0}.  Trying again {when}: {exc!r}"

humanize_seconds = partial(_humanize_seconds, microseconds=True)

# What another process's worker may raise when it is asked and gone.
_CONNECTION_LOST: tuple[type[Exception], ...] = (OSError,)


class Sentinel(Exception):
    """What is waited for did not happen yet."""


class ManagerMixin:
    """The helpers, for a class that has an `app`."""

    app: Any

    def _init_manager(
        self,
        block_timeout: float = 30 * 60.0,
        no_join: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.stdout = sys.stdout if stdout is None else stdout
        self.stderr = sys.stderr if stderr is None else stderr
        self.connerrors = _CONNECTION_LOST
        self.block_timeout = block_timeout
        self.no_join = no_join

    def remark(self, s: str, sep: str = "-") -> None:
        """Say something about the progress of the test."""
        self.stdout.write(f"{sep}{s}\n")

    def warn(self, s: str) -> None:
        self.stderr.write(f"{s}\n")

    def missing_results(self, r: Iterable[Any]) -> Sequence[str]:
        """The ids whose results were not seen yet."""
        return [result.id for result in r if result.id not in result.backend._cache]

    def wait_for(
        self,
        fun: Callable[..., Any],
        catch: Any,
        desc: str = "thing",
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        errback: Callable[..., Any] | None = None,
        max_retries: int = 10,
        interval_start: float = 0.1,
        interval_step: float = 0.5,
        interval_max: float = 5.0,
        emit_warning: bool = False,
        **options: Any,
    ) -> Any:
        """Call `fun` until it no longer raises `catch`, which it does while the event is still to come.

        Intervals are in seconds. The last exception is raised after `max_retries`.
        """

        def on_error(exc: Exception, intervals: Iterator[float], retries: int) -> float:
            interval = next(intervals)
            if emit_warning:
                when = humanize_seconds(interval, "in", " ")
                self.warn(E_STILL_WAITING.format(desc, when=when, exc=exc))
            if errback is not None:
                errback(exc, interval, retries)
            return interval

        return self.retry_over_time(
            fun,
            catch,
            args=list(args),
            kwargs=kwargs or {},
            errback=on_error,
            max_retries=max_retries,
            interval_start=interval_start,
            interval_step=interval_step,
            **options,
        )

    def ensure_not_for_a_while(
        self,
        fun: Callable[..., Any],
        catch: Any,
        desc: str = "thing",
        max_retries: int = 20,
        interval_start: float = 0.1,
        interval_step: float = 0.02,
        interval_max: float = 1.0,
        emit_warning: bool = False,
        **options: Any,
    ) -> None:
        """Fail if `fun` stops raising `catch` within the retries."""
        try:
            self.wait_for(
                fun,
                catch,
                desc=desc,
                max_retries=max_retries,
                interval_start=interval_start,
                interval_step=interval_step,
                interval_max=interval_max,
                emit_warning=emit_warning,
            )
        except catch:
            return
        raise AssertionError(f"Should not have happened: {desc}")

    def retry_over_time(self, *args: Any, **kwargs: Any) -> Any:
        return retry_over_time(*args, **kwargs)

    def join(self, r: Any, propagate: bool = False, max_retries: int = 10, **kwargs: Any) -> Any:
        """The value of a result or result set; keeps waiting, with remarks, through timeouts."""
        if self.no_join:
            return None
        results = r if isinstance(r, ResultSet) else self.app.ResultSet([r])
        received: list[str] = []
        for _ in range(max_retries) if max_retries else count():
            received.clear()
            try:
                return results.get(
                    callback=lambda task_id, value: received.append(task_id), propagate=propagate, **kwargs
                )
            except (builtins.TimeoutError, TimeoutError) as exc:
                missing = truncate(", ".join(self.missing_results(results)))
                done = len(results) - len(received)
                self.remark(f"Still waiting for {done}/{len(results)}: [{missing}]: {exc!r}", "!")
            except self.connerrors as exc:
                self.remark(f"join: connection lost: {exc!r}", "!")
        raise AssertionError("Test failed: Missing task results")

    # What the workers say about tasks.

    def inspect(self, timeout: float = 3.0) -> Any:
        return self.app.control.inspect(timeout=timeout)

    def query_tasks(self, ids: Iterable[str], timeout: float = 0.5) -> Iterator[tuple[str, Any]]:
        yield from (self.inspect(timeout).query_task(*ids) or {}).items()

    def query_task_states(self, ids: Iterable[str], timeout: float = 0.5) -> dict[str, set[str]]:
        """The ids by the word that the workers have for their state."""
        found: dict[str, set[str]] = defaultdict(set)
        for _hostname, reply in self.query_tasks(ids, timeout=timeout):
            for task_id, (state, _info) in reply.items():
                found[state].add(task_id)
        return found

    def assert_accepted(
        self,
        ids: Iterable[str],
        interval: float = 0.5,
        desc: str = "waiting for tasks to be accepted",
        **policy: Any,
    ) -> Any:
        return self.assert_task_worker_state(self.is_accepted, ids, interval=interval, desc=desc, **policy)

    def assert_received(
        self,
        ids: Iterable[str],
        interval: float = 0.5,
        desc: str = "waiting for tasks to be received",
        **policy: Any,
    ) -> Any:
        return self.assert_task_worker_state(self.is_received, ids, interval=interval, desc=desc, **policy)

    def assert_result_tasks_in_progress_or_completed(
        self,
        async_results: Iterable[Any],
        interval: float = 0.5,
        desc: str = "waiting for tasks to be started or completed",
        **policy: Any,
    ) -> Any:
        return self.assert_task_state_from_result(
            self.is_result_task_in_progress, async_results, interval=interval, desc=desc, **policy
        )

    def assert_task_state_from_result(
        self, fun: Callable[..., Any], results: Iterable[Any], interval: float = 0.5, **policy: Any
    ) -> Any:
        return self.wait_for(
            partial(self.true_or_raise, fun, results, timeout=interval), (Sentinel,), **policy
        )

    def assert_task_worker_state(
        self, fun: Callable[..., Any], ids: Iterable[str], interval: float = 0.5, **policy: Any
    ) -> Any:
        return self.wait_for(partial(self.true_or_raise, fun, ids, timeout=interval), (Sentinel,), **policy)

    @staticmethod
    def is_result_task_in_progress(results: Iterable[Any], **kwargs: Any) -> bool:
        return all(result.state in (states.STARTED, states.SUCCESS) for result in results)

    def is_received(self, ids: Iterable[str], **kwargs: Any) -> bool:
        return self._ids_matches_state(["reserved", "active", "ready"], ids, **kwargs)

    def is_accepted(self, ids: Iterable[str], **kwargs: Any) -> bool:
        return self._ids_matches_state(["active", "ready"], ids, **kwargs)

    def _ids_matches_state(
        self, expected_states: Iterable[str], ids: Iterable[str], timeout: float = 0.5
    ) -> bool:
        wanted = set(ids)
        found = self.query_task_states(wanted, timeout=timeout)
        return wanted <= set().union(*(found[state] for state in expected_states))

    def true_or_raise(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `fun` gives, or Sentinel raised when that is false."""
        value = fun(*args, **kwargs)
        if not value:
            raise Sentinel
        return value

    def wait_until_idle(self) -> None:
        """Delete what waits and return when no worker runs anything, or holds anything to run next."""
        while self.app.control.purge():
            pass
        inspect = self.app.control.inspect()
        while self._is_anything_active(inspect):
            pass

    @staticmethod
    def _is_anything_active(inspect: Any) -> bool:
        try:
            # In this order: what goes from the one to the other meanwhile is seen.
            return any(any((ask() or {}).values()) for ask in (inspect.reserved, inspect.active))
        except ContentDisallowed:
            return False


class Manager(ManagerMixin):
    """The helpers for one app."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        self.app = app
        self._init_manager(**kwargs)
