"""Whether this process has kept its own lease lately: only then may it judge the leases of others."""

from __future__ import annotations

from celerylite import _clock

__all__ = ("Pulse",)

#: Seconds that others get to renew after an outage, at most.
_PATIENCE_S = 10.0


class Pulse:
    """Beats with each renewal of the own lease.

    When the database was away, the machine slept or its clock was set, every lease has run out, also of
    those who are well. Who was late himself therefore waits until the others had time to renew.
    """

    def __init__(self, lease_s: float, clock: _clock.Clock | None = None) -> None:
        # Leases run in real time, whatever clock a test has put in place. The wall clock: it also goes on
        # while the machine sleeps, and jumps when it is set.
        self._clock = clock or _clock.Clock()
        self._late_s = lease_s * 0.6
        self._patience_s = min(_PATIENCE_S, lease_s)
        self._beaten_at = self._clock.time()
        self._steady_from = 0.0

    def beat(self) -> None:
        """The lease has been renewed."""
        now = self._clock.time()
        if self._is_late(now):
            self._steady_from = now + self._patience_s
        self._beaten_at = now

    def is_steady(self) -> bool:
        """Whether leases that have run out mean that their processes are dead."""
        now = self._clock.time()
        return not self._is_late(now) and now >= self._steady_from

    def _is_late(self, now: float) -> bool:
        return abs(now - self._beaten_at) > self._late_s
