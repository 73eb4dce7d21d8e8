"""Runs modules of Celery's test suite, each in a process of its own, and records what comes of each test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compat_tests.upstream._environment import Environment, note_pad

__all__ = ("Module", "Outcome", "run_modules")

#: Seconds that a test may take, unless Celery itself needs more than half of them.
LIMIT = 20.0
#: The same while Celery is measured: whatever it needs.
_BASELINE_LIMIT = 120.0
#: Seconds that a process may take beyond its test's limit before it is killed.
_GRACE = 15.0
#: Seconds that a module may take altogether.
MODULE_LIMIT = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one test: passed, failed, skipped, xfailed or hung."""

    outcome: str
    seconds: float
    text: str


@dataclass(slots=True, kw_only=True)
class Module:
    """What came of one module; `broken` says why it could not be imported."""

    path: str
    tests: dict[str, Outcome] = field(default_factory=dict)
    broken: str = ""
    seconds: float = 0.0


def run_modules(
    environment: Environment,
    modules: Iterable[str],
    *,
    slowest: dict[str, dict[str, float]],
    left_out: dict[str, Iterable[str]],
    processes: int = 2,
    tell: Callable[[Module], None],
) -> Iterator[Module]:
    """Run modules, `processes` at once, and give each when it is over, after `tell` has heard of it.

    `slowest` has, by module, the seconds of tests for which Celery itself needs long, `left_out` the tests
    that are not run.
    """
    with ThreadPoolExecutor(processes) as pool:
        runs = [
            pool.submit(_run_module, environment, path, slowest.get(path, {}), list(left_out.get(path, ())))
            for path in modules
        ]
        for run in as_completed(runs):
            module = run.result()
            tell(module)
            yield module


def _run_module(environment: Environment, path: str, slow: dict[str, float], left_out: list[str]) -> Module:
    module = Module(path=path)
    started = time.monotonic()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="upstream-")))
        servers = _servers(environment, path, scratch, stack)
        while time.monotonic() - started < MODULE_LIMIT:
            before = len(module.tests)
            complete = _run_process(environment, module, scratch, servers, slow, left_out)
            if complete or len(module.tests) == before:
                break
    module.seconds = round(time.monotonic() - started, 1)
    return module


def _servers(environment: Environment, path: str, scratch: Path, stack: ExitStack) -> dict[str, str]:
    """Where the broker, the results and the notes of a module are; unit tests name their own."""
    if not path.startswith("t/integration/"):
        return {}
    port = stack.enter_context(note_pad())
    # As where Celery runs these tests: some of them look at what the worker logs.
    notes = {"REDIS_HOST": "localhost", "REDIS_PORT": str(port), "WORKER_LOGLEVEL": "INFO"}
    if environment.lib == "celery":
        url = f"redis://localhost:{port}/0"
        return {**notes, "TEST_BROKER": url, "TEST_BACKEND": url}
    results = f"db+sqlite:///{scratch / 'results.sqlite3'}"
    return {**notes, "TEST_BROKER": "memory://", "TEST_BACKEND": results}


def _run_process(
    environment: Environment,
    module: Module,
    scratch: Path,
    servers: dict[str, str],
    slow: dict[str, float],
    left_out: list[str],
) -> bool:
    """Run what is left of a module; says whether the process came to its own end."""
    record = scratch / "record.jsonl"
    record.write_text("")
    limits = {f"{module.path}::{name}": max(LIMIT, 2 * seconds) for name, seconds in slow.items()}
    limit = _BASELINE_LIMIT if environment.lib == "celery" else LIMIT
    plan = {
        "lib": environment.lib,
        "done": [*module.tests, *(f"{module.path}::{name}" for name in left_out)],
        "limit": limit,
        "limits": limits,
    }
    variables = environment.variables(
        UPSTREAM_RECORD=str(record), UPSTREAM_PLAN=json.dumps(plan), TMPDIR=str(scratch), **servers
    )
    options = [
        "-p",
        "upstream_plugin",
        "-p",
        "celery.contrib.pytest",
        "-p",
        "no:cacheprovider",
        "--timeout-method=signal",
        "--tb=short",
    ]
    with (scratch / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [environment.python, "-m", "pytest", "-q", "--rootdir", environment.suite, *options, module.path],
            cwd=environment.suite,
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        complete = _watch(process, record, max([limit, *limits.values()]))
    _read(record, module)
    if not module.tests and not module.broken:
        module.broken = (scratch / "output.txt").read_text()[-4000:]
    return complete


def _watch(process: subprocess.Popen[bytes], record: Path, limit: float) -> bool:
    """Wait for a process, and kill it and its children when nothing was recorded for too long."""
    try:
        while process.poll() is None:
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                if time.time() - record.stat().st_mtime > limit + _GRACE:
                    return False
    finally:
        _end(process)
    return process.returncode in (0, 1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and what it left behind in its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(record: Path, module: Module) -> None:
    """Take over what a process recorded. A test that began and did not end has hung or ended the process."""
    running = None
    for line in record.read_text().splitlines():
        entry: dict[str, Any] = json.loads(line)
        if "started" in entry:
            running = entry["started"]
        elif "id" in entry:
            running = None
            module.tests[entry["id"]] = Outcome(
                outcome=entry["outcome"], seconds=entry["seconds"], text=entry["text"]
            )
        elif "broken" in entry:
            module.broken = entry["text"]
    if running is not None:
        module.tests[running] = Outcome(
            outcome="hung", seconds=0.0, text="The test hung, or ended the process."
        )
