"""Processes killed with SIGKILL at every stage of a call, and what the next start makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from celerylite import Celery, states
from celerylite._store import MessageState
from celerylite.exceptions import WorkerLostError
from compat_tests.conftest import Journal
from compat_tests.ours.runtime_fixtures import DEADLINE_S, MakeApp, Program, StartProgram, rows, states_of

#: The tasks of every program here, as the program that is killed sees them: they never end by themselves.
TASKS = """
app.conf.worker_concurrency = 2
@app.task(name="early")
def early():
    say("running early")
    threading.Event().wait(60)
@app.task(name="late", acks_late=True)
def late():
    say("running late")
    threading.Event().wait(60)
@app.task(name="late_async", acks_late=True)
async def late_async():
    import asyncio
    say("running late_async")
    await asyncio.Event().wait()
@app.task(name="retried", retry_on_worker_lost=True, default_retry_delay=0)
def retried():
    say("running retried")
    threading.Event().wait(60)
"""


def next_start(make_app: MakeApp, journal: Journal, **settings: Any) -> Celery:
    """The program started again: the same names, and tasks that tell how they were delivered and end."""
    app = make_app("program", **settings)

    def note(self: Any) -> str:
        redelivered = self.request.delivery_info["redelivered"]
        journal.note((self.name, redelivered, self.request.retries))
        return "done"

    for name, options in (
        ("early", {}),
        ("late", {"acks_late": True}),
        ("late_async", {"acks_late": True}),
        ("retried", {"retry_on_worker_lost": True, "default_retry_delay": 0}),
    ):
        app.task(bind=True, name=name, **options)(note)
    return app


# -- one call at each stage ----------------------------------------------------------------------------


def test_calls_that_wait_in_memory_are_run_by_the_next_start(
    start_program: StartProgram, make_app: MakeApp, journal: Journal
) -> None:
    program = start_program(
        TASKS
        + """
busy = [late.delay().id for n in range(2)]
say("ids", *[early.delay().id for n in range(3)])
sys.stdin.readline()
"""
    )
    for _ in range(2):
        program.until("running late")
    ids = program.until("ids").split()[1:]
    program.kill()
    app = next_start(make_app, journal)
    app.start_runtime()
    assert [app.AsyncResult(task_id).get(timeout=DEADLINE_S) for task_id in ids] == ["done"] * 3
    # They had not started: nobody can tell that they were claimed before.
    assert journal.count(("early", False, 0)) == 3


def test_a_call_that_ran_is_not_run_again_and_fails_as_lost(
    start_program: StartProgram, make_app: MakeApp, journal: Journal
) -> None:
    program = start_program(TASKS + 'say("id", early.delay().id)\nsys.stdin.readline()')
    program.until("running early")
    task_id = program.until("id").split()[1]
    program.kill()
    app = next_start(make_app, journal)
    app.start_runtime()
    result: Any = app.AsyncResult(task_id)
    lost = r"The process that ran early\[.*\] is gone \(delivery 1\)"
    with pytest.raises(WorkerLostError, match=lost):
        result.get(timeout=DEADLINE_S)
    assert result.state == "FAILURE"
    assert journal == []
    assert app.store.unfinished() == {}


@pytest.mark.parametrize("name", ["late", "late_async"])
def test_a_late_acknowledged_call_that_ran_is_delivered_again(
    start_program: StartProgram, make_app: MakeApp, journal: Journal, name: str
) -> None:
    program = start_program(TASKS + f'say("id", {name}.delay().id)\nsys.stdin.readline()')
    program.until(f"running {name}")
    task_id = program.until("id").split()[1]
    program.kill()
    app = next_start(make_app, journal)
    app.start_runtime()
    assert app.AsyncResult(task_id).get(timeout=DEADLINE_S) == "done"
    assert journal == [(name, True, 0)]


def test_a_call_may_be_retried_when_its_process_is_lost(
    start_program: StartProgram, make_app: MakeApp, journal: Journal
) -> None:
    program = start_program(TASKS + 'say("id", retried.delay().id)\nsys.stdin.readline()')
    program.until("running retried")
    task_id = program.until("id").split()[1]
    program.kill()
    app = next_start(make_app, journal)
    app.start_runtime()
    assert app.AsyncResult(task_id).get(timeout=DEADLINE_S) == "done"
    assert journal == [("retried", False, 1)]


def test_a_call_whose_process_died_right_after_publishing_is_run(
    start_program: StartProgram, make_app: MakeApp, journal: Journal
) -> None:
    program = start_program(
        TASKS
        + """
