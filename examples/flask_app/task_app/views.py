"""The pages: start a task, ask for its result."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from celerylite.result import AsyncResult
from task_app import tasks

blueprint = Blueprint("tasks", __name__)


@blueprint.get("/")
def index() -> dict[str, str]:
    tasks.log_visit.delay("/")
    return {"flask": "ready"}


@blueprint.post("/greet")
def greet() -> tuple[dict[str, str], int]:
    return {"task": tasks.greet.delay(request.form["name"]).id}, 202


@blueprint.post("/divide")
def divide() -> tuple[dict[str, str], int]:
    result = tasks.divide.delay(float(request.form["a"]), float(request.form["b"]))
    return {"task": result.id}, 202


@blueprint.post("/count")
def count() -> tuple[dict[str, str], int]:
    return {"task": tasks.count_up.delay(int(request.form["to"])).id}, 202


@blueprint.get("/result/<task_id>")
def result(task_id: str) -> dict[str, Any]:
    result: AsyncResult[Any] = AsyncResult(task_id)
    # The state first: what is read later is at least as new.
    state = result.state
    ready = result.ready()
    value = result.result
    return {
        "state": state,
        "ready": ready,
        "successful": result.successful() if ready else None,
        "value": repr(value) if isinstance(value, BaseException) else value,
    }
