"""Tasks whose arguments and results are pydantic models."""

from __future__ import annotations

from typing import Any

import pytest

pydantic = pytest.importorskip("pydantic")


class Order(pydantic.BaseModel):  # type: ignore[misc,name-defined]
    item: str
    count: int = 1


class Receipt(pydantic.BaseModel):  # type: ignore[misc,name-defined]
    total: int


def test_a_dict_becomes_the_annotated_model(running_app: Any) -> None:
    @running_app.task(pydantic=True)
    def job(order: Order) -> str:
        return f"{type(order).__name__} {order.item} {order.count}"

    assert job.delay({"item": "pen", "count": 3}).get(timeout=10) == "Order pen 3"


def test_a_model_can_be_given_to_delay(running_app: Any) -> None:
    @running_app.task(pydantic=True)
    def job(order: Order) -> str:
        return f"{type(order).__name__} {order.item} {order.count}"

    assert job.delay(Order(item="pen")).get(timeout=10) == "Order pen 1"


def test_a_model_can_be_given_by_keyword(running_app: Any) -> None:
    @running_app.task(pydantic=True)
    def job(*, order: Order) -> str:
        return str(order.item)

    assert job.delay(order={"item": "pen"}).get(timeout=10) == "pen"


def test_a_returned_model_comes_back_as_a_dict(running_app: Any) -> None:
    @running_app.task(pydantic=True)
    def job(order: Order) -> Receipt:
        return Receipt(total=order.count * 2)

    assert job.delay({"item": "pen", "count": 4}).get(timeout=10) == {"total": 8}


def test_an_optional_model_may_be_none(running_app: Any) -> None:
    @running_app.task(pydantic=True)
    def job(order: Order | None = None) -> str:
        return type(order).__name__

    assert job.delay(None).get(timeout=10) == "NoneType"
    assert job.delay({"item": "pen"}).get(timeout=10) == "Order"


def test_other_arguments_are_left_alone(running_app: Any) -> None:
    @running_app.task(pydantic=True)
    def job(x: int, order: Order) -> list[Any]:
        return [x, order.item]

    assert job.delay(5, {"item": "pen"}).get(timeout=10) == [5, "pen"]


def test_what_does_not_validate_fails_the_task(running_app: Any) -> None:
    @running_app.task(pydantic=True)
    def job(order: Order) -> str:
        return "never"

    result = job.delay({"count": "many"})
    result.get(timeout=10, propagate=False)
    assert result.state == "FAILURE"
    assert "validation error" in result.traceback


def test_without_the_option_a_dict_stays_a_dict(running_app: Any) -> None:
    @running_app.task
    def job(order: Order) -> str:
        return type(order).__name__

    assert job.delay({"item": "pen"}).get(timeout=10) == "dict"


def test_strict_mode_does_not_convert(running_app: Any) -> None:
    @running_app.task(pydantic=True, pydantic_strict=True)
    def job(order: Order) -> str:
        return "never"

    result = job.delay({"item": "pen", "count": "3"})
    result.get(timeout=10, propagate=False)
    assert result.state == "FAILURE"


def test_the_context_reaches_the_validators(running_app: Any) -> None:
    class Checked(pydantic.BaseModel):  # type: ignore[misc,name-defined]
        item: str

        @pydantic.field_validator("item")
        @classmethod
        def prefix(cls, value: str, info: Any) -> str:
            return f"{info.context['prefix']}{value}"

    def job(order: Any) -> str:
        return str(order.item)

    job.__annotations__["order"] = Checked
    task = running_app.task(pydantic=True, pydantic_context={"prefix": "ctx-"})(job)
    assert task.delay({"item": "pen"}).get(timeout=10) == "ctx-pen"


def test_dumping_takes_the_options_given(running_app: Any) -> None:
    @running_app.task(pydantic=True, pydantic_dump_kwargs={"exclude_defaults": True})
    def job(order: Order) -> Order:
        return order

    assert job.delay({"item": "pen", "count": 1}).get(timeout=10) == {"item": "pen"}


def test_a_bound_task_gets_its_model_too(running_app: Any) -> None:
    @running_app.task(pydantic=True, bind=True)
    def job(self: Any, order: Order) -> list[Any]:
        return [self.request.id is not None, type(order).__name__]

    assert job.delay({"item": "pen"}).get(timeout=10) == [True, "Order"]


def test_a_direct_call_converts_as_well(app: Any) -> None:
    @app.task(pydantic=True)
    def job(order: Order) -> str:
        return type(order).__name__

    assert job({"item": "pen"}) == "Order"
