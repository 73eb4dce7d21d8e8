"""Beat as programs subclass it: entries, the scheduler's ticks, what is sent, the service."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from compat_tests.conftest import DEADLINE_S

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


@pytest.fixture
def beat(submodule: Callable[[str], Any]) -> Any:
    return submodule("beat")


@pytest.fixture
def schedules(submodule: Callable[[str], Any]) -> Any:
    return submodule("schedules")


class Now:
    """The time of the schedules here; tests move it."""

    def __init__(self) -> None:
        self.moment = START

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def scheduler(beat: Any, app: Any) -> Any:
    """A subclass as users write them, which notes what it would send."""

    class Noting(beat.Scheduler):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.sent: list[Any] = []
            super().__init__(*args, **kwargs)

        def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            self.sent.append((name, args, kwargs, options))
            return self.app.AsyncResult("an-id")

    return Noting(app=app, lazy=True)


@pytest.fixture
def every(schedules: Any, app: Any, now: Now) -> Callable[[float], Any]:
    return lambda seconds: schedules.schedule(seconds, nowfun=now, app=app)


def test_an_entry_steps_forward_by_copies(
    beat: Any, app: Any, every: Callable[[float], Any], now: Now
) -> None:
    entry = beat.ScheduleEntry(name="a", task="t", schedule=every(10), args=(1,), app=app)
    assert (entry.last_run_at, entry.total_run_count, entry.kwargs, entry.options) == (START, 0, {}, {})
    now.advance(10)
    following = next(entry)
    assert (following.last_run_at, following.total_run_count) == (START + timedelta(seconds=10), 1)
    assert (following.name, following.args, following.schedule) == ("a", (1,), entry.schedule)
    assert entry.total_run_count == 0
    assert entry.next(last_run_at=START).last_run_at == START


def test_entries_are_equal_when_they_send_the_same(beat: Any, app: Any) -> None:
    entry = beat.ScheduleEntry(name="a", task="t", schedule=10, args=(1,), app=app)
    assert entry == beat.ScheduleEntry(name="b", task="t", schedule=timedelta(seconds=10), args=(1,), app=app)
    assert entry != beat.ScheduleEntry(name="a", task="t", schedule=11, args=(1,), app=app)
    other = beat.ScheduleEntry(name="a", task="u", schedule=11, kwargs={"x": 1}, app=app, total_run_count=5)
    entry.update(other)
    assert (entry.task, entry.kwargs, entry.total_run_count) == ("u", {"x": 1}, 0)


def test_an_entry_prints_its_call_and_survives_pickling(beat: Any) -> None:
    entry = beat.ScheduleEntry("a", "t", START, 3, 10, (1,), {"x": 2}, {"queue": "q"})
    assert repr(entry) == "<ScheduleEntry: a t(1, x=2) <freq: 10.00 seconds>"
    again = pickle.loads(pickle.dumps(entry))
    assert again == entry
    assert (again.last_run_at, again.total_run_count) == (START, 3)


def test_a_tick_sends_one_due_entry_and_says_when_to_come_back(
    scheduler: Any, every: Callable[[float], Any], now: Now
) -> None:
    scheduler.add(
        name="a", task="t.a", schedule=every(10), args=(1,), kwargs={"x": 2}, options={"queue": "q"}
    )
    scheduler.add(name="b", task="t.b", schedule=every(25))
    assert scheduler.tick() == pytest.approx(9.99)
    assert scheduler.sent == []
    now.advance(10)
    assert scheduler.tick() == 0
    ((name, args, kwargs, options),) = scheduler.sent
    assert (name, args, kwargs, options["queue"]) == ("t.a", [1], {"x": 2}, "q")
    assert options["headers"] == {"celery_beat_task": True}
    assert scheduler.tick() == pytest.approx(9.98, abs=0.02)
    assert scheduler.schedule["a"].total_run_count == 1


def test_lazy_arguments_are_called_when_the_task_is_sent(beat: Any, scheduler: Any) -> None:
    count = iter(range(10))
    entry = scheduler.Entry(
        name="a",
        task="t",
        schedule=10,
        args=(beat.BeatLazyFunc(next, count), 9),
        kwargs={"x": beat.BeatLazyFunc(max, 1, 2)},
        app=scheduler.app,
    )
    scheduler.apply_async(entry, advance=False)
    scheduler.apply_async(entry, advance=False)
    assert [call[1:3] for call in scheduler.sent] == [([0, 9], {"x": 2}), ([1, 9], {"x": 2})]


def test_a_schedule_that_raises_does_not_stop_the_others(
    schedules: Any, scheduler: Any, every: Callable[[float], Any], now: Now, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(schedules.schedule):  # type: ignore[misc]
        def is_due(self, last_run_at: datetime) -> Any:
            raise RuntimeError("no idea")

    scheduler.add(name="broken", task="t.broken", schedule=Broken(1, nowfun=now, app=scheduler.app))
    scheduler.add(name="a", task="t.a", schedule=every(0))
    assert scheduler.tick() == 0
    assert [call[0] for call in scheduler.sent] == ["t.a"]
    assert "beat: Cannot calculate the next run of 'broken', trying again in 5.00 minutes." in caplog.text


def test_a_task_that_cannot_be_sent_is_logged_and_counts_as_run(
    beat: Any, scheduler: Any, every: Callable[[float], Any], caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise OSError("no broker")

    scheduler.send_task = fails
    entry = scheduler.add(name="a", task="t", schedule=every(0))
    assert scheduler.tick() == 0
    assert "Message Error: Couldn't apply scheduled task a: no broker" in caplog.text
    assert scheduler.schedule["a"].total_run_count == 1
    with pytest.raises(beat.SchedulingError, match="Couldn't apply scheduled task a: no broker"):
        scheduler.apply_async(entry)


def test_an_entry_that_was_added_or_changed_is_taken_up_by_the_next_tick(
    scheduler: Any, every: Callable[[float], Any]
) -> None:
    assert scheduler.tick() == scheduler.max_interval == 300
    scheduler.add(name="a", task="t", schedule=every(100))
    assert scheduler.tick() == pytest.approx(99.99)
    scheduler.add(name="a", task="t", schedule=every(50))
    assert scheduler.tick() == pytest.approx(49.99)


def test_merging_removes_updates_and_adds(scheduler: Any) -> None:
    scheduler.update_from_dict({"gone": {"task": "t", "schedule": 1}, "kept": {"task": "t", "schedule": 1}})
    scheduler.schedule["kept"].total_run_count = 7
    scheduler.merge_inplace({"kept": {"task": "u", "schedule": 2}, "new": {"task": "v", "schedule": 3}})
    assert {name: entry.task for name, entry in scheduler.schedule.items()} == {"kept": "u", "new": "v"}
    assert scheduler.schedule["kept"].total_run_count == 7


def test_the_clean_up_is_added_where_results_expire(app: Any, scheduler: Any) -> None:
    app.backend.supports_autoexpire = False
    scheduler.install_default_entries({})
    entry = scheduler.schedule["celery.backend_cleanup"]
    assert (entry.schedule.hour, entry.schedule.minute, entry.options) == ({4}, {0}, {"expires": 43200})


def test_sync_is_called_after_so_many_tasks(app: Any, beat: Any) -> None:
    synced: list[int] = []

    class Syncing(beat.Scheduler):  # type: ignore[misc]
        def send_task(self, *args: Any, **kwargs: Any) -> None:
            pass

        def sync(self) -> None:
            synced.append(self._tasks_since_sync)

    scheduler = Syncing(app=app, lazy=True, sync_every_tasks=2)
    scheduler._do_sync()
    for _ in range(4):
        scheduler.apply_async(scheduler.Entry(name="a", task="t", schedule=1, app=app), advance=False)
    assert synced == [0, 2, 2]


def test_the_schedule_file_keeps_last_runs(app: Any, beat: Any, tmp_path: Path) -> None:
    app.conf.beat_schedule = {"a": {"task": "t", "schedule": 10}}

    def opened() -> Any:
        return beat.PersistentScheduler(app=app, schedule_filename=str(tmp_path / "schedule"))

    first = opened()
    first.reserve(first.schedule["a"])
    ran_at = first.schedule["a"].last_run_at
    first.close()
    second = opened()
    assert (second.schedule["a"].last_run_at, second.schedule["a"].total_run_count) == (ran_at, 1)
    assert second.info == f"    . db -> {tmp_path / 'schedule'}"
    second.close()


def test_a_service_ticks_until_it_is_stopped(
    app: Any, beat: Any, submodule: Callable[[str], Any], caplog: pytest.LogCaptureFixture, receive: Any
) -> None:
    caplog.set_level(logging.INFO)
    ticked, senders = threading.Event(), []

    class Ticking(beat.Scheduler):  # type: ignore[misc]
        def tick(self, *args: Any, **kwargs: Any) -> float:
            ticked.set()
            return 0.01

    receive(submodule("signals").beat_init, lambda sender, **kwargs: senders.append(sender))
    service = beat.Service(app, scheduler_cls=Ticking)
    thread = threading.Thread(target=service.start)
    thread.start()
    assert ticked.wait(10)
    service.stop(wait=True)
    thread.join(10)
    assert senders == [service]
    assert [line for line in caplog.messages if line.startswith("beat:")] == [
        "beat: Starting...",
        "beat: Shutting down...",
    ]


def test_an_embedded_service_is_a_thread_on_request(app: Any, beat: Any) -> None:
    embedded: Any = beat.EmbeddedService(app, thread=True)
    assert threading.Thread in type(embedded).__mro__
    assert embedded.daemon
    assert isinstance(embedded.service, beat.Service)
    assert embedded.service.max_interval == 1


def test_an_embedded_service_sends_what_is_due_until_it_is_stopped(app: Any, beat: Any) -> None:
    sent, enough = [], threading.Event()

    class Sending(beat.Scheduler):  # type: ignore[misc]
        def send_task(self, name: str, *args: Any, **kwargs: Any) -> None:
            sent.append(name)
            if len(sent) == 3:
                enough.set()

    app.conf.beat_schedule = {"often": {"task": "elsewhere", "schedule": 0.05}}
    embedded: Any = beat.EmbeddedService(app, thread=True, scheduler_cls=Sending)
    embedded.start()
    assert enough.wait(DEADLINE_S)
    embedded.stop()
    embedded.join(DEADLINE_S)
    assert not embedded.is_alive()
    assert set(sent) == {"elsewhere"}


def test_the_longest_pause_is_that_of_the_settings_unless_one_is_given(app: Any, beat: Any) -> None:
    app.conf.beat_max_loop_interval = 7
    assert beat.Scheduler(app=app, lazy=True).tick() == 7
    assert beat.Scheduler(app=app, lazy=True, max_interval=3).tick() == 3
    assert beat.Service(app, scheduler_cls=beat.Scheduler).scheduler.max_interval == 7
    assert beat.Service(app, max_interval=3, scheduler_cls=beat.Scheduler).scheduler.max_interval == 3


@pytest.fixture
def hanging(beat: Any) -> Iterator[Any]:
    """A scheduler class of a user whose tick hangs as long as its `may_tick` is not set."""

    class Hanging(beat.Scheduler):  # type: ignore[misc]
        may_tick = threading.Event()

        def tick(self, *args: Any, **kwargs: Any) -> float:
            self.may_tick.wait(DEADLINE_S)
            return 0.01

    Hanging.may_tick.set()
    yield Hanging
    Hanging.may_tick.set()


@pytest.fixture
def start_beat(app: Any, beat: Any) -> Iterator[Callable[..., str]]:
    """Run a beat in a thread, `start_beat(scheduler_cls=...)`, until the test ends; gives its node name."""
    with ExitStack() as stack:

        def start(**options: Any) -> str:
            service = beat.Service(app, hostname="beat@here", **options)
            thread = threading.Thread(target=service.start)
            stack.callback(thread.join, DEADLINE_S)
            stack.callback(service.stop)
            thread.start()
            return str(beat.beat_nodename(service.hostname))

        yield start


def _eventually(replies: Any, ping: Callable[[], Any]) -> bool:
    """Whether a ping is answered so before the deadline; each waits by itself."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if ping() == replies:
            return True
    return False


