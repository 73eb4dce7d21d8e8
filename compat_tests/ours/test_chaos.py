"""A short run of the chaos, and the account it draws up: it finds what it is there to find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from celerylite._store import ResultRow
from compat_tests.chaos._account import Account, draw_up
from compat_tests.ours.runtime_fixtures import ROOT

#: A run of some seconds, with the start and the end of its processes.
_RUN_LIMIT_S = 90


@pytest.mark.timeout(_RUN_LIMIT_S)
def test_a_short_run_of_the_chaos_keeps_the_contract() -> None:
    command = [sys.executable, "-m", "compat_tests.chaos", "--minutes", "0.12", "--processes", "4"]
    pace = ["--interval", "0.6", "--lease", "2", "--rate", "12"]
    done = subprocess.run(
        [*command, *pace], cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=_RUN_LIMIT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[1:])
    assert "SIGKILL" in lines["disturbed"]
    assert {name: lines[name] for name in ("lost", "stuck", "twice", "wrong")} == dict.fromkeys(
        ("lost", "stuck", "twice", "wrong"), "0"
    )


# -- the account ---------------------------------------------------------------------------------------


class Story:
    """A ledger as a run would have written it, and what the database says at the end."""

    def __init__(self) -> None:
        self._entries: list[dict[str, Any]] = []
        self._results: dict[str, ResultRow] = {}
        self._left: dict[str, int] = {}

    def note(self, what: str, at: float, **fields: Any) -> Story:
        self._entries.append({"what": what, "at": at, "pid": 0, **fields})
        return self

    def offer(self, role: str = "early", kind: str = "", **fields: Any) -> Story:
        """One call, `t`, offered at second 0 and accepted at second 1; it should return 2."""
        given: dict[str, Any] = {"ids": {"t": role}, "values": {"t": 2}, "after": {}, "not_before": 0.0}
        self.note("offered", 0.0, number="n", kind=kind or role, **{**given, **fields})
        return self.note("accepted", 1.0, number="n")

    def start(self, at: float, pid: int = 10, retries: int = 0, task_id: str = "t") -> Story:
        return self.note("started", at, pid=pid, id=task_id, task="task", retries=retries)

    def end(self, state: str, value: Any = None, task_id: str = "t") -> Story:
        row = ResultRow(task_id=task_id, status=state, result=json.dumps(value).encode())
        self._results[task_id] = row
        return self

    def leave(self, task_id: str = "t") -> Story:
        self._left[task_id] = 1
        return self

    def account(self) -> Account:
        return draw_up(self._entries, self._results, self._left)


def found(story: Story) -> dict[str, int]:
    """How many problems of each sort the account has."""
    return {name: len(problems) for name, problems in story.account().problems.items() if problems}


_LOST = {"exc_type": "WorkerLostError", "exc_message": ["gone"], "exc_module": "billiard.exceptions"}


def test_a_call_that_ran_once_and_returned_its_value_is_no_problem() -> None:
    story = Story().offer().start(2.0).end("SUCCESS", 2)
    assert found(story) == {}
    assert story.account().is_clean


def test_an_accepted_call_without_result_and_message_is_lost() -> None:
    assert found(Story().offer()) == {"lost": 1}


def test_an_accepted_call_whose_message_stays_is_stuck() -> None:
    assert found(Story().offer().leave()) == {"stuck": 1}


def test_a_call_acknowledged_early_that_starts_again_ran_twice_even_after_a_kill() -> None:
    story = Story().offer().start(2.0).note("disturbed", 2.5, victim=10, how="SIGKILL")
    assert found(story.start(3.0, pid=11).end("SUCCESS", 2)) == {"twice": 1}


def test_a_call_acknowledged_late_may_start_again_after_a_kill_only() -> None:
    killed = Story().offer("late").start(2.0).note("disturbed", 2.5, victim=10, how="SIGKILL")
    assert found(killed.start(3.0, pid=11).end("SUCCESS", 2)) == {}
    unhurt = Story().offer("late").start(2.0).start(3.0, pid=11).end("SUCCESS", 2)
    assert found(unhurt) == {"twice": 1}


def test_each_retry_counts_by_itself() -> None:
    story = Story().offer("retried").start(2.0).start(3.0, retries=1).start(4.0, retries=2)
    assert found(story.end("SUCCESS", 2)) == {}
    assert found(story.start(5.0, retries=2)) == {"twice": 1}


def test_a_lost_worker_must_have_been_hurt() -> None:
    assert found(Story().offer().start(2.0).end("FAILURE", _LOST)) == {"wrong": 1}
    hurt = Story().offer().start(2.0).note("disturbed", 2.5, victim=10, how="SIGKILL")
    assert found(hurt.end("FAILURE", _LOST)) == {}


def test_a_wrong_value_a_failure_without_reason_and_a_start_before_the_eta_are_found() -> None:
    assert found(Story().offer().start(2.0).end("SUCCESS", 3)) == {"wrong": 1}
    assert found(Story().offer().end("SUCCESS", 2)) == {"wrong": 1}
    assert found(Story().offer().start(2.0).end("FAILURE", {"exc_type": "ValueError"})) == {"wrong": 1}
    assert found(Story().offer(not_before=5.0).start(2.0).end("SUCCESS", 2)) == {"wrong": 1}


def test_a_call_that_was_revoked_in_time_must_not_run() -> None:
    story = Story().offer(kind="revoked", not_before=6.0).note("revoked", 1.5, id="t")
    assert found(story.start(6.5).end("SUCCESS", 2)) == {"wrong": 1}


def test_a_body_that_starts_though_its_header_failed_is_wrong() -> None:
    story = Story().offer("chord", ids={"h": "early", "t": "total"}, after={"t": ["h"]}, values={"t": 2})
    story.start(2.0, task_id="h").note("disturbed", 2.5, victim=10, how="SIGKILL")
    story.end("FAILURE", _LOST, "h").start(3.0, pid=11).end("SUCCESS", 2)
    assert found(story) == {"wrong": 1}


def test_a_call_that_nobody_sent_is_wrong() -> None:
    assert found(Story().start(2.0)) == {"wrong": 1}


def test_what_was_never_accepted_is_promised_nothing_but_must_not_be_stuck() -> None:
    story = Story().note(
        "offered", 0.0, number="n", kind="early", ids={"t": "early"}, values={}, after={}, not_before=0.0
    )
    assert found(story) == {}
    assert found(story.leave()) == {"stuck": 1}
