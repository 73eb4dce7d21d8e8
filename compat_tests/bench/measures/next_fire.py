"""How often a second the next time of a crontab is worked out."""

from __future__ import annotations

from compat_tests.bench.measures._running import seconds_of
from compat_tests.bench.schedulers import make
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="next-fire",
    title="Next fire of a crontab",
    figures=(Figure(key="per_s", title="per s"),),
    contenders=("celerylite", "celery", "apscheduler", "croniter"),
    rounds=(1, 3),
)


def run(order: Order) -> dict[str, float]:
    """`*/5 8-18 * * mon-fri`, from the same moment each time."""
    scheduler, count = make(order.contender), order.of(tiny=10, quick=5_000, full=10_000)
    scheduler.next_fire()

    def all_of_them() -> None:
        for _ in range(count):
            scheduler.next_fire()

    return {"per_s": count / seconds_of(all_of_them)}
