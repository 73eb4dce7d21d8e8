"""Web processes that only publish, and `celerylite worker` processes that run, on one database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compat_tests.ours.runtime_fixtures import ROOT, Program
from compat_tests.ours.store_fixtures import make_url

#: The project: what web and workers import.
_PROJECT = """
import os
from celerylite import Celery
app = Celery("proj")
app.conf.update(celerylite_beat="off", celerylite_lease=2.0, celerylite_exit_grace=5.0)
if os.environ.get("ROLE") == "web":
    app.conf.celerylite_runtime = False

def note(*words):
    # One write, so that lines of several processes do not mix.
    with open("notes.txt", "a") as notes:
        notes.write(" ".join(map(str, words)) + "\\n")

@app.task
def add(x, y):
    note("add", x, os.getpid())
    return x + y

@app.task
def pid():
    return os.getpid()

@app.task
def total(numbers):
    note("total", len(numbers), os.getpid())
    return sum(numbers)

@app.task
def stop_this_process():
    import signal, threading
    # As the system may do it: to another thread than the one that runs Python's handlers.
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

@app.task(acks_late=True, bind=True)
def linger(self):
    note("linger", self.request.delivery_info["redelivered"], os.getpid())
    if not self.request.delivery_info["redelivered"]:
        import threading
        threading.Event().wait(30)
    return "done"
"""

#: Each line of input is evaluated with the tasks at hand; the answer is printed.
_WEB = """
import sys, threading
from celerylite import chain, chord, group
from proj import add, app, linger, pid, stop_this_process, total
print("ready", flush=True)
for line in sys.stdin:
    print("=", eval(line), flush=True)
print("threads", sorted(thread.name for thread in threading.enumerate()), flush=True)
"""

_WORKER = ["celerylite", "-A", "proj", "worker", "--concurrency", "4", "--loglevel", "INFO"]

Run = Callable[..., Program]


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from make_url(request.param, tmp_path)


@pytest.fixture
def run(url: str, tmp_path: Path) -> Iterator[Run]:
    """Starts `python ARGUMENTS...` in the project's directory."""
    (tmp_path / "proj.py").write_text(_PROJECT)
    programs: list[Program] = []

    def run(*arguments: str, **variables: str) -> Program:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CELERY")}
        environment |= {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
            "CELERYLITE_DATABASE": url,
            **variables,
        }
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # The class reads errors apart; here they are part of the output.
        process.stderr = open(os.devnull)  # noqa: SIM115 - closed by Program.close
        programs.append(Program(process))
        return programs[-1]

    yield run
    for program in programs:
        program.close()


@pytest.fixture
def web(run: Run) -> Program:
    program = run("-c", _WEB, ROLE="web")
    program.until("ready")
    return program


def worker(run: Run, name: str) -> Program:
    program = run("-m", *_WORKER, "--hostname", f"{name}@here")
    while "ready." not in program.until(""):
        pass
    return program


def ask(web: Program, expression: str) -> str:
    web.tell(expression)
    return web.until("= ").removeprefix("= ")


def notes(tmp_path: Path) -> list[list[str]]:
    file = tmp_path / "notes.txt"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def test_a_web_process_publishes_and_a_worker_runs(run: Run, web: Program) -> None:
    one = worker(run, "one")
    assert ask(web, "pid.delay().get(timeout=10)") == str(one.process.pid)
    assert ask(web, "app._runtime") == "None"


def test_what_was_published_before_any_worker_came_runs_when_one_comes(run: Run, web: Program) -> None:
    ask(web, "globals().update(r=add.delay(2, 3)) or r.state")
    worker(run, "one")
    assert ask(web, "r.get(timeout=10)") == "5"


def test_a_chord_of_many_parts_over_two_workers_has_one_body(run: Run, web: Program, tmp_path: Path) -> None:
    pids = {str(worker(run, name).process.pid) for name in ("one", "two")}
    assert ask(web, "chord([add.s(i, 0) for i in range(40)])(total.s()).get(timeout=10)") == str(
        sum(range(40))
    )
    noted = notes(tmp_path)
    assert [note[1] for note in noted if note[0] == "total"] == ["40"]
    added = [note for note in noted if note[0] == "add"]
    assert sorted(int(note[1]) for note in added) == list(range(40))
    assert {note[2] for note in added} <= pids


def test_what_a_killed_worker_ran_late_is_delivered_to_the_other(
    run: Run, web: Program, tmp_path: Path
) -> None:
    first = worker(run, "one")
    ask(web, "globals().update(r=linger.delay()) or r.id")
    while not any(note[0] == "linger" for note in notes(tmp_path)):
        assert first.process.poll() is None
    second = worker(run, "two")
    first.kill()
    assert ask(web, "r.get(timeout=10)") == "done"
    lingered = [note[1:] for note in notes(tmp_path) if note[0] == "linger"]
    assert lingered == [["False", str(first.process.pid)], ["True", str(second.process.pid)]]


def test_a_worker_that_is_asked_to_stop_leaves_its_work_to_the_other(run: Run, web: Program) -> None:
    first, second = worker(run, "one"), worker(run, "two")
    first.terminate()
    assert first.end() == 0
    assert ask(web, "{r.get(timeout=10) for r in [pid.delay() for _ in range(20)]}") == str(
        {second.process.pid}
    )


def test_workers_take_turns_when_each_takes_its_own_queue(run: Run, web: Program) -> None:
    mail = run("-m", *_WORKER, "--hostname", "mail@here", "-Q", "mail")
    other = run("-m", *_WORKER, "--hostname", "other@here", "-Q", "celery")
    assert ask(web, "pid.apply_async(queue='mail').get(timeout=10)") == str(mail.process.pid)
    assert ask(web, "pid.delay().get(timeout=10)") == str(other.process.pid)


def test_a_signal_that_another_thread_receives_stops_the_worker_too(run: Run, web: Program) -> None:
    # After SIGCONT, or when the main thread is blocked, the system gives a signal to any thread.
    one = worker(run, "one")
    ask(web, "stop_this_process.delay().id")
    assert one.end() == 0