app.conf.celerylite_runtime = "off"
say("id", early.delay().id)
sys.stdin.readline()
"""
    )
    task_id = program.until("id").split()[1]
    program.kill()
    app = next_start(make_app, journal)
    app.start_runtime()
    assert app.AsyncResult(task_id).get(timeout=DEADLINE_S) == "done"


def test_calls_for_later_survive(
    start_program: StartProgram, make_app: MakeApp, journal: Journal, database: Path
) -> None:
    program = start_program(
        TASKS + 'say("id", early.apply_async(countdown=3600).id)\nos.kill(os.getpid(), 9)'
    )
    task_id = program.until("id").split()[1]
    program.end()
    app = next_start(make_app, journal)
    assert app.store.unfinished() == {MessageState.SCHEDULED: 1}
    # The hour passes.
    rows(database, "update celerylite_messages set due_at = due_at - 3600")
    app.start_runtime()
    assert app.AsyncResult(task_id).get(timeout=DEADLINE_S) == "done"


def test_a_call_that_kills_its_process_is_delivered_five_times_at_most(
    start_program: StartProgram, make_app: MakeApp, database: Path
) -> None:
    poison = """
@app.task(name="poison", acks_late=True, bind=True)
def poison(self):
    say("delivered", self.request.delivery_info["redelivered"])
    os.kill(os.getpid(), 9)
if sys.argv[1:]:
    say("id", poison.delay().id)
app.start_runtime()
threading.Event().wait(60)
"""
    program = start_program(poison, "first")
    program.end()
    (task_id,) = (row[0] for row in rows(database, "select task_id from celerylite_messages"))
    delivered = [program.lines]
    for _ in range(4):
        program = start_program(poison)
        program.end()
        delivered.append(program.lines)
    assert [lines[-1] for lines in delivered] == ["delivered False"] + ["delivered True"] * 4
    app = make_app("program")

    @app.task(name="poison", acks_late=True)
    def harmless() -> str:
        raise AssertionError("delivered once more")

    app.start_runtime()
    with pytest.raises(WorkerLostError, match=r"is gone \(delivery 5\)"):
        app.AsyncResult(task_id).get(timeout=DEADLINE_S)
    assert app.store.unfinished() == {}


def test_a_process_that_lives_takes_over_from_one_that_died(
    start_program: StartProgram, make_app: MakeApp, journal: Journal
) -> None:
    app = next_start(make_app, journal, celerylite_lease=1.0)
    app.start_runtime(queues=["nothing", "celery"])
    program = start_program(TASKS + 'say("id", late.delay().id)\nsys.stdin.readline()')
    program.until("running late")
    task_id = program.until("id").split()[1]
    program.kill()
    assert app.AsyncResult(task_id).get(timeout=DEADLINE_S) == "done"
    assert journal == [("late", True, 0)]


def test_a_failure_by_a_crash_is_told_as_any_failure(
    start_program: StartProgram, make_app: MakeApp, journal: Journal
) -> None:
    program = start_program(
        TASKS
        + """
say("id", early.apply_async(link_error=app.signature("cry")).id)
sys.stdin.readline()
"""
    )
    program.until("running early")
    task_id = program.until("id").split()[1]
    program.kill()
    app = next_start(make_app, journal)

    @app.task(name="cry")
    def cry(request: Any, exc: Any, traceback: Any) -> None:
        journal.note((request.id, type(exc).__name__))

    app.start_runtime()
    journal.until((task_id, "WorkerLostError"))
    app.drain(DEADLINE_S)
    assert len(journal) == 1


# -- workflows -----------------------------------------------------------------------------------------

WORKFLOWS = """
app.conf.worker_concurrency = 1
def log(word):
    with open("steps.txt", "a") as file:
        print(word, file=file)
@app.task(name="step", acks_late=True)
def step(n, last=None):
    say("at step", n)
    if sys.stdin.readline() != "go\\n":
        os._exit(1)
    log(f"step {n}")
    return n
@app.task(name="total")
def total(values):
    log(f"total {sum(values)}")
    return sum(values)
"""


def finish(make_app: MakeApp, tmp_path: Path) -> Celery:
    app = make_app("program")

    def log(word: str) -> None:
        with (tmp_path / "steps.txt").open("a") as file:
            print(word, file=file)

    @app.task(name="step", acks_late=True)
    def step(n: int, last: Any = None) -> int:
        log(f"step {n}")
        return n

    @app.task(name="total")
    def total(values: list[int]) -> int:
        log(f"total {sum(values)}")
        return sum(values)

    app.start_runtime()
    return app


def steps(tmp_path: Path) -> list[str]:
    return (tmp_path / "steps.txt").read_text().split("\n")[:-1]


def let_pass(program: Program, number: int) -> None:
    """Let so many steps end, and wait for the one after them."""
    for _ in range(number):
        program.until("at step")
        program.tell()
    program.until("at step")


def test_a_chain_goes_on_where_it_was(start_program: StartProgram, make_app: MakeApp, tmp_path: Path) -> None:
    program = start_program(
        WORKFLOWS
        + """
