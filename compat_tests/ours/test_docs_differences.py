"""What docs/differences.md promises, one test for each entry that no other file holds."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import celery
import pytest
from kombu import Exchange, Queue

from celerylite import Celery, _state, chord, current_app, signals
from celerylite.exceptions import ImproperlyConfigured, TaskRevokedError, TimeLimitExceeded
from compat_tests.conftest import Journal

ROOT = Path(__file__).parents[2]

#: Nothing that surely comes takes longer.
DEADLINE_S = 10.0

MakeApp = Callable[..., Celery]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite3"


@pytest.fixture
def make_app(database: Path) -> Iterator[MakeApp]:
    """Make apps on one database file; all are closed afterwards."""
    with ExitStack() as stack:

        def make(name: str = "differences", **settings: Any) -> Celery:
            app = Celery(name, backend=f"db+sqlite:///{database}")
            app.conf.update(settings)
            stack.callback(app.close)
            return app

        yield make


@pytest.fixture
def app(make_app: MakeApp) -> Celery:
    return make_app()


@contextmanager
def app_signal(signal: Any, receiver: Callable[..., Any]) -> Iterator[None]:
    signal.connect(receiver, weak=False)
    try:
        yield
    finally:
        signal.disconnect(receiver)


def _rows(database: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        return connection.execute(query).fetchall()


def test_a_body_that_did_not_run_has_no_children(app: Celery) -> None:
    told = threading.Event()

    @app.task
    def fail() -> None:
        raise ValueError("broken")

    @app.task
    def body(values: Any) -> None: ...

    @app.task
    def tell(task_id: str) -> None:
        told.set()

    result = chord([fail.s()])(body.s().on_error(tell.s()))
    assert told.wait(DEADLINE_S)
    assert (result.state, result.children) == ("FAILURE", [])
    # As Celery with Redis: the error says which member it was.
    assert result.parent.results[0].id in str(result.result)


def test_a_broker_that_is_not_contacted_is_named_in_one_warning(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(broker_url="redis://user:secret@nowhere.invalid/0")

    @app.task
    def nothing() -> None: ...

    with caplog.at_level(logging.WARNING):
        nothing.delay().get(timeout=DEADLINE_S)
        nothing.delay().get(timeout=DEADLINE_S)
    warnings = [record.getMessage() for record in caplog.records if "broker" in record.getMessage()]
    assert len(warnings) == 1
    assert "redis" in warnings[0]
    assert "jobs.sqlite3" in warnings[0]
    assert "secret" not in warnings[0]


def test_plain_functions_run_in_threads_of_this_process(app: Celery) -> None:
    seen: list[threading.Thread] = []

    @app.task
    def look() -> None:
        seen.append(threading.current_thread())

    look.delay().get(timeout=DEADLINE_S)
    assert seen[0] is not threading.main_thread()


def test_a_task_can_ask_for_a_child_process(app: Celery) -> None:
    @app.task(pool="prefork")
    def look() -> int:
        return os.getpid()

    assert look.delay().get(timeout=DEADLINE_S) != os.getpid()


def test_a_task_that_is_registered_while_the_runtime_runs_is_found(app: Celery) -> None:
    app.start_runtime()

    @app.task
    def late() -> str:
        return "found"

    assert late.delay().get(timeout=DEADLINE_S) == "found"


def test_the_declaration_of_a_queue_shows_in_the_delivery_info(make_app: MakeApp) -> None:
    queue = Queue("images", Exchange("media", type="topic"), routing_key="media.images")
    app = make_app(task_queues=[Queue("celery"), queue])

    @app.task(bind=True)
    def look(self: Any) -> dict[str, Any]:
        return dict(self.request.delivery_info)

    info = look.apply_async(queue="images").get(timeout=DEADLINE_S)
    assert (info["exchange"], info["routing_key"]) == ("media", "media.images")


def test_a_call_is_in_the_database_when_delay_returns(make_app: MakeApp, database: Path) -> None:
    app = make_app(celerylite_runtime="off")

    @app.task
    def nothing() -> None: ...

    result = nothing.delay()
    assert _rows(database, "SELECT task_id FROM celerylite_messages") == [(result.id,)]


def test_a_call_with_a_countdown_waits_in_the_database(app: Celery, database: Path) -> None:
    @app.task
    def nothing() -> None: ...

    result = nothing.apply_async(countdown=3600)
    assert _rows(database, "SELECT task_id, state FROM celerylite_messages") == [(result.id, 0)]
    assert result.state == "PENDING"


def test_a_call_in_a_transaction_runs_if_and_only_if_it_commits(app: Celery, database: Path) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    ran: list[str] = []

    @app.task
    def note(word: str) -> None:
        ran.append(word)

    note.delay("first").get(timeout=DEADLINE_S)
    engine = sqlalchemy.create_engine(f"sqlite:///{database}")
    try:
        with engine.connect() as connection:
            note.apply_async(("rolled back",), connection=connection)
            connection.rollback()
        with engine.begin() as connection:
            committed = note.apply_async(("committed",), connection=connection)
        committed.get(timeout=DEADLINE_S)
    finally:
        engine.dispose()
    assert ran == ["first", "committed"]


def test_a_coroutine_task_runs_on_the_loop(app: Celery) -> None:
    @app.task
    async def double(number: int) -> int:
        assert asyncio.get_running_loop().is_running()
        return number * 2

    assert double.delay(21).get(timeout=DEADLINE_S) == 42


def test_a_result_can_be_awaited(app: Celery) -> None:
    @app.task
    def double(number: int) -> int:
        return number * 2

    async def main() -> list[int]:
        first: int = await double.delay(1)
        second: int = await double.delay(2).aget(timeout=DEADLINE_S)
        third = await double.aapply_async((3,))
        return [first, second, await third]

    assert asyncio.run(main()) == [2, 4, 6]


def test_a_thread_beyond_its_hard_limit_is_settled_and_left_behind(make_app: MakeApp) -> None:
    app = make_app(worker_concurrency=1)
    released = threading.Event()

    @app.task(time_limit=0.2)
    def stuck() -> str:
        released.wait()
        return "late"

    @app.task
    def next_one() -> str:
        return "ran"

    try:
        result = stuck.delay()
        with pytest.raises(TimeLimitExceeded):
            result.get(timeout=DEADLINE_S)
        assert next_one.delay().get(timeout=DEADLINE_S) == "ran"
    finally:
        released.set()
    assert result.state == "FAILURE"


@pytest.mark.parametrize(
    ("kind", "pauses"),
    [("constant", [3, 3, 3]), ("linear", [3, 6, 9]), (lambda retries: 10.0 + retries, [10, 11, 12])],
    ids=["constant", "linear", "function"],
)
def test_a_backoff_can_be_constant_linear_or_a_function(app: Celery, kind: Any, pauses: list[int]) -> None:
    seen: list[float] = []

    @app.task(autoretry_for=(OSError,), retry_backoff=3, retry_backoff_kind=kind, retry_jitter=False)
    def failing() -> None:
        raise OSError("again")

    def note(reason: Any, **_: Any) -> None:
        seen.append(reason.when)

    with app_signal(signals.task_retry, note):
        # Eager retries do not wait.
        failing.apply()
    assert seen == pauses


def test_a_process_without_queues_takes_from_all(app: Celery) -> None:
    @app.task(bind=True)
    def where(self: Any) -> Any:
        return self.request.delivery_info["routing_key"]

    app.start_runtime()
    assert where.apply_async(queue="elsewhere").get(timeout=DEADLINE_S) == "elsewhere"


def test_get_returns_before_celerys_first_look(app: Celery) -> None:
    @app.task
    def nothing() -> None: ...

    def waited() -> float:
        started = time.monotonic()
        nothing.delay().get(timeout=DEADLINE_S)
        return time.monotonic() - started

    assert min(waited() for _ in range(5)) < 0.5


def test_a_chord_with_a_database_does_not_ask_every_second(app: Celery, database: Path) -> None:
    @app.task
    def double(number: int) -> int:
        return number * 2

    @app.task
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    assert chord([double.s(n) for n in range(5)])(total.s()).get(timeout=DEADLINE_S) == 20
    names = {name for (name,) in _rows(database, "SELECT name FROM celerylite_runs")}
    assert "celery.chord_unlock" not in names


def test_two_runtimes_on_one_database_fire_each_tick_once(make_app: MakeApp, tmp_path: Path) -> None:
    ticks: list[Any] = []
    enough = threading.Event()
    schedule = {"tick": {"task": "tick", "schedule": timedelta(seconds=1)}}

    def tick(self: Any) -> None:
        ticks.append(self.request.get("celerylite_due_at"))
        if len(ticks) == 2:
            enough.set()

    for name in ("one", "two"):
        app = make_app(name, beat_schedule=schedule)
        app.task(name="tick", bind=True)(tick)
        app.start_runtime()
    assert enough.wait(DEADLINE_S)
    assert len(set(ticks[:2])) == 2


POISON = """
import os, signal, sys
from celerylite import Celery

