"""Apps for tests, and a trap that is sprung by code which falls back to the current app."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from celerylite import _state
from celerylite.app.base import Celery
from celerylite.app.log import Logging

# Registers `celery.ping` with every app that is finalized from now on.
from celerylite.contrib.testing import tasks  # noqa: F401

__all__ = ("DEFAULT_TEST_CONFIG", "TestApp", "Trap", "UnitLogging", "set_trap", "setup_default_app")

#: The settings of `TestApp`: everything in memory, logging left alone.
DEFAULT_TEST_CONFIG: dict[str, Any] = {
    "worker_hijack_root_logger": False,
    "worker_log_color": False,
    "accept_content": {"json"},
    "enable_utc": True,
    "timezone": "UTC",
    "broker_url": "memory://",
    "result_backend": "cache+memory://",
    "broker_heartbeat": 0,
    # As with Celery, what a test sends waits until the test starts a worker.
    "celerylite_runtime": "off",
}

# Asked for by unittest.mock of whatever it replaces.
_ASKED_BY_MOCK = ("_is_coroutine", "__func__")


class Trap:
    """An app that raises at every use."""

    def __getattr__(self, name: str) -> None:
        if name in _ASKED_BY_MOCK:
            return
        raise RuntimeError("Test depends on current_app")


class UnitLogging(Logging):
    """Logging that leaves the handlers of the test run alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.already_setup = True


def TestApp(
    name: str | None = None,
    config: dict[str, Any] | None = None,
    enable_logging: bool = False,
    set_as_current: bool = False,
    log: Any = UnitLogging,
    backend: Any = None,
    broker: Any = None,
    **kwargs: Any,
) -> Celery:
    """An app for tests: in memory unless `broker`, `backend` or `config` say otherwise."""
    defaults = {**deepcopy(DEFAULT_TEST_CONFIG), **(config or {})}
    for key, value in {"broker_url": broker, "result_backend": backend}.items():
        if value is not None:
            defaults.pop(key, None)
    app = Celery(
        name or "celery.tests",
        set_as_current=set_as_current,
        log=None if enable_logging else log,
        broker=broker,
        backend=backend,
        **kwargs,
    )
    app.add_defaults(defaults)
    return app


# pytest collects what is called Test...
TestApp.__test__ = False  # type: ignore[attr-defined]


class _NoThread:
    """Stands for the thread-local state, the same in every thread."""

    def __init__(self, app: Any) -> None:
        self.current_app = app


@contextmanager
def set_trap(app: Any) -> Iterator[None]:
    """Inside the block the current and the default app raise RuntimeError when used."""
    trap: Any = Trap()
    previous = _state._tls
    _state.set_default_app(trap)
    _state._tls = _NoThread(trap)  # type: ignore[assignment]
    try:
        yield
    finally:
        _state._tls = previous


@contextmanager
def setup_default_app(app: Celery, use_trap: bool = False) -> Iterator[None]:
    """Put back what is current and registered when the block ends, and close `app`."""
    current, default = _state._tls.current_app, _state.default_app
    last = _state._last_current
    finalizers, apps = set(_state._on_app_finalizers), weakref.WeakSet(_state._apps)
    try:
        if use_trap:
            with set_trap(app):
                yield
        else:
            yield
    finally:
        _state.set_default_app(default)
        _state._tls.current_app = current
        _state._last_current = last
        if app is not current:
            app.close()
        _state._on_app_finalizers = finalizers
        _state._apps = apps
        if app._backend is not None:
            # So that the backend's connections can be collected.
            app._backend_cache = app._local.backend = None