say("id", chain(*[step.si(n) for n in range(5)]).delay().id)
threading.Event().wait(60)
"""
    )
    let_pass(program, 2)
    task_id = program.until("id").split()[1]
    program.kill()
    app = finish(make_app, tmp_path)
    assert app.AsyncResult(task_id).get(timeout=DEADLINE_S) == 4
    assert steps(tmp_path) == [f"step {n}" for n in range(5)]


def test_the_body_of_a_chord_runs_once_after_a_crash_in_its_header(
    start_program: StartProgram, make_app: MakeApp, tmp_path: Path
) -> None:
    program = start_program(
        WORKFLOWS
        + """
say("id", chord([step.s(n) for n in range(6)], total.s()).delay().id)
threading.Event().wait(60)
"""
    )
    let_pass(program, 3)
    task_id = program.until("id").split()[1]
    program.kill()
    app = finish(make_app, tmp_path)
    assert app.AsyncResult(task_id).get(timeout=DEADLINE_S) == 15
    app.drain(DEADLINE_S)
    assert sorted(steps(tmp_path)) == [*(f"step {n}" for n in range(6)), "total 15"]


def test_a_chord_fails_when_a_member_is_lost(
    start_program: StartProgram, make_app: MakeApp, journal: Journal
) -> None:
    program = start_program(
        TASKS
        + """
@app.task(name="total")
def total(values):
    return sum(values)
say("id", chord([early.s(), early.s()], total.s()).delay().id)
sys.stdin.readline()
"""
    )
    program.until("running early")
    program.until("running early")
    task_id = program.until("id").split()[1]
    program.kill()
    app = next_start(make_app, journal)
    app.start_runtime()
    with pytest.raises(Exception, match="is gone"):
        app.AsyncResult(task_id).get(timeout=DEADLINE_S)
    app.drain(DEADLINE_S)
    assert app.store.unfinished() == {}


# -- everything at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("acks_late", [False, True])
def test_every_call_that_was_accepted_ends_in_a_final_state(
    start_program: StartProgram, make_app: MakeApp, database: Path, *, acks_late: bool
) -> None:
    program = start_program(f"""
app.conf.worker_concurrency = 3
@app.task(name="work", acks_late={acks_late}, bind=True, max_retries=2, default_retry_delay=0)
def work(self, n):
    if n % 5 == 0 and self.request.retries < 1:
        raise self.retry()
    if n % 7 == 0:
        raise ValueError(n)
    return n
@app.task(name="work_async", acks_late={acks_late})
async def work_async(n):
    return n
@app.task(name="total", acks_late={acks_late})
def total(values):
    return sum(values)
def publish(thread):
    n = 0
    while True:
        n += 1
        say("id", work.delay(n).id)
        say("id", work_async.delay(n).id)
        say("id", chain(work_async.s(n), work_async.s()).delay().id)
        say("id", chord([work_async.s(n), work_async.s(n + 1)], total.s()).delay().id)
for thread in range(2):
    threading.Thread(target=publish, args=(thread,), daemon=True).start()
sys.stdin.readline()
""")
    for _ in range(80):
        program.until("id")
    program.kill()
    ids = [line.split()[1] for line in program.lines if len(line) == len("id ") + 36]
    app = make_app("program", worker_concurrency=4)

    @app.task(name="work", acks_late=acks_late)
    def work(n: int) -> int:
        return n

    @app.task(name="work_async", acks_late=acks_late)
    def work_async(n: int) -> int:
        return n

    @app.task(name="total", acks_late=acks_late)
    def total(values: list[int]) -> int:
        return sum(values)

    app.start_runtime()
    app.drain(DEADLINE_S)
    for task_id in ids:
        result: Any = app.AsyncResult(task_id)
        result.get(timeout=DEADLINE_S, propagate=False)
        assert result.state in states.READY_STATES
    assert set(states_of(database).values()) <= {"SUCCESS", "FAILURE"}
    assert app.store.unfinished() == {}


def test_a_program_that_is_killed_again_and_again_gets_through(
    start_program: StartProgram, make_app: MakeApp, database: Path
) -> None:
    code = """
app.conf.worker_concurrency = 2
@app.task(name="work", acks_late=True)
def work(n):
    say("work", n)
    return n
if sys.argv[1:]:
    app.conf.celerylite_runtime = "off"
    say("ids", *[work.delay(n).id for n in range(60)])
else:
    app.start_runtime()
    threading.Event().wait(60)
"""
    first = start_program(code, "publish")
    ids = first.until("ids").split()[1:]
    assert first.end() == 0
    for _ in range(3):
        program = start_program(code)
        for _ in range(5):
            program.until("work")
        program.kill()
    start_program(code)
    reader = make_app(celerylite_runtime="off")
    values = [reader.AsyncResult(task_id).get(timeout=DEADLINE_S) for task_id in ids]
    assert values == list(range(60))
    assert set(states_of(database).values()) == {"SUCCESS"}
