"""Django's adjustments, in a real project: task class, tasks of installed apps, and connections."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("django")

_ROOT = Path(__file__).parents[2]

_PROJECT = {
    "settings.py": """
SECRET_KEY = "x"
INSTALLED_APPS = ["shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "django.sqlite3"}}
USE_TZ = True
CELERY_TIMEZONE = "UTC"
""",
    "shop/__init__.py": "",
    "shop/models.py": """
from django.db import models

class Order(models.Model):
    text = models.CharField(max_length=20)
""",
    "shop/tasks.py": """
from celerylite import shared_task

@shared_task
def count():
    from shop.models import Order
    return Order.objects.count()
""",
    "proj.py": """
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
from celerylite import Celery
app = Celery("proj")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
""",
}

_SET_UP = """
import proj, django
django.setup()
from django.db import connection, connections, transaction
from django.db.backends.signals import connection_created
from shop.models import Order
with connection.schema_editor() as editor:
    editor.create_model(Order)
"""


@pytest.fixture
def django(tmp_path: Path) -> Callable[[str], list[str]]:
    """Run code in a project whose database has its table; gives the words it printed."""
    for name, source in _PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)

    def run(code: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", _SET_UP + code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run


Django = Callable[[str], list[str]]


def test_tasks_of_installed_apps_are_found_and_are_django_tasks(django: Django) -> None:
    printed = django(
        """
from celerylite.contrib.django.task import DjangoTask
proj.app.loader.import_default_modules()
print("shop.tasks.count" in proj.app.tasks, isinstance(proj.app.tasks["shop.tasks.count"], DjangoTask))
"""
    )
    assert printed == ["True", "True"]


def test_a_task_runs_with_a_connection_of_its_own_that_ends_with_it(django: Django) -> None:
    printed = django(
        """
import threading
from shop.tasks import count
made = []
connection_created.connect(lambda **kw: made.append(threading.current_thread().name), weak=False)
proj.app.start_runtime(concurrency=1)
made.clear()
for _ in range(3):
    assert count.delay().get(timeout=10) == 0
print(len(made), threading.current_thread().name in made)
"""
    )
    assert printed == ["3", "False"]


def test_a_runtime_that_starts_inside_a_transaction_leaves_it_alone(django: Django) -> None:
    printed = django(
        """
from shop.tasks import count
with transaction.atomic():
    Order.objects.create(text="kept")
    result = count.delay()
    Order.objects.create(text="kept too")
result.get(timeout=10)
print(Order.objects.count())
"""
    )
    assert printed == ["2"]


def test_an_eager_task_runs_inside_the_callers_transaction(django: Django) -> None:
    printed = django(
        """
from shop.tasks import count
proj.app.conf.task_always_eager = True
with transaction.atomic():
    Order.objects.create(text="seen")
    print(count.delay().get())
"""
    )
    assert printed == ["1"]


def test_on_commit_a_task_is_sent_after_the_commit_and_never_after_a_rollback(django: Django) -> None:
    printed = django(
        """
from celerylite import signals
from shop.tasks import count
proj.app.conf.celerylite_runtime = "off"
sent = []
signals.after_task_publish.connect(lambda sender, **kw: sent.append(sender), weak=False)
with transaction.atomic():
    count.delay_on_commit()
    count.apply_async_on_commit(priority=3)
    print(len(sent))
print(len(sent))
try:
    with transaction.atomic():
        count.delay_on_commit()
        raise KeyError
except KeyError:
    print(len(sent))
"""
    )
    assert printed == ["0", "2", "2"]


def test_a_settings_module_without_django_is_told(tmp_path: Path) -> None:
    code = """
import sys, warnings
sys.modules["django"] = None
from celerylite import Celery
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    Celery("x")
print([str(w.message) for w in caught if "Django" in str(w.message)])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "DJANGO_SETTINGS_MODULE": "settings"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Won't apply Django fix-ups!" in done.stdout, done.stderr
