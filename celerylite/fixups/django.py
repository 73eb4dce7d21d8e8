"""The adjustments for Django: its task class, its apps' tasks, and connections that end with each task."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from datetime import UTC, datetime
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celerylite import _clock, _state, signals
from celerylite.exceptions import FixupWarning, ImproperlyConfigured
from celerylite.local import Proxy
from celerylite.utils.imports import symbol_by_name
from celerylite.utils.log import get_logger

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("DjangoFixup", "DjangoWorkerFixup", "fixup")

logger = get_logger(__name__)

ERR_NOT_INSTALLED = """\
Environment variable DJANGO_SETTINGS_MODULE is defined
but Django isn't installed.  Won't apply Django fix-ups!
"""

_OLDEST_DJANGO = (1, 11)


def fixup(app: Celery, env: str = "DJANGO_SETTINGS_MODULE") -> DjangoFixup | None:
    """Install the adjustments when the environment names a settings module and Django is there."""
    if not os.environ.get(env) or "django" in str(app.loader_cls).lower():
        return None
    try:
        import django
    except ImportError:
        warnings.warn(FixupWarning(ERR_NOT_INSTALLED), stacklevel=2)
        return None
    _verify_django_version(django)
    return DjangoFixup(app).install()


def _verify_django_version(django: Any) -> None:
    if django.VERSION < _OLDEST_DJANGO:
        raise ImproperlyConfigured("Celery 5.x requires Django 1.11 or later.")


def _unwrap_app(app: Any) -> Any:
    """The app behind a proxy such as `current_app`."""
    return app._get_current_object() if isinstance(app, Proxy) else app


def _maybe_close_fd(fh: Any) -> None:
    # No file number, or one that is closed already: what is wanted is the case.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        os.close(fh.fileno())


class DjangoFixup:
    """What an app of a Django project does differently."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        if _state.default_app is None:
            self.app.set_default()
        self._worker_fixup: DjangoWorkerFixup | None = None
        # `worker_init` is sent for every app's worker: each fixup needs a receiver of its own.
        self._worker_init_uid = ("celery.fixups.django.DjangoFixup.on_worker_init", uuid4().hex)

    def install(self) -> DjangoFixup:
        # The project's directory goes before installed packages, as under `manage.py`.
        sys.path.insert(0, os.getcwd())
        self._settings = symbol_by_name("django.conf:settings")
        self.app.loader.now = self.now
        if not self.app._custom_task_cls_used:
            self.app.task_cls = "celery.contrib.django.task:DjangoTask"
        signals.import_modules.connect(self.on_import_modules, sender=self.app)
        signals.worker_init.connect(self.on_worker_init, dispatch_uid=self._worker_init_uid)
        return self

    @property
    def worker_fixup(self) -> DjangoWorkerFixup:
        """The part that only a process which runs tasks needs."""
        if self._worker_fixup is None:
            self._worker_fixup = DjangoWorkerFixup(self.app)
        return self._worker_fixup

    @worker_fixup.setter
    def worker_fixup(self, value: DjangoWorkerFixup) -> None:
        self._worker_fixup = value

    def on_import_modules(self, **kwargs: Any) -> None:
        """Task modules import models: Django must be set up before them."""
        self.worker_fixup.validate_models()

    def on_worker_init(self, **kwargs: Any) -> None:
        worker = kwargs.get("sender")
        if not worker:
            warnings.warn(
                "DjangoFixup.on_worker_init called without a sender (worker instance). "
                "This may indicate a misconfiguration or an internal error.",
                FixupWarning,
                stacklevel=2,
            )
        elif self._is_of_another_app(worker):
            return
        else:
            self.worker_fixup.worker = worker
        self.worker_fixup.install()

    def _is_of_another_app(self, worker: Any) -> bool:
        app = _unwrap_app(getattr(worker, "app", None))
        if app is None or app is _unwrap_app(self.app):
            return False
        logger.debug(
            "Django fixup of app %r ignores worker_init of %r: "
            "the worker belongs to app %r, whose own fixup handles it.",
            self.app,
            worker,
            app,
        )
        return True

    def now(self, utc: bool = False) -> datetime:
        """The time, in UTC or as Django's settings want it."""
        return _clock.utcnow().astimezone(UTC) if utc else self._now()

    def autodiscover_tasks(self) -> list[str]:
        """The packages of the installed apps."""
        apps = symbol_by_name("django.apps:apps")
        return [config.name for config in apps.get_app_configs()]

    @cached_property
    def _now(self) -> Any:
        return symbol_by_name("django.utils.timezone:now")


