"""A plug-in for pytest (`-p celerylite.contrib.pytest`): Celery's fixtures and its marker, and ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from celerylite._clock import ManualClock
from celerylite.contrib import testing
from celerylite.contrib.testing.app import TestApp, setup_default_app
from celerylite.contrib.testing.worker import start_worker

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = (
    "NO_WORKER",
    "celery_app",
    "celery_class_tasks",
    "celery_clock",
    "celery_config",
    "celery_drain",
    "celery_enable_logging",
    "celery_enqueued",
    "celery_includes",
    "celery_parameters",
    "celery_session_app",
    "celery_session_worker",
    "celery_worker",
    "celery_worker_parameters",
    "celery_worker_pool",
    "depends_on_current_app",
    "pytest_configure",
    "use_celery_app_trap",
)

#: Set in the environment when workers of another process are to run the tasks.
NO_WORKER = os.environ.get("NO_WORKER")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "celery(**overrides): override celery configuration for a test case")


@contextmanager
def _create_app(
    enable_logging: bool = False,
    use_trap: bool = False,
    parameters: Mapping[str, Any] | None = None,
    **config: Any,
) -> Iterator[Celery]:
    app = TestApp(set_as_current=False, enable_logging=enable_logging, config=config, **(parameters or {}))
    with setup_default_app(app, use_trap=use_trap):
        yield app


def _config(request: pytest.FixtureRequest, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, with what the marker of the test overrides."""
    mark = request.node.get_closest_marker("celery")
    return {**config, **(mark.kwargs if mark else {})}


# What a project redefines.


@pytest.fixture(scope="session")
def use_celery_app_trap() -> bool:
    """Redefine as True to have code fail that uses the current or the default app."""
    return False


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """Redefine as True to have logging set up as a worker does."""
    return False


@pytest.fixture(scope="session")
def celery_includes() -> Sequence[str]:
    """Redefine to name modules that are imported before a worker starts."""
    return ()


@pytest.fixture(scope="session")
def celery_worker_pool() -> str:
    """Redefine to choose the worker's pool."""
    return "solo"


@pytest.fixture(scope="session")
def celery_config() -> Mapping[str, Any]:
    """Redefine to give the app's settings."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> Mapping[str, Any]:
    """Redefine to give arguments to the app's class."""
    return {}


@pytest.fixture(scope="session")
def celery_worker_parameters() -> Mapping[str, Any]:
    """Redefine to give arguments to the worker, such as `queues`."""
    return {}


@pytest.fixture(scope="session")
def celery_class_tasks() -> Sequence[Any]:
    """Redefine to name task classes that are registered with the session's app."""
    return []


# What tests use.


@pytest.fixture(scope="session")
def celery_session_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Celery]:
    """One app for all tests, which is also the current and the default one."""
    with _create_app(
        enable_logging=celery_enable_logging,
        use_trap=use_celery_app_trap,
        parameters=celery_parameters,
        **_config(request, celery_config),
    ) as app:
        if not use_celery_app_trap:
            app.set_default()
            app.set_current()
        yield app


@pytest.fixture(scope="session")
def celery_session_worker(
    celery_session_app: Celery,
    celery_includes: Sequence[str],
    celery_class_tasks: Sequence[Any],
    celery_worker_pool: Any,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[Any]:
    """One worker for all tests."""
    if NO_WORKER:
        yield None
        return
    for module in celery_includes:
        celery_session_app.loader.import_task_module(module)
    for task in celery_class_tasks:
        celery_session_app.register_task(task)
    with start_worker(celery_session_app, pool=celery_worker_pool, **celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def celery_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Celery]:
    """An app for this test."""
    with _create_app(
        enable_logging=celery_enable_logging,
        use_trap=use_celery_app_trap,
        parameters=celery_parameters,
        **_config(request, celery_config),
    ) as app:
        yield app


@pytest.fixture
def celery_worker(
    celery_app: Celery,
    celery_includes: Sequence[str],
    celery_worker_pool: Any,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[Any]:
    """A worker for this test's app."""
    if NO_WORKER:
        yield None
        return
    for module in celery_includes:
        celery_app.loader.import_task_module(module)
    with start_worker(celery_app, pool=celery_worker_pool, **celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def depends_on_current_app(celery_app: Celery) -> None:
    """Make this test's app the current one."""
    celery_app.set_current()


# Ours.


@pytest.fixture
def celery_clock() -> Iterator[ManualClock]:
    """A clock that stands still until the test calls `advance(seconds)`; countdowns and schedules obey it."""
    with testing.manual_clock() as clock:
        yield clock


@pytest.fixture
def celery_enqueued(celery_app: Celery) -> Callable[..., list[testing.Enqueued]]:
    """The calls that wait in this test's app, `celery_enqueued()`, or those of one task."""
    return partial(testing.enqueued, celery_app)


@pytest.fixture
def celery_drain(celery_app: Celery) -> Callable[..., None]:
    """Run what waits in this test's app to the end, `celery_drain()`; a task's error is raised."""
    return partial(testing.drain, celery_app)
