"""Retrying: `retry()` in all its forms, `autoretry_for`, back-off and the end of patience."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest


@pytest.fixture
def running_app(app: Any, start_worker: Any) -> Iterator[Any]:
    """One thread only: Celery stores RETRY after it has published the next try, which may be over by then."""
    with start_worker(app, concurrency=1):
        yield app


@pytest.fixture
def exceptions(submodule: Callable[[str], Any]) -> Any:
    return submodule("exceptions")


@pytest.fixture
def signals(submodule: Callable[[str], Any]) -> Any:
    return submodule("signals")


@pytest.fixture
def published(receive: Any, signals: Any) -> list[dict[str, Any]]:
    """The headers and properties of every message of the test."""
    seen: list[dict[str, Any]] = []
    receive(signals.before_task_publish, lambda sender, **kw: seen.append({"sender": sender, **kw}))
    return seen


def _seconds_until(eta: str) -> float:
    return (datetime.fromisoformat(eta) - datetime.now(UTC)).total_seconds()


def test_a_task_is_tried_again_until_it_succeeds(running_app: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any) -> int:
        if self.request.retries < 3:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    assert job.delay().get(timeout=10) == 3


def test_a_bare_call_of_retry_also_ends_the_try(running_app: Any, journal: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any) -> str:
        if not self.request.retries:
            self.retry(countdown=0)
            journal.note("never reached")
        return "again"

    assert job.delay().get(timeout=10) == "again"
    assert journal == []


def test_a_retry_keeps_id_and_arguments(running_app: Any, journal: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any, x: int, y: int = 0) -> None:
        journal.note((self.request.id, x, y))
        if not self.request.retries:
            raise self.retry(countdown=0)

    result = job.apply_async((1,), {"y": 2})
    result.get(timeout=10)
    assert journal == [(result.id, 1, 2)] * 2


def test_a_retry_keeps_headers(running_app: Any, journal: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any) -> None:
        journal.note((self.request.headers or {}).get("tenant"))
        if not self.request.retries:
            raise self.retry(countdown=0)

    job.apply_async(headers={"tenant": "acme"}).get(timeout=10)
    assert journal == ["acme", "acme"]


def test_a_retry_keeps_queue_and_priority(running_app: Any, published: list[dict[str, Any]]) -> None:
    @running_app.task(bind=True)
    def job(self: Any) -> None:
        if not self.request.retries:
            raise self.retry(countdown=0)

    job.apply_async(priority=7).get(timeout=10)
    assert [message["routing_key"] for message in published] == ["celery", "celery"]
    assert [message["properties"]["priority"] for message in published] == [7, 7]


def test_a_retry_keeps_root_and_parent(running_app: Any, journal: Any) -> None:
    @running_app.task(bind=True)
    def child(self: Any) -> None:
        journal.note((self.request.root_id, self.request.parent_id))
        if not self.request.retries:
            raise self.retry(countdown=0)

    @running_app.task
    def parent() -> None:
        child.delay()

    result = parent.delay()
    journal.until((result.id, result.id), times=2)


def test_a_retry_keeps_its_callbacks(running_app: Any, journal: Any) -> None:
    @running_app.task
    def callback(value: int) -> None:
        journal.note(value)

    @running_app.task(bind=True)
    def job(self: Any) -> int:
        if not self.request.retries:
            raise self.retry(countdown=0)
        return 5

    job.apply_async(link=callback.s())
    journal.until(5)
    assert journal.count(5) == 1


def test_a_retry_in_a_chain_keeps_the_rest_of_it(lib: Any, running_app: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any, x: int) -> int:
        if not self.request.retries:
            raise self.retry(countdown=0)
        return x + 1

    assert lib.chain(job.s(1), job.s(), job.s())().get(timeout=10) == 4


def test_a_retry_in_a_chord_counts_once(lib: Any, running_app: Any) -> None:
    @running_app.task(bind=True)
    def part(self: Any, x: int) -> int:
        if not self.request.retries:
            raise self.retry(countdown=0)
        return x

    @running_app.task
    def total(values: list[int]) -> list[int]:
        return sorted(values)

    assert lib.chord([part.s(1), part.s(2)])(total.s()).get(timeout=10) == [1, 2]


def test_other_arguments_can_be_given_for_the_next_try(running_app: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any, x: int, y: int = 0) -> list[int]:
        if not self.request.retries:
            raise self.retry(args=(10,), kwargs={"y": 20}, countdown=0)
        return [x, y]

    assert job.apply_async((1,), {"y": 2}).get(timeout=10) == [10, 20]


def test_another_queue_can_be_given_for_the_next_try(
    running_app: Any, published: list[dict[str, Any]], journal: Any, receive: Any, signals: Any
) -> None:
    receive(signals.task_retry, lambda **kwargs: journal.note("retried"))

    @running_app.task(bind=True)
    def job(self: Any) -> None:
        raise self.retry(queue="slow", countdown=3600)

    job.delay()
    journal.until("retried")
    assert published[1]["routing_key"] == "slow"
    assert published[1]["headers"]["retries"] == 1


def test_the_state_between_tries_is_retry_with_the_exception(
    running_app: Any, signals: Any, receive: Any, journal: Any
) -> None:
    receive(signals.task_postrun, lambda **kwargs: journal.note("ran"))

    @running_app.task(bind=True)
    def job(self: Any) -> None:
        raise self.retry(exc=ValueError("again"), countdown=3600)

    result = job.delay()
    journal.until("ran")
    assert result.state == "RETRY"
    assert repr(result.result) == "ValueError('again')"
    assert not result.ready()


def test_countdown_sets_when_the_next_try_may_start(
    running_app: Any, published: list[dict[str, Any]], receive: Any, signals: Any, journal: Any
) -> None:
    receive(signals.task_retry, lambda **kwargs: journal.note("retried"))

    @running_app.task(bind=True)
    def job(self: Any) -> None:
        raise self.retry(countdown=3600)

    job.delay()
    journal.until("retried")
    assert 3590 < _seconds_until(published[1]["headers"]["eta"]) <= 3600


def test_without_countdown_the_delay_of_the_task_counts(
    running_app: Any, published: list[dict[str, Any]], receive: Any, signals: Any, journal: Any
) -> None:
    receive(signals.task_retry, lambda **kwargs: journal.note("retried"))

    @running_app.task(bind=True, default_retry_delay=600)
    def job(self: Any) -> None:
        raise self.retry()

    job.delay()
    journal.until("retried")
    assert 590 < _seconds_until(published[1]["headers"]["eta"]) <= 600


def test_an_eta_can_be_given_for_the_next_try(
    running_app: Any, published: list[dict[str, Any]], receive: Any, signals: Any, journal: Any
) -> None:
    receive(signals.task_retry, lambda reason, **kwargs: journal.note(str(reason)))

    @running_app.task(bind=True)
    def job(self: Any) -> None:
        raise self.retry(eta=datetime(2099, 1, 1, tzinfo=UTC))

    job.delay()
    journal.until("Retry at 2099-01-01 00:00:00+00:00")
    assert published[1]["headers"]["eta"] == "2099-01-01T00:00:00+00:00"


def test_retry_raises_retry_with_all_it_knows(running_app: Any, exceptions: Any, journal: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any) -> None:
        try:
            self.retry(exc=ValueError("cause"), countdown=0)
        except exceptions.Retry as retry:
            journal.note((repr(retry.exc), retry.when, str(retry), retry.message))

    job.delay()
    (seen,) = journal.until(("ValueError('cause')", 0, "Retry in 0s: ValueError('cause')", None))[:1]
    assert seen


def test_without_throw_retry_gives_the_exception_back(
    running_app: Any, exceptions: Any, journal: Any
) -> None:
    @running_app.task(bind=True)
    def job(self: Any) -> str:
        if self.request.retries:
            journal.note("second try")
            return "second"
        answer = self.retry(throw=False, countdown=0)
        journal.note(type(answer).__name__)
        raise answer

    assert job.delay().get(timeout=10) == "second"
    assert journal == ["Retry", "second try"]


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_beyond_max_retries_the_given_exception_is_raised(running_app: Any, journal: Any, limit: int) -> None:
    @running_app.task(bind=True, max_retries=limit)
    def job(self: Any) -> None:
        journal.note("try")
        raise self.retry(exc=ValueError("given up"), countdown=0)

    with pytest.raises(ValueError, match="given up"):
        job.delay().get(timeout=10)
    assert journal.count("try") == limit + 1


def test_beyond_max_retries_without_any_exception_there_is_an_error_for_it(
    running_app: Any, exceptions: Any
) -> None:
    @running_app.task(bind=True, max_retries=1, name="gives.up")
    def job(self: Any, x: int) -> None:
        self.retry(countdown=0)

    result = job.delay(1)
    with pytest.raises(exceptions.MaxRetriesExceededError) as raised:
        result.get(timeout=10)
    assert str(raised.value) == f"Can't retry gives.up[{result.id}] args:(1,) kwargs:{{}}"
    assert result.state == "FAILURE"


def test_max_retries_can_be_given_per_retry(running_app: Any, journal: Any) -> None:
    @running_app.task(bind=True, max_retries=10)
    def job(self: Any) -> None:
        journal.note("try")
        raise self.retry(exc=ValueError("given up"), countdown=0, max_retries=2)

    with pytest.raises(ValueError, match="given up"):
        job.delay().get(timeout=10)
    assert journal.count("try") == 3


def test_none_means_to_retry_for_ever(running_app: Any) -> None:
    @running_app.task(bind=True, max_retries=None)
    def job(self: Any) -> int:
        if self.request.retries < 20:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    assert job.delay().get(timeout=10) == 20


def test_retry_outside_of_a_run_raises_the_given_exception(app: Any) -> None:
    @app.task(bind=True)
    def job(self: Any) -> None:
        raise self.retry(exc=ValueError("direct"))

    with pytest.raises(ValueError, match="direct"):
        job()


def test_retry_outside_of_a_run_without_exception_says_that_the_task_can_be_retried(
    app: Any, exceptions: Any
) -> None:
    @app.task(bind=True)
    def job(self: Any) -> None:
        try:
            raise KeyError("at hand")
        except KeyError:
            self.retry()

    with pytest.raises(exceptions.Retry, match="Task can be retried") as raised:
        job()
    assert isinstance(raised.value.__cause__, KeyError)


def test_autoretry_for_retries_on_these_exceptions(running_app: Any) -> None:
    @running_app.task(bind=True, autoretry_for=(ConnectionError,), default_retry_delay=0)
    def job(self: Any) -> int:
        if self.request.retries < 2:
            raise ConnectionError("down")
        return int(self.request.retries)

    assert job.delay().get(timeout=10) == 2


def test_autoretry_for_catches_subclasses(running_app: Any) -> None:
    @running_app.task(bind=True, autoretry_for=(OSError,), default_retry_delay=0)
    def job(self: Any) -> int:
        if not self.request.retries:
            raise ConnectionError("down")
        return int(self.request.retries)

    assert job.delay().get(timeout=10) == 1


def test_autoretry_for_leaves_other_exceptions_alone(running_app: Any, journal: Any) -> None:
    @running_app.task(autoretry_for=(ConnectionError,), default_retry_delay=0)
    def job() -> None:
        journal.note("try")
        raise KeyError("other")

    with pytest.raises(KeyError):
        job.delay().get(timeout=10)
    assert journal.count("try") == 1


def test_dont_autoretry_for_wins(running_app: Any, journal: Any) -> None:
    @running_app.task(
        autoretry_for=(Exception,), dont_autoretry_for=(KeyError,), default_retry_delay=0, max_retries=2
    )
    def job(kind: str) -> None:
        journal.note(kind)
        raise {"key": KeyError, "value": ValueError}[kind]("x")

    job.delay("key").get(timeout=10, propagate=False)
    job.delay("value").get(timeout=10, propagate=False)
    assert (journal.count("key"), journal.count("value")) == (1, 3)


def test_autoretry_ends_with_the_exception_itself(running_app: Any, journal: Any) -> None:
    @running_app.task(autoretry_for=(ConnectionError,), retry_kwargs={"max_retries": 2, "countdown": 0})
    def job() -> None:
        journal.note("try")
        raise ConnectionError("still down")

    with pytest.raises(ConnectionError, match="still down"):
        job.delay().get(timeout=10)
    assert journal.count("try") == 3


def test_autoretry_leaves_ignore_and_retry_to_their_meaning(
    running_app: Any, exceptions: Any, journal: Any, receive: Any, signals: Any
) -> None:
    receive(signals.task_postrun, lambda state, **kwargs: journal.note(state))

    @running_app.task(autoretry_for=(Exception,), default_retry_delay=0)
    def job() -> None:
        raise exceptions.Ignore

    job.delay()
    journal.until("IGNORED")
    assert journal == ["IGNORED"]


def test_autoretry_can_be_set_on_a_base_class(lib: Any, running_app: Any) -> None:
    class Patient(lib.Task):  # type: ignore[misc]
        autoretry_for = (ConnectionError,)
        default_retry_delay = 0

    @running_app.task(base=Patient, bind=True)
    def job(self: Any) -> int:
        if not self.request.retries:
            raise ConnectionError("down")
        return int(self.request.retries)

    assert job.delay().get(timeout=10) == 1


def _etas(published: list[dict[str, Any]]) -> list[float]:
    return [_seconds_until(m["headers"]["eta"]) if m["headers"]["eta"] else 0.0 for m in published[1:]]


@pytest.mark.parametrize(
    ("options", "retries", "seconds"),
    [
        ({"retry_backoff": True}, 0, 1),
        ({"retry_backoff": True}, 3, 8),
        ({"retry_backoff": 5}, 0, 5),
        ({"retry_backoff": 5}, 2, 20),
        ({"retry_backoff": 5, "retry_backoff_max": 12}, 2, 12),
        ({"retry_backoff": True}, 20, 600),
        ({"default_retry_delay": 30}, 5, 30),
    ],
)
def test_backoff_grows_with_the_number_of_tries(
    app: Any,
    start_worker: Any,
    published: list[dict[str, Any]],
    receive: Any,
    signals: Any,
    journal: Any,
    options: dict[str, Any],
    retries: int,
    seconds: int,
) -> None:
    receive(signals.task_retry, lambda reason, **kwargs: journal.note(reason.when))

    @app.task(autoretry_for=(ConnectionError,), retry_jitter=False, max_retries=None, **options)
    def job() -> None:
        raise ConnectionError

    job.apply_async(retries=retries)
    with start_worker(app):
        journal.until(seconds)
    assert published[1]["headers"]["retries"] == retries + 1


def test_jitter_keeps_the_pause_between_nothing_and_the_backoff(
    app: Any, start_worker: Any, receive: Any, signals: Any, journal: Any
) -> None:
    pauses: list[float] = []

    def note(reason: Any, **kwargs: Any) -> None:
        pauses.append(reason.when)
        journal.note("retried")

    receive(signals.task_retry, note)

    @app.task(
        autoretry_for=(ConnectionError,), retry_backoff=1000, retry_backoff_max=10_000, max_retries=None
    )
    def job() -> None:
        raise ConnectionError

    for _ in range(10):
        job.apply_async(retries=3)
    with start_worker(app):
        journal.until("retried", times=10)
    assert all(0 <= pause <= 8000 for pause in pauses)
    assert len(set(pauses)) > 1


@pytest.mark.parametrize(
    ("factor", "retries", "maximum", "expected"),
    [(1, 0, 600, 1), (1, 5, 600, 32), (2, 3, 600, 16), (10, 10, 600, 600), (5, 0, 3, 3), (0, 4, 600, 0)],
)
def test_the_exponential_pause_can_be_computed(
    submodule: Callable[[str], Any], factor: int, retries: int, maximum: int, expected: int
) -> None:
    pause = submodule("utils.time").get_exponential_backoff_interval
    assert pause(factor=factor, retries=retries, maximum=maximum) == expected
    assert 0 <= pause(factor=factor, retries=retries, maximum=maximum, full_jitter=True) <= max(expected, 0)


def test_the_hook_for_retries_gets_exception_id_call_and_einfo(
    lib: Any, running_app: Any, journal: Any
) -> None:
    class Handling(lib.Task):  # type: ignore[misc]
        def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            journal.note((repr(exc), task_id, list(args), kwargs, einfo is not None))

    @running_app.task(base=Handling, bind=True)
    def job(self: Any, x: int) -> None:
        raise self.retry(exc=ValueError("hook"), countdown=3600)

    result = job.delay(1)
    journal.until(("ValueError('hook')", result.id, [1], {}, True))


def test_a_retry_keeps_when_it_expires(
    running_app: Any, published: list[dict[str, Any]], receive: Any, signals: Any, journal: Any
) -> None:
    receive(signals.task_retry, lambda **kwargs: journal.note("retried"))

    @running_app.task(bind=True)
    def job(self: Any) -> None:
        raise self.retry(countdown=3600)

    job.apply_async(expires=7200)
    journal.until("retried")
    assert published[1]["headers"]["expires"] == published[0]["headers"]["expires"]


def test_a_retry_keeps_its_time_limits(
    running_app: Any, published: list[dict[str, Any]], receive: Any, signals: Any, journal: Any
) -> None:
    receive(signals.task_retry, lambda **kwargs: journal.note("retried"))

    @running_app.task(bind=True)
    def job(self: Any) -> None:
        raise self.retry(countdown=3600)

    job.apply_async(time_limit=100, soft_time_limit=50)
    journal.until("retried")
    assert list(published[1]["headers"]["timelimit"]) == [100, 50]


def test_a_retry_exception_shows_when_it_comes(exceptions: Any) -> None:
    assert exceptions.Retry(when=10).humanize() == "in 10s"
    assert (
        exceptions.Retry(when=datetime(2099, 1, 1, tzinfo=UTC)).humanize() == "at 2099-01-01 00:00:00+00:00"
    )
    assert str(exceptions.Retry("own text", when=10)) == "own text"
    assert str(exceptions.Retry(exc=ValueError("x"), when=10)) == "Retry in 10s: ValueError('x')"


def test_a_retry_exception_survives_pickling(exceptions: Any) -> None:
    copy = pickle.loads(pickle.dumps(exceptions.Retry("text", ValueError("x"), 10)))
    assert (copy.message, repr(copy.exc), copy.when) == ("text", "ValueError('x')", 10)
