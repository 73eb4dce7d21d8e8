"""Remote control and inspection: what a worker answers while it is busy, and what it obeys."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import ANY

import pytest

SubModule = Callable[[str], Any]

#: Seconds for an answer, which comes much sooner unless the machine is busy.
ANSWER_S = 15


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event a task may wait for; opened at the end in any case."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def node(running_app: Any, submodule: SubModule) -> str:
    """The name of the worker in this process."""
    return str(submodule("utils.nodenames").anon_nodename())


@pytest.fixture
def inspect(running_app: Any) -> Any:
    return running_app.control.inspect(timeout=ANSWER_S, limit=1)


@pytest.fixture
def blocked(running_app: Any, gate: threading.Event, journal: Any) -> Any:
    """The result of a task that has begun and does not end."""

    @running_app.task(name="control.blocks")
    def blocks(*args: Any, **kwargs: Any) -> None:
        journal.note("busy")
        gate.wait(10)

    result = blocks.delay(5, a=1)
    journal.until("busy")
    return result


def _info(result: Any, node: str) -> dict[str, Any]:
    return {
        "id": result.id,
        "name": "control.blocks",
        "args": [5],
        "kwargs": {"a": 1},
        "type": "control.blocks",
        "hostname": node,
        "time_start": ANY,
        "acknowledged": True,
        "delivery_info": {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False},
        "worker_pid": ANY,
    }


def test_a_worker_answers_a_ping(running_app: Any, inspect: Any, node: str) -> None:
    assert inspect.ping() == {node: {"ok": "pong"}}
    assert running_app.control.ping(timeout=ANSWER_S, limit=1) == [{node: {"ok": "pong"}}]


def test_a_running_task_is_described(inspect: Any, node: str, blocked: Any) -> None:
    assert inspect.active() == {node: [_info(blocked, node)]}
    assert inspect.active()[node][0]["time_start"] > 0


def test_arguments_are_texts_when_that_is_safer(inspect: Any, node: str, blocked: Any) -> None:
    (info,) = inspect.active(safe=True)[node]
    assert (info["args"], info["kwargs"]) == ("(5,)", "{'a': 1}")


def test_a_task_is_found_by_its_id(inspect: Any, node: str, blocked: Any) -> None:
    assert inspect.query_task(blocked.id) == {node: {blocked.id: ["active", _info(blocked, node)]}}
    assert inspect.query_task([blocked.id])[node][blocked.id][0] == "active"
    assert inspect.query_task("nobody") == {node: {}}


def test_a_call_with_an_eta_is_scheduled(running_app: Any, inspect: Any, node: str, journal: Any) -> None:
    @running_app.task(name="control.later")
    def later(x: int) -> None: ...

    @running_app.task(name="control.first")
    def first() -> None:
        journal.note("came")

    eta = datetime.now(UTC) + timedelta(seconds=600)
    result = later.apply_async((1,), eta=eta)
    first.delay()
    journal.until("came")
    (entry,) = inspect.scheduled()[node]
    assert (entry["eta"], entry["priority"]) == (eta.isoformat(), 6)
    assert entry["request"] == {
        "id": result.id,
        "name": "control.later",
        "args": [1],
        "kwargs": {},
        "type": "control.later",
        "hostname": ANY,
        "time_start": None,
        "acknowledged": False,
        "delivery_info": {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False},
        "worker_pid": None,
    }


def test_queues_are_described(inspect: Any, node: str) -> None:
    (queue,) = inspect.active_queues()[node]
    assert (queue["name"], queue["routing_key"], queue["exchange"]["name"]) == ("celery", "celery", "celery")
    assert queue["exchange"]["type"] == "direct"


def test_tasks_are_listed_with_their_attributes(running_app: Any, inspect: Any, node: str) -> None:
    @running_app.task(name="control.limited", rate_limit="10/m")
    def limited() -> None: ...

    assert "control.limited [rate_limit=10/m]" in inspect.registered()[node]
    assert all(re.fullmatch(r"\S+ \[name=\S+\]", line) for line in inspect.registered("name")[node])


def test_statistics_are_of_this_process(inspect: Any, node: str, blocked: Any) -> None:
    stats = inspect.stats()[node]
    assert stats["pid"] == os.getpid()
    assert stats["total"]["control.blocks"] >= 1
    assert stats["pool"]["max-concurrency"] == 4
    assert {"clock", "uptime", "broker", "prefetch_count", "rusage"} <= set(stats)


def test_settings_and_clock_and_report_are_told(inspect: Any, node: str) -> None:
    assert "accept_content" in inspect.conf(with_defaults=True)[node]
    assert inspect.clock()[node]["clock"] > 0
    assert "software -> celery:" in inspect.report()[node]["ok"]


def test_the_greeting_of_a_worker_is_answered(inspect: Any, node: str) -> None:
    answer = inspect.hello("other@host")[node]
    assert set(answer) == {"revoked", "clock"}
    assert inspect.hello(node) == {node: None}


def test_memory_is_told_where_that_can_be_measured(inspect: Any, node: str) -> None:
    sampled = inspect.memsample()[node]
    assert sampled is None or isinstance(sampled, str)
    assert isinstance(inspect.memdump()[node], str)


def test_what_is_said_to_workers_without_an_answer_gives_nothing(running_app: Any) -> None:
    control = running_app.control
    assert control.heartbeat() is None
    assert control.election("id", "topic") is None
    assert control.rate_limit("nobody", "1/s") is None


def test_a_list_of_ids_is_revoked_at_once(running_app: Any, inspect: Any, node: str) -> None:
    (reply,) = running_app.control.revoke(["one-id", "two-id"], reply=True, limit=1, timeout=ANSWER_S)
    assert {"one-id", "two-id"} <= set(inspect.revoked()[node])
    assert reply[node]["ok"] in (
        "tasks {'one-id', 'two-id'} flagged as revoked",
        "tasks {'two-id', 'one-id'} flagged as revoked",
    )


def test_a_pool_is_restarted_only_where_that_is_allowed(running_app: Any, node: str) -> None:
    (reply,) = running_app.control.pool_restart(reply=True, limit=1, timeout=ANSWER_S)
    assert reply[node] == {"error": "ValueError('Pool restarts not enabled')"}


def test_a_single_destination_gives_its_reply_alone(running_app: Any, node: str) -> None:
    asked = running_app.control.inspect(destination=[node], timeout=ANSWER_S)
    assert asked.ping() == {node: {"ok": "pong"}}


def test_nobody_else_answers(running_app: Any) -> None:
    assert running_app.control.inspect(destination=["other@host"], timeout=0.05).ping() is None


def test_a_pattern_chooses_nodes(running_app: Any, node: str) -> None:
    asked = running_app.control.inspect(
        pattern=f"*@{node.partition('@')[2]}", matcher="glob", timeout=ANSWER_S, limit=1
    )
    assert asked.ping() == {node: {"ok": "pong"}}
    asked = running_app.control.inspect(pattern="nobody@*", matcher="glob", timeout=0.05)
    assert not asked.ping()


def test_each_reply_is_given_to_the_callback(running_app: Any, node: str) -> None:
    replies: list[Any] = []
    running_app.control.inspect(callback=replies.append, timeout=ANSWER_S, limit=1).ping()
    assert replies == [{node: {"ok": "pong"}}]


def test_a_rate_limit_is_set_at_run_time(running_app: Any, node: str) -> None:
    @running_app.task(name="control.rated")
    def rated() -> None: ...

    ask = {"reply": True, "limit": 1, "timeout": ANSWER_S}
    control = running_app.control
    reply = control.rate_limit("control.rated", "7/m", **ask)
    assert reply == [{node: {"ok": "new rate limit set successfully"}}]
    assert rated.rate_limit == "7/m"
    assert control.rate_limit("nobody", "7/m", **ask) == [{node: {"error": "unknown task"}}]
    (answer,) = control.rate_limit("control.rated", "seven", **ask)
    assert answer[node]["error"].startswith("Invalid rate limit string")


def test_time_limits_are_set_at_run_time(running_app: Any, node: str) -> None:
    @running_app.task(name="control.timed")
    def timed() -> None: ...

    reply = running_app.control.time_limit(
        "control.timed", soft=3, hard=5, reply=True, limit=1, timeout=ANSWER_S
    )
    assert reply == [{node: {"ok": "time limits set successfully"}}]
    assert (timed.soft_time_limit, timed.time_limit) == (3, 5)


def test_events_are_switched_on_and_off(app: Any, start_worker: Any) -> None:
    control = app.control

    def answer(ask: Callable[..., Any]) -> Any:
        ((reply,),) = [one.values() for one in ask(reply=True, limit=1, timeout=ANSWER_S)]
        return reply

    with start_worker(app, without_heartbeat=False):
        assert answer(control.enable_events) == {"ok": "task events enabled"}
        assert answer(control.enable_events) == {"ok": "task events already enabled"}
        assert answer(control.disable_events) == {"ok": "task events disabled"}
        assert answer(control.disable_events) == {"ok": "task events already disabled"}


def test_a_command_that_fails_is_an_error_in_the_reply(running_app: Any, node: str) -> None:
    (reply,) = running_app.control.broadcast("nothing_of_the_sort", reply=True, limit=1, timeout=ANSWER_S)
    assert reply[node]["error"].startswith("KeyError")
    assert running_app.control.inspect(timeout=ANSWER_S, limit=1).ping() == {node: {"ok": "pong"}}


def test_programs_add_commands_of_their_own(running_app: Any, node: str, submodule: SubModule) -> None:
    panel = submodule("worker.control")

    @panel.inspect_command(signature="[n=1]", args=[("n", int)])
    def answer_of_ours(state: Any, n: int = 1) -> Any:
        """Tell something."""
        return {"app": state.app.main, "host": state.hostname, "n": n}

    try:
        reply = running_app.control.broadcast(
            "answer_of_ours", {"n": 3}, reply=True, limit=1, timeout=ANSWER_S
        )
        assert reply == [{node: {"app": running_app.main, "host": node, "n": 3}}]
        meta = panel.Panel.meta["answer_of_ours"]
        assert (meta.type, meta.help, meta.signature) == ("inspect", "Tell something.", "[n=1]")
    finally:
        del panel.Panel.data["answer_of_ours"], panel.Panel.meta["answer_of_ours"]


def test_a_revoked_id_is_told_and_known_to_the_worker(
    running_app: Any, inspect: Any, node: str, submodule: SubModule
) -> None:
    (reply,) = running_app.control.revoke("some-id", reply=True, limit=1, timeout=ANSWER_S)
    assert reply == {node: {"ok": "tasks {'some-id'} flagged as revoked"}}
    assert "some-id" in inspect.revoked()[node]
    assert "some-id" in submodule("worker.state").revoked


def test_a_revoked_id_is_revoked_though_nobody_has_seen_its_call(running_app: Any) -> None:
    running_app.control.revoke("unseen", reply=True, limit=1, timeout=ANSWER_S)
    result = running_app.AsyncResult("unseen")
    assert (result.state, str(result.result)) == ("REVOKED", "revoked")


@pytest.mark.parametrize("state", ["STARTED", "PROGRESS", "FAILURE", "SUCCESS"])
def test_a_revoke_leaves_the_state_of_a_call_that_has_begun_or_ended(running_app: Any, state: str) -> None:
    value = ValueError("x") if state == "FAILURE" else {"n": 1}
    running_app.backend.store_result("elsewhere", value, state)
    running_app.control.revoke("elsewhere", reply=True, limit=1, timeout=ANSWER_S)
    assert running_app.AsyncResult("elsewhere").state == state


def test_a_revoke_overrides_the_state_of_a_call_that_is_to_be_tried_again(running_app: Any) -> None:
    running_app.backend.store_result("again", ValueError("x"), "RETRY")
    running_app.control.revoke(["again"], reply=True, limit=1, timeout=ANSWER_S)
    assert running_app.AsyncResult("again").state == "REVOKED"


def test_calls_with_a_revoked_stamp_do_not_run(
    running_app: Any, blocked: Any, gate: threading.Event, submodule: SubModule
) -> None:
    state, exceptions = submodule("worker.state"), submodule("exceptions")

    class Stamps(submodule("canvas").StampingVisitor):  # type: ignore[misc]
        def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"batch": "17", "stamped_headers": ["batch"]}

    @running_app.task(name="control.stamped")
    def stamped() -> None: ...

    try:
        running_app.control.revoke_by_stamped_headers(
            {"batch": ["17"]}, reply=True, limit=1, timeout=ANSWER_S
        )
        call = stamped.si()
        call.stamp(Stamps())
        with pytest.raises(exceptions.TaskRevokedError):
            call.delay().get(timeout=10)
        assert state.revoked_stamps["batch"] == ["17"]
    finally:
        state.revoked_stamps.clear()


def test_the_state_of_the_worker_counts_and_lists(
    running_app: Any, blocked: Any, submodule: SubModule
) -> None:
    state = submodule("worker.state")
    assert blocked.id in {request.id for request in state.active_requests}
    assert state.total_count["control.blocks"] >= 1
    assert state.should_stop in (None, False)


def test_replies_from_one_name_twice_are_a_warning(submodule: SubModule) -> None:
    control, exceptions = submodule("app.control"), submodule("exceptions")
    with pytest.warns(
        exceptions.DuplicateNodenameWarning, match="Received multiple replies from node name: a@b"
    ):
        assert control.flatten_reply([{"a@b": 1}, {"a@b": 2}, {"c@d": 3}]) == {"a@b": 2, "c@d": 3}


def test_a_durable_queue_cannot_be_exclusive(new_app: Callable[..., Any], submodule: SubModule) -> None:
    app = new_app(control_queue_durable=True, control_queue_exclusive=True)
    with pytest.raises(submodule("exceptions").ImproperlyConfigured, match="cannot both be True"):
        _ = app.control
