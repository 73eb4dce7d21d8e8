"""The schedule edited while programs run: committed at once, taken over by every process, kept."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from celerylite import Celery, _clock, _store, schedules
from celerylite._clock import ManualClock
from celerylite._ticks import Ticker
from celerylite.exceptions import ImproperlyConfigured
from celerylite.schedules import crontab, schedule, solar
from compat_tests.conftest import Journal
from compat_tests.ours.runtime_fixtures import MakeApp, StartProgram
from compat_tests.ours.store_fixtures import make_url
from compat_tests.ours.ticks_fixtures import Starter, advance, at, make_app, make_clock, make_starter, sent


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    yield from make_clock()


@pytest.fixture
def app(clock: ManualClock) -> Iterator[Celery]:
    yield from make_app()


@pytest.fixture
def started(app: Celery) -> Starter:
    return make_starter(app)


def test_an_added_entry_fires_and_outlives_its_process(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started()
    entry = app.schedule.add("report", task="ticks.note", schedule=10, args=(1,), kwargs={"day": "mon"})
    assert (entry.origin, entry.enabled, entry.total_run_count) == ("added", True, 0)
    assert entry.next_run_at == datetime.fromtimestamp(at("08:59:40"), UTC)
    assert ticker.look()
    assert advance(clock, ticker, 20) == 2
    assert advance(clock, started(), 20) == 2
    assert app.schedule.get("report").total_run_count == 4


@pytest.mark.parametrize(
    "when",
    [
        90,
        1.5,
        timedelta(days=2),
        schedule(60, relative=True),
        crontab(minute="*/5", hour="1,2", day_of_week="mon-fri"),
        crontab(hour=7, minute=0, tz="America/New_York"),
        "0 9 * * 1-5",
        "@daily",
        solar("sunset", -37.81753, 144.96715),
    ],
    ids=repr,
)
def test_schedules_of_every_kind_come_back_as_they_were(app: Celery, when: Any) -> None:
    added = app.schedule.add("a", task="x", schedule=when)
    again = app.schedule.get("a")
    assert again.schedule == added.schedule == schedules.maybe_schedule(when, app=app)
    assert repr(again.schedule) == repr(schedules.maybe_schedule(when, app=app))
    if isinstance(again.schedule, crontab):
        assert again.schedule.tz == schedules.maybe_schedule(when, app=app).tz


def test_arguments_come_back_as_they_were(app: Celery) -> None:
    moment = datetime(2026, 3, 2, tzinfo=UTC)
    app.schedule.add("a", task="x", schedule=1, args=(moment, Decimal("1.10")), options={"queue": "slow"})
    again = app.schedule.get("a")
    assert list(again.args) == [moment, Decimal("1.10")]
    assert again.options == {"queue": "slow"}


def test_the_zone_of_an_entry_is_kept(app: Celery, clock: ManualClock, started: Starter) -> None:
    app.schedule.add("a", task="x", schedule=crontab(hour=10, minute=0), timezone="Europe/Berlin")
    assert started().next_due() == at("09:00")


def test_an_entry_that_cannot_be_kept_is_refused(app: Celery) -> None:
    class Odd(schedule):
        """A class of the user's, of which the database knows nothing."""

    with pytest.raises(TypeError, match="expected seconds, a timedelta, crontab"):
        app.schedule.add("a", task="x", schedule=Odd(1))
    with pytest.raises(TypeError, match="expected arguments and options that JSON can hold"):
        app.schedule.add("a", task="x", schedule=1, args=(object(),))
    with pytest.raises(ValueError, match="expected catch_up to be one of"):
        app.schedule.add("a", task="x", schedule=1, catch_up="never")
    with pytest.raises(ValueError, match=r"expected the name of a time zone .* got 'Nowhere/Land'"):
        app.schedule.add("a", task="x", schedule=crontab(), timezone="Nowhere/Land")
    assert app.schedule.entries().keys() == set()


def test_a_zone_that_there_is_not_changes_nothing(app: Celery) -> None:
    app.schedule.add("a", task="x", schedule=crontab(hour=10, minute=0), timezone="Europe/Berlin")
    with pytest.raises(ValueError, match=r"expected the name of a time zone .* got 'Nowhere/Land'"):
        app.schedule.change("a", timezone="Nowhere/Land")
    assert str(app.schedule.get("a").schedule.tz) == "Europe/Berlin"


def test_a_name_can_be_given_once(app: Celery, started: Starter) -> None:
    started(configured=60)
    app.schedule.add("added", task="x", schedule=1)
    for name in ("configured", "added"):
        with pytest.raises(ValueError, match=f"expected a new name, got '{name}'.*use change"):
            app.schedule.add(name, task="x", schedule=1)


def test_a_task_may_be_given_as_such(app: Celery) -> None:
    assert app.schedule.add("a", task=app.tasks["ticks.note"], schedule=1).task == "ticks.note"


