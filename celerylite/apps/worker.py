"""The worker as a program: banner, signals of the operating system, process id file."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import signal
import sys
from datetime import datetime
from types import FrameType
from typing import Any

from celerylite import VERSION_BANNER, _clock, platforms, signals
from celerylite.app.utils import sanitize_url
from celerylite.loaders.app import AppLoader
from celerylite.platforms import EX_FAILURE, EX_OK, check_privileges
from celerylite.utils.imports import qualname
from celerylite.utils.log import get_logger, in_sighandler
from celerylite.utils.text import pluralize
from celerylite.worker._kinds import default_concurrency
from celerylite.worker.worker import WorkController

__all__ = ("Worker",)

logger = get_logger(__name__)

#: A feather, drawn beside the banner.
ARTLINES = (
    "           __,  ",
    "        .-'  /  ",
    "      .'  / /   ",
    "     /  / / /   ",
    "    /  / / /    ",
    "   /  / /_/     ",
    "  /  /_/.'      ",
    "  | / .'        ",
    "  |.-'          ",
    "  /             ",
    " /              ",
    "                ",
)

BANNER = """\
{hostname} v{version}

{platform} {timestamp}

[config]
.> app:         {app}
.> transport:   {conninfo}
.> results:     {results}
.> concurrency: {concurrency}
.> task events: {events}

[queues]
{queues}
"""

EXTRA_INFO_FMT = """
[tasks]
{tasks}
"""


class Worker(WorkController):
    """A worker that speaks to the terminal and obeys signals.

    SIGTERM and the first SIGINT wait for what runs; one more of either, or SIGQUIT, does not.
    """

    #: Whether a signal asked for the end.
    _signalled = False

    def on_before_init(self, quiet: bool = False, **kwargs: Any) -> None:
        self.quiet = quiet
        self.app.finalize()
        signals.celeryd_init.send(sender=self.hostname, instance=self, conf=self.app.conf, options=kwargs)
        check_privileges(self.app.conf.accept_content)

    def on_after_init(
        self,
        purge: bool = False,
        no_color: bool | None = None,
        redirect_stdouts: bool | None = None,
        redirect_stdouts_level: str | None = None,
        **kwargs: Any,
    ) -> None:
        either = self.app.either
        self.redirect_stdouts = either("worker_redirect_stdouts", redirect_stdouts)
        self.redirect_stdouts_level = either("worker_redirect_stdouts_level", redirect_stdouts_level)
        self.purge = purge
        self.no_color = no_color
        self.colored = self.app.log.colored(self.logfile, enabled=False if no_color else None)

    def on_start(self) -> None:
        custom_logging = self.setup_logging()
        super().on_start()
        signals.celeryd_after_setup.send(sender=self.hostname, instance=self, conf=self.app.conf)
        if self.purge:
            self.purge_messages()
        if not self.quiet:
            self.emit_banner()
        platforms.set_mp_process_title(
            "celeryd", info=f"-active- ({' '.join(sys.argv)})", hostname=self.hostname
        )
        self.install_signal_handlers()
        if not custom_logging and self.redirect_stdouts:
            self.app.log.redirect_stdouts(self.redirect_stdouts_level)

    def setup_logging(self, colorize: bool | None = None) -> Any:
        if colorize is None and self.no_color:
            colorize = False
        return self.app.log.setup(
            self.loglevel, self.logfile, redirect_stdouts=False, colorize=colorize, hostname=self.hostname
        )

    def purge_messages(self) -> None:
        """Delete everything that waits."""
        count = self.app.store.purge()
        if count:
            self._say(f"purge: Erased {count} {pluralize(count, 'message')} from the queue.\n")

    # The banner.

    def emit_banner(self) -> None:
        self._say(
            f"{self.colored.cyan(' ', chr(10), self.startup_info())}{self.colored.reset(self.extra_info())}"
        )

    def startup_info(self, artlines: bool = True) -> str:
        """Who and what this worker is, for the top of the log and of bug reports."""
        lines = BANNER.format(
            hostname=self.hostname,
            version=VERSION_BANNER,
            platform=platform.platform(),
            timestamp=datetime.fromtimestamp(int(_clock.time())),  # noqa: DTZ006 - local time is meant
            app=self._describe_app(),
            conninfo=f"in process, {sanitize_url(self.app._database.url)}",
            results=self.app.backend.as_uri(),
            concurrency=f"{self.concurrency or default_concurrency(self.pool_name)} ({self.pool_name})",
            events="ON" if self.task_events else "OFF (enable -E to monitor tasks in this worker)",
            queues=self.app.amqp.queues.format(indent=0, indent_first=False),
        ).splitlines()
        if not artlines:
            return "\n".join(lines) + "\n"
        art = (*ARTLINES, *(ARTLINES[-1] for _ in lines))
        return "\n".join(f"{drawn} {line}" for drawn, line in zip(art, lines, strict=False)) + "\n"

    def _describe_app(self) -> str:
        described = f"{self.app.main or '__main__'}:{id(self.app):#x}"
        if isinstance(self.app.loader, AppLoader):
            return described
        return f"{described} ({qualname(self.app.loader)})"

    def extra_info(self) -> str:
        """The tasks, at level INFO and below; those that are built in only at DEBUG."""
        if self.loglevel is None or self.loglevel > logging.INFO:
            return ""
        return EXTRA_INFO_FMT.format(tasks=self.tasklist(include_builtins=self.loglevel <= logging.DEBUG))

    def tasklist(self, include_builtins: bool = True, sep: str = "\n", int_: str = "celery.") -> str:
        names = (name for name in sorted(self.app.tasks) if include_builtins or not name.startswith(int_))
        return sep.join(f"  . {name}" for name in names)

    # The signals.

    def install_signal_handlers(self) -> None:
        self._on("SIGTERM", "Warm", EX_OK)
        self._on("SIGINT", "Warm", EX_FAILURE)
        self._on("SIGQUIT", "Cold", EX_FAILURE)

    def _on(self, name: str, how: str, exitcode: int) -> None:
        number = getattr(signal, name, None)
        if number is None:
            return  # Windows has no SIGQUIT.

        def handle(signum: int, frame: FrameType | None) -> None:
            # Set before anything is done: the second signal may come while the first is handled.
            insists, self._signalled = self._signalled, True
            self.exitcode = EX_FAILURE if insists else exitcode
            with in_sighandler():
                self._on_signal(name, "Cold" if insists else how, exitcode)

        signal.signal(number, handle)

    def _on_signal(self, name: str, how: str, exitcode: int) -> None:
        if name == "SIGINT" and how == "Warm":
            _write("worker: Hitting Ctrl+C again will initiate cold shutdown, terminating all running tasks!")
        _write(f"worker: {how} shutdown (MainProcess)")
        signals.worker_shutting_down.send(sender=self.hostname, sig=name, how=how, exitcode=exitcode)
        if how == "Cold":
            self.terminate(in_sighandler=True)
        else:
            self.stop(in_sighandler=True)

    @staticmethod
    def _say(what: Any) -> None:
        print(str(what), file=sys.__stdout__, flush=True)


def _write(message: str) -> None:
    """Print from a signal handler: `print` may be what it interrupted."""
    # That nobody can see it is no reason not to stop.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        os.write(sys.__stdout__.fileno(), f"\n{message}\n".encode())  # type: ignore[union-attr]
