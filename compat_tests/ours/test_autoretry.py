"""Waiting between retries: the kinds of backoff beyond Celery's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celerylite import Celery
from celerylite.app.autoretry import backoff_delay
from celerylite.exceptions import ImproperlyConfigured


@pytest.mark.parametrize(
    ("kind", "delays"),
    [
        ("exponential", [2, 4, 8, 10, 10]),
        ("linear", [2, 4, 6, 8, 10]),
        ("constant", [2, 2, 2, 2, 2]),
        (lambda retries: 7 - retries, [7, 6, 5, 4, 3]),
    ],
)
def test_each_kind_of_backoff_grows_in_its_way(
    kind: str | Callable[[int], float], delays: list[float]
) -> None:
    assert [backoff_delay(kind, 2, n, maximum=10, jitter=False) for n in range(5)] == delays


@pytest.mark.parametrize("kind", ["exponential", "linear", "constant"])
def test_jitter_stays_between_nothing_and_the_delay(kind: str) -> None:
    drawn = {backoff_delay(kind, 3, 2, maximum=600, jitter=True) for _ in range(200)}
    assert min(drawn) >= 0
    assert max(drawn) <= backoff_delay(kind, 3, 2, maximum=600, jitter=False)
    assert len(drawn) > 1


def test_a_function_cannot_go_beyond_the_maximum_or_below_zero() -> None:
    assert backoff_delay(lambda retries: 1000.0, 1, 0, maximum=60, jitter=False) == 60
    assert backoff_delay(lambda retries: -5.0, 1, 0, maximum=60, jitter=False) == 0


def test_an_unknown_kind_is_refused_when_the_task_is_made() -> None:
    app = Celery("kinds", set_as_current=False, broker="memory://", backend="cache+memory://")
    with pytest.raises(ImproperlyConfigured, match="retry_backoff_kind: expected 'exponential', 'linear'"):
        _job(app, retry_backoff_kind="quadratic")


@pytest.mark.parametrize("kind", ["linear", "constant", "exponential"])
def test_a_task_of_each_kind_is_retried_until_it_succeeds(kind: str) -> None:
    app = Celery("kinds", set_as_current=False, broker="memory://", backend="cache+memory://")
    app.conf.task_always_eager = True
    job = _job(app, retry_backoff_kind=kind, retry_backoff=True)
    assert job.delay().get() == 2


def test_a_coroutine_task_is_retried_by_itself() -> None:
    app = Celery("kinds", set_as_current=False, broker="memory://", backend="cache+memory://")
    app.conf.task_always_eager = True

    @app.task(bind=True, autoretry_for=(OSError,), lazy=False)
    async def job(self: Any) -> int:
        if self.request.retries < 2:
            raise OSError("not yet")
        retries: int = self.request.retries
        return retries

    assert job.delay().get() == 2


def _job(app: Celery, **options: Any) -> Any:
    @app.task(bind=True, autoretry_for=(OSError,), lazy=False, **options)
    def job(self: Any) -> int:
        if self.request.retries < 2:
            raise OSError("not yet")
        retries: int = self.request.retries
        return retries

    return job