def test_a_changed_entry_goes_on_from_now(app: Celery, clock: ManualClock, started: Starter) -> None:
    ticker = started(a={"schedule": 3600, "args": (1,)})
    clock.advance(3000)
    changed = app.schedule.change("a", schedule=crontab(minute=0), kwargs={"x": 2})
    assert (changed.origin, list(changed.args), changed.kwargs) == ("changed", [1], {"x": 2})
    ticker.look()
    # Ten o'clock, and not the nine o'clock that came before the change.
    assert advance(clock, ticker, 600) == 0
    assert advance(clock, ticker, 100) == 1
    # A restart does not bring back what the configuration says, `reset` does.
    assert advance(clock, started(), 3600) == 1
    assert app.schedule.reset("a").schedule == schedule(3600)
    assert app.schedule.get("a").origin == "code"


def test_a_changed_entry_goes_when_the_configuration_has_it_no_more(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    started(a=60, b=60)
    app.schedule.add("added", task="ticks.note", schedule=60)
    for name in ("a", "added"):
        app.schedule.change(name, schedule=30)
    assert advance(clock, started(a=60, b=60), 60) == 5
    ticker = started(b=60)
    assert app.schedule.entries().keys() == {"added", "b"}
    assert advance(clock, ticker, 60) == 3


def test_changed_arguments_leave_the_runs_where_they_are(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a=60)
    clock.advance(30)
    app.schedule.change("a", args=(7,))
    ticker.look()
    assert advance(clock, ticker, 30) == 1
    assert "[7]" in str(app.store.waiting(1)[0].message.body)


def test_a_new_zone_counts_from_now_whatever_zone_the_entry_had(app: Celery, started: Starter) -> None:
    app.schedule.add("a", task="x", schedule="0 10 * * *")
    for zone, due in (("Europe/Berlin", "09:00"), ("Africa/Cairo", "08:00"), (None, "10:00")):
        changed = app.schedule.change("a", timezone=zone)
        assert changed.next_run_at is not None
        assert changed.next_run_at.strftime("%H:%M") == due
        assert str(changed.schedule.tz) == (zone or "UTC")
    started(configured={"schedule": crontab(hour=10, minute=0), "timezone": "Europe/Berlin"})
    assert str(app.schedule.change("configured", timezone="Asia/Tokyo").schedule.tz) == "Asia/Tokyo"


def test_a_new_schedule_goes_by_the_clocks_of_its_entry_unless_it_has_a_zone_of_its_own(app: Celery) -> None:
    app.schedule.add("a", task="x", schedule="0 9 * * *", timezone="Asia/Tokyo")
    moved = app.schedule.change("a", schedule="30 9 * * *")
    assert (repr(moved.schedule), str(moved.schedule.tz)) == (
        "<crontab: 30 9 * * * (m/h/dM/MY/d)>",
        "Asia/Tokyo",
    )
    assert str(app.schedule.change("a", args=(1,)).schedule.tz) == "Asia/Tokyo"
    elsewhere = app.schedule.change("a", schedule=crontab(hour=9, minute=0, tz="Europe/Berlin"))
    assert str(elsewhere.schedule.tz) == "Europe/Berlin"


def test_an_interval_stays_relative_until_it_is_said_otherwise(app: Celery) -> None:
    app.schedule.add("a", task="x", schedule=3600)
    for values, relative in (
        ({"relative": True}, True),
        ({"schedule": 60}, True),
        ({"relative": False}, False),
    ):
        assert app.schedule.change("a", **values).schedule.relative is relative
    assert app.schedule.get("a").schedule == schedule(60)


def test_a_paused_entry_fires_again_from_when_it_is_resumed(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a={"schedule": crontab(), "catch_up": "all"}, b=60)
    app.schedule.pause("a")
    assert not app.schedule.get("a").enabled
    assert app.schedule.get("a").next_run_at is None
    ticker.look()
    assert advance(clock, ticker, 600) == 10
    app.schedule.resume("a")
    for each in (ticker, started()):
        each.look()
        assert advance(clock, each, 60) == 2


def test_an_entry_can_be_paused_before_anything_has_fired_it(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    app.conf.beat_schedule = {"a": {"task": "ticks.note", "schedule": 10}}
    app.schedule.pause("a")
    assert advance(clock, started(), 100) == 0


def test_an_added_entry_can_be_removed(app: Celery, clock: ManualClock, started: Starter) -> None:
    ticker = started()
    app.schedule.add("a", task="ticks.note", schedule=10)
    ticker.look()
    advance(clock, ticker, 10)
    app.schedule.remove("a")
    ticker.look()
    assert advance(clock, ticker, 100) == 0
    assert app.schedule.entries() == {}


def test_a_configured_entry_cannot_be_removed(app: Celery, started: Starter) -> None:
    started(a=10)
    with pytest.raises(ValueError, match="got 'a', which is configured; remove it there, or pause it"):
        app.schedule.remove("a")


def test_an_entry_that_was_added_has_nothing_to_be_reset_to(app: Celery) -> None:
    app.schedule.add("a", task="x", schedule=10)
    with pytest.raises(ValueError, match="expected an entry of beat_schedule, got 'a'"):
        app.schedule.reset("a")


@pytest.mark.parametrize("method", ["get", "change", "reset", "remove", "pause", "resume", "run_now"])
def test_a_name_that_is_not_there_is_told(app: Celery, method: str) -> None:
    with pytest.raises(LookupError, match="expected the name of an entry, got 'nobody'"):
        getattr(app.schedule, method)("nobody")


def test_an_entry_runs_now_and_its_regular_runs_stay(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a={"schedule": 60, "options": {"queue": "slow"}})
    clock.advance(20)
    result = app.schedule.run_now("a")
    (waiting,) = app.store.waiting(10)
    assert (waiting.message.id, waiting.message.queue) == (result.id, "slow")
    assert waiting.message.headers["celery_beat_task"] is True
    assert app.schedule.get("a").last_task_id == result.id
    ticker.look()
    assert advance(clock, ticker, 40) == 1
    assert sent(app.store) == ["08:59:50", "09:00:30"]


def test_a_run_now_counts_for_what_may_not_overlap(app: Celery, clock: ManualClock, started: Starter) -> None:
    ticker = started(a={"schedule": 60, "overlap": "skip"})
    app.schedule.run_now("a")
    assert advance(clock, ticker, 60) == 0


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql"])
def test_what_was_edited_counts_when_every_process_has_gone(kind: str, tmp_path: Path) -> None:
    for url in make_url(kind, tmp_path):
        with _of_another_process(url) as app:
            app.schedule.add("added", task="ticks.note", schedule=60, args=(1,))
            app.schedule.add("removed", task="ticks.note", schedule=1)
            app.schedule.pause("paused")
            app.schedule.change("changed", schedule=20, kwargs={"day": "mon"})
            app.schedule.remove("removed")
        with _of_another_process(url) as app:
            entries = app.schedule.entries()
            assert {name: (entry.origin, entry.enabled) for name, entry in entries.items()} == {
                "added": ("added", True),
                "changed": ("changed", True),
                "paused": ("code", False),
            }
            ticker = Ticker(app, app.store)
            ticker.start()
            assert ticker.fire_due(_clock.time() + 61) == 2
            bodies = [json.loads(waiting.message.body)[:2] for waiting in app.store.waiting(10)]
            assert [[1], {}] in bodies
            assert [[], {"day": "mon"}] in bodies


def _of_another_process(url: str) -> Celery:
    """The app as a process that starts anew has it."""
    app = Celery("edits", backend=f"db+{url}")
    every_ten = {"task": "ticks.note", "schedule": 10}
    app.conf.update(
        result_expires=None,
        celerylite_runtime="off",
        beat_schedule={"paused": every_ten, "changed": every_ten},
    )
    return app


@pytest.mark.parametrize("edit", ["add", "change", "pause", "resume", "remove", "reset"])
def test_the_entries_of_a_scheduler_of_the_users_are_edited_elsewhere(
    app: Celery, started: Starter, edit: str
) -> None:
    started(a=10)
    app.conf.beat_scheduler = "celerylite.beat:Scheduler"
    values = {"task": "x", "schedule": 1} if edit == "add" else {}
    with pytest.raises(ImproperlyConfigured, match="expected the default beat_scheduler"):
        getattr(app.schedule, edit)("a", **values)


def test_entries_lists_what_is_configured_and_what_was_added(app: Celery, started: Starter) -> None:
    started(b=10, c=20)
    app.schedule.add("a", task="x", schedule=1)
    app.schedule.change("c", schedule=30)
    assert {name: entry.origin for name, entry in app.schedule.entries().items()} == {
        "a": "added",
        "b": "code",
        "c": "changed",
    }


def test_a_row_that_cannot_be_read_is_logged_and_stops_no_other(
    app: Celery, clock: ManualClock, started: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    app.schedule.add("bad", task="x", schedule=1)
    app.store.edit_periodic("bad", spec='{"task": 1}')
    assert advance(clock, started(good=10), 10) == 1
    assert "Cannot use the entry 'bad' of the database" in caplog.text
    assert app.schedule.entries().keys() == {"good"}


def test_apps_that_share_a_database_leave_each_others_entries_alone(make_app: MakeApp) -> None:
    with ExitStack() as stack:
        apps = [stack.enter_context(make_app(name, result_expires=None)) for name in ("one", "two")]
        for app in apps:
            app.conf.beat_schedule = {f"of {app.main}": {"task": "x", "schedule": 10}}
            Ticker(app, app.store).start()
        assert set(apps[0].store.periodic()) == {"of one", "of two"}
        # An entry that its own app has no more does go.
        apps[0].conf.beat_schedule = {}
        Ticker(apps[0], apps[0].store).start()
        assert set(apps[0].store.periodic()) == {"of two"}


def test_one_name_for_two_things_in_two_apps_is_warned_of(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one", "two"):
        app = make_app(name, result_expires=None)
        app.conf.beat_schedule = {"nightly": {"task": f"{name}.work", "schedule": 10}}
        Ticker(app, app.store).start()
    assert "sends one.work instead of two.work" in caplog.text


def test_an_older_database_learns_of_the_new_columns(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite3"
    _store.open_store(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path)
    for column in ("app", "task", "last_task_id", "buffered_at"):
        connection.execute(f"ALTER TABLE celerylite_periodic DROP COLUMN {column}")
    connection.execute("UPDATE celerylite_meta SET value = '1' WHERE name = 'schema_version'")
    connection.execute("INSERT INTO celerylite_periodic VALUES ('e', NULL, 1, 1.5, NULL, 3)")
    connection.commit()
    connection.close()
    store = _store.open_store(f"sqlite:///{path}")
    assert store.periodic()["e"].total_run_count == 3
    assert store.tick("e", 2.0, [], ran_at=2.0)
    store.close()


def test_a_running_process_takes_over_an_edit_within_a_moment(make_app: MakeApp, journal: Journal) -> None:
    firing, editing = make_app("firing"), make_app("editing", celerylite_runtime="off")

    @firing.task(name="note")
    def note(word: str) -> None:
        journal.note(word)

    firing.start_runtime(beat=True)
    editing.schedule.add("a", task="note", schedule=0.1, args=("added",))
    journal.until("added", times=2)
    editing.schedule.change("a", args=("changed",))
    journal.until("changed")
    editing.schedule.remove("a")
    editing.schedule.add("b", task="note", schedule=3600, args=("now",))
    editing.schedule.run_now("b")
    journal.until("now")


def test_a_beat_process_takes_over_an_edit_within_a_moment(
    start_program: StartProgram, make_app: MakeApp, journal: Journal
) -> None:
    beat = start_program(
        "app.conf.celerylite_runtime = 'off'\nsay('ready')\napp.Beat(quiet=True, loglevel='INFO').run()"
    )
    beat.until("ready")
    app = make_app("running", celerylite_beat="off")

    @app.task(name="note")
    def note() -> None:
        journal.note("ran")

    app.start_runtime()
    app.schedule.add("a", task="note", schedule=0.1)
    journal.until("ran", times=3)


@pytest.mark.parametrize("every", [timedelta.max, 1e12, float("inf"), float("nan"), 1e300])
def test_an_interval_that_no_date_can_follow_is_refused_and_disturbs_no_other(
    app: Celery, every: Any
) -> None:
    with pytest.raises(ValueError, match=r"'never'.*(100 years|timedelta can hold)"):
        app.schedule.add("never", task="ticks.note", schedule=every)
    assert "never" not in app.schedule.entries()


def test_an_entry_of_the_configuration_whose_next_run_is_no_date_is_listed(
    app: Celery, started: Starter
) -> None:
    started(never=timedelta(days=3_000_000))
    assert app.schedule.get("never").next_run_at is None


@pytest.mark.parametrize("every", [0, -5, timedelta(0), schedule(0)])
def test_an_entry_without_an_interval_is_refused(app: Celery, every: Any) -> None:
    with pytest.raises(ValueError, match="expected an interval above 0 seconds for 'spin'"):
        app.schedule.add("spin", task="ticks.note", schedule=every)
    app.schedule.add("spin", task="ticks.note", schedule=5)
    with pytest.raises(ValueError, match="expected an interval above 0 seconds for 'spin'"):
        app.schedule.change("spin", schedule=every)
    assert app.schedule.get("spin").schedule.seconds == 5


def test_a_configured_interval_of_zero_fires_once_a_second(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(spin=timedelta(0))
    for _ in range(20):
        clock.advance(0.25)
        ticker.fire_due(clock.time())
    assert app.schedule.get("spin").total_run_count == 5


def test_a_run_that_could_not_be_published_is_not_counted(
    app: Celery, clock: ManualClock, started: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    app.task(name="ticks.strict")(lambda x: x)
    ticker = started(wrong={"task": "ticks.strict", "schedule": 10.0})
    assert advance(clock, ticker, 20) == 0
    entry = app.schedule.get("wrong")
    assert (entry.total_run_count, entry.last_run_at) == (0, None)
    assert "Couldn't apply scheduled task wrong" in caplog.text
    assert "Sending due task wrong" not in caplog.text
