"""Several results held together, as far as it needs no waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from celerylite import states
from celerylite._ready import Barrier
from celerylite._result_meta import KnownResult, ResultBase
from celerylite._state import current_app

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("Members",)


class Members(ResultBase):
    """The part of `ResultSet` that collects, asks and acts, but never waits."""

    _app: Any = None
    results: Any = None
    _on_full: Any

    # -- changing

    def add(self, result: Any) -> None:
        """Add `result` unless it is in the set."""
        if result in self.results:
            return
        self.results.append(result)
        if "_on_full" in self.__dict__:
            if self._on_full.ready:
                # What waits from now on waits for the new one too.
                self.__dict__.pop("on_ready", None)
                self._on_full = Barrier()
            self._on_full.add(result)
            self._on_full.finalize()

    def remove(self, result: Any) -> None:
        """Remove a result or an id; `KeyError` if it is not there."""
        if isinstance(result, str):
            result = self.app.AsyncResult(result)
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: Any) -> None:
        """Remove a result or an id if it is there."""
        if result in self.results:
            self.remove(result)

    def update(self, results: Iterable[Any]) -> None:
        """Add those of `results` that are not in the set."""
        self.results.extend(result for result in results if result not in self.results)

    def clear(self) -> None:
        self.results[:] = []

    # -- asking

    def successful(self) -> bool:
        """Whether all tasks succeeded."""
        return not self._undone() and all(result.successful() for result in self.results)

    def failed(self) -> bool:
        """Whether any task failed."""
        return any(result.failed() for result in self._all_but(self._undone()))

    def ready(self) -> bool:
        """Whether all tasks are done."""
        return not self._undone() and all(result.ready() for result in self.results)

    def waiting(self) -> bool:
        """Whether any task is not done."""
        return bool(self._undone()) or any(not result.ready() for result in self.results)

    def completed_count(self) -> int:
        """How many tasks succeeded."""
        return sum(1 for result in self._all_but(self._undone()) if result.successful())

    def _undone(self) -> set[str]:
        """Ask for all members at once where the backend can; the ids of those it was asked for in vain.

        The others know their outcome afterwards.
        """
        asked = {result.id: result for result in self.results if _is_worth_asking(result, self.backend)}
        if len(asked) < 2:
            return set()
        for task_id, meta in self.backend.ready_metas(asked).items():
            asked.pop(task_id)._maybe_set_cache(meta)
        return set(asked)

    def _all_but(self, ids: set[str]) -> Iterator[Any]:
        # A set within a set may have no id.
        return (result for result in self.results if getattr(result, "id", None) not in ids)

    def maybe_throw(self, callback: Callable[[str, Any], Any] | None = None, propagate: bool = True) -> None:
        """Raise the exception of the first task that failed."""
        undone = self._undone()
        # As Celery: a callback is told of all, done or not. An exception only those have who are done.
        for result in self.results if callback is not None else self._all_but(undone):
            result.maybe_throw(callback=callback, propagate=propagate)

    maybe_reraise = maybe_throw

    def _iter_meta(self, **kwargs: Any) -> Iterator[Any]:
        ids = {result.id for result in self.results}
        return (meta for _, meta in self.backend.get_many(ids, max_iterations=1, **kwargs))

    def _failed_join_report(self) -> Iterator[Any]:
        return (
            result
            for result in self.results
            if result.backend.is_cached(result.id) and result.state in states.PROPAGATE_STATES
        )

    # -- acting

    def forget(self) -> None:
        """Delete what the backend stored for each task."""
        for result in self.results:
            result.forget()

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Revoke all tasks."""
        self.app.control.revoke(
            [result.id for result in self.results],
            connection=connection,
            timeout=timeout,
            terminate=terminate,
            signal=signal,
            reply=wait,
        )

    # -- as an object

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Members):
            return bool(other.results == self.results)
        return NotImplemented

    # As Celery: equal by content, so not hashable.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(result.id for result in self.results)}]>"

    @property
    def supports_native_join(self) -> Any:
        return self.results[0].supports_native_join if self.results else None

    @property
    def app(self) -> Any:
        if self._app is None:
            self._app = self.results[0].app if self.results else current_app._get_current_object()
        return self._app

    @app.setter
    def app(self, app: Celery | None) -> None:
        self._app = app

    @property
    def backend(self) -> Any:
        return self.app.backend if self.app else self.results[0].backend


def _is_worth_asking(result: Any, backend: Any) -> bool:
    """Whether asking for many at once spares this result a question of its own."""
    return (
        isinstance(result, KnownResult)
        # A class of the user's that overrides `state` decides for itself.
        and type(result).state is KnownResult.state
        and result._cache is None
        # One of another app is not known there.
        and result.backend is backend
        and getattr(backend, "answers_for_many", False)
        and not backend.is_cached(result.id)
    )
