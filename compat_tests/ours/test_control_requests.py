"""Remote control between processes: everybody alive answers, the silent are named, what is durable lasts."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import celery.app.control as celery_control
import celery.worker.control as celery_panel
import click
import pytest

from celerylite import Celery, signals
from celerylite.app import control
from celerylite.bin.celery import main_for_app
from celerylite.canvas import StampingVisitor
from celerylite.exceptions import CeleryCommandException, TaskRevokedError, WorkerLostError
from celerylite.worker import control as panel
from celerylite.worker import state as worker_state
from compat_tests.conftest import Journal
from compat_tests.ours.runtime_fixtures import (
    DEADLINE_S,
    PRELUDE,
    PROGRAM_DEADLINE_S,
    ROOT,
    MakeApp,
    Program,
    StartProgram,
)
from compat_tests.ours.store_fixtures import make_url

pytestmark = pytest.mark.timeout(60)  # Programs start slowly on a busy machine.

WORKER = r"""
@app.task(name="add")
def add(x, y):
    say("ran", x, y)
    return x + y

@app.task(name="fails")
def fails(x):
    say("failed", x)
    raise LookupError(x)

@app.task(name="blocks")
def blocks():
    say("busy")
    threading.Event().wait(30)

app.start_runtime(hostname=sys.argv[1])
say("ready")
sys.stdin.readline()
app.close()
"""


@pytest.fixture
def asker(make_app: MakeApp) -> Celery:
    """An app that only asks and sends: it runs nothing."""
    return make_app(celerylite_runtime=False)


def test_every_process_answers_and_one_that_only_publishes_does_not(
    asker: Celery, start_program: StartProgram
) -> None:
    programs = [start_program(WORKER, name, name=f"program_{name[0]}") for name in ("a@here", "b@here")]
    for program in programs:
        program.until("ready")
    asked = asker.control.inspect(timeout=DEADLINE_S)
    assert asked.ping() == {"a@here": {"ok": "pong"}, "b@here": {"ok": "pong"}}
    assert asked.silent == ()
    assert asker.control.inspect(destination=["b@here"], timeout=DEADLINE_S).ping() == {
        "b@here": {"ok": "pong"}
    }
    assert {reply[node]["pid"] for reply in [asked.stats()] for node in reply} == {
        program.process.pid for program in programs
    }


def test_an_answer_comes_while_every_thread_is_busy(asker: Celery, start_program: StartProgram) -> None:
    program = start_program("app.conf.worker_concurrency = 1\n" + WORKER, "a@here")
    program.until("ready")
    result = asker.send_task("blocks")
    program.until("busy")
    (info,) = asker.control.inspect(timeout=DEADLINE_S).active()["a@here"]
    assert (info["id"], info["worker_pid"]) == (result.id, program.process.pid)
    asker.control.terminate(result.id)
    with pytest.raises(Exception, match="terminated"):
        result.get(timeout=DEADLINE_S)


def test_a_process_that_lives_and_does_not_answer_is_named(
    asker: Celery, start_program: StartProgram, caplog: pytest.LogCaptureFixture
) -> None:
    program = start_program(WORKER, "a@here")
    program.until("ready")
    os.kill(program.process.pid, signal.SIGSTOP)
    try:
        asked = asker.control.inspect(timeout=0.3)
        assert asked.ping() is None
        assert asked.silent == ("a@here",)
        assert "no reply to 'ping' in time from a@here" in caplog.text
    finally:
        os.kill(program.process.pid, signal.SIGCONT)


def test_a_process_that_was_killed_is_not_waited_for(asker: Celery, start_program: StartProgram) -> None:
    program = start_program(WORKER, "a@here")
    program.until("ready")
    program.kill()
    # A timeout that the test could not bear, were it waited for.
    asked = asker.control.inspect(timeout=600)
    assert (asked.ping(), asked.silent) == (None, ())


def test_processes_that_nobody_named_are_told_apart(asker: Celery, start_program: StartProgram) -> None:
    code = WORKER.replace("hostname=sys.argv[1]", "")
    for name in ("one", "two"):
        start_program(code, name=name).until("ready")
    assert len(asker.control.inspect(timeout=DEADLINE_S).ping()) == 2


def test_a_paused_queue_waits_until_it_is_resumed_also_in_processes_that_start_later(
    asker: Celery, start_program: StartProgram
) -> None:
    asker.control.pause_queue("celery")
    program = start_program(WORKER, "a@here")
    program.until("ready")
    result = asker.send_task("add", (1, 2))
    assert asker.control.inspect(timeout=DEADLINE_S).active_queues() == {"a@here": []}
    assert asker.store.queue_lengths() == {"celery": 1}
    assert asker.control.paused_queues() == {"celery"}
    asker.control.resume_queue("celery")
    assert result.get(timeout=DEADLINE_S) == 3
    assert asker.control.paused_queues() == set()


def test_consumers_are_cancelled_and_added_while_a_process_lives(
    asker: Celery, start_program: StartProgram
) -> None:
    program = start_program(WORKER, "a@here")
    program.until("ready")
    ask = {"reply": True, "timeout": DEADLINE_S}
    assert asker.control.cancel_consumer("celery", **ask) == [
        {"a@here": {"ok": "no longer consuming from celery"}}
    ]
    result = asker.send_task("add", (1, 2))
    assert asker.store.queue_lengths() == {"celery": 1}
    assert asker.control.add_consumer("celery", **ask) == [{"a@here": {"ok": "add consumer celery"}}]
    assert result.get(timeout=DEADLINE_S) == 3


def test_the_pool_grows_and_shrinks(file_app: Celery) -> None:
    file_app.start_runtime(concurrency=2, hostname="a@here")
    remote = file_app.control
    assert remote.pool_grow(2, reply=True) == [{"a@here": {"ok": "pool will grow"}}]
    assert remote.inspect().stats()["a@here"]["pool"]["max-concurrency"] == 4
    remote.pool_shrink(3)
    assert remote.inspect().stats()["a@here"]["pool"]["max-concurrency"] == 1
    (reply,) = remote.autoscale(3, 1, reply=True)
    assert reply == {"a@here": {"error": "ValueError('Autoscale not enabled')"}}


def test_the_bounds_of_a_worker_that_scales_are_changed(asker: Celery, start_program: StartProgram) -> None:
    program = start_program(
        """
