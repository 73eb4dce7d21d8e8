"""What has to be reached, as data, and whether a run reached it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compat_tests.bench.figures import Findings

__all__ = ("TARGETS", "Bound", "Target", "verdicts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A limit for a figure of ours: by itself, or over that of another contender in the same run."""

    measure: str
    key: str
    #: At least this, or at most: exactly one is given.
    least: float | None = None
    most: float | None = None
    #: Whose figure ours is divided by; "" for none.
    against: str = ""
    #: The measure the divisor is taken from, where it is another one.
    over_measure: str = ""
    ours: str = "celerylite"

    def measured(self, findings: Findings) -> float | None:
        """The figure or the ratio; None when one of the two did not run."""
        figure = findings.median(self.measure, self.ours, self.key)
        if not self.against:
            return figure
        divisor = findings.median(self.over_measure or self.measure, self.against, self.key)
        return figure / divisor if figure is not None and divisor else None

    def holds(self, value: float) -> bool:
        """Whether a measured value is within the limit."""
        if self.least is not None:
            return value >= self.least
        assert self.most is not None
        return value <= self.most

    def __str__(self) -> str:
        limit = f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"
        return f"{limit} x {self.over_measure or self.against}" if self.against else limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Met when one of its bounds holds."""

    text: str
    bounds: tuple[Bound, ...]


def _target(text: str, *bounds: Bound) -> Target:
    return Target(text=text, bounds=bounds)


def _fifth_of_celery(text: str, measure: str, key: str) -> Target:
    return _target(text, Bound(measure=measure, key=key, most=0.2, against="celery"))


TARGETS = (
    _target("delay(), one thread", Bound(measure="enqueue", key="per_s", least=2, against="celery")),
    _target("delay(), one thread", Bound(measure="enqueue", key="per_s", least=0.5, against="floor-commit")),
    _target(
        "delay() while the tasks run",
        Bound(measure="throughput", key="enqueue_per_s", least=2, against="celery"),
    ),
    _target(
        "100 callers on a loop",
        Bound(measure="enqueue-100", key="per_s", least=15_000),
        Bound(measure="enqueue-100", key="per_s", least=0.45, against="floor-group"),
    ),
    _target("end to end", Bound(measure="throughput", key="per_s", least=5, against="celery")),
    _target("end to end", Bound(measure="throughput", key="per_s", least=12, against="celery-sql")),
    _target("end to end", Bound(measure="throughput", key="per_s", least=3, against="huey")),
    _fifth_of_celery("CPU per 1,000 tasks", "throughput", "cpu_s_per_1000"),
    _fifth_of_celery("round trip p50", "round-trip", "p50_ms"),
    _fifth_of_celery("round trip p99", "round-trip", "p99_ms"),
    _fifth_of_celery("round trip p50, coroutine", "round-trip", "async_p50_ms"),
    _fifth_of_celery("round trip p99, coroutine", "round-trip", "async_p99_ms"),
    _target(
        "PostgreSQL end to end",
        Bound(
            measure="throughput",
            key="per_s",
            least=5,
            against="procrastinate",
            ours="celerylite-postgresql",
        ),
    ),
    _fifth_of_celery("chord of 100", "chord-100", "s"),
    _fifth_of_celery("chord of 10,000", "chord-10000", "s"),
    # Flat: a quarter is what two medians on a shared machine may differ by.
    _target(
        "chord: cost per member flat",
        Bound(
            measure="chord-10000",
            key="member_us",
            most=1.25,
            against="celerylite",
            over_measure="chord-100",
        ),
    ),
    _fifth_of_celery("process start to first result", "footprint", "first_result_s"),
    _target("process start to first result, s", Bound(measure="footprint", key="first_result_s", most=0.3)),
    _target("memory (PSS), idle", Bound(measure="footprint", key="pss_mb", most=0.25, against="celery")),
    _target("idle with a schedule, % of a core", Bound(measure="idle", key="percent", most=0.5)),
    _target("tick, none of 10,000 due", Bound(measure="tick", key="us", most=0.002, against="celery")),
    _target("tick, one due among 10,000 over among 10", Bound(measure="tick-firing", key="ratio", most=2)),
    _target("a task starts after it was due, p99 ms", Bound(measure="lateness", key="p99_ms", most=20)),
    _target("claim at the deepest over claim at 1,000", Bound(measure="depth", key="ratio", most=2)),
    _target(
        "claim among those due next week over one in an empty queue",
        Bound(measure="depth", key="ratio_empty", most=2),
    ),
    _target("memory that those due next week take, MB", Bound(measure="depth", key="memory_mb", most=50)),
    _target("restart with them, s", Bound(measure="depth", key="restart_s", most=1)),
    _target("endpoint p99 while tasks run over idle", Bound(measure="web", key="ratio_p99", most=5)),
)


def verdicts(findings: Findings) -> Iterator[tuple[str, str, str, str]]:
    """For each target: what it is of, what is required, what was measured, and whether that is enough."""
    for target in TARGETS:
        measured = [(bound, bound.measured(findings)) for bound in target.bounds]
        required = " or ".join(str(bound) for bound, _ in measured)
        values = " or ".join(f"{value:.4g}" for _, value in measured if value is not None)
        if any(value is not None and bound.holds(value) for bound, value in measured):
            verdict = "met"
        elif any(value is None for _, value in measured):
            verdict = "not measured"
        else:
            verdict = "NOT met"
        yield target.text, required, values or "-", verdict
