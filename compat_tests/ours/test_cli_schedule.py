"""The `schedule` command: shows the beat schedule, and edits it."""

from __future__ import annotations

import json

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


def test_an_entry_is_changed(app: Celery, capsys: pytest.CaptureFixture[str]) -> None:
    app.task(name="greet")(lambda *args: None)
    app.start(["schedule", "add", "often", "--task", "greet", "--every", "30", "--args", "[1]"])
    app.start(["schedule", "change", "often", "--cron", "0 9 * * *", "--overlap", "skip"])
    told = capsys.readouterr()
    assert (told.out.splitlines(), told.err) == (["often: added", "often: changed"], "")
    entry = app.schedule.get("often")
    assert (entry.task, list(entry.args), entry.overlap) == ("greet", [1], "skip")
    assert "0 9" in repr(entry.schedule)
    for zone in ("Asia/Tokyo", "Europe/Berlin"):
        app.start(["schedule", "change", "often", "--timezone", zone])
        assert str(app.schedule.get("often").schedule.tz) == zone
    with pytest.raises(click.UsageError, match="expected at least one option"):
        app.start(["schedule", "change", "often"])
    with pytest.raises(click.ClickException, match="got 'nobody'"):
        app.start(["schedule", "change", "nobody", "--every", "5"])


def test_an_interval_of_zero_and_an_entry_without_a_task_are_refused(app: Celery) -> None:
    for every in ("0", "-3"):
        with pytest.raises(click.ClickException, match="expected an interval above 0 seconds"):
            app.start(["schedule", "add", "spin", "--task", "work", "--every", every])
    with pytest.raises(click.UsageError, match="expected --task"):
        app.start(["schedule", "add", "spin", "--every", "5"])
    assert list(app.schedule.entries()) == ["nightly"]


def test_a_task_that_the_app_does_not_know_is_warned_of(
    app: Celery, capsys: pytest.CaptureFixture[str]
) -> None:
    app.start(["schedule", "add", "tick", "--task", "tasks.ad", "--every", "5"])
    told = capsys.readouterr()
    assert told.out == "tick: added\n"
    assert "warning: this app has no task 'tasks.ad'" in told.err


def test_times_are_in_the_zone_of_the_app_and_say_so(app: Celery, capsys: pytest.CaptureFixture[str]) -> None:
    app.conf.timezone = "Asia/Tokyo"
    app.start(["schedule", "add", "morning", "--task", "work", "--cron", "0 9 * * *"])
    app.start(["schedule", "list"])
    line = capsys.readouterr().out.splitlines()[2]
    assert "09:00 JST" in line
    # It has not run yet.
    assert line.partition(">")[2].split()[0] == "-"
    app.start(["schedule", "--json"])
    morning, nightly = json.loads(capsys.readouterr().out)
    assert (morning["name"], morning["task"], morning["total_run_count"]) == ("morning", "work", 0)
    assert morning["last_run_at"] is None
    assert morning["next_run_at"].endswith("09:00:00+09:00")
    assert nightly["name"] == "nightly"
