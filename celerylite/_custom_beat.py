"""A scheduler class of the user's, driven inside the process, in one process at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celerylite import signals
from celerylite._ticks import Ticker
from celerylite.beat import Service, StoreScheduler
from celerylite.exceptions import ImproperlyConfigured
from celerylite.utils.log import get_logger
from celerylite.utils.time import humanize_seconds

if TYPE_CHECKING:
    from celerylite._store import Store
    from celerylite.app.base import Celery

__all__ = ("SchedulerTicker", "refuse_custom", "ticker_for")

logger = get_logger("celery.beat")

#: For how long a process has the right to tick before it has to get it anew.
_TURN_S = 10.0
#: How long those who do not have it wait in each turn for the one that had the turn before.
_PATIENCE_S = 3.0
#: After an error of the database or of the scheduler.
_RETRY_S = 5.0
#: The name under which turns are taken.
_NAME = "celerylite.beat_scheduler"


def ticker_for(app: Celery, store: Store) -> Ticker:
    """What fires the schedule in a process: our own ticker unless ``beat_scheduler`` is another class.

    A class that cannot be loaded is logged, and what the configuration has is fired without it: the
    setting of a beat elsewhere must not keep a web application from starting.
    """
    service = Service(app, scheduler_cls=app.conf.beat_scheduler)
    return SchedulerTicker(app, store, service) if _is_custom(service) else Ticker(app, store)


def _is_custom(service: Service) -> bool:
    try:
        return service.scheduler_class is not StoreScheduler
    except Exception:
        logger.exception(
            "beat: Cannot load the scheduler %r, firing beat_schedule without it.", service.scheduler_cls
        )
        return False


def refuse_custom(app: Celery) -> None:
    """Raise ImproperlyConfigured where a scheduler of the user's decides, which reads tables of its own."""
    if _is_custom(Service(app, scheduler_cls=app.conf.beat_scheduler)):
        raise ImproperlyConfigured(
            f"app.schedule: expected the default beat_scheduler, got {app.conf.beat_scheduler!r}, which "
            "keeps its entries elsewhere; edit them there"
        )


class SchedulerTicker(Ticker):
    """Calls the `tick` of a custom scheduler (django-celery-beat's...) as its `Service` would.

    The interface is that of any ticker, the deciding is the scheduler's. It knows nothing of other
    processes, so they take turns of a few seconds, each a unique row in the database. Whoever had the last
    turn goes first, so that it changes only when a process has gone. Whoever takes over makes the scheduler
    anew, from what it has stored.
    """

    def __init__(self, app: Celery, store: Store, service: Service) -> None:
        super().__init__(app, store)
        self.service = service
        #: When the last turn began that this process had (epoch seconds).
        self._turn_at = float("-inf")
        self._wake_at = 0.0

    def start(self) -> None:
        """Begin at the next `fire_due`. Repeatable."""
        self._wake_at = 0.0

    def reload(self) -> None:
        """Nothing to do here: the scheduler looks after its entries itself."""

    def look(self) -> bool:
        """Nothing to do here: what is edited is in the scheduler's own tables."""
        return False

    def next_due(self) -> float | None:
        """When to call `fire_due` (epoch seconds)."""
        return self._wake_at

    def fire_due(self, now: float) -> int:
        """Let the scheduler tick if it is this process's turn; returns 1 if it sent a task."""
        with self._mutex:
            try:
                if not self._has_turn(now):
                    return 0
                return self._tick(now)
            except Exception:
                logger.exception(
                    "beat: Cannot tick with %r, trying again in %s.",
                    self.service.scheduler_cls,
                    humanize_seconds(_RETRY_S),
                )
                self._wake_at = now + _RETRY_S
                return 0

    def close(self) -> None:
        """Have the scheduler store what it knows. Does not raise: the process is about to end."""
        with self._mutex:
            try:
                self._let_go()
            except Exception:
                logger.exception("beat: Cannot close the scheduler %r.", self.service.scheduler_cls)

    def _has_turn(self, now: float) -> bool:
        turn_at = now // _TURN_S * _TURN_S
        if turn_at == self._turn_at:
            return True
        mine = turn_at - self._turn_at <= _TURN_S or self._wake_at == 0.0
        if not mine and now < turn_at + _PATIENCE_S:
            self._wake_at = turn_at + _PATIENCE_S
            return False
        if self.store.tick(_NAME, turn_at, ()):
            self._turn_at = turn_at
            return True
        self._let_go()
        self._wake_at = turn_at + _TURN_S + _PATIENCE_S
        return False

    def _tick(self, now: float) -> int:
        scheduler = self.service.scheduler
        self._announce()
        wait_s = scheduler.tick()
        sent = not wait_s
        if sent or scheduler.should_sync():
            # At once: the next turn may be that of a process that reads what is stored now.
            scheduler._do_sync()
        self._wake_at = min(now + (wait_s or 0.0), self._turn_at + _TURN_S)
        return int(sent)

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            logger.info("beat: Starting...")
            signals.beat_init.send(sender=self.service)
            signals.beat_embedded_init.send(sender=self.service)

    def _let_go(self) -> None:
        scheduler: Any = self.service.__dict__.pop("scheduler", None)
        if scheduler is not None:
            scheduler.close()
