"""Sending a task: what is checked and serialised at the call, and what travels in the message."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from kombu import serialization
from kombu.exceptions import EncodeError


@pytest.fixture
def signals(submodule: Callable[[str], Any]) -> Any:
    return submodule("signals")


@pytest.fixture
def published(receive: Any, signals: Any) -> list[dict[str, Any]]:
    """What `before_task_publish` said of every message of the test."""
    seen: list[dict[str, Any]] = []
    receive(signals.before_task_publish, lambda sender, **kw: seen.append({"sender": sender, **kw}))
    return seen


@pytest.fixture
def add(app: Any) -> Any:
    @app.task(name="sending.add")
    def add(x: int, y: int) -> int:
        return x + y

    return add


@pytest.fixture
def echo(running_app: Any) -> Any:
    @running_app.task(name="sending.echo")
    def echo(*args: Any, **kwargs: Any) -> Any:
        return [list(args), kwargs]

    return echo


@pytest.fixture
def header(running_app: Any) -> Any:
    """A task that gives one field of its request."""

    @running_app.task(name="sending.header", bind=True)
    def header(self: Any, key: str) -> Any:
        return self.request.get(key)

    return header


def test_delay_gives_a_result_with_an_id_before_anything_ran(add: Any) -> None:
    result = add.delay(1, 2)
    assert UUID(result.id).version == 4
    assert (result.state, result.ready()) == ("PENDING", False)


def test_every_call_has_an_id_of_its_own(add: Any) -> None:
    assert add.delay(1, 2).id != add.delay(1, 2).id


def test_the_id_can_be_chosen_by_the_caller(add: Any, published: list[dict[str, Any]]) -> None:
    assert add.apply_async((1, 2), task_id="chosen").id == "chosen"
    assert published[0]["headers"]["id"] == "chosen"


def test_before_task_publish_is_told_everything_about_the_message(
    add: Any, published: list[dict[str, Any]]
) -> None:
    add.delay(1, 2)
    (seen,) = published
    assert seen["sender"] == "sending.add"
    expected = {"body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"}
    assert expected <= set(seen)
    assert {"correlation_id", "reply_to"} <= set(seen["properties"])


def test_the_body_is_args_kwargs_and_what_follows(add: Any, published: list[dict[str, Any]]) -> None:
    add.apply_async((1,), {"y": 2}, link=add.s(3))
    args, kwargs, embed = published[0]["body"]
    assert (list(args), kwargs) == ([1], {"y": 2})
    assert set(embed) == {"callbacks", "errbacks", "chain", "chord"}
    assert [dict(sig)["task"] for sig in embed["callbacks"]] == ["sending.add"]
    assert embed["chord"] is None


def test_the_body_of_a_chain_carries_the_steps_to_come(
    lib: Any, add: Any, published: list[dict[str, Any]]
) -> None:
    lib.chain(add.s(1, 1), add.s(2), add.s(3))()
    chain = published[0]["body"][2]["chain"]
    assert [list(dict(step)["args"]) for step in chain] == [[3], [2]]


def test_the_headers_describe_the_call(add: Any, published: list[dict[str, Any]]) -> None:
    result = add.apply_async((1,), {"y": 2})
    headers = published[0]["headers"]
    assert headers["lang"] == "py"
    assert headers["task"] == "sending.add"
    assert headers["id"] == headers["root_id"] == result.id
    assert headers["parent_id"] is None
    assert headers["argsrepr"] == "(1,)"
    assert headers["kwargsrepr"] == "{'y': 2}"
    assert headers["retries"] == 0
    assert headers["timelimit"] == [None, None]
    assert headers["ignore_result"] is False
    assert "@" in headers["origin"]
    for key in ("shadow", "eta", "expires", "group", "group_index"):
        assert headers[key] is None


def test_the_reprs_can_be_given_to_hide_secrets(add: Any, published: list[dict[str, Any]]) -> None:
    add.apply_async(("secret", 2), argsrepr="('***', 2)", kwargsrepr="{...}")
    headers = published[0]["headers"]
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("('***', 2)", "{...}")


def test_long_reprs_are_cut(app: Any, published: list[dict[str, Any]]) -> None:
    @app.task
    def job(text: str) -> None: ...

    job.delay("x" * 10_000)
    assert len(published[0]["headers"]["argsrepr"]) <= 1100


def test_time_limits_travel_hard_one_first(add: Any, published: list[dict[str, Any]]) -> None:
    add.apply_async((1, 2), time_limit=30, soft_time_limit=20)
    assert published[0]["headers"]["timelimit"] == [30, 20]


def test_the_correlation_id_is_the_id(add: Any, published: list[dict[str, Any]]) -> None:
    result = add.delay(1, 2)
    assert published[0]["properties"]["correlation_id"] == result.id


def test_after_task_publish_follows_before_task_publish(add: Any, receive: Any, signals: Any) -> None:
    order: list[tuple[str, Any]] = []
    receive(signals.after_task_publish, lambda sender, **kw: order.append(("after", kw["headers"]["id"])))
    receive(signals.before_task_publish, lambda sender, **kw: order.append(("before", kw["headers"]["id"])))
    result = add.delay(1, 2)
    assert order == [("before", result.id), ("after", result.id)]


def test_after_task_publish_is_told_the_queue(add: Any, receive: Any, signals: Any) -> None:
    seen: list[dict[str, Any]] = []
    receive(signals.after_task_publish, lambda sender, **kw: seen.append({"sender": sender, **kw}))
    add.delay(1, 2)
    assert seen[0]["sender"] == "sending.add"
    assert (seen[0]["exchange"], seen[0]["routing_key"]) == ("", "celery")
    assert list(seen[0]["body"][0]) == [1, 2]


def test_headers_added_while_publishing_reach_the_run(header: Any, receive: Any, signals: Any) -> None:
    receive(signals.before_task_publish, lambda headers, **kw: headers.update(tenant="acme"))
    assert header.delay("tenant").get(timeout=10) == "acme"


def test_headers_added_while_publishing_are_among_the_runs_headers(
    running_app: Any, receive: Any, signals: Any
) -> None:
    receive(signals.before_task_publish, lambda headers, **kw: headers.update(tenant="acme"))

    @running_app.task(bind=True)
    def job(self: Any) -> Any:
        return self.request.tenant, (self.request.headers or {}).get("tenant")

    assert job.delay().get(timeout=10)[0] == "acme"


def test_headers_given_with_the_call_reach_the_run(header: Any) -> None:
    call = header.apply_async(("tenant",), headers={"tenant": "acme"})
    assert call.get(timeout=10) == "acme"
    call = header.apply_async(("headers",), headers={"tenant": "acme"})
    assert call.get(timeout=10)["tenant"] == "acme"


def test_properties_changed_while_publishing_reach_the_run(header: Any, receive: Any, signals: Any) -> None:
    receive(signals.before_task_publish, lambda properties, **kw: properties.update(reply_to="elsewhere"))
    assert header.delay("reply_to").get(timeout=10) == "elsewhere"


def test_the_publish_signals_are_filtered_by_the_name_of_the_task(
    app: Any, add: Any, receive: Any, signals: Any
) -> None:
    seen: list[str] = []
    receive(signals.before_task_publish, lambda sender, **kw: seen.append(sender), sender="sending.add")

    @app.task
    def other() -> None: ...

    other.delay()
    add.delay(1, 2)
    assert seen == ["sending.add"]


def test_a_call_with_too_few_arguments_is_refused(add: Any, published: list[dict[str, Any]]) -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
        add.delay(1)
    assert published == []


def test_a_call_with_too_many_arguments_is_refused(add: Any) -> None:
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        add.delay(1, 2, 3)


def test_a_call_with_an_unknown_keyword_is_refused(add: Any) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        add.delay(1, 2, z=3)


def test_a_bound_task_does_not_count_itself_among_the_arguments(app: Any) -> None:
    @app.task(bind=True)
    def job(self: Any, x: int) -> None: ...

    assert job.delay(1).id
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        job.delay()


def test_the_check_of_arguments_can_be_turned_off_for_a_task(app: Any) -> None:
    @app.task(typing=False)
    def job(x: int) -> None: ...

    assert job.delay().id


def test_the_check_of_arguments_can_be_turned_off_for_an_app(lib: Any) -> None:
    with lib.Celery("loose", strict_typing=False, broker="memory://", backend="cache+memory://") as app:

        @app.task
        def job(x: int) -> None: ...

        assert job.delay().id


@pytest.mark.parametrize("args", ["text", 1, {"x": 1}])
def test_arguments_must_be_a_list_or_tuple(app: Any, args: Any) -> None:
    with pytest.raises(TypeError, match="task args must be a list or tuple"):
        app.send_task("any", args=args)


def test_keyword_arguments_must_be_a_mapping(app: Any) -> None:
    with pytest.raises(TypeError, match="task keyword arguments must be a mapping"):
        app.send_task("any", kwargs=["x"])


@pytest.mark.parametrize("value", [object(), lambda: None], ids=["object", "function"])
def test_what_json_cannot_hold_is_refused_by_the_call(app: Any, value: Any) -> None:
    @app.task
    def job(x: Any) -> None: ...

    with pytest.raises(EncodeError):
        job.delay(value)


@pytest.mark.parametrize(
    ("given", "received"),
    [
        ((1, 2), [1, 2]),
        ({1: "a"}, {"1": "a"}),
        ({"a": (1, (2,))}, {"a": [1, [2]]}),
        (None, None),
        ("ünï", "ünï"),
        (1.5, 1.5),
        (True, True),
        ([], []),
    ],
    ids=str,
)
def test_arguments_are_seen_as_json_gives_them_back(echo: Any, given: Any, received: Any) -> None:
    assert echo.delay(given).get(timeout=10) == [[received], {}]


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2026, 1, 2, 3, 4, 5),  # noqa: DTZ001 -- naive datetimes must survive too
        date(2026, 1, 2),
        Decimal("1.10"),
        UUID("12345678-1234-5678-1234-567812345678"),
        b"bytes",
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_of_these_types_come_back_as_themselves(running_app: Any, value: Any) -> None:
    @running_app.task
    def same(x: Any) -> Any:
        return [type(x).__name__, x == value, x]

    assert same.delay(value).get(timeout=10) == [type(value).__name__, True, value]


def test_keyword_arguments_arrive_by_name(echo: Any) -> None:
    assert echo.apply_async((1,), {"b": 2}).get(timeout=10) == [[1], {"b": 2}]
    assert echo.apply_async(kwargs={"only": "kw"}).get(timeout=10) == [[], {"only": "kw"}]


def test_the_message_is_untouched_by_later_changes_of_the_arguments(app: Any, start_worker: Any) -> None:
    @app.task
    def total(values: list[int]) -> int:
        return sum(values)

    values = [1, 2]
    result = total.delay(values)
    values.append(100)
    with start_worker(app):
        assert result.get(timeout=10) == 3


def test_messages_sent_without_a_worker_wait_for_one(app: Any, add: Any, start_worker: Any) -> None:
    results = [add.delay(i, i) for i in range(5)]
    assert {result.state for result in results} == {"PENDING"}
    with start_worker(app):
        assert [result.get(timeout=10) for result in results] == [0, 2, 4, 6, 8]


def test_send_task_needs_only_the_name(running_app: Any, echo: Any) -> None:
    result = running_app.send_task("sending.echo", args=[1], kwargs={"k": 2})
    assert result.get(timeout=10) == [[1], {"k": 2}]


def test_a_task_may_be_sent_by_the_app_that_does_not_have_it(
    app: Any, published: list[dict[str, Any]]
) -> None:
    result = app.send_task("somewhere.else", args=("a",), queue="remote")
    assert published[0]["headers"]["task"] == "somewhere.else"
    assert published[0]["routing_key"] == "remote"
    assert result.state == "PENDING"


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_each_serializer_of_kombu_can_be_chosen_per_call(
    new_app: Callable[..., Any], start_worker: Any, serializer: str
) -> None:
    app = new_app(accept_content=["json", serializer])

    @app.task
    def same(x: Any) -> Any:
        return x

    with start_worker(app):
        assert same.apply_async(({"a": [1, 2]},), serializer=serializer).get(timeout=10) == {"a": [1, 2]}


def test_the_serializer_of_a_task_is_used_for_its_calls(
    new_app: Callable[..., Any], start_worker: Any
) -> None:
    app = new_app(accept_content=["json", "pickle"])

    @app.task(serializer="pickle")
    def kind(x: Any) -> str:
        return type(x).__name__

    with start_worker(app):
        assert kind.delay((1, 2)).get(timeout=10) == "tuple"


def test_the_serializer_of_the_app_is_used_for_all_calls(
    new_app: Callable[..., Any], start_worker: Any
) -> None:
    app = new_app(task_serializer="pickle", accept_content=["json", "pickle"])

    @app.task
    def kind(x: Any) -> str:
        return type(x).__name__

    with start_worker(app):
        assert kind.delay({1, 2}).get(timeout=10) == "set"


@pytest.fixture
def own_serializer() -> Iterator[str]:
    def encode(value: Any) -> str:
        return "own:" + json.dumps(value, default=repr)

    def decode(text: Any) -> Any:
        text = text.decode() if isinstance(text, bytes) else text
        return json.loads(text.removeprefix("own:"))

    serialization.register("own", encode, decode, "application/x-own", "utf-8")
    yield "own"
    serialization.unregister("own")


def test_a_serializer_registered_with_kombu_can_be_named_in_the_settings(
    new_app: Callable[..., Any], start_worker: Any, own_serializer: str
) -> None:
    app = new_app(
        task_serializer=own_serializer, result_serializer=own_serializer, accept_content=[own_serializer]
    )

    @app.task
    def same(x: Any) -> Any:
        return x

    with start_worker(app):
        assert same.delay([1, "a"]).get(timeout=10) == [1, "a"]


def test_an_unknown_serializer_is_an_error_of_the_call(add: Any, submodule: Callable[[str], Any]) -> None:
    from kombu.exceptions import SerializerNotInstalled

    with pytest.raises(SerializerNotInstalled, match="nonesuch"):
        add.apply_async((1, 2), serializer="nonesuch")


@pytest.mark.parametrize("compression", ["zlib", "gzip", "bzip2"])
def test_a_compressed_message_arrives_whole(echo: Any, compression: str) -> None:
    text = "long " * 500
    assert echo.apply_async((text,), compression=compression).get(timeout=10) == [[text], {}]


def test_large_arguments_arrive_whole(echo: Any) -> None:
    text = "x" * 1_000_000
    assert echo.delay(text).get(timeout=10) == [[text], {}]


@pytest.mark.parametrize("value", [0, -1, 0.5, 3600])
def test_a_countdown_becomes_an_eta_in_the_message(
    add: Any, published: list[dict[str, Any]], value: float
) -> None:
    before = datetime.now(UTC)
    add.apply_async((1, 2), countdown=value)
    eta = published[0]["headers"]["eta"]
    if value == 0:
        assert eta is None
    else:
        assert abs(datetime.fromisoformat(eta) - before - timedelta(seconds=value)) < timedelta(seconds=5)


def test_an_eta_travels_as_iso_text(add: Any, published: list[dict[str, Any]]) -> None:
    add.apply_async((1, 2), eta=datetime(2099, 1, 1, tzinfo=UTC))
    assert published[0]["headers"]["eta"] == "2099-01-01T00:00:00+00:00"


def test_expires_in_seconds_becomes_a_time_in_the_message(add: Any, published: list[dict[str, Any]]) -> None:
    before = datetime.now(UTC)
    add.apply_async((1, 2), expires=60)
    expires = datetime.fromisoformat(published[0]["headers"]["expires"])
    assert abs(expires - before - timedelta(seconds=60)) < timedelta(seconds=5)


def test_a_number_that_is_no_time_is_refused(add: Any) -> None:
    with pytest.raises(ValueError, match="countdown is out of range"):
        add.apply_async((1, 2), countdown=-1e10)


def test_the_options_of_a_task_are_the_defaults_of_its_calls(
    app: Any, published: list[dict[str, Any]]
) -> None:
    @app.task(time_limit=50, soft_time_limit=40, ignore_result=True)
    def job() -> None: ...

    job.delay()
    headers = published[0]["headers"]
    assert headers["ignore_result"] is True
    assert headers["timelimit"] == [50, 40]


def test_a_task_sent_by_a_task_knows_its_parent_and_root(running_app: Any, journal: Any) -> None:
    @running_app.task(bind=True)
    def child(self: Any) -> None:
        journal.note(("child", self.request.parent_id, self.request.root_id))

    @running_app.task(bind=True)
    def parent(self: Any) -> None:
        child.delay()

    result = parent.delay()
    journal.until(("child", result.id, result.id))


def test_the_name_shown_in_logs_can_be_given(add: Any, published: list[dict[str, Any]]) -> None:
    add.apply_async((1, 2), shadow="add for anna")
    assert published[0]["headers"]["shadow"] == "add for anna"


def test_stamps_travel_in_the_headers(add: Any, published: list[dict[str, Any]]) -> None:
    sig = add.s(1, 2)
    sig.stamp(tenant="acme")
    sig.delay()
    headers = published[0]["headers"]
    assert headers["stamped_headers"] == ["tenant"]
    assert headers["stamps"]["tenant"] in ("acme", ["acme"])


def test_options_that_only_a_broker_honours_are_accepted(add: Any) -> None:
    result = add.apply_async(
        (1, 2), exchange="e", routing_key="k", delivery_mode=1, mandatory=False, retry=False, retry_policy={}
    )
    assert result.id


def test_a_result_knows_the_task_it_came_from(app: Any, add: Any) -> None:
    result = add.delay(1, 2)
    assert result.app is app
    assert result.parent is None
    assert repr(result) == f"<AsyncResult: {result.id}>"
    assert str(result) == result.id
