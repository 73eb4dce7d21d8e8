"""What integrations import, wrap and compare without being asked."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("", "Celery Task bugreport chain chord chunks current_app current_task group maybe_signature"),
        ("", "shared_task signature subtask uuid xmap xstarmap VERSION __version__ version_info_t"),
        ("app", "Celery app_or_default default_app bugreport shared_task push_current_task pop_current_task"),
        ("app.base", "Celery"),
        ("app.task", "Task Context TaskType"),
        ("app.registry", "TaskRegistry"),
        ("app.defaults", "DEFAULTS NAMESPACES Option"),
        ("app.log", "Logging TaskFormatter"),
        ("app.routes", "Router MapRoute prepare"),
        ("app.utils", "Settings appstr"),
        ("app.trace", "build_tracer task_has_custom trace_task"),
        ("app.control", "Control"),
        ("backends.base", "Backend BaseBackend KeyValueStoreBackend DisabledBackend"),
        ("beat", "Scheduler ScheduleEntry PersistentScheduler Service SchedulingError"),
        (
            "canvas",
            "Signature chain group chord chunks xmap xstarmap maybe_signature signature _chain _chord",
        ),
        ("contrib.abortable", "AbortableTask AbortableAsyncResult ABORTED"),
        ("contrib.testing.app", "TestApp setup_default_app"),
        ("contrib.testing.tasks", "ping"),
        ("contrib.testing.worker", "start_worker TestWorkController"),
        ("exceptions", "Retry Ignore Reject SoftTimeLimitExceeded TimeLimitExceeded TimeoutError"),
        ("exceptions", "MaxRetriesExceededError NotRegistered ImproperlyConfigured TaskRevokedError"),
        (
            "exceptions",
            "ChordError OperationalError WorkerLostError CeleryError SecurityError InvalidTaskError",
        ),
        ("local", "Proxy PromiseProxy try_import"),
        ("loaders.base", "BaseLoader"),
        ("result", "AsyncResult EagerResult GroupResult ResultSet result_from_tuple allow_join_result"),
        ("schedules", "crontab schedule solar BaseSchedule crontab_parser ParseException maybe_schedule"),
        ("states", "PENDING RECEIVED STARTED SUCCESS FAILURE REVOKED REJECTED RETRY IGNORED"),
        ("utils", "uuid cached_property"),
        ("utils.log", "get_task_logger get_logger task_logger ColorFormatter LoggingProxy"),
        ("utils.time", "maybe_iso8601 timezone get_exponential_backoff_interval make_aware maybe_make_aware"),
        ("utils.imports", "gen_task_name import_from_cwd instantiate qualname symbol_by_name"),
        ("utils.nodenames", "gethostname nodename worker_direct"),
        ("utils.saferepr", "saferepr"),
        ("utils.serialization", "strtobool get_pickleable_exception UnpickleableExceptionWrapper"),
        ("utils.dispatch", "Signal"),
        ("utils.functional", "maybe_list first firstmethod head_from_fun"),
        ("worker", "WorkController"),
        ("worker.request", "Request"),
        ("_state", "get_current_app set_default_app current_app current_task get_current_task _task_stack"),
    ],
)
def test_a_module_has_the_names_that_code_imports(lib: Any, module: str, names: str) -> None:
    found = importlib.import_module(f"{lib.__name__}.{module}" if module else lib.__name__)
    missing = [name for name in names.split() if not hasattr(found, name)]
    assert missing == []


def test_the_version_can_be_parsed_and_compared(lib: Any) -> None:
    assert re.fullmatch(r"5\.\d+\.\d+", lib.__version__)
    assert lib.VERSION >= (5, 0, 0)
    assert lib.VERSION.major == 5
    assert lib.version_info_t._fields[:2] == ("major", "minor")


def test_a_task_lets_itself_be_asked_for_custom_hooks(lib: Any, app: Any) -> None:
    has_custom = importlib.import_module(f"{lib.__name__}.app.trace").task_has_custom

    class Custom(lib.Task):  # type: ignore[misc]
        def on_success(self, *args: Any) -> None: ...

    @app.task(base=Custom)
    def job() -> None: ...

    assert has_custom(app.tasks[job.name], "on_success")
    assert not has_custom(app.tasks[job.name], "on_failure")


def test_the_stack_of_tasks_has_the_running_one_on_top(app: Any, submodule: Callable[[str], Any]) -> None:
    stack = submodule("_state")._task_stack

    @app.task
    def job() -> str:
        return str(stack.top.name)

    assert job.apply().get() == job.name
    assert stack.top is None


def test_results_of_one_id_are_equal_and_hash_alike(
    lib: Any, app: Any, submodule: Callable[[str], Any]
) -> None:
    result_class = submodule("result").AsyncResult
    one, two = result_class("same", app=app), result_class("same", app=app)
    assert one == two == "same"
    assert len({one, two}) == 1
    assert one != result_class("other", app=app)


def test_a_result_is_made_by_task_app_and_class_alike(app: Any, submodule: Callable[[str], Any]) -> None:
    @app.task
    def job() -> None: ...

    assert job.AsyncResult("x") == app.AsyncResult("x") == submodule("result").AsyncResult("x", app=app)


def test_an_abortable_task_sees_that_it_was_aborted(
    running_app: Any, journal: Any, submodule: Callable[[str], Any]
) -> None:
    import threading

    abortable = submodule("contrib.abortable")
    gate = threading.Event()

    @running_app.task(bind=True, base=abortable.AbortableTask)
    def job(self: Any) -> str:
        journal.note("started")
        gate.wait(10)
        return "aborted" if self.is_aborted() else "done"

    result = job.delay()
    journal.until("started")
    result.abort()
    assert result.is_aborted()
    gate.set()
    assert result.get(timeout=10) == "aborted"


def test_the_current_task_can_be_pushed_by_hand(lib: Any, app: Any, submodule: Callable[[str], Any]) -> None:
    package = submodule("app")

    @app.task
    def job() -> None: ...

    package.push_current_task(job)
    try:
        assert lib.current_task.name == job.name
    finally:
        package.pop_current_task()
    assert not lib.current_task


def test_a_bug_report_names_the_versions(app: Any) -> None:
    report = app.bugreport()
    assert "software" in report
    assert "kombu" in report


def test_uuids_are_text_of_version_four(lib: Any) -> None:
    from uuid import UUID

    assert UUID(lib.uuid()).version == 4
    assert isinstance(lib.uuid(), str)


def test_the_worker_of_the_test_tools_answers_to_its_ping(app: Any, start_worker: Any) -> None:
    with start_worker(app, perform_ping_check=True):
        assert app.tasks["celery.ping"].delay().get(timeout=10) == "pong"


def test_autodiscovery_without_packages_does_nothing_outside_of_frameworks(lib: Any) -> None:
    app = lib.Celery("x", set_as_current=False)
    app.autodiscover_tasks()
    app.loader.import_default_modules()


def test_an_object_of_the_package_can_be_patched_by_path(lib: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{lib.__name__}.app.base.Celery.send_task", lambda *args, **kwargs: "patched")
    app = lib.Celery("x", set_as_current=False)

    @app.task
    def job() -> None: ...

    assert job.delay() == "patched"
