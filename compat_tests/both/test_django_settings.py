"""Settings of Django: `config_from_object('django.conf:settings', namespace='CELERY')`, and live."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

django = pytest.importorskip("django")


@pytest.fixture(scope="session")
def _configured() -> Any:
    """Django's settings, configured once for the process as Django demands."""
    conf: Any = importlib.import_module("django.conf")
    if not conf.settings.configured:
        conf.settings.configure(INSTALLED_APPS=[], SECRET_KEY="not secret", USE_TZ=True)
        django.setup()
    return conf.settings


@pytest.fixture
def settings(_configured: Any) -> Iterator[Any]:
    """Django's settings; what a test sets on them is taken away again."""
    before = set(dir(_configured))
    yield _configured
    for name in set(dir(_configured)) - before:
        delattr(_configured, name)


@pytest.fixture
def project(lib: Any, settings: Any) -> Iterator[Any]:
    """The app of a Django project, made as Celery's guide says."""
    settings.CELERY_BROKER_URL = "memory://"
    settings.CELERY_RESULT_BACKEND = "cache+memory://"
    with lib.Celery("proj") as app:
        app.config_from_object("django.conf:settings", namespace="CELERY")
        yield app


def test_settings_are_read_under_their_prefix(project: Any, settings: Any) -> None:
    settings.CELERY_TASK_DEFAULT_QUEUE = "from-django"
    assert project.conf.broker_url == "memory://"
    assert project.conf.task_default_queue == "from-django"


def test_a_setting_changed_later_takes_effect(project: Any, settings: Any) -> None:
    assert project.conf.task_always_eager is False
    settings.CELERY_TASK_ALWAYS_EAGER = True
    assert project.conf.task_always_eager is True


def test_a_task_becomes_eager_when_the_setting_is_changed(project: Any, settings: Any) -> None:
    @project.task
    def job() -> int:
        return 5

    assert job.delay().state == "PENDING"
    settings.CELERY_TASK_ALWAYS_EAGER = True
    assert job.delay().get() == 5


def test_what_the_app_sets_itself_wins(project: Any, settings: Any) -> None:
    settings.CELERY_TIMEZONE = "Europe/Oslo"
    project.conf.timezone = "UTC"
    assert project.conf.timezone == "UTC"


def test_a_shared_task_uses_the_project(lib: Any, project: Any) -> None:
    @lib.shared_task
    def job() -> int:
        return 1

    assert job.app is project


def test_a_setting_without_the_prefix_means_nothing(project: Any, settings: Any) -> None:
    settings.TASK_DEFAULT_QUEUE = "ignored"
    assert project.conf.task_default_queue == "celery"


def test_the_worker_runs_the_tasks_of_the_project(project: Any, start_worker: Any) -> None:
    @project.task
    def job(x: int) -> int:
        return x + 1

    with start_worker(project):
        assert job.delay(1).get(timeout=10) == 2


def test_autodiscovery_takes_the_installed_apps(
    lib: Any, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    package = tmp_path / "django_shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tasks.py").write_text("LOADED = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    app = lib.Celery("proj", set_as_current=False)
    app.autodiscover_tasks(lambda: ["django_shop"])
    app.loader.import_default_modules()
    assert sys.modules["django_shop.tasks"].LOADED


def test_old_upper_case_names_are_read_from_settings_without_namespace(lib: Any, settings: Any) -> None:
    settings.CELERY_DEFAULT_QUEUE = "old-name"
    app = lib.Celery("proj", set_as_current=False)
    app.config_from_object("django.conf:settings")
    assert app.conf.task_default_queue == "old-name"


def test_beat_entries_of_the_settings_are_the_schedule(project: Any, settings: Any) -> None:
    settings.CELERY_BEAT_SCHEDULE = {"each": {"task": "proj.each", "schedule": 30.0}}
    assert project.conf.beat_schedule["each"]["task"] == "proj.each"
