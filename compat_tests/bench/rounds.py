"""Interleaved rounds: contenders take turns, so that a machine whose speed drifts is fair to all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Collection

from compat_tests.bench.figures import Findings
from compat_tests.bench.processes import ROOT, environment
from compat_tests.bench.spec import Size, Spec

__all__ = ("run_rounds",)

#: How long a round that has hung may take to stop what it started.
_GRACE_S = 15


def run_rounds(
    spec: Spec, findings: Findings, *, python: str, size: Size, contenders: Collection[str]
) -> None:
    """A B C A B C ...: each round of each contender in a fresh process with a fresh working directory.

    A contender that fails is left out of the rounds that follow, and the reason is noted.
    """
    for _ in range(spec.rounds_of(size)):
        for contender in spec.contenders:
            if contender not in contenders or (spec.name, contender) in findings.failures:
                continue
            try:
                figures = _one_round(spec, contender, python=python, size=size)
            except RuntimeError as failure:
                findings.failures[spec.name, contender] = str(failure)
            else:
                findings.add(spec.name, contender, figures)


def _one_round(spec: Spec, contender: str, *, python: str, size: Size) -> dict[str, float]:
    command = [python, "-m", "compat_tests.bench.driver", spec.name, contender, size.value]
    process = subprocess.Popen(
        [*command, repr(time.monotonic())],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(timeout=spec.limit_s)
    except subprocess.TimeoutExpired:
        _end(process)
        raise RuntimeError(f"took more than {spec.limit_s} s") from None
    except BaseException:
        _end(process)
        raise
    if process.returncode:
        raise RuntimeError(errors.strip().splitlines()[-1] if errors.strip() else "no word why")
    figures: dict[str, float] = json.loads(out.splitlines()[-1])
    return figures


def _end(process: subprocess.Popen[str]) -> None:
    """Let it stop what it started; if it does not come to that, end what is in its own session."""
    process.terminate()
    try:
        process.communicate(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