class DjangoWorkerFixup:
    """Closes Django's connections around each task, in the thread that runs the task.

    Django keeps a connection for each thread and closes it at the end of a request. A thread that runs
    tasks sees no requests: without this its connections would stay open, and stay broken once they broke.
    """

    _db_recycles = 0
    #: What sent `worker_init`.
    worker: Any = None
    #: The process that the receivers were connected in.
    _pid: int | None = None

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.db_reuse_max = self.app.conf.get("CELERY_DB_REUSE_MAX", None)
        self._db: Any = import_module("django.db")
        self._cache: Any = import_module("django.core.cache")
        self._settings: Any = symbol_by_name("django.conf:settings")
        self.interface_errors: tuple[Any, ...] = (symbol_by_name("django.db.utils.InterfaceError"),)
        self.DatabaseError: Any = symbol_by_name("django.db:DatabaseError")

    def django_setup(self) -> None:
        import django

        django.setup()

    def validate_models(self) -> None:
        """Set Django up and run its system checks, unless CELERY_SKIP_CHECKS is set."""
        from django.core.checks import run_checks

        self.django_setup()
        if not os.environ.get("CELERY_SKIP_CHECKS"):
            run_checks()

    def install(self) -> DjangoWorkerFixup:
        self._pid = os.getpid()
        signals.beat_embedded_init.connect(self.close_database)
        signals.task_prerun.connect(self.on_task_prerun)
        signals.task_postrun.connect(self.on_task_postrun)
        signals.worker_process_init.connect(self.on_worker_process_init)
        self.close_database()
        self.close_cache()
        return self

    def on_worker_process_init(self, **kwargs: Any) -> None:
        """Forget, in a child process, the connections that are the parent's."""
        if self._pid == os.getpid():
            return  # Tasks run in the process that starts them: the connections are its own.
        if os.environ.get("FORKED_BY_MULTIPROCESSING"):
            self.validate_models()
        # The descriptor alone: closing properly would say goodbye on the parent's behalf.
        for connection in self._db.connections.all():
            if connection and connection.connection:
                self._maybe_close_db_fd(connection)
        self._close_database()
        self.close_cache()

    def _maybe_close_db_fd(self, connection: Any) -> None:
        with contextlib.suppress(*self.interface_errors), connection.wrap_database_errors:
            _maybe_close_fd(connection.connection)

    def on_task_prerun(self, sender: Any, **kwargs: Any) -> None:
        # An eager task runs inside the caller's request and transaction.
        if not getattr(sender.request, "is_eager", False):
            self.close_database()

    def on_task_postrun(self, sender: Any, **kwargs: Any) -> None:
        if not getattr(sender.request, "is_eager", False):
            self.close_database()
            self.close_cache()

    def close_database(self, **kwargs: Any) -> None:
        """Close this thread's connections, or only now and then with CELERY_DB_REUSE_MAX."""
        if not self.db_reuse_max:
            self._close_database()
            return
        # As Celery: two signals count for each task, hence twice the maximum.
        if self._db_recycles >= self.db_reuse_max * 2:
            self._db_recycles = 0
            self._close_database()
        self._db_recycles += 1

    def _is_prefork(self) -> bool:
        if self.worker is None:
            return False
        pool = getattr(self.worker, "pool_cls", "")
        return "prefork" in (pool if isinstance(pool, str) else pool.__module__)

    def _close_database(self) -> None:
        for connection in self._connections():
            # A runtime that starts inside a request must not end the request's transaction.
            if getattr(connection, "in_atomic_block", False) is True:
                continue
            try:
                connection.close()
                self._close_pool(connection)
            except self.interface_errors:
                pass  # the server closed it before us
            except self.DatabaseError as exc:
                if "closed" not in str(exc) and "not connected" not in str(exc):
                    raise

    def _connections(self) -> Any:
        try:
            return self._db.connections.all(initialized_only=True)
        except TypeError:
            # Django before 4.1
            return self._db.connections.all()

    def _close_pool(self, connection: Any) -> None:
        # Threads share a pool of connections; each child process has its own.
        if not self._is_prefork() or not hasattr(connection, "close_pool"):
            return
        options = self._settings.DATABASES.get(connection.alias, {}).get("OPTIONS", {})
        if options.get("pool"):
            with contextlib.suppress(KeyError):
                connection.close_pool()

    def close_cache(self) -> None:
        # Caches of old Django versions have nothing to close.
        with contextlib.suppress(TypeError, AttributeError):
            self._cache.close_caches()
