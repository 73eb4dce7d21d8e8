"""The soak of the schedule in small: processes on one database, one killed every second."""

from __future__ import annotations

import pytest

from compat_tests.beat_soak import Count, Fired, _compare, soak


@pytest.mark.timeout(60)
def test_every_tick_fires_once_while_processes_are_killed() -> None:
    counts, line = soak("sqlite://", seconds=12, processes=4, kill_every=1)
    seconds, minutes = counts
    assert seconds.is_right, (counts, line)
    assert minutes.once == minutes.expected, (counts, line)
    assert "0 errors logged" in line


def fired(due_at: float, task_id: str) -> Fired:
    return Fired(entry="e", due_at=due_at, task_id=task_id, started_at=due_at)


def test_the_soak_counts_what_is_lost_and_what_fired_twice() -> None:
    runs = [
        fired(1.0, "a"),
        fired(2.0, "b"),
        fired(2.0, "c"),
        fired(4.0, "d"),
        fired(4.0, "d"),
        fired(4.5, "e"),
    ]
    count = _compare("e", [1.0, 2.0, 3.0, 4.0], runs, until=5.0)
    assert count == Count(entry="e", expected=4, once=2, twice=2, lost=1)
    assert not count.is_right