app.conf.worker_redirect_stdouts = False
worker = app.Worker(hostname="a@here", autoscale=(3, 1), quiet=True)
threading.Thread(target=lambda: (sys.stdin.readline(), worker.stop(in_sighandler=True))).start()
worker.ready_callback = lambda worker: say("ready")
worker.start()
"""
    )
    program.until("ready")
    ask = {"reply": True, "timeout": PROGRAM_DEADLINE_S}
    assert asker.control.autoscale(5, 2, **ask) == [{"a@here": {"ok": "autoscale now max=5 min=2"}}]
    assert asker.control.inspect(timeout=PROGRAM_DEADLINE_S).stats()["a@here"]["pool"]["max-concurrency"] == 5
    program.tell()
    assert program.end() == 0


def test_a_revoked_stamp_is_known_to_a_process_that_starts_later(
    asker: Celery, start_program: StartProgram
) -> None:
    class Stamps(StampingVisitor):
        def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"batch": "17", "stamped_headers": ["batch"]}

    asker.control.revoke_by_stamped_headers({"batch": ["17"]})
    stamped = asker.signature("add", (1, 2))
    stamped.stamp(Stamps())
    revoked, other = stamped.apply_async(), asker.send_task("add", (3, 4))
    start_program(WORKER, "a@here").until("ready")
    assert other.get(timeout=PROGRAM_DEADLINE_S) == 7
    with pytest.raises(TaskRevokedError):
        revoked.get(timeout=PROGRAM_DEADLINE_S)


def _parameters(function: Any) -> list[tuple[str, Any]]:
    given = inspect.signature(function).parameters.values()
    return [(each.name, each.default) for each in given]


@pytest.mark.parametrize("name", ["Control", "Inspect"])
def test_every_method_takes_what_celerys_takes(name: str) -> None:
    mine, theirs = getattr(control, name), getattr(celery_control, name)
    methods = [each for each, _ in inspect.getmembers(theirs, inspect.isfunction)]
    assert len(methods) > 15
    for method in methods:
        assert _parameters(getattr(mine, method)) == _parameters(getattr(theirs, method)), method


def test_every_command_of_celerys_workers_is_there_with_its_arguments() -> None:
    for name, theirs in celery_panel.Panel.meta.items():
        mine = panel.Panel.meta[name]
        assert (mine.type, mine.visible, mine.signature, mine.variadic, mine.alias) == (
            theirs.type,
            theirs.visible,
            theirs.signature,
            theirs.variadic,
            theirs.alias,
        ), name
        assert [word for word, _ in mine.args or ()] == [word for word, _ in theirs.args or ()]


SHUT_DOWN = r"""
from celerylite import signals

