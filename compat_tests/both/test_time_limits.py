"""Time limits, as far as they can be seen without processes to kill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def exceptions(submodule: Callable[[str], Any]) -> Any:
    return submodule("exceptions")


def test_the_limits_of_a_call_are_seen_by_the_run(running_app: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any) -> Any:
        return self.request.timelimit

    assert job.apply_async(time_limit=100, soft_time_limit=50).get(timeout=10) == [100, 50]


def test_the_limits_of_a_task_are_seen_by_the_run(running_app: Any) -> None:
    @running_app.task(bind=True, time_limit=100, soft_time_limit=50)
    def job(self: Any) -> Any:
        return self.request.timelimit

    assert job.delay().get(timeout=10) == [100, 50]


def test_a_soft_limit_above_the_hard_one_is_refused(app: Any) -> None:
    @app.task(soft_time_limit=100, time_limit=50)
    def job() -> None: ...

    with pytest.raises(ValueError, match="soft_time_limit must be less than or equal to time_limit"):
        job.delay()


def test_the_exceptions_of_limits_come_from_where_code_imports_them(exceptions: Any) -> None:
    assert issubclass(exceptions.SoftTimeLimitExceeded, Exception)
    assert issubclass(exceptions.TimeLimitExceeded, Exception)
    assert str(exceptions.SoftTimeLimitExceeded()) == "SoftTimeLimitExceeded()"


def test_a_soft_limit_that_a_task_raises_itself_can_be_caught(running_app: Any, exceptions: Any) -> None:
    @running_app.task
    def job() -> str:
        try:
            raise exceptions.SoftTimeLimitExceeded
        except exceptions.SoftTimeLimitExceeded:
            return "cleaned up"

    assert job.delay().get(timeout=10) == "cleaned up"


def test_a_soft_limit_that_is_not_caught_fails_the_task(running_app: Any, exceptions: Any) -> None:
    @running_app.task
    def job() -> None:
        raise exceptions.SoftTimeLimitExceeded

    result = job.delay()
    with pytest.raises(exceptions.SoftTimeLimitExceeded):
        result.get(timeout=10)
    assert result.state == "FAILURE"


def test_a_task_within_its_limits_is_not_disturbed(running_app: Any) -> None:
    @running_app.task(time_limit=60, soft_time_limit=30)
    def job() -> str:
        return "in time"

    assert job.delay().get(timeout=10) == "in time"
