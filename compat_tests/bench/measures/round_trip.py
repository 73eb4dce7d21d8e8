"""How long a caller waits for the result of a no-op, a plain function and a coroutine."""

from __future__ import annotations

from compat_tests.bench.contenders import Contender
from compat_tests.bench.measures._running import percentile, seconds_of, started
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="round-trip",
    title="Round trip, delay().get()",
    figures=(
        Figure(key="p50_ms", title="function p50 ms", digits=2),
        Figure(key="p99_ms", title="p99 ms", digits=2),
        Figure(key="async_p50_ms", title="coroutine p50 ms", digits=2),
        Figure(key="async_p99_ms", title="p99 ms", digits=2),
    ),
    contenders=(
        "celerylite",
        "celerylite-postgresql",
        "celerylite-mysql",
        "celery",
        "celery-sql",
        "huey",
        "dramatiq",
        "procrastinate",
        "floor-queue",
        "floor-queue-core",
        "floor-queue-postgresql",
    ),
    rounds=(2, 4),
)

#: Those whose tasks may be coroutines, or that have the usual wrapper around one.
_WITH_COROUTINES = ("celery", "celery-sql")


def run(order: Order) -> dict[str, float]:
    """One at a time, in one thread."""
    count = order.of(tiny=5, quick=200, full=500)
    with started(order.contender) as contender:
        figures = _laps(contender, count, coroutine=False)
        if order.contender.startswith("celerylite") or order.contender in _WITH_COROUTINES:
            laps = _laps(contender, count, coroutine=True)
            figures |= {f"async_{key}": value for key, value in laps.items()}
    return figures


def _laps(contender: Contender, count: int, *, coroutine: bool) -> dict[str, float]:
    def lap() -> None:
        contender.round_trip(coroutine=coroutine)

    lap()
    took = [1000 * seconds_of(lap) for _ in range(count)]
    return {"p50_ms": percentile(took, 50), "p99_ms": percentile(took, 99)}
