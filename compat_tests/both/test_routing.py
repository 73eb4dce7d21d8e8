"""Which queue a message goes to, and what the run can see of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kombu.entity import Exchange, Queue


@pytest.fixture
def published(receive: Any, submodule: Callable[[str], Any]) -> list[dict[str, Any]]:
    """What the publish signal said of every message of the test."""
    seen: list[dict[str, Any]] = []
    receive(
        submodule("signals").before_task_publish, lambda sender, **kw: seen.append({"sender": sender, **kw})
    )
    return seen


def _task(app: Any, name: str = "routed.job") -> Any:
    @app.task(name=name)
    def job() -> None: ...

    return job


def test_without_routes_messages_go_to_the_default_queue(app: Any, published: list[dict[str, Any]]) -> None:
    _task(app).delay()
    assert published[0]["routing_key"] == "celery"


def test_the_default_queue_can_be_renamed(
    new_app: Callable[..., Any], published: list[dict[str, Any]]
) -> None:
    _task(new_app(task_default_queue="jobs")).delay()
    assert published[0]["routing_key"] == "jobs"


def test_the_queue_of_a_call_wins(new_app: Callable[..., Any], published: list[dict[str, Any]]) -> None:
    app = new_app(task_routes={"routed.job": {"queue": "by-route"}})
    _task(app).apply_async(queue="by-call")
    assert published[0]["routing_key"] == "by-call"


@pytest.mark.parametrize(
    ("routes", "queue"),
    [
        ({"routed.job": {"queue": "slow"}}, "slow"),
        ({"routed.job": "slow"}, "slow"),
        ({"routed.*": {"queue": "globbed"}}, "globbed"),
        ({"other.*": {"queue": "globbed"}}, "celery"),
        ([[("routed.*", {"queue": "listed"})]], "listed"),
        ([{"other.job": "no"}, {"routed.job": {"queue": "second"}}], "second"),
        ([[("routed.job", {"queue": "first"}), ("routed.*", {"queue": "later"})]], "first"),
    ],
)
def test_routes_choose_the_queue(
    new_app: Callable[..., Any], published: list[dict[str, Any]], routes: Any, queue: str
) -> None:
    _task(new_app(task_routes=routes)).delay()
    assert published[0]["routing_key"] == queue


def test_a_route_by_regular_expression(new_app: Callable[..., Any], published: list[dict[str, Any]]) -> None:
    import re

    app = new_app(task_routes=([(re.compile(r"routed\.(job|work)"), {"queue": "regex"})],))
    _task(app).delay()
    assert published[0]["routing_key"] == "regex"


def test_a_router_function_sees_the_call(
    new_app: Callable[..., Any], published: list[dict[str, Any]]
) -> None:
    calls: list[Any] = []

    def router(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
        calls.append((name, list(args), kwargs, task.name))
        return {"queue": "by-function", "priority": 7}

    app = new_app(task_routes=(router,))

    @app.task(name="routed.job")
    def job(x: int, y: int) -> None: ...

    job.delay(1, y=2)
    assert calls == [("routed.job", [1], {"y": 2}, "routed.job")]
    assert published[0]["routing_key"] == "by-function"
    assert published[0]["properties"]["priority"] == 7


def test_a_router_that_says_nothing_leaves_it_to_the_next(
    new_app: Callable[..., Any], published: list[dict[str, Any]]
) -> None:
    app = new_app(task_routes=(lambda *args, **kw: None, {"routed.job": "next"}))
    _task(app).delay()
    assert published[0]["routing_key"] == "next"


def test_a_router_may_be_an_object_with_route_for_task(
    new_app: Callable[..., Any], published: list[dict[str, Any]]
) -> None:
    class Router:
        def route_for_task(self, task: str, args: Any = None, kwargs: Any = None) -> Any:
            return {"queue": f"for-{task}"}

    _task(new_app(task_routes=(Router(),))).delay()
    assert published[0]["routing_key"] == "for-routed.job"


def test_a_queue_on_a_topic_exchange_gives_exchange_and_routing_key(
    new_app: Callable[..., Any], published: list[dict[str, Any]]
) -> None:
    app = new_app(
        task_queues=[
            Queue("default", Exchange("default"), routing_key="default"),
            Queue("media", Exchange("media", type="topic"), routing_key="media.video"),
        ],
        task_default_queue="default",
        task_routes={"routed.job": {"queue": "media"}},
    )
    _task(app).delay()
    assert (published[0]["exchange"], published[0]["routing_key"]) == ("media", "media.video")


def test_a_queue_on_a_direct_exchange_is_addressed_by_its_name(
    new_app: Callable[..., Any], published: list[dict[str, Any]]
) -> None:
    app = new_app(task_queues=[Queue("media", Exchange("media"), routing_key="media.video")])
    _task(app).apply_async(queue="media")
    assert (published[0]["exchange"], published[0]["routing_key"]) == ("", "media")


def test_a_route_by_routing_key(new_app: Callable[..., Any], published: list[dict[str, Any]]) -> None:
    app = new_app(task_routes={"routed.job": {"exchange": "media", "routing_key": "media.image"}})
    _task(app).delay()
    assert (published[0]["exchange"], published[0]["routing_key"]) == ("media", "media.image")


def test_an_unknown_queue_is_made_by_being_used(app: Any) -> None:
    _task(app).apply_async(queue="brand-new")
    assert "brand-new" in app.amqp.queues


def test_an_unknown_queue_is_an_error_when_missing_queues_are_not_made(
    new_app: Callable[..., Any], submodule: Callable[[str], Any]
) -> None:
    app = new_app(task_create_missing_queues=False, task_queues=[Queue("known")])
    with pytest.raises(submodule("exceptions").QueueNotFound, match="nowhere"):
        _task(app).apply_async(queue="nowhere")


def test_send_task_is_routed_by_name(new_app: Callable[..., Any], published: list[dict[str, Any]]) -> None:
    new_app(task_routes={"remote.*": "remote"}).send_task("remote.job")
    assert published[0]["routing_key"] == "remote"


def test_the_run_sees_where_its_message_went(running_app: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any) -> Any:
        return self.request.delivery_info

    info = job.delay().get(timeout=10)
    assert info["exchange"] == ""
    assert info["routing_key"] == "celery"
    assert info["redelivered"] in (None, False)


def test_the_worker_consumes_the_queues_it_was_given(app: Any, start_worker: Any) -> None:
    @app.task(bind=True)
    def job(self: Any) -> Any:
        return self.request.delivery_info["routing_key"]

    with start_worker(app, queues="celery,slow"):
        waiting = job.apply_async(queue="elsewhere")
        assert job.apply_async(queue="slow").get(timeout=10) == "slow"
        assert job.delay().get(timeout=10) == "celery"
        assert waiting.state == "PENDING"


def test_a_worker_without_queues_consumes_those_of_the_configuration(
    new_app: Callable[..., Any], start_worker: Any
) -> None:
    app = new_app(task_queues=[Queue("one"), Queue("two")], task_default_queue="one")

    @app.task(bind=True)
    def job(self: Any) -> Any:
        return self.request.delivery_info["routing_key"]

    with start_worker(app):
        assert job.apply_async(queue="two").get(timeout=10) == "two"
        assert job.delay().get(timeout=10) == "one"


@pytest.mark.parametrize("priority", [0, 3, 9])
def test_the_priority_of_a_call_is_seen_by_the_run(running_app: Any, priority: int) -> None:
    @running_app.task(bind=True)
    def job(self: Any) -> Any:
        return self.request.delivery_info["priority"]

    assert job.apply_async(priority=priority).get(timeout=10) == priority


def test_the_default_priority_applies_to_every_call(new_app: Callable[..., Any], start_worker: Any) -> None:
    app = new_app(task_default_priority=5)

    @app.task(bind=True)
    def job(self: Any) -> Any:
        return self.request.delivery_info["priority"]

    with start_worker(app):
        assert job.delay().get(timeout=10) == 5


def test_the_router_of_the_app_can_be_asked(new_app: Callable[..., Any]) -> None:
    app = new_app(task_routes={"routed.job": {"queue": "slow"}})
    route = app.amqp.router.route({}, "routed.job", (), {})
    assert route["queue"].name == "slow"
