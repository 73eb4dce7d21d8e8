"""django-celery-beat, unedited: its DatabaseScheduler drives tasks through `install_as_celery()`."""

from __future__ import annotations

import pytest

from compat_tests.ours.runtime_fixtures import StartProgram

pytest.importorskip("django_celery_beat", reason="django-celery-beat is not installed")

#: A Django project in one file. What is `celery` here is celerylite.
_DJANGO = """
import os, sys, threading
from celerylite import install_as_celery
install_as_celery()
import django
from django.conf import settings

settings.configure(
    SECRET_KEY="x",
    USE_TZ=True,
    TIME_ZONE="UTC",
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    INSTALLED_APPS=["django.contrib.contenttypes", "django_celery_beat"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": "django.sqlite3",
            # The scheduler and the program write beside each other: without it, one that has read is refused.
            "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
        }
    },
)
django.setup()

from celery import Celery
from django.core.management import call_command
from datetime import timedelta
from django.utils.timezone import now
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask

app = Celery("project")
app.conf.update(
    beat_scheduler="django_celery_beat.schedulers:DatabaseScheduler",
    beat_max_loop_interval=1,
    timezone="UTC",
)

def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

@app.task(name="note", bind=True)
def note(self, word):
    say("ran", word, self.request.periodic_task_name)
"""

_TABLES = """
call_command("migrate", verbosity=0)
often = IntervalSchedule.objects.create(every=1, period=IntervalSchedule.SECONDS)
PeriodicTask.objects.create(name="often", task="note", interval=often, args='["first"]')
PeriodicTask.objects.create(
    name="never", task="note", interval=often, args='["never"]', enabled=False
)
# Of every kind one that comes due at once: each minute of Tokyo's clocks, and a moment that has come.
minutes = CrontabSchedule.objects.create(minute="*", timezone="Asia/Tokyo")
an_hour_ago = now() - timedelta(hours=1)
PeriodicTask.objects.create(
    name="minutely", task="note", crontab=minutes, args='["crontab"]', last_run_at=an_hour_ago
)
moment = ClockedSchedule.objects.create(clocked_time=now())
PeriodicTask.objects.create(name="once", task="note", clocked=moment, args='["clocked"]', one_off=True)
"""

_IN_PROCESS = (
    _TABLES
    + """
app.conf.beat_schedule = {"configured": {"task": "note", "schedule": 1.0, "args": ["configured"]}}
app.start_runtime(beat=True)
for line in sys.stdin:
    word = line.strip()
    if word == "stop":
        break
    PeriodicTask.objects.filter(name="often").update(args=f'["{word}"]')
    for task in PeriodicTask.objects.filter(name="often"):
        task.save()
app.close()
say("runs", PeriodicTask.objects.get(name="often").total_run_count > 1)
say("cleaning", PeriodicTask.objects.filter(name="celery.backend_cleanup").exists())
"""
)


def test_the_database_scheduler_drives_tasks_in_the_process(start_program: StartProgram) -> None:
    program = start_program(_IN_PROCESS, prelude=_DJANGO)
    program.until("ran first often")
    program.until("ran configured configured")
    program.until("ran crontab minutely")
    program.until("ran clocked once")
    # What is edited in Django's admin is taken over while it runs.
    program.tell("second")
    program.until("ran second often")
    program.tell("stop")
    assert program.end() == 0, program.errors
    assert "runs True" in program.lines
    assert "cleaning True" in program.lines
    assert not [line for line in program.lines if "never" in line]
    assert program.lines.count("ran clocked once") == 1


_BEAT = (
    _TABLES
    + """
say("ready")
app.start(["beat", "-S", "django", "-l", "WARNING"])
"""
)

_RUNNER = """
app.conf.celerylite_beat = "off"
app.start_runtime()
say("running")
sys.stdin.read()
app.close()
"""


def test_the_beat_command_takes_its_scheduler_by_the_name_of_the_extension(
    start_program: StartProgram,
) -> None:
    beat = start_program(_BEAT, prelude=_DJANGO)
    beat.until("ready")
    runner = start_program(_RUNNER, name="runner", prelude=_DJANGO)
    runner.until("ran first often")
