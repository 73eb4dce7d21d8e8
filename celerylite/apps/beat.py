"""Beat as a program: a process that fires the schedule and runs no task."""

from __future__ import annotations

import signal
import sys
from datetime import datetime
from types import FrameType
from typing import TYPE_CHECKING, Any

from celerylite import VERSION_BANNER, _clock, beat, platforms
from celerylite.app.utils import sanitize_url
from celerylite.utils.imports import qualname
from celerylite.utils.log import LOG_LEVELS, get_logger, mlevel
from celerylite.utils.time import humanize_seconds

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("Beat",)

logger = get_logger("celery.beat")

STARTUP_INFO_FMT = """\
LocalTime -> {timestamp}
Configuration ->
    . broker -> {conninfo}
    . loader -> {loader}
    . scheduler -> {scheduler}
{scheduler_info}
    . logfile -> {logfile}@%{loglevel}
    . maxinterval -> {hmax_interval} ({max_interval}s)
"""


class Beat:
    """Fires the schedule of an app until SIGTERM or SIGINT."""

    Service = beat.Service
    app: Celery

    def __init__(
        self,
        max_interval: int | None = None,
        app: Celery | None = None,
        socket_timeout: int = 30,
        pidfile: str | None = None,
        no_color: bool | None = None,
        loglevel: int | str = "WARN",
        logfile: str | None = None,
        schedule: str | None = None,
        scheduler: str | None = None,
        scheduler_cls: Any = None,
        redirect_stdouts: bool | None = None,
        redirect_stdouts_level: str | None = None,
        quiet: bool = False,
        remote_control: bool | None = None,
        hostname: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app or self.app
        either = self.app.either
        self.max_interval = max_interval
        self.pidfile = pidfile
        self.no_color = no_color
        self.loglevel = mlevel(loglevel)
        self.logfile = logfile
        self.schedule = either("beat_schedule_filename", schedule)
        self.scheduler_cls = either("beat_scheduler", scheduler, scheduler_cls)
        self.redirect_stdouts = either("worker_redirect_stdouts", redirect_stdouts)
        self.redirect_stdouts_level = either("worker_redirect_stdouts_level", redirect_stdouts_level)
        self.quiet = quiet
        self.remote_control = remote_control
        self.hostname = hostname
        self.colored = self.app.log.colored(self.logfile, enabled=None if no_color is None else not no_color)

    def run(self) -> None:
        """Import the task modules, say hello, and fire until a signal ends it."""
        if not self.quiet:
            self._say(self.colored.cyan(f"celery beat v{VERSION_BANNER} is starting."))
        # What it fires is for others to run, even if this process could.
        self.app.conf.celerylite_runtime = "off"
        self.init_loader()
        self.set_process_title()
        self.start_scheduler()

    def init_loader(self) -> None:
        self.app.loader.init_worker()
        self.app.finalize()

    def set_process_title(self) -> None:
        arguments = sys.argv[2 if "manage" in sys.argv[0] else 1 :]
        platforms.set_process_title("celery beat", info=" ".join(arguments))

    def start_scheduler(self) -> None:
        if self.pidfile:
            platforms.create_pidlock(self.pidfile)
        service = self.Service(
            app=self.app,
            max_interval=self.max_interval,
            scheduler_cls=self.scheduler_cls,
            schedule_filename=self.schedule,
            remote_control=self.remote_control,
            hostname=self.hostname,
        )
        if not self.quiet:
            self._say(self.banner(service))
        self.setup_logging()
        self.install_sync_handler(service)
        try:
            service.start()
        except Exception as exc:
            logger.critical("beat raised exception %s: %r", exc.__class__, exc, exc_info=True)
            raise

    def setup_logging(self, colorize: bool | None = None) -> None:
        if colorize is None and self.no_color is not None:
            colorize = not self.no_color
        self.app.log.setup(
            self.loglevel,
            self.logfile,
            self.redirect_stdouts,
            self.redirect_stdouts_level,
            colorize=colorize,
        )

    def banner(self, service: Any) -> str:
        """A wave, and what beat is configured to do."""
        c = self.colored
        wave = (
            c.blue("__    "),
            c.magenta("-"),
            c.blue("    ... __   "),
            c.magenta("-"),
            c.blue("        _\n"),
        )
        return str(c.blue(*wave, c.reset(self.startup_info(service))))

    def startup_info(self, service: Any) -> str:
        scheduler = service.get_scheduler(lazy=True)
        return STARTUP_INFO_FMT.format(
            conninfo=sanitize_url(self.app._database.url),
            timestamp=datetime.fromtimestamp(int(_clock.time())),  # noqa: DTZ006 - local time is meant
            logfile=self.logfile or "[stderr]",
            loglevel=LOG_LEVELS[self.loglevel],
            loader=qualname(self.app.loader),
            scheduler=qualname(scheduler),
            scheduler_info=scheduler.info,
            hmax_interval=humanize_seconds(scheduler.max_interval),
            max_interval=scheduler.max_interval,
        )

    def install_sync_handler(self, service: Any) -> None:
        """Have SIGTERM and SIGINT write the schedule's state and end the program."""

        def end(signum: int, frame: FrameType | None) -> None:
            service.sync()
            raise SystemExit

        for name in ("SIGTERM", "SIGINT"):
            signal.signal(getattr(signal, name), end)

    @staticmethod
    def _say(what: Any) -> None:
        print(str(what), flush=True)  # noqa: T201 - the program's own output
