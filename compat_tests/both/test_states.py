"""States on the way: progress, started, ignored results, expiry, eta and revoking."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest


@pytest.fixture
def exceptions(submodule: Callable[[str], Any]) -> Any:
    return submodule("exceptions")


@pytest.fixture
def signals(submodule: Callable[[str], Any]) -> Any:
    return submodule("signals")


@pytest.fixture
def gate() -> Any:
    """An event a task may wait for; opened at the end in any case."""
    event = threading.Event()
    yield event
    event.set()


def test_an_id_that_nobody_knows_is_pending(app: Any) -> None:
    result = app.AsyncResult("never-sent")
    assert (result.state, result.status, result.result, result.info) == ("PENDING", "PENDING", None, None)
    assert not result.ready()
    assert not result.successful()
    assert not result.failed()


def test_progress_can_be_told_while_the_task_runs(running_app: Any, gate: Any, journal: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any) -> str:
        self.update_state(state="PROGRESS", meta={"done": 3, "of": 10})
        journal.note("updated")
        gate.wait(10)
        return "done"

    result = job.delay()
    journal.until("updated")
    assert result.state == "PROGRESS"
    assert result.info == result.result == {"done": 3, "of": 10}
    assert not result.ready()
    gate.set()
    assert result.get(timeout=10) == "done"
    assert result.state == "SUCCESS"


def test_progress_is_seen_through_any_result_of_the_id(running_app: Any, gate: Any, journal: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any) -> None:
        self.update_state(state="HALFWAY", meta={"n": 1})
        journal.note("updated")
        gate.wait(10)

    result = job.delay()
    journal.until("updated")
    other = running_app.AsyncResult(result.id)
    assert (other.state, other.info) == ("HALFWAY", {"n": 1})


def test_the_state_of_another_task_can_be_set_by_id(running_app: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any) -> None:
        self.update_state(task_id="another-id", state="WATCHED", meta={"by": self.request.id})

    result = job.delay()
    result.get(timeout=10)
    other = running_app.AsyncResult("another-id")
    assert (other.state, other.info) == ("WATCHED", {"by": result.id})


def test_progress_can_be_told_from_outside_through_the_backend(app: Any) -> None:
    app.backend.store_result("by-backend", {"n": 1}, "PROGRESS")
    assert app.AsyncResult("by-backend").info == {"n": 1}


def test_started_is_not_told_by_default(running_app: Any, gate: Any, journal: Any) -> None:
    @running_app.task
    def job() -> None:
        journal.note("runs")
        gate.wait(10)

    result = job.delay()
    journal.until("runs")
    assert result.state == "PENDING"


def test_started_is_told_when_it_is_tracked(running_app: Any, gate: Any, journal: Any) -> None:
    @running_app.task(track_started=True)
    def job() -> None:
        journal.note("runs")
        gate.wait(10)

    result = job.delay()
    journal.until("runs")
    assert result.state == "STARTED"
    assert {"pid", "hostname"} <= set(result.info)
    gate.set()
    result.get(timeout=10)
    assert result.state == "SUCCESS"


def test_started_is_tracked_for_all_tasks_by_setting(
    new_app: Callable[..., Any], start_worker: Any, gate: Any, journal: Any
) -> None:
    app = new_app(task_track_started=True)

    @app.task
    def job() -> None:
        journal.note("runs")
        gate.wait(10)

    with start_worker(app):
        result = job.delay()
        journal.until("runs")
        assert result.state == "STARTED"
        gate.set()


def test_an_ignored_result_stays_pending_and_get_gives_none(running_app: Any, journal: Any) -> None:
    @running_app.task(ignore_result=True)
    def job() -> str:
        journal.note("ran")
        return "value"

    result = job.delay()
    assert result.get(timeout=10) is None
    journal.until("ran")
    assert running_app.AsyncResult(result.id).state == "PENDING"


def test_a_call_can_keep_the_result_of_a_task_that_ignores_it(running_app: Any) -> None:
    @running_app.task(ignore_result=True)
    def job() -> str:
        return "value"

    assert job.apply_async(ignore_result=False).get(timeout=10) == "value"


def test_a_call_can_ignore_the_result_of_a_task_that_keeps_it(running_app: Any, journal: Any) -> None:
    @running_app.task
    def job() -> str:
        journal.note("ran")
        return "value"

    result = job.apply_async(ignore_result=True)
    assert result.get(timeout=10) is None
    journal.until("ran")


def test_results_can_be_ignored_by_the_app_and_kept_by_a_task(
    new_app: Callable[..., Any], start_worker: Any
) -> None:
    app = new_app(task_ignore_result=True)

    @app.task(ignore_result=False)
    def kept() -> str:
        return "kept"

    @app.task
    def ignored() -> str:
        return "ignored"

    with start_worker(app):
        assert kept.delay().get(timeout=10) == "kept"
        assert ignored.delay().get(timeout=10) is None


def test_errors_of_ignored_results_can_be_kept(
    running_app: Any, journal: Any, receive: Any, signals: Any
) -> None:
    receive(signals.task_postrun, lambda **kwargs: journal.note("ran"))

    @running_app.task(ignore_result=True, store_errors_even_if_ignored=True)
    def job() -> None:
        raise ValueError("kept")

    result = job.delay()
    journal.until("ran")
    stored = running_app.AsyncResult(result.id)
    assert (stored.state, repr(stored.result)) == ("FAILURE", "ValueError('kept')")


def test_a_task_that_expired_before_its_start_is_revoked(
    app: Any, start_worker: Any, exceptions: Any
) -> None:
    @app.task
    def job() -> None: ...

    result = job.apply_async(expires=datetime.now(UTC) - timedelta(seconds=5))
    with start_worker(app):
        with pytest.raises(exceptions.TaskRevokedError, match="expired"):
            result.get(timeout=10)
        assert result.state == "REVOKED"


def test_a_task_that_does_not_expire_in_time_runs(running_app: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any) -> bool:
        return self.request.expires is not None

    assert job.apply_async(expires=60).get(timeout=10) is True


def test_the_expiry_of_a_task_class_applies_to_its_calls(running_app: Any) -> None:
    @running_app.task(bind=True, expires=300)
    def job(self: Any) -> Any:
        return self.request.expires

    assert job.delay().get(timeout=10) is not None


def test_an_expired_task_is_told_as_revoked_and_expired(
    app: Any, start_worker: Any, receive: Any, signals: Any, journal: Any
) -> None:
    seen: list[dict[str, Any]] = []

    def revoked(**kwargs: Any) -> None:
        seen.append(kwargs)
        journal.note("revoked")

    receive(signals.task_revoked, revoked)

    @app.task
    def job() -> None: ...

    result = job.apply_async(expires=datetime.now(UTC) - timedelta(seconds=5))
    with start_worker(app):
        journal.until("revoked")
    assert seen[0]["request"].id == result.id
    assert (seen[0]["terminated"], seen[0]["signum"], seen[0]["expired"]) == (False, None, True)
    assert seen[0]["sender"].name == job.name


class _Busy:
    """A worker of one thread that is kept busy, so that what is sent waits until `free()`."""

    def __init__(self, app: Any, gate: threading.Event, journal: Any) -> None:
        self.app = app
        self.free = gate.set

        @app.task(name="states.blocks")
        def blocks() -> None:
            journal.note("busy")
            gate.wait(10)

        @app.task(name="states.waits")
        def waits() -> None:
            journal.note("ran")

        self.waits = waits
        blocks.delay()
        journal.until("busy")


@pytest.fixture
def busy(app: Any, start_worker: Any, gate: Any, journal: Any) -> Any:
    with start_worker(app, concurrency=1):
        yield _Busy(app, gate, journal)


def test_a_revoked_task_never_runs(
    busy: _Busy, exceptions: Any, receive: Any, signals: Any, journal: Any
) -> None:
    seen: list[dict[str, Any]] = []

    def revoked(**kwargs: Any) -> None:
        seen.append(kwargs)
        journal.note("revoked")

    receive(signals.task_revoked, revoked)
    # Revoked before it is sent: Celery runs what it has handed to its threads.
    busy.app.control.revoke("the-one", reply=True, limit=1, timeout=15)
    result = busy.waits.apply_async(task_id="the-one")
    busy.free()
    with pytest.raises(exceptions.TaskRevokedError, match="revoked"):
        result.get(timeout=10)
    assert result.state == "REVOKED"
    journal.until("revoked")
    assert journal == ["busy", "revoked"]
    assert (seen[0]["request"].id, seen[0]["expired"], seen[0]["terminated"]) == (result.id, False, False)


def test_revoking_through_the_result_is_the_same(busy: _Busy, exceptions: Any, journal: Any) -> None:
    result = busy.app.AsyncResult("through-the-result")
    result.revoke(wait=True, timeout=5)
    busy.waits.apply_async(task_id=result.id)
    busy.free()
    with pytest.raises(exceptions.TaskRevokedError):
        result.get(timeout=10)
    assert journal == ["busy"]


def test_several_tasks_can_be_revoked_at_once(busy: _Busy, exceptions: Any, journal: Any) -> None:
    ids = ["first", "second", "third"]
    busy.app.control.revoke(ids, reply=True, limit=1, timeout=15)
    results = [busy.waits.apply_async(task_id=each) for each in ids]
    busy.free()
    for result in results:
        with pytest.raises(exceptions.TaskRevokedError):
            result.get(timeout=10)
    assert journal == ["busy"]


def test_revoking_does_not_stop_a_task_that_runs(busy: _Busy, journal: Any) -> None:
    result = busy.waits.delay()
    busy.free()
    result.get(timeout=10)
    result.revoke()
    assert result.state == "SUCCESS"


def test_a_task_waits_for_its_countdown(running_app: Any) -> None:
    @running_app.task
    def job() -> float:
        return datetime.now(UTC).timestamp()

    sent = datetime.now(UTC).timestamp()
    assert job.apply_async(countdown=0.1).get(timeout=10) >= sent + 0.09


def test_a_task_with_an_eta_in_the_past_runs_at_once(running_app: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any) -> str:
        return str(self.request.eta)

    eta = datetime.now(UTC) - timedelta(hours=1)
    assert datetime.fromisoformat(job.apply_async(eta=eta).get(timeout=10)) == eta


def test_a_later_call_without_countdown_overtakes(running_app: Any, journal: Any) -> None:
    @running_app.task
    def job(name: str) -> None:
        journal.note(name)

    job.apply_async(("late",), countdown=2)
    job.delay("now")
    journal.until("late")
    assert journal == ["now", "late"]


@pytest.mark.parametrize(
    "eta",
    [
        datetime(2020, 1, 1),  # noqa: DTZ001 -- a naive time is taken in the zone of the app
        datetime(2020, 1, 1, tzinfo=UTC),
    ],
    ids=["naive", "aware"],
)
def test_an_eta_may_be_naive_or_aware(running_app: Any, eta: datetime) -> None:
    @running_app.task
    def job() -> str:
        return "ran"

    assert job.apply_async(eta=eta).get(timeout=10) == "ran"


def test_forget_drops_the_result(running_app: Any) -> None:
    @running_app.task
    def job() -> str:
        return "value"

    result = job.delay()
    assert result.get(timeout=10) == "value"
    result.forget()
    assert running_app.AsyncResult(result.id).state == "PENDING"


def test_get_gives_up_after_its_timeout(app: Any, exceptions: Any) -> None:
    @app.task
    def job() -> None: ...

    with pytest.raises(exceptions.TimeoutError, match="The operation timed out"):
        job.delay().get(timeout=0.02)


def test_the_timeout_of_get_is_no_end_of_the_task(app: Any, start_worker: Any, exceptions: Any) -> None:
    @app.task
    def job() -> str:
        return "late"

    result = job.delay()
    with pytest.raises(exceptions.TimeoutError):
        result.get(timeout=0.02)
    with start_worker(app):
        assert result.get(timeout=10) == "late"


def test_meta_of_a_result_is_extended_when_the_setting_says_so(
    new_app: Callable[..., Any], start_worker: Any
) -> None:
    app = new_app(result_extended=True)

    @app.task(name="states.extended")
    def job(x: int, y: int = 0) -> int:
        return x + y

    with start_worker(app):
        result = job.apply_async((1,), {"y": 2})
        assert result.get(timeout=10) == 3
        assert result.name == "states.extended"
        assert list(result.args) == [1]
        assert result.kwargs == {"y": 2}
        assert result.retries == 0
        assert result.queue == "celery"
        assert result.worker


def test_the_time_it_was_done_is_known(running_app: Any) -> None:
    @running_app.task
    def job() -> None: ...

    result = job.delay()
    result.get(timeout=10)
    done = result.date_done
    assert isinstance(done, datetime)
    done = done if done.tzinfo else done.replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - done) < timedelta(seconds=30)


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("READY_STATES", {"SUCCESS", "FAILURE", "REVOKED"}),
        ("UNREADY_STATES", {"PENDING", "RECEIVED", "STARTED", "REJECTED", "RETRY"}),
        ("EXCEPTION_STATES", {"RETRY", "FAILURE", "REVOKED"}),
        ("PROPAGATE_STATES", {"FAILURE", "REVOKED"}),
    ],
)
def test_the_sets_of_states_are_celerys(
    submodule: Callable[[str], Any], name: str, members: set[str]
) -> None:
    assert getattr(submodule("states"), name) == members


def test_states_can_be_compared_by_how_far_they_are(submodule: Callable[[str], Any]) -> None:
    states = submodule("states")
    assert states.state("PENDING") < states.state("STARTED") < states.state("SUCCESS")
    assert states.state("CUSTOM") < states.state("SUCCESS")
    assert states.precedence("SUCCESS") == 0
