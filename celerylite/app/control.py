"""Remote control of running tasks, through the database that all processes share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kombu.utils.json import dumps

from celerylite import _clock, platforms
from celerylite.utils.functional import maybe_list
from celerylite.worker import TERMINATE_TOPIC

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("Control",)

#: Seconds for which a revoked id is remembered.
_REVOKE_LASTS = 7 * 24 * 3600.0
#: Seconds for which a request to terminate waits for its process.
_TERMINATE_LASTS = 60.0


class Control:
    """``app.control``. Requests are rows: they reach every process and last over restarts."""

    def __init__(self, app: Celery | None = None) -> None:
        self.app: Any = app

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: Any = None,
        terminate: bool = False,
        signal: Any = "TERM",
        **kwargs: Any,
    ) -> None:
        """Keep calls from being run, in every process, also ones not sent yet. Returns when it is stored.

        With `terminate`, calls that run are ended as well: coroutines are cancelled, threads interrupted
        as far as Python can, and the outcome is REVOKED. `destination` has no effect: ids are unique.
        """
        ids = [str(one) for one in maybe_list(task_id) or []]
        self.app.store.revoke(ids, until=_clock.time() + _REVOKE_LASTS)
        runtime = self.app._runtime
        if runtime is not None:
            # Told at once, so that a call that waits here does not start while the news travels.
            runtime.note_revoked(ids)
        if terminate:
            payload = dumps({"ids": ids, "signum": platforms.signals.signum(signal or "TERM")})
            self.app.store.post(TERMINATE_TOPIC, payload, until=_clock.time() + _TERMINATE_LASTS)

    def terminate(
        self, task_id: str | Iterable[str], destination: Any = None, signal: Any = "TERM", **kwargs: Any
    ) -> None:
        """`revoke` with ``terminate=True``."""
        self.revoke(task_id, destination=destination, terminate=True, signal=signal, **kwargs)

    def purge(self, connection: Any = None) -> int:
        """Delete every call that waits, also those with an eta; the number deleted. May block."""
        purged: int = self.app.store.purge()
        return purged

    discard_all = purge
