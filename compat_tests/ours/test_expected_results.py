"""`get()` does not look into the database for what this process has still to commit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from celerylite import Celery
from celerylite.backends import database as database_backend
from celerylite.exceptions import TimeoutError
from compat_tests.conftest import MEMORY
from compat_tests.ours.runtime_fixtures import DEADLINE_S, Gate, MakeApp


def _looks(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of results that are looked for from now on."""
    looked_for: list[str] = []
    store: Any = app.store
    look = store.get_result

    def noted(task_id: str) -> Any:
        looked_for.append(task_id)
        return look(task_id)

    monkeypatch.setattr(store, "get_result", noted)
    return looked_for


def _until_watched(app: Celery, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once somebody begins to wait for a result."""
    watched = threading.Event()
    store: Any = app.store
    watch = store.watch

    @contextmanager
    def noted(task_id: str) -> Iterator[Any]:
        with watch(task_id) as begun:
            watched.set()
            yield begun

    monkeypatch.setattr(store, "watch", noted)
    return watched


def test_who_waits_for_a_call_that_runs_here_is_told_and_does_not_look(
    make_app: MakeApp, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_backend, "_EXPECTED_S", DEADLINE_S)
    # In memory: else the thread that looks for commits of other processes may tell of its first look.
    app = make_app(**MEMORY)

    @app.task(name="expected.job")
    def job() -> str:
        gate.wait()
        return "told"

    app.start_runtime()
    looked_for, watched = _looks(app, monkeypatch), _until_watched(app, monkeypatch)
    result = job.delay()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(result.get, DEADLINE_S)
        assert watched.wait(DEADLINE_S)
        gate.open()
        assert waiting.result(DEADLINE_S) == "told"
    assert looked_for == []


def test_what_has_ended_is_not_expected(file_app: Celery) -> None:
    @file_app.task(name="expected.job")
    def job() -> str:
        return "there"

    result = job.delay()
    assert result.get(timeout=DEADLINE_S) == "there"
    with file_app.store.watch(result.id) as watch:
        assert not watch.expected


def test_an_expectation_that_was_wrong_costs_a_moment_only(file_app: Celery) -> None:
    """As after a claim that got lost: another process has committed the outcome."""

    @file_app.task(name="expected.job")
    def job() -> str:
        return "there"

    result = job.delay()
    assert result.get(timeout=DEADLINE_S) == "there"
    store: Any = file_app.store
    store._wakeup.expect([result.id])
    # Without a timeout of its own: it would wait for ever.
    assert file_app.AsyncResult(result.id).get() == "there"


def test_a_timeout_holds_though_the_result_is_expected(
    file_app: Celery, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_backend, "_EXPECTED_S", 1000.0)

    @file_app.task(name="expected.job")
    def job() -> None:
        gate.wait()

    result = job.delay()
    for timeout in (0, 0.001, -1):
        with pytest.raises(TimeoutError):
            result.get(timeout=timeout)
