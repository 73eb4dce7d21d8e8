"""A chord of 10,000 members, from the call until its body's result: a member costs what one of 100 does."""

from __future__ import annotations

from compat_tests.bench.measures._running import seconds_of, started
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="chord-10000",
    title="Chord of 10,000",
    figures=(
        Figure(key="s", title="s", digits=2),
        Figure(key="member_us", title="us per member"),
    ),
    contenders=("celerylite", "celerylite-postgresql", "celerylite-mysql", "celery"),
    rounds=(1, 2),
    limit_s=240,
)


def run(order: Order) -> dict[str, float]:
    """After a small one that does not count."""
    members = order.of(tiny=20, quick=10_000, full=10_000)
    with started(order.contender) as contender:
        contender.chord(10)
        seconds = seconds_of(lambda: contender.chord(members))
    return {"s": seconds, "member_us": 1e6 * seconds / members}
