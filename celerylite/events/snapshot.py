"""Pictures of the cluster's state, taken at intervals by a camera."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.utils.limits import TokenBucket

from celerylite import platforms
from celerylite._state import app_or_default
from celerylite.utils.dispatch import Signal
from celerylite.utils.imports import instantiate
from celerylite.utils.log import get_logger
from celerylite.utils.time import rate
from celerylite.worker._keeper import Keeper

__all__ = ("Polaroid", "evcam")

logger = get_logger("celery.evcam")


class _Repeated:
    """A function that is called again and again, until it is cancelled; a call calls it once more."""

    def __init__(self, keeper: Keeper, fun: Callable[[], Any]) -> None:
        self._keeper = keeper
        self._fun = fun

    def __call__(self) -> Any:
        return self._fun()

    def cancel(self) -> None:
        """Call it no more."""
        self._keeper.stop()


class _Timer:
    """Calls functions at intervals, each in a thread of its own."""

    def call_repeatedly(self, secs: float, fun: Callable[[], Any]) -> _Repeated:
        """Call `fun` every `secs` seconds from now on."""
        keeper = Keeper("celerylite-evcam")

        def work() -> float:
            fun()
            return secs

        keeper.add("camera", work, after=secs)
        keeper.start()
        return _Repeated(keeper, fun)


class Polaroid:
    """A camera: override `on_shutter`, which gets the state every `freq` seconds. Use it as a block."""

    timer: Any = None
    shutter_signal = Signal(name="shutter_signal", providing_args={"state"})
    cleanup_signal = Signal(name="cleanup_signal")
    #: Forget the state after each picture.
    clear_after = False

    _tref: Any = None
    _ctref: Any = None

    def __init__(
        self,
        state: Any,
        freq: float = 1.0,
        maxrate: Any = None,
        cleanup_freq: float = 3600.0,
        timer: Any = None,
        app: Any = None,
    ) -> None:
        self.app = app_or_default(app)
        self.state = state
        self.freq = freq
        self.cleanup_freq = cleanup_freq
        self.timer = timer or self.timer or _Timer()
        self.logger = logger
        self.maxrate = maxrate and TokenBucket(rate(maxrate))

    def install(self) -> None:
        """Take pictures from now on."""
        self._tref = self.timer.call_repeatedly(self.freq, self.capture)
        self._ctref = self.timer.call_repeatedly(self.cleanup_freq, self.cleanup)

    def on_shutter(self, state: Any) -> None:
        """Called with the state of which a picture is taken."""

    def on_cleanup(self) -> None:
        """Called every `cleanup_freq` seconds."""

    def cleanup(self) -> None:
        """Clean up now."""
        logger.debug("Cleanup: Running...")
        self.cleanup_signal.send(sender=self.state)
        self.on_cleanup()

    def shutter(self) -> None:
        """Take a picture now, unless there were too many."""
        if self.maxrate is None or self.maxrate.can_consume():
            logger.debug("Shutter: %s", self.state)
            self.shutter_signal.send(sender=self.state)
            self.on_shutter(self.state)

    def capture(self) -> None:
        """Take a picture while the state stands still."""
        self.state.freeze_while(self.shutter, clear_after=self.clear_after)

    def cancel(self) -> None:
        """Take the last picture."""
        if self._tref:
            self._tref()
            self._tref.cancel()
        if self._ctref:
            self._ctref.cancel()

    def __enter__(self) -> Polaroid:
        self.install()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.cancel()


def evcam(
    camera: Any,
    freq: float = 1.0,
    maxrate: Any = None,
    loglevel: int | str = 0,
    logfile: str | None = None,
    pidfile: str | None = None,
    timer: Any = None,
    app: Any = None,
    **kwargs: Any,
) -> None:
    """Follow events and have `camera` take pictures, until it is interrupted."""
    app = app_or_default(app)
    if pidfile:
        platforms.create_pidlock(pidfile)
    app.log.setup_logging_subsystem(loglevel, logfile)
    print(f"-> evcam: Taking snapshots with {camera} (every {freq} secs.)")  # noqa: T201 - as Celery
    state = app.events.State()
    cam = instantiate(camera, state, app=app, freq=freq, maxrate=maxrate, timer=timer)
    cam.install()
    connection = app.connection_for_read()
    receiver = app.events.Receiver(connection, handlers={"*": state.event})
    try:
        receiver.capture(limit=None)
    except KeyboardInterrupt:
        raise SystemExit from None
    finally:
        cam.cancel()
        connection.close()
