"""The `schedule` command: shows the beat schedule, and edits it."""

from __future__ import annotations

import click
import pytest

from celerylite import Celery
from compat_tests.ours.runtime_fixtures import MakeApp


@pytest.fixture
def app(make_app: MakeApp) -> Celery:
    app = make_app(result_expires=None)
    app.conf.beat_schedule = {"nightly": {"task": "work", "schedule": 3600.0}}
    return app


def test_every_entry_is_shown_with_its_runs(app: Celery, capsys: pytest.CaptureFixture[str]) -> None:
    app.start(["schedule", "add", "morning", "--task", "greet", "--cron", "0 9 * * *", "--args", "[1]"])
    app.start(["schedule", "pause", "nightly"])
    app.start(["schedule"])
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["morning: added", "nightly: paused"]
    assert told[2].split()[0] == "Entry"
    assert [line.split()[0] for line in told[3:]] == ["morning", "nightly"]
    assert "09:00" in told[3]
    assert told[3].endswith("added    greet")
    assert told[4].endswith("paused   work")


def test_an_entry_is_run_resumed_and_removed(app: Celery, capsys: pytest.CaptureFixture[str]) -> None:
    app.start(["schedule", "add", "often", "--task", "work", "--every", "30", "--overlap", "skip"])
    app.start(["schedule", "run", "often"])
    sent = app.schedule.get("often").last_task_id
    for command in ("pause", "resume", "remove"):
        app.start(["schedule", command, "often"])
    assert capsys.readouterr().out.splitlines() == [
        "often: added",
        sent,
        "often: paused",
        "often: fires again",
        "often: removed",
    ]
    assert list(app.schedule.entries()) == ["nightly"]


def test_what_is_wrong_is_told_without_a_traceback(app: Celery) -> None:
    with pytest.raises(click.ClickException, match="expected the name of an entry, got 'nobody'"):
        app.start(["schedule", "pause", "nobody"])
    with pytest.raises(click.ClickException, match="got 'nightly', which is configured"):
        app.start(["schedule", "remove", "nightly"])
    with pytest.raises(click.UsageError, match="expected either --every or --cron"):
        app.start(["schedule", "add", "x", "--task", "y"])