@signals.worker_shutdown.connect(weak=False)
def stopped(**kwargs):
    say("stopped")
"""

PUBLISHES = "sys.stdin.readline()\nadd.delay(1, 1)\nsay('sent')"


def test_a_program_that_is_shut_down_runs_no_more_and_still_publishes(
    asker: Celery, start_program: StartProgram
) -> None:
    program = start_program(SHUT_DOWN + WORKER.replace("sys.stdin.readline()", PUBLISHES), "a@here")
    program.until("ready")
    assert asker.control.shutdown(reply=True, timeout=DEADLINE_S) == [{"a@here": {"ok": "shutting down"}}]
    program.until("stopped")
    program.tell()
    program.until("sent")
    assert program.end() == 0
    assert asker.store.queue_lengths() == {"celery": 1}


def test_a_failed_call_is_sent_again_with_its_arguments_and_keeps_its_history(file_app: Celery) -> None:
    given: list[Any] = []

    @file_app.task(name="flaky")
    def flaky(x: int, *, y: list[int]) -> int:
        given.append((x, y))
        if len(given) == 1:
            raise LookupError("first")
        return x

    result = flaky.delay(1, y=[2])
    with pytest.raises(LookupError):
        result.get(timeout=DEADLINE_S)
    again = file_app.control.retry_task(result.id)
    assert (again.id, again.get(timeout=DEADLINE_S)) == (result.id, 1)
    assert given == [(1, [2])] * 2
    assert [run.state for run in file_app.store.runs(result.id)] == ["FAILURE", "SUCCESS"]
    file_app.control.retry_task(result.id).get(timeout=DEADLINE_S)
    assert len(given) == 3


def test_a_revoked_call_runs_when_it_is_sent_again(
    file_app: Celery, journal: Journal, receive: Callable[..., Any]
) -> None:
    @file_app.task(name="waits")
    def waits(x: int) -> int:
        return x

    receive(signals.task_revoked, lambda request, **_: journal.note("turned away"))
    file_app.control.revoke("the-one")
    result = waits.apply_async((7,), task_id="the-one")
    with pytest.raises(Exception, match="revoked"):
        result.get(timeout=DEADLINE_S)
    journal.until("turned away")
    assert file_app.control.retry_task("the-one").get(timeout=DEADLINE_S) == 7


class _Batch(StampingVisitor):
    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"batch": "17"}


def test_an_app_tells_the_runtime_of_another_app_in_its_process_at_once(make_app: MakeApp) -> None:
    app, asking = make_app(), make_app(celerylite_runtime="off")

    @app.task(name="stamped")
    def stamped() -> None: ...

    app.start_runtime()
    assert asking._runtime is None
    asking.control.revoke_by_stamped_headers({"batch": ["17"]})
    call = stamped.si()
    call.stamp(_Batch())
    try:
        with pytest.raises(TaskRevokedError):
            call.delay().get(timeout=DEADLINE_S)
    finally:
        worker_state.revoked_stamps.clear()


def test_a_call_that_nobody_knows_or_that_waits_is_not_sent_again(file_app: Celery) -> None:
    @file_app.task(name="later")
    def later() -> None: ...

    with pytest.raises(LookupError, match="in the history"):
        file_app.control.retry_task("nobody")
    later.apply_async(task_id="one").get(timeout=DEADLINE_S)
    later.apply_async(task_id="one", countdown=600)
    with pytest.raises(ValueError, match="expected a call that has ended"):
        file_app.control.retry_task("one")


def test_a_call_that_runs_for_the_first_time_is_not_sent_again(
    file_app: Celery, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @file_app.task(name="long")
    def long() -> None:
        begun.set()
        go_on.wait(DEADLINE_S)

    result = long.delay()
    assert begun.wait(DEADLINE_S)
    with pytest.raises(CeleryCommandException, match="which still waits or runs") as caught:
        main_for_app(file_app, ["control", "retry_task", result.id])
    assert caught.value.exit_code == 1
    go_on.set()
    result.get(timeout=DEADLINE_S)
    with pytest.raises(CeleryCommandException, match="in the history"):
        main_for_app(file_app, ["control", "retry_task", "nobody"])


@pytest.mark.parametrize(
    "words",
    [
        "revoke the-one",
        "terminate TERM the-one",
        "terminate term the-one",
        "revoke_by_stamped_headers batch=1",
    ],
)
def test_a_revoke_holds_also_when_no_process_is_alive(
    asker: Celery, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_for_app(asker, ["control", *words.split()]) in (None, 0)
    assert capsys.readouterr().out.startswith("stored: it holds for every process")
    if "the-one" in words:
        assert asker.store.revoked() == {"the-one"}
        assert asker.AsyncResult("the-one").state == "REVOKED"
    assert main_for_app(asker, ["control", "--json", *words.split()]) in (None, 0)
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("terminate", "takes arguments: <signal>"),
        ("terminate 2f0b5c12", "expected the name of a signal such as TERM, got '2f0b5c12'"),
        ("terminate TERM", "missing a required argument: 'task_id'"),
        ("revoke", "missing a required argument: 'task_id'"),
        ("rate_limit add", "missing a required argument: 'rate_limit'"),
        ("cancel_consumer", "missing a required argument: 'queue'"),
        ("pool_grow many", "invalid literal"),
        ("heartbeat now", "takes arguments: none"),
    ],
)
def test_wrong_words_are_told_before_anything_is_sent(asker: Celery, words: str, complaint: str) -> None:
    with pytest.raises(click.UsageError, match=re.escape(complaint)) as caught:
        main_for_app(asker, ["control", *words.split()])
    assert caught.value.exit_code == 2
    assert asker.store.revoked() == set()


@pytest.mark.parametrize("words", ["active 1 2", "conf x y"])
def test_inspect_refuses_words_too_many(asker: Celery, words: str) -> None:
    with pytest.raises(click.UsageError, match="takes arguments") as caught:
        main_for_app(asker, ["inspect", *words.split()])
    assert caught.value.exit_code == 2


def test_what_a_process_cannot_do_is_a_failure_without_a_traceback_in_its_log(
    file_app: Celery, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    file_app.start_runtime(hostname="a@here")
    for words in ("rate_limit nobody 1/s", "rate_limit nobody 1/x", "autoscale 3 1", "pool_restart"):
        assert main_for_app(file_app, ["control", *words.split()]) == 1
        assert "ERROR" in capsys.readouterr().out
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("terminate", {"signal": "nonsense", "task_id": ["x"]}),
        ("terminate", {}),
        ("nonsense", {}),
        ("rate_limit", {"name": "add"}),
    ]
    for command, arguments in wrong:
        (reply,) = file_app.control.broadcast(command, {"task_id": [], **arguments}, reply=True)
        assert "error" in reply["a@here"]
    assert [record for record in caplog.records if record.exc_info] == []


# -- the whole, from a second process, on each database ---------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of each kind; servers only where one listens."""
    yield from make_url(request.param, tmp_path)


