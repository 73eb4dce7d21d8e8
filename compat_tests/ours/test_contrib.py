"""The test tools, abortable tasks, and Django's adjustments."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from celerylite import Celery, _state, signals, states
from celerylite.contrib.abortable import ABORTED, AbortableAsyncResult, AbortableTask
from celerylite.contrib.testing import mocks
from celerylite.contrib.testing.app import DEFAULT_TEST_CONFIG, TestApp, set_trap, setup_default_app
from celerylite.contrib.testing.manager import Manager, Sentinel
from celerylite.contrib.testing.worker import TestWorkController, start_worker, test_worker_started

_ROOT = Path(__file__).parents[2]
_DEADLINE_S = 10.0


@pytest.fixture
def app() -> Any:
    app = TestApp("contrib")
    with setup_default_app(app):
        yield app


def test_a_test_app_is_in_memory_and_not_the_current_one(app: Celery) -> None:
    assert app.conf.broker_url == "memory://"
    assert app.conf.result_backend == "cache+memory://"
    assert app.conf.accept_content == DEFAULT_TEST_CONFIG["accept_content"]
    assert _state._tls.current_app is not app


def test_arguments_of_a_test_app_win_over_its_defaults() -> None:
    app = TestApp(config={"timezone": "Europe/Berlin"}, broker="memory://other")
    with setup_default_app(app):
        assert app.conf.timezone == "Europe/Berlin"
        assert app.conf.broker_url == "memory://other"


def test_the_trap_is_sprung_by_the_use_of_the_current_app(app: Celery) -> None:
    with set_trap(app), pytest.raises(RuntimeError, match="Test depends on current_app"):
        _state.get_current_app().conf  # noqa: B018 - the access is what raises


def test_what_was_current_before_a_test_is_current_after_it() -> None:
    before = _state.default_app
    app = TestApp()
    with setup_default_app(app):
        app.set_default()
        app.set_current()
    assert _state.default_app is before
    assert _state._tls.current_app is not app


def test_a_started_worker_runs_tasks_and_leaves_no_thread(app: Celery) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    before = threading.active_count()
    with start_worker(app) as worker:
        assert isinstance(worker, TestWorkController)
        assert add.delay(1, 2).get(timeout=_DEADLINE_S) == 3
    assert threading.active_count() <= before


def test_a_started_worker_has_the_name_it_is_given(app: Celery) -> None:
    with start_worker(app, hostname="name@host", perform_ping_check=False) as worker:
        assert worker.hostname == "name@host"


def test_an_exception_in_the_block_stops_the_worker_and_goes_on(app: Celery) -> None:
    with pytest.raises(NotImplementedError), start_worker(app):
        raise NotImplementedError
    assert app._runtime is None


def test_the_start_of_a_worker_is_announced(app: Celery) -> None:
    announced: list[Any] = []

    def note(worker: Any, **kwargs: Any) -> None:
        announced.append(worker)

    test_worker_started.connect(note)
    try:
        with start_worker(app, perform_ping_check=False) as worker:
            assert announced == [worker]
    finally:
        test_worker_started.disconnect(note)


def test_the_signals_of_a_worker_come_in_their_order(app: Celery) -> None:
    order: list[str] = []
    receivers = []
    for name in ("worker_init", "worker_ready", "worker_shutdown"):

        def note(sender: Any, signal: Any, name: str = name, **kwargs: Any) -> None:
            order.append(f"{name} {sender.hostname}")

        getattr(signals, name).connect(note)
        receivers.append(note)
    with start_worker(app, hostname="a@b", perform_ping_check=False):
        pass
    assert order == ["worker_init a@b", "worker_ready a@b", "worker_shutdown a@b"]


def test_an_abortable_task_learns_that_it_was_aborted(app: Celery) -> None:
    started, go_on = threading.Event(), threading.Event()

    @app.task(bind=True, base=AbortableTask)
    def work(self: Any) -> str:
        started.set()
        go_on.wait(_DEADLINE_S)
        return "aborted" if self.is_aborted() else "done"

    with start_worker(app, perform_ping_check=False):
        result = work.delay()
        assert isinstance(result, AbortableAsyncResult)
        assert started.wait(_DEADLINE_S)
        result.abort()
        assert result.state == ABORTED
        assert result.is_aborted()
        go_on.set()
        assert result.get(timeout=_DEADLINE_S) == "aborted"


def test_a_mocked_message_is_in_the_form_of_its_protocol(app: Celery) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    message = mocks.task_message_from_sig(app, add.s(1, y=2).set(countdown=10))
    assert message.headers["task"] == add.name
    assert message.headers["eta"] > app.now().isoformat()
    assert message.payload[:2] == ((1,), {"y": 2})
    old = mocks.TaskMessage1("name", id="an id", args=(1,))
    assert old.headers == {}
    assert old.payload["id"] == "an id"


def test_a_context_mock_can_be_used_in_a_with_statement() -> None:
    mock = mocks.ContextMock()
    with mock as entered:
        assert entered is mock
    with pytest.raises(KeyError), mock:
        raise KeyError


def test_the_manager_waits_until_an_event_comes(app: Celery) -> None:
    stderr = StringIO()
    manager = Manager(app, stderr=stderr)
    answers = iter([False, True])
    manager.wait_for(
        lambda: manager.true_or_raise(lambda: next(answers)), Sentinel, interval_start=0, emit_warning=True
    )
    assert stderr.getvalue().startswith("Still waiting for thing.  Trying again now: Sentinel(")


def test_the_manager_fails_when_something_happens_that_must_not(app: Celery) -> None:
    manager = Manager(app)
    with pytest.raises(AssertionError, match="Should not have happened: rain"):
        manager.ensure_not_for_a_while(lambda: None, Sentinel, desc="rain")


def test_the_manager_joins_results_and_sees_what_was_done(app: Celery) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    manager = Manager(app)
    with start_worker(app, perform_ping_check=False):
        result = add.delay(1, 2)
        manager.join(result, timeout=_DEADLINE_S)
        manager.assert_result_tasks_in_progress_or_completed([result])
    assert result.state == states.SUCCESS


_PLUGIN_TEST = """
import pytest

@pytest.fixture(scope="session")
def celery_config():
    return {"task_default_priority": 3}

@pytest.mark.celery(timezone="Europe/Berlin")
def test_app(celery_app, celery_worker):
    assert celery_app.conf.task_default_priority == 3
    assert celery_app.conf.timezone == "Europe/Berlin"

    @celery_app.task
    def mul(x, y):
        return x * y

    celery_worker.reload()
    assert mul.delay(4, 4).get(timeout=10) == 16

def test_session(celery_session_app, celery_session_worker, depends_on_current_app):
    @celery_session_app.task
    def mul(x, y):
        return x * y

    assert mul.delay(4, 4).get(timeout=10) == 16

def test_ours(celery_app, celery_clock, celery_enqueued, celery_drain):
    done = []

    @celery_app.task
    def remind(who):
        done.append(who)

    remind.apply_async(("you",), countdown=3600)
    assert [call.args for call in celery_enqueued(remind)] == [("you",)]
    celery_clock.advance(3601)
    celery_drain()
    assert done == ["you"]
"""


def test_the_plug_in_for_pytest_has_celerys_fixtures_and_marker(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(_PLUGIN_TEST)
    command = [sys.executable, "-m", "pytest", "-p", "celerylite.contrib.pytest", "-q"]
    done = subprocess.run(
        [*command, "-p", "no:randomly", "--strict-markers", "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr
