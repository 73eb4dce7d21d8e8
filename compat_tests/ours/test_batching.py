"""Outcomes that wait to be committed together: what does not wait, and who is never kept waiting."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from celerylite import Celery, chain, chord
from celerylite.worker import _settlement
from compat_tests.conftest import Journal
from compat_tests.ours.runtime_fixtures import Gate, MakeApp, rows


@pytest.fixture
def patient_app(make_app: MakeApp) -> Celery:
    """An app whose outcomes would wait for a minute, with one task at a time."""
    # A lease that is renewed would take them along.
    return make_app(celerylite_batch_window=60.0, celerylite_lease=3600.0, worker_concurrency=1)


def test_the_next_link_of_a_chain_does_not_wait(patient_app: Celery, journal: Journal) -> None:
    @patient_app.task
    def step(number: int) -> int:
        journal.note(f"step {number}")
        return number + 1

    chain(step.s(1), step.s(), step.s()).delay()
    assert journal.until("step 3") == ["step 1", "step 2", "step 3"]


def test_the_body_of_a_chord_does_not_wait(patient_app: Celery, journal: Journal) -> None:
    @patient_app.task
    def part(number: int) -> int:
        return number

    @patient_app.task
    def total(numbers: list[int]) -> None:
        journal.note(f"total {sum(numbers)}")

    chord([part.s(n) for n in range(4)], total.s()).delay()
    assert journal.until("total 6") == ["total 6"]


def test_who_waits_for_a_place_under_a_limit_does_not_wait_longer(
    patient_app: Celery, journal: Journal
) -> None:
    @patient_app.task(concurrency_limit=1)
    def limited(number: int) -> None:
        journal.note(number)

    for number in range(3):
        limited.delay(number)
    for number in range(3):
        journal.until(number)


def test_a_place_reserved_in_a_try_that_failed_is_given_back(patient_app: Celery, gate: Gate) -> None:
    @patient_app.task
    def held() -> None:
        gate.wait()

    held.delay()
    gate.until_arrived(1)
    runtime = patient_app._runtime
    assert runtime is not None
    (x,) = runtime.running()
    assert x.delivery is not None
    before = runtime._slots.counts()
    committing = _settlement._Committing(runtime, x.delivery)
    # A chord that this try completed, and that another part completed before the next try.
    committing._complete("a chord")
    assert runtime._slots.counts() != before
    committing.succeeded([])
    assert runtime._slots.counts() == before


def test_a_task_that_begins_takes_the_outcomes_before_it_along(
    patient_app: Celery, gate: Gate, database: Path
) -> None:
    @patient_app.task
    def quick() -> None:
        return None

    @patient_app.task
    def held() -> None:
        gate.wait()

    first = quick.delay()
    held.delay()
    gate.until_arrived(1)
    assert rows(database, "select task_id, status from celery_taskmeta") == [(first.id, "SUCCESS")]


def test_a_runtime_that_stops_commits_what_waits(
    patient_app: Celery, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    @patient_app.task
    def quick() -> None:
        journal.note("ran")

    result = quick.delay()
    journal.until("ran")
    runtime = patient_app._runtime
    assert runtime is not None
    with caplog.at_level(logging.WARNING, "celery.worker"):
        runtime.stop(grace=5.0)
    assert "stopping: waiting" not in caplog.text
    assert result.state == "SUCCESS"