Say = Callable[..., str]


@pytest.fixture
def driver(url: str) -> Iterator[Celery]:
    """The second process: this one, which runs nothing itself."""
    app = Celery("driver", backend=f"db+{url}")
    app.conf.celerylite_runtime = False
    yield app
    app.close()


@pytest.fixture
def start_node(url: str, tmp_path: Path) -> Iterator[Callable[[str], Program]]:
    """Start a program that runs tasks, by its node name."""
    programs: list[Program] = []

    def start(node: str) -> Program:
        file = tmp_path / "controlled.py"
        file.write_text(PRELUDE + WORKER)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CELERY")}
        environment |= {"PYTHONPATH": str(ROOT), "CELERYLITE_DATABASE": url}
        process = subprocess.Popen(
            [sys.executable, str(file), node],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        programs.append(Program(process))
        return programs[-1]

    yield start
    for program in programs:
        program.close()


@pytest.fixture
def say(driver: Celery, capsys: pytest.CaptureFixture[str]) -> Say:
    """What a line of the command line prints: `say("status")`."""

    def run(line: str, *words: str) -> str:
        capsys.readouterr()
        main_for_app(driver, ["--no-color", *line.split(), *words])
        return capsys.readouterr().out.strip()

    return run


def _ask(say: Say, line: str) -> Any:
    return json.loads(say(f"inspect --json -t {PROGRAM_DEADLINE_S} {line}"))


def _tell(say: Say, line: str) -> Any:
    replies = json.loads(say(f"control --json -t {PROGRAM_DEADLINE_S} {line}"))
    return {node: reply for each in replies for node, reply in each.items()}


def _each(nodes: Iterable[str], reply: str) -> dict[str, dict[str, str]]:
    return {node: {"ok": reply} for node in nodes}


@pytest.mark.timeout(180)  # Two programs and some thirty commands, on a busy machine.
def test_an_operator_drives_a_running_app_from_a_second_process(
    say: Say, start_node: Callable[[str], Program]
) -> None:
    first, third = start_node("first@here"), start_node("third@here")
    first.until("ready")
    third.until("ready")
    both = ("first@here", "third@here")
    assert json.loads(say(f"status --json -t {PROGRAM_DEADLINE_S}")) == _each(both, "pong")
    assert set(_ask(say, "stats")) == set(both)

    # A rate limit: the second call is held, until there is no limit any more.
    assert _tell(say, "-d first@here cancel_consumer celery") == {
        "first@here": {"ok": "no longer consuming from celery"}
    }
    limited = "new rate limit set successfully"
    assert _tell(say, "rate_limit add 1/h") == _each(both, limited)
    assert "add [rate_limit=1/h]" in _ask(say, "registered")["first@here"]
    at_once, held = say("call add", "-a", "[1, 1]"), say("call add", "-a", "[1, 2]")
    assert say("result", at_once) == "2"
    assert [call["id"] for call in _ask(say, "-d third@here reserved")["third@here"]] == [held]
    assert _tell(say, "rate_limit add 0") == _each(both, limited)
    assert say("result", held) == "3"

    # kill -9 of a third process, in the middle of a task, while the queue is paused.
    lost = say("call blocks")
    third.until("busy")
    assert [call["id"] for call in _ask(say, "-d third@here active")["third@here"]] == [lost]
    assert say("control pause_queue celery") == "paused for all processes: celery"
    waiting, revoked = say("call add", "-a", "[2, 3]"), say("call add", "-a", "[4, 5]")
    third.kill()
    assert set(json.loads(say(f"status --json -t {PROGRAM_DEADLINE_S}"))) == {"first@here"}
    with pytest.raises(WorkerLostError):
        say("result", lost)

    # A revoke of what waits; what is left runs when the queue is resumed, on the process that is left.
    assert revoked in _tell(say, f"revoke {revoked}")["first@here"]["ok"]
    assert _ask(say, "revoked") == {"first@here": [revoked]}
    assert "2 call(s) wait" in say("doctor").splitlines()[0]
    assert say("control resume_queue celery") == "resumed for all processes: celery"
    assert _tell(say, "add_consumer celery")["first@here"]["ok"].endswith("celery")
    assert say("result", waiting) == "5"
    with pytest.raises(TaskRevokedError):
        say("result", revoked)

    # A retry of what failed, with its arguments.
    failed = say("call fails", "-a", "[5]")
    first.until("failed 5")
    with pytest.raises(LookupError):
        say("result", failed)
    assert say("control retry_task", failed) == f"sent again: {failed}"
    first.until("failed 5")

    # The end of what runs, and of everything.
    running = say("call blocks")
    first.until("busy")
    assert running in _tell(say, f"terminate TERM {running}")["first@here"]["ok"]
    with pytest.raises(TaskRevokedError):
        say("result", running)
    assert _tell(say, "shutdown") == {"first@here": {"ok": "shutting down"}}
    first.tell()
    assert first.end() == 0
    with pytest.raises(CeleryCommandException, match="No nodes replied"):
        say("status")
