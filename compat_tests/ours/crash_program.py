"""A program that kills a worker at chosen commits of a workflow, and lets a second worker finish it.

Started by a test as ``python -m compat_tests.ours.crash_program WORKFLOW EVERY DATABASE NOTES``. It prints
one JSON object for each crash. Between two commits nothing lasts, so the commits are all the steps there are.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from celerylite import Celery, chain, chord
from celerylite._store.engine import Transaction
from celerylite.worker import Runtime  # noqa: F401 - what every child needs is imported once, before the forks

MEMBERS = 100
LINKS = 10

#: Seconds after which a workflow counts as stuck.
_DEADLINE_S = 60.0

_notes = Path(os.devnull)
_commits = 0


def _note(*words: object) -> None:
    # One write, so that lines of several threads do not mix.
    with _notes.open("a") as notes:
        notes.write(" ".join(map(str, words)) + "\n")


def _make_app(database: str) -> Celery:
    app = Celery("crash")
    app.conf.update(
        result_backend=f"db+{database}",
        celerylite_beat="off",
        celerylite_runtime="off",
        worker_concurrency=4,
        task_acks_late=True,
    )

    @app.task(name="step")
    def step(previous: Any, number: int) -> int:
        _note("step", number)
        return number

    @app.task(name="body", bind=True)
    def body(self: Any, results: Any) -> Any:
        # Which commit comes next tells whether the worker was killed while this ran.
        _note("body", self.request.id, _commits, int(self.request.delivery_info["redelivered"]))
        return len(results) if isinstance(results, list) else results

    return app


def _workflow(app: Celery, name: str) -> Any:
    step, body = app.tasks["step"], app.tasks["body"]
    if name == "chord":
        return chord([step.s(None, number) for number in range(MEMBERS)], body.s())
    return chain(step.s(None, 0), *(step.s(number) for number in range(1, LINKS - 1)), body.s())


def _arm(fatal: int, when: str) -> None:
    """Kill this process before or after its commit number `fatal`."""
    execute = Transaction.execute_text

    def execute_text(self: Transaction, statement: str, *args: Any) -> Any:
        global _commits
        if statement != "COMMIT":
            return execute(self, statement, *args)
        _commits += 1
        mine = _commits
        if mine == fatal and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = execute(self, statement, *args)
        if mine == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    seam: Any = Transaction
    seam.execute_text = execute_text


def _in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; its exit status, negative for a signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _run_worker(database: str, task_id: str, fatal: int, when: str) -> None:
    _arm(fatal, when)
    app = _make_app(database)
    app.start_runtime()
    value = app.AsyncResult(task_id).get(timeout=_DEADLINE_S)
    _note("value", value)
    app.close()
    _note("commits", _commits)


def _publish(database: str, name: str) -> None:
    app = _make_app(database)
    _note("id", _workflow(app, name).apply_async().id)
    app.close()


def crash(name: str, database: str, notes: Path, fatal: int, when: str) -> dict[str, Any]:
    """One workflow whose worker is killed at commit `fatal` (0: never), and what was noted."""
    global _notes
    _notes = notes
    notes.write_text("")
    statuses = [_in_child(lambda: _publish(database, name))]
    task_id = notes.read_text().split()[1]
    statuses.append(_in_child(lambda: _run_worker(database, task_id, fatal, when)))
    if statuses[-1] == -signal.SIGKILL:
        statuses.append(_in_child(lambda: _run_worker(database, task_id, 0, when)))
    lines = [line.split() for line in notes.read_text().splitlines()]
    return {
        "step": fatal,
        "when": when,
        "statuses": statuses,
        "id": task_id,
        **{word: [line[1:] for line in lines if line[0] == word] for word in ("body", "value", "commits")},
        "steps": [int(line[1]) for line in lines if line[0] == "step"],
    }


def _points(commits: int, every: int) -> Iterator[tuple[int, str]]:
    for step in range(1, commits + 1, every):
        yield step, "before"
        yield step, "after"


def main(name: str, every: int, database: str, notes: Path) -> None:
    """Crash at each `every`-th commit of a workflow, before it and after it."""
    whole = crash(name, database, notes, 0, "never")
    print(json.dumps(whole), flush=True)
    for step, when in _points(int(whole["commits"][0][0]), every):
        found = crash(name, database, notes, step, when)
        print(json.dumps({**found, "step": step}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
