"""Workers killed at each step of a chord and of a chain: the body runs once, on every database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compat_tests.ours.crash_program import LINKS, MEMBERS
from compat_tests.ours.runtime_fixtures import ROOT
from compat_tests.ours.store_fixtures import make_url

#: How many commits apart the crashes are; 1 for every step, which takes minutes.
EVERY = int(os.environ.get("CELERYLITE_CRASH_EVERY", "0"))

#: So that a run of the whole suite has some five crashes of each kind.
_SAMPLED = {"chord": 50, "chain": 3}


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from make_url(request.param, tmp_path)


def crashes(workflow: str, url: str, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What came of the workflow, first undisturbed and then for each crash."""
    arguments = [workflow, str(EVERY or _SAMPLED[workflow]), url, str(tmp_path / "notes.txt")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CELERY")}
    program = subprocess.run(
        [sys.executable, "-m", "compat_tests.ours.crash_program", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    for line in program.stdout.splitlines():
        found = json.loads(line)
        assert set(found["statuses"]) <= {0, -signal.SIGKILL}, (found, program.stderr)
        yield found


def assert_the_body_ran_once(found: dict[str, Any]) -> None:
    """One body was published and it ran once; again only if the kill came while it ran."""
    assert {task_id for task_id, _, _ in found["body"]} == {found["id"]}, found
    first, *again = found["body"]
    if again:
        [(_, _, redelivered)] = again
        killed_while_it_ran = found["step"] > int(first[1])
        assert redelivered == "1", found
        assert killed_while_it_ran, found


@pytest.mark.timeout(60 if not EVERY else 7200)
def test_the_body_of_a_chord_of_a_hundred_runs_once_wherever_its_worker_is_killed(
    url: str, tmp_path: Path
) -> None:
    count = 0
    for found in crashes("chord", url, tmp_path):
        count += 1
        assert found["value"][-1] == [str(MEMBERS)], found
        assert set(found["steps"]) == set(range(MEMBERS)), found
        assert_the_body_ran_once(found)
    assert count >= 4


@pytest.mark.timeout(60 if not EVERY else 7200)
def test_each_link_of_a_chain_follows_once_wherever_its_worker_is_killed(url: str, tmp_path: Path) -> None:
    count = 0
    for found in crashes("chain", url, tmp_path):
        count += 1
        assert found["value"][-1] == [str(LINKS - 2)], found
        # Each in its turn; the one that was running may have run again.
        assert sorted(found["steps"]) == found["steps"], found
        assert set(found["steps"]) == set(range(LINKS - 1)), found
        assert len(found["steps"]) <= LINKS, found
        assert_the_body_ran_once(found)
    assert count >= 4