def test_a_beat_that_may_be_asked_answers_and_falls_silent_while_its_tick_hangs(
    app: Any, start_beat: Callable[..., str], hanging: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app.conf.beat_enable_remote_control = True
    app.conf.beat_remote_control_max_tick_age = 0.2
    node = start_beat(scheduler_cls=hanging)
    pong = [{node: {"ok": "pong"}}]

    def ping() -> Any:
        return app.control.ping(destination=[node], timeout=0.3)

    assert _eventually(pong, ping)
    hanging.may_tick.clear()
    assert _eventually([], ping)
    assert any("answer" in line and "ping" in line for line in caplog.messages)
    hanging.may_tick.set()
    assert _eventually(pong, ping)


def test_a_beat_leaves_all_but_a_ping_to_the_workers(
    running_app: Any, start_beat: Callable[..., str], hanging: Any
) -> None:
    node = start_beat(scheduler_cls=hanging, remote_control=True)
    (worker,) = running_app.control.inspect(timeout=DEADLINE_S, limit=1).clock()
    inspect = running_app.control.inspect(timeout=0.5)
    assert _eventually({node, worker}, lambda: set(inspect.ping() or ()))

    def clocks() -> set[str]:
        answered = set(inspect.clock() or ())
        assert node not in answered
        return answered

    assert _eventually({worker}, clocks)


def test_a_beat_does_not_answer_unless_it_is_asked_to(
    app: Any, start_beat: Callable[..., str], hanging: Any
) -> None:
    ticked = threading.Event()
    hanging.should_sync = lambda self: ticked.set()
    node = start_beat(scheduler_cls=hanging)
    assert ticked.wait(DEADLINE_S)
    assert app.control.ping(destination=[node], timeout=0.3) == []


def test_a_beat_without_a_limit_answers_though_its_tick_hangs(
    app: Any, start_beat: Callable[..., str], hanging: Any
) -> None:
    app.conf.beat_remote_control_max_tick_age = 0
    hanging.may_tick.clear()
    node = start_beat(scheduler_cls=hanging, remote_control=True)
    assert _eventually([{node: {"ok": "pong"}}], lambda: app.control.ping(destination=[node], timeout=0.3))


@pytest.mark.parametrize(("interval", "expected"), [(5.0, 60.0), (200.0, 400.0), (None, 600.0)])
def test_a_tick_may_take_twice_its_interval_and_a_minute_at_least(
    app: Any, beat: Any, interval: float | None, expected: float
) -> None:
    assert beat.BeatPidbox(beat.Service(app, max_interval=interval)).max_tick_age == expected
