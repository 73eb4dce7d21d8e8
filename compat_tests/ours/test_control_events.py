"""Events between processes, and what they cost when nobody captures."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from celerylite import signals
from celerylite.bin.celery import main_for_app
from compat_tests.ours.runtime_fixtures import DEADLINE_S, MakeApp, StartProgram, rows

pytestmark = pytest.mark.timeout(60)  # Programs start slowly on a busy machine.

WORKER = r"""
app.conf.update(worker_send_task_events=True, task_send_sent_event=True)

@app.task(name="add")
def add(x, y):
    return x + y

app.start_runtime(hostname="a@here")
say("ready")
sys.stdin.readline()
app.close()
"""


def test_events_of_other_processes_come_through_the_database(
    make_app: MakeApp, start_program: StartProgram
) -> None:
    app = make_app(celerylite_runtime=False)
    program = start_program(WORKER)
    program.until("ready")
    seen: dict[str, dict[str, Any]] = {}
    changed = threading.Condition()

    def take(event: dict[str, Any]) -> None:
        with changed:
            seen[event["type"]] = event
            changed.notify_all()

    receiver = app.events.Receiver(handlers={"*": take})
    thread = threading.Thread(target=receiver.capture)
    thread.start()
    try:
        with changed:
            assert changed.wait_for(lambda: "worker-heartbeat" in seen, DEADLINE_S)
        result = app.send_task("add", (1, 2))
        with changed:
            assert changed.wait_for(lambda: "task-succeeded" in seen, DEADLINE_S)
        done = seen["task-succeeded"]
        assert (done["uuid"], done["hostname"], done["result"]) == (result.id, "a@here", "3")
        assert done["pid"] == program.process.pid
        program.tell()
        with changed:
            assert changed.wait_for(lambda: "worker-offline" in seen, DEADLINE_S)
    finally:
        receiver.should_stop = True
        thread.join(DEADLINE_S)


def test_no_event_is_written_while_nobody_captures(make_app: MakeApp, database: Any) -> None:
    app = make_app(worker_send_task_events=True, task_send_sent_event=True)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(1, 2).get(timeout=DEADLINE_S)
    app.close()
    assert rows(database, "select count(*) from celerylite_mailbox") == [(0,)]


def test_listeners_in_the_process_hear_an_event_before_the_result_is_there(make_app: MakeApp) -> None:
    app = make_app(worker_send_task_events=True)
    heard: list[str] = []
    end = app.events.listen(lambda event: heard.append(event["type"]))

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        assert heard[-2:] == ["task-received", "task-started"]
        return x + y

    assert add.delay(1, 2).get(timeout=DEADLINE_S) == 3
    app.close()
    end()
    assert "task-succeeded" in heard


def test_messages_are_brought_to_another_database(
    make_app: MakeApp, tmp_path: Any, database: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    app = make_app(celerylite_runtime=False)
    app.send_task("one", (1,))
    app.send_task("two", (2,), countdown=600)
    new = f"sqlite:///{tmp_path / 'new.sqlite3'}"
    main_for_app(app, ["migrate", f"sqlite:///{database}", new, "--ack-messages"])
    assert "2 messages brought over." in capsys.readouterr().out
    assert app.store.waiting(10) == []
    other = make_app(result_backend=f"db+{new}", celerylite_runtime=False)
    assert [one.message.name for one in other.store.waiting(10)] == ["one", "two"]


def test_a_pool_says_before_it_starts_a_child_process(make_app: MakeApp) -> None:
    app = make_app(worker_pool="prefork", worker_concurrency=1)
    senders: list[Any] = []
    asked = threading.Event()

    def before(sender: Any, **kwargs: Any) -> None:
        senders.append(sender)
        asked.set()

    signals.worker_before_create_process.connect(before)
    try:
        app.start_runtime()
        assert asked.wait(DEADLINE_S)
    finally:
        signals.worker_before_create_process.disconnect(before)
    assert type(senders[0]).__name__ == "ProcessPool"
