"""A database that goes away under a running app: nothing is lost, the log says so once, and it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from kombu.exceptions import OperationalError

from celerylite import Celery, chord, signals
from celerylite.exceptions import BackendGetMetaError
from compat_tests.ours.proxy_fixtures import Proxy
from compat_tests.ours.runtime_fixtures import DEADLINE_S, Gate
from compat_tests.ours.store_fixtures import make_url
from compat_tests.ours.trouble_fixtures import Told, told

__all__ = ("told",)

#: Seconds that a call of the tests tries to reach the database.
_PATIENCE_S = 0.5


@pytest.fixture(params=["postgresql", "mysql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.URL]:
    for url in make_url(request.param, tmp_path):
        yield sa.make_url(url)


@pytest.fixture
def proxy(url: sa.URL) -> Iterator[Proxy]:
    assert url.host is not None
    assert url.port is not None
    proxy = Proxy(url.host, url.port)
    yield proxy
    proxy.close()


@pytest.fixture
def app(url: sa.URL, proxy: Proxy) -> Iterator[Celery]:
    """An app that reaches its server through the proxy."""
    app = Celery("trouble")
    near = url.set(port=proxy.port).render_as_string(hide_password=False)
    app.conf.update(
        result_backend=f"db+{near}",
        broker_connection_timeout=_PATIENCE_S,
        celerylite_beat="off",
        celerylite_exit_grace=5.0,
    )
    yield app
    proxy.start()
    app.close()


def test_a_running_task_settles_when_the_server_is_back(
    app: Celery, proxy: Proxy, gate: Gate, told: Told
) -> None:
    @app.task
    def wait(number: int) -> int:
        gate.wait()
        return number

    results = [wait.delay(number) for number in range(3)]
    gate.until_arrived(3)
    proxy.stop()
    gate.open()
    told.until("does not answer")
    proxy.start()
    assert [result.get(timeout=DEADLINE_S) for result in results] == [0, 1, 2]
    assert app.store.unfinished() == {}


def test_the_log_tells_of_an_outage_once_and_of_its_end_once(
    app: Celery, proxy: Proxy, gate: Gate, told: Told
) -> None:
    @app.task
    def wait() -> None:
        gate.wait()

    results = [wait.delay() for _ in range(4)]
    gate.until_arrived(4)
    proxy.stop()
    gate.open()
    told.until("does not answer")
    for _ in range(2):
        with pytest.raises(OperationalError):
            wait.delay()
    proxy.start()
    told.until("answers again")
    for result in results:
        result.get(timeout=DEADLINE_S)
    assert [line.split(",")[0].split(":")[0] for line in told.lines] == [
        "the database does not answer",
        "the database answers again",
    ]


def test_a_call_raises_within_its_time_while_connections_are_refused(app: Celery, proxy: Proxy) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert add.delay(1, 2).get(timeout=DEADLINE_S) == 3
    proxy.stop()
    began = time.monotonic()
    with pytest.raises(OperationalError, match=r"expected it to answer within 0\.5 s"):
        add.delay(3, 4)
    assert time.monotonic() - began < _PATIENCE_S + 2.0
    proxy.start()
    assert add.delay(5, 6).get(timeout=DEADLINE_S) == 11


def test_what_was_refused_does_not_run_later(app: Celery, proxy: Proxy) -> None:
    ran: list[int] = []

    @app.task
    def note(number: int) -> None:
        ran.append(number)

    note.delay(1).get(timeout=DEADLINE_S)
    proxy.stop()
    with pytest.raises(OperationalError):
        note.delay(2)
    proxy.start()
    note.delay(3).get(timeout=DEADLINE_S)
    app.drain(DEADLINE_S)
    assert ran == [1, 3]


def test_calls_go_on_while_their_connections_are_cut(app: Celery, proxy: Proxy) -> None:
    @app.task
    def double(number: int) -> int:
        return 2 * number

    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(double.delay, number) for number in range(200)]
        for number in range(0, 200, 40):
            sent[number].result(DEADLINE_S)
            proxy.cut()
        results = [each.result(DEADLINE_S) for each in sent]
    assert [result.get(timeout=DEADLINE_S) for result in results] == [2 * number for number in range(200)]
    assert app.store.unfinished() == {}


def test_a_task_for_later_runs_after_an_outage_at_its_time(app: Celery, proxy: Proxy, told: Told) -> None:
    @app.task
    def late() -> str:
        return "done"

    result = late.apply_async(countdown=0.8)
    proxy.stop()
    told.until("does not answer")
    proxy.start()
    assert result.get(timeout=DEADLINE_S) == "done"


def test_a_chord_survives_an_outage_between_its_parts(
    app: Celery, proxy: Proxy, gate: Gate, told: Told
) -> None:
    bodies: list[list[int]] = []

    @app.task
    def part(number: int) -> int:
        gate.wait()
        return number

    @app.task
    def body(numbers: list[int]) -> int:
        bodies.append(numbers)
        return sum(numbers)

    result = chord([part.s(number) for number in range(4)])(body.s())
    gate.until_arrived(4)
    proxy.stop()
    gate.open()
    told.until("does not answer")
    proxy.start()
    assert result.get(timeout=DEADLINE_S) == 6
    app.drain(DEADLINE_S)
    assert bodies == [[0, 1, 2, 3]]


@pytest.mark.parametrize("phase", ["publish", "settle"])
def test_a_task_runs_once_though_the_answer_to_its_commit_was_lost(
    app: Celery, proxy: Proxy, gate: Gate, phase: str
) -> None:
    ran: list[str] = []

    @app.task
    def step(name: str) -> str:
        if name == "first":
            gate.wait()
        ran.append(name)
        return name

    @app.task
    def following(before: str) -> str:
        ran.append(f"after {before}")
        return before

    if phase == "publish":
        step.delay("warm up").get(timeout=DEADLINE_S)
        proxy.swallow_answer_to(b"COMMIT")
    result = step.apply_async(("first",), link=following.s())
    if phase == "settle":
        gate.until_arrived(1)
        proxy.swallow_answer_to(b"COMMIT")
    gate.open()
    assert result.get(timeout=DEADLINE_S) == "first"
    assert proxy.swallowed.wait(DEADLINE_S)
    app.drain(DEADLINE_S)
    assert [name for name in ran if name != "warm up"] == ["first", "after first"]


@pytest.mark.parametrize("trouble", ["outage", "lost answer"])
def test_a_call_kept_in_memory_runs_once_when_the_server_is_back(
    app: Celery, proxy: Proxy, told: Told, trouble: str
) -> None:
    app.conf.celerylite_durability = "memory"
    ran: list[str] = []

    @app.task
    def step(name: str) -> str:
        ran.append(name)
        return name

    step.delay("warm up").get(timeout=DEADLINE_S)
    app.drain(DEADLINE_S)
    if trouble == "outage":
        proxy.stop()
    else:
        proxy.swallow_answer_to(b"COMMIT")
    result = step.delay("first")
    if trouble == "outage":
        told.until("does not answer")
        proxy.start()
    assert result.get(timeout=DEADLINE_S) == "first"
    app.drain(DEADLINE_S)
    assert ran == ["warm up", "first"]


def test_a_result_that_the_server_refuses_for_its_size_is_a_failure_and_no_outage(
    app: Celery, url: sa.URL, told: Told
) -> None:
    if url.get_backend_name() != "mysql":
        pytest.skip("only MySQL and MariaDB hang up on long statements")

    @app.task
    def repeat(text: str, times: int) -> str:
        return text * times

    with pytest.raises(Exception, match="max_allowed_packet"):
        repeat.delay("x", 40_000_000).get(timeout=DEADLINE_S)
    with pytest.raises(pymysql.err.DataError, match="max_allowed_packet"):
        repeat.delay("x" * 40_000_000, 1)
    assert repeat.delay("x", 3).get(timeout=DEADLINE_S) == "xxx"
    assert not [line for line in told.lines if "does not answer" in line]


def test_a_task_runs_though_its_start_could_not_be_stored(
    app: Celery, proxy: Proxy, told: Told, receive: Any
) -> None:
    @app.task(track_started=True)
    def add(x: int, y: int) -> int:
        return x + y

    assert add.delay(1, 2).get(timeout=DEADLINE_S) == 3
    # Between the commit that marks it as running and the one that says STARTED.
    receive(signals.task_prerun, lambda **_: proxy.stop())
    result = add.delay(3, 4)
    told.until("could not store that it has started")
    proxy.start()
    assert result.get(timeout=DEADLINE_S) == 7


@pytest.fixture
def backend(app: Celery) -> Any:
    """A backend with one result, that tries again twice."""
    app.conf.update(
        result_backend_always_retry=True,
        result_backend_max_retries=2,
        result_backend_max_sleep_between_retries_ms=1,
    )
    app.backend.store_result("kept", {"foo": "bar"}, "SUCCESS")
    return app.backend


def test_a_result_is_read_when_the_server_is_back_within_the_retries(backend: Any, proxy: Proxy) -> None:
    backend.on_backend_retryable_error = lambda exc: proxy.start()
    proxy.stop()
    meta = backend.get_task_meta("kept", cache=False)
    assert (meta["status"], meta["result"]) == ("SUCCESS", {"foo": "bar"})


def test_a_result_that_cannot_be_read_is_an_error_after_as_many_retries_as_are_set(
    backend: Any, proxy: Proxy
) -> None:
    tried: list[BaseException] = []
    backend.on_backend_retryable_error = tried.append
    proxy.stop()
    with pytest.raises(BackendGetMetaError, match="failed to get meta") as raised:
        backend.get_task_meta("kept", cache=False)
    assert raised.value.task_id == "kept"
    assert [type(exc) for exc in tried] == [OperationalError] * 2


def test_without_the_setting_a_result_that_cannot_be_read_is_tried_for_its_time_once(
    backend: Any, proxy: Proxy
) -> None:
    backend.always_retry = False
    proxy.stop()
    with pytest.raises(OperationalError, match="expected it to answer within"):
        backend.get_task_meta("kept", cache=False)