app = Celery("poison")


@app.task(acks_late=True)
def poison():
    print("delivered", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if len(sys.argv) > 1:
    app.start_runtime()
    print(repr(app.AsyncResult(sys.argv[1]).get(timeout=20, propagate=False)))
else:
    app.conf.celerylite_runtime = "off"
    print(poison.delay().id)
"""


@pytest.mark.timeout(120)
def test_a_call_that_loses_its_process_each_time_fails_after_five_deliveries(tmp_path: Path) -> None:
    (tmp_path / "poison.py").write_text(POISON)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "poison.py", *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=30,
        )

    task_id = run().stdout.strip()
    runs = [run(task_id) for _ in range(6)]
    assert [done.stdout.strip() for done in runs[:5]] == ["delivered"] * 5
    assert "WorkerLostError" in runs[5].stdout


def test_a_pool_of_green_threads_is_refused(tmp_path: Path) -> None:
    (tmp_path / "proj.py").write_text("from celerylite import Celery\napp = Celery('proj')\n")
    done = subprocess.run(
        [sys.executable, "-m", "celerylite", "-A", "proj", "worker", "-P", "gevent"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 2
    assert "docs/differences.md" in done.stderr


def test_a_task_may_wait_for_another_one(app: Celery) -> None:
    @app.task
    def inner() -> int:
        return 1

    @app.task
    def outer() -> int:
        value: int = inner.delay().get(timeout=DEADLINE_S)
        return value + 1

    assert outer.delay().get(timeout=DEADLINE_S) == 2


def test_a_thread_without_an_app_has_the_one_made_last(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_state, "default_app", None)
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(current_app._get_current_object()))
    thread.start()
    thread.join()
    assert seen == [app]


def test_a_revoke_lasts_over_a_restart(
    make_app: MakeApp, journal: Journal, receive: Callable[..., Any]
) -> None:
    def nothing() -> None: ...

    before = make_app(celerylite_runtime="off")
    result = before.task(name="nothing")(nothing).apply_async(countdown=3600)
    before.control.revoke(result.id)
    assert result.state == "REVOKED"
    before.close()
    after = make_app()
    after.task(name="nothing")(nothing)
    receive(signals.task_revoked, lambda request, **_: journal.note(request.id))
    after.start_runtime()
    journal.until(result.id)
    with pytest.raises(TaskRevokedError):
        after.AsyncResult(result.id).get(timeout=DEADLINE_S)


def test_a_running_task_can_be_terminated(app: Celery) -> None:
    started = threading.Event()
    pause = threading.Event()

    @app.task
    def endless() -> None:
        started.set()
        while True:
            pause.wait(0.01)

    result = endless.delay()
    assert started.wait(DEADLINE_S)
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=DEADLINE_S)


def test_message_signing_is_refused(app: Celery) -> None:
    with pytest.raises(ImproperlyConfigured, match="message-signing"):
        app.setup_security()


def test_a_bootstep_is_accepted_and_the_worker_signals_are_sent(app: Celery) -> None:
    app.steps["worker"].add(object())
    sent: list[str] = []
    with (
        app_signal(signals.worker_ready, lambda **_: sent.append("ready")),
        app_signal(signals.worker_shutdown, lambda **_: sent.append("shutdown")),
    ):
        app.start_runtime()
        app.stop_runtime()
    assert sent == ["ready", "shutdown"]


def _paths_not_here() -> list[str]:
    """Celery's public modules without one of ours, found without importing any."""
    root = Path(celery.__path__[0])
    paths = [file.relative_to(root.parent).with_suffix("").parts for file in root.rglob("*.py")]
    public = {parts for parts in paths if not any(part.startswith("_") for part in parts)}
    packages = {parts[:-1] for parts in paths if parts[-1] == "__init__"}
    return sorted(".".join(parts) for parts in public | packages if not _exists(parts[1:]))


def _exists(parts: tuple[str, ...]) -> bool:
    path = ROOT.joinpath("celerylite", *parts)
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def test_the_paths_that_are_not_here_are_listed() -> None:
    page = (ROOT / "docs" / "differences.md").read_text()
    listed = re.findall(r"^celery\.\S+$", page, re.MULTILINE)
    assert listed == _paths_not_here()
