"""A process that runs tasks only because it published one leaves what it does not know to others."""

from __future__ import annotations

import pytest

from celerylite.exceptions import NotRegistered, TimeoutError
from compat_tests.ours.runtime_fixtures import DEADLINE_S, MakeApp, StartProgram

SERVER = r"""
import sys, threading
from celerylite import Celery

def say(*words):
    # One write: two threads say something.
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()

app = Celery("server")

@app.task(name="server.slow")
def slow(n):
    say("started")
    threading.Event().wait()

@app.task(name="server.add")
def add(a, b):
    return a + b

app.conf.worker_concurrency = 1
app.start_runtime()
running = slow.delay(0)
waiting = add.delay(1, 2)
say("ids", running.id, waiting.id)
threading.Event().wait()
"""


def test_a_script_of_another_app_leaves_the_calls_of_a_dead_server_alone(
    make_app: MakeApp, start_program: StartProgram
) -> None:
    server = start_program(SERVER, prelude="")
    server.until("started")
    ids = server.until("ids").split()[1:]
    server.kill()
    script = make_app("script")

    @script.task(name="script.hello")
    def hello() -> str:
        return "hi"

    assert hello.delay().get(timeout=DEADLINE_S) == "hi"
    script.stop_runtime()
    assert sorted(each.message.id for each in script.store.waiting(10)) == [ids[1]]
    assert script.store.get_result(ids[0]) is None

    owner = make_app("server again")
    done = owner.task(name="server.add")(lambda a, b: a + b)
    owner.task(name="server.slow")(lambda n: n)
    owner.start_runtime()
    assert owner.AsyncResult(ids[1]).get(timeout=DEADLINE_S) == 3
    assert owner.AsyncResult(ids[0]).get(timeout=DEADLINE_S, propagate=False) is not None
    assert done.name == "server.add"


def test_a_producer_without_the_code_is_served_by_a_process_that_has_it(make_app: MakeApp) -> None:
    server, producer = make_app("server"), make_app("producer")
    server.task(name="tasks.add")(lambda a, b: a + b)
    server.start_runtime()
    results = [producer.send_task("tasks.add", (n, n)) for n in range(20)]
    assert [result.get(timeout=DEADLINE_S) for result in results] == [2 * n for n in range(20)]


def test_what_nobody_knows_waits_until_a_worker_comes(make_app: MakeApp) -> None:
    producer = make_app("producer")
    result = producer.send_task("tasks.unheard_of")
    with pytest.raises(TimeoutError):
        result.get(timeout=0.1)
    assert result.state == "PENDING"
    producer.start_runtime()
    with pytest.raises(NotRegistered, match=r"tasks\.unheard_of"):
        result.get(timeout=DEADLINE_S)
