"""The pytest plugin inside a run: it records each outcome as it happens and gives each test a time limit."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import absent_names  # type: ignore[import-not-found]  # beside this file, which is on the path
import pytest

#: What the exceptions of a test are cut to in the record.
_TEXT = 6000

_record = open(os.environ["UPSTREAM_RECORD"], "a", buffering=1, encoding="utf-8")  # noqa: SIM115
_plan: dict[str, Any] = json.loads(os.environ["UPSTREAM_PLAN"])
_phases: dict[str, list[pytest.TestReport]] = {}


class NotePad(str):
    """The URL of a result backend that calls itself Redis when a test asks, and only then.

    Many of Celery's tests want Redis merely because their tasks leave notes in it.
    """

    __slots__ = ()

    def startswith(self, prefix: Any, *args: Any) -> bool:
        asks_for_redis = prefix == "redis" or (isinstance(prefix, tuple) and "redis" in prefix)
        if asks_for_redis and "/t/integration/" in sys._getframe(1).f_code.co_filename:
            return True
        return super().startswith(prefix, *args)

    def __deepcopy__(self, memo: Any) -> NotePad:
        return self


def _write(**entry: Any) -> None:
    _record.write(json.dumps(entry) + "\n")


def pytest_plugin_registered(plugin: object) -> None:
    """Give the integration tests a backend that passes for Redis where only notes are wanted."""
    if getattr(plugin, "__name__", "") == "t.integration.conftest" and _plan["lib"] == "celerylite":
        vars(plugin)["TEST_BACKEND"] = NotePad(os.environ["TEST_BACKEND"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what an earlier process has done; the limits are ours, and nothing is run twice."""
    done = set(_plan["done"])
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
    items[:] = [item for item in items if item.nodeid not in done]
    for item in items:
        item.own_markers = [mark for mark in item.own_markers if mark.name not in ("timeout", "flaky")]
        item.add_marker(pytest.mark.timeout(_plan["limits"].get(item.nodeid, _plan["limit"])), append=False)
    _write(collected=[item.nodeid for item in items])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Record that a test begins and, at its end, what came of it."""
    started = time.monotonic()
    _write(started=item.nodeid)
    _phases[item.nodeid] = []
    result = yield
    outcome, text = _judge(_phases.pop(item.nodeid))
    seconds = round(time.monotonic() - started, 2)
    _write(id=item.nodeid, outcome=outcome, seconds=seconds, text=text[-_TEXT:])
    if outcome == "failed" and _left_a_thread(item):
        # Every unit test checks for threads: the rest must not fail because of this one.
        os._exit(3)
    return result


def _left_a_thread(item: pytest.Item) -> bool:
    before = getattr(item.session, "_threads_at_startup", None)
    return before is not None and any(thread not in before for thread in threading.enumerate())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the parts of a test: set-up, call, subtests, tear-down."""
    if report.nodeid in _phases:
        _phases[report.nodeid].append(report)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Let a module be imported although we lack some of the names that it imports."""
    if isinstance(collector, pytest.Module) and _plan["lib"] == "celerylite":
        absent_names.supply(collector.path)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Record a module that cannot be imported."""
    if report.failed:
        _write(broken=report.nodeid, text=str(report.longrepr)[-_TEXT:])


def _judge(reports: list[pytest.TestReport]) -> tuple[str, str]:
    failed = [report for report in reports if report.failed]
    if failed:
        return "failed", "\n".join(str(report.longrepr) for report in failed)
    if any(hasattr(report, "wasxfail") and report.skipped for report in reports):
        return "xfailed", ""
    skipped = [report for report in reports if report.skipped]
    if skipped:
        return "skipped", str(skipped[0].longrepr)
    return "passed", ""
