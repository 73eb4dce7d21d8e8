"""Signals, users, pid files and process titles, where the system has them."""

from __future__ import annotations

import atexit
import ctypes
import errno
import math
import numbers
import os
import platform as _platform
import signal as _signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kombu.utils.compat import maybe_fileno
from kombu.utils.encoding import safe_str

from .exceptions import SecurityError, SecurityWarning
from .local import try_import

__all__ = (
    "EX_OK",
    "EX_FAILURE",
    "EX_UNAVAILABLE",
    "EX_USAGE",
    "SYSTEM",
    "IS_macOS",
    "IS_WINDOWS",
    "SIGMAP",
    "pyimplementation",
    "LockFailed",
    "get_fdmax",
    "Pidfile",
    "create_pidlock",
    "close_open_fds",
    "DaemonContext",
    "detached",
    "parse_uid",
    "parse_gid",
    "setgroups",
    "initgroups",
    "setgid",
    "setuid",
    "maybe_drop_privileges",
    "signals",
    "signal_name",
    "set_process_title",
    "set_mp_process_title",
    "get_errno_name",
    "ignore_errno",
    "fd_by_path",
    "isatty",
)

#: Of the system's headers: the signal a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1

_setproctitle: Any = try_import("setproctitle")
resource: Any = try_import("resource")
pwd: Any = try_import("pwd")
grp: Any = try_import("grp")

# Exit codes.
EX_OK: int = getattr(os, "EX_OK", 0)
EX_FAILURE = 1
EX_USAGE: int = getattr(os, "EX_USAGE", 64)
EX_UNAVAILABLE: int = getattr(os, "EX_UNAVAILABLE", 69)
EX_CANTCREAT: int = getattr(os, "EX_CANTCREAT", 73)

SYSTEM = _platform.system()
IS_macOS = SYSTEM == "Darwin"
IS_WINDOWS = SYSTEM == "Windows"

DAEMON_WORKDIR = "/"

PIDFILE_FLAGS = os.O_CREAT | os.O_EXCL | os.O_WRONLY
PIDFILE_MODE = 0o644

PIDLOCKED = "ERROR: Pidfile ({0}) already exists.\nSeems we're already running? (pid: {1})"

ROOT_DISALLOWED = (
    "Running a worker with superuser privileges when the\n"
    "worker accepts messages serialized with pickle is a very bad idea!\n\n"
    "If you really want to continue then you have to set the C_FORCE_ROOT\n"
    "environment variable (but please think about this before you do).\n\n"
    "User information: uid={uid} euid={euid} gid={gid} egid={egid}\n"
)
ROOT_DISCOURAGED = (
    "You're running the worker with superuser privileges: this is\n"
    "absolutely not recommended!\n\n"
    "Please specify a different user using the --uid option.\n\n"
    "User information: uid={uid} euid={euid} gid={gid} egid={egid}\n"
)
ASSUMING_ROOT = (
    "An entry for the specified gid or egid was not found.\n"
    "We're assuming this is a potential security issue.\n"
)

SIGNAMES = {name for name in dir(_signal) if name.startswith("SIG") and "_" not in name}
#: Number to name.
SIGMAP: dict[int, str] = {getattr(_signal, name): name for name in SIGNAMES}


class Signals:
    """The handlers of signals by name: `signals["INT"] = handler`.

    What the system does not have is passed over.
    """

    ignored = _signal.SIG_IGN
    default = _signal.SIG_DFL

    def signum(self, name: Any) -> Any:
        """Number of a signal.

        Raises AttributeError for one that this system lacks, TypeError for no name at all.
        """
        if isinstance(name, numbers.Integral):
            return name
        if not isinstance(name, str) or not name.isupper():
            raise TypeError("signal name must be uppercase string.")
        return getattr(_signal, name if name.startswith("SIG") else f"SIG{name}")

    def supported(self, name: Any) -> bool:
        """Does this system have it?"""
        try:
            self.signum(name)
        except AttributeError:
            return False
        return True

    def __getitem__(self, name: Any) -> Any:
        return _signal.getsignal(self.signum(name))

    def __setitem__(self, name: Any, handler: Any) -> None:
        # ValueError: not in the main thread, or a signal that cannot be handled.
        with suppress(AttributeError, ValueError):
            _signal.signal(self.signum(name), handler)

    def update(self, _d_: Any = None, **sigmap: Any) -> None:
        """Set several handlers."""
        for name, handler in {**dict(_d_ or {}), **sigmap}.items():
            self[name] = handler

    def reset(self, *signal_names: Any) -> None:
        """Handle them as the system does."""
        self.update(dict.fromkeys(signal_names, self.default))

    def ignore(self, *names: Any) -> None:
        """Do nothing on them."""
        self.update(dict.fromkeys(names, self.ignored))

    def arm_alarm(self, seconds: float) -> None:
        """Send this process SIGALRM after so many seconds."""
        if hasattr(_signal, "setitimer"):
            _signal.setitimer(_signal.ITIMER_REAL, seconds)
        else:
            _signal.alarm(math.ceil(seconds))

    def reset_alarm(self) -> int:
        """Do not send it."""
        return _signal.alarm(0)


signals = Signals()
# Their names in old versions.
get_signal = signals.signum
install_signal_handler = signals.__setitem__
reset_signal = signals.reset
ignore_signal = signals.ignore


def signal_name(signum: int) -> str:
    """Name of a signal, without SIG."""
    return SIGMAP[signum].removeprefix("SIG")


def isatty(fh: Any) -> bool | None:
    """Is it a terminal? None for something that cannot be asked."""
    try:
        answer: bool = fh.isatty()
    except AttributeError:
        return None
    return answer


def pyimplementation() -> str:
    """Which Python this is."""
    return _platform.python_implementation()


class LockFailed(Exception):
    """The pid file could not be made."""


class Pidfile:
    """A file with the number of the process that holds it; a context."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)

    def acquire(self) -> Pidfile:
        """Make it. Raises LockFailed when it exists or cannot be written."""
        try:
            self.write_pid()
        except OSError as exc:
            raise LockFailed(str(exc)) from exc
        return self

    __enter__ = acquire

    def release(self, *args: object) -> None:
        """Remove it."""
        self.remove()

    __exit__ = release

    def is_locked(self) -> bool:
        """Does it exist?"""
        return os.path.exists(self.path)

    def read_pid(self) -> int | None:
        """The number in it; None when there is no file. Raises ValueError when it is broken."""
        try:
            with open(self.path, encoding="ascii", errors="replace") as file:
                line = file.read().partition("\n")
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                return None
            raise
        if not line[1] and line[0].strip() == line[0]:
            raise ValueError(f"Partial or invalid pidfile {self.path}")
        try:
            return int(line[0].strip())
        except ValueError:
            raise ValueError(f"pidfile {self.path} contents invalid.") from None

    def remove(self) -> None:
        """Remove the file, if it is there and ours to remove."""
        with ignore_errno(errno.ENOENT, errno.EACCES):
            os.unlink(self.path)

    def remove_if_stale(self) -> bool:
        """Remove the file if its process is gone; was it?"""
        try:
            pid = self.read_pid()
        except ValueError:
            return self._remove_saying("Broken pidfile found - Removing it.")
        # Its own number is common where the only process of a container has always the same.
        if not pid or pid == os.getpid():
            self.remove()
            return True
        try:
            os.kill(pid, 0)
        except (OSError, SystemError) as exc:
            if isinstance(exc, SystemError) or exc.errno in (errno.ESRCH, errno.EPERM):
                return self._remove_saying("Stale pidfile exists - Removing it.")
        return False

    def _remove_saying(self, message: str) -> bool:
        print(message, file=sys.stderr)  # noqa: T201 - before logging is set up
        self.remove()
        return True

    def write_pid(self) -> None:
        """Write the file; fails if it exists."""
        content = f"{os.getpid()}\n"
        number = os.open(self.path, PIDFILE_FLAGS, PIDFILE_MODE)
        with os.fdopen(number, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(number)
        with open(self.path) as file:
            if file.read() != content:
                raise LockFailed("Inconsistency: Pidfile content doesn't match at re-read")


#: Its name in old versions.
PIDFile = Pidfile


def create_pidlock(pidfile: str) -> Pidfile:
    """The pid file of this process until it ends; ends the process when another one holds it."""
    lock = _create_pidlock(pidfile)
    atexit.register(lock.release)
    return lock


def _create_pidlock(pidfile: str) -> Pidfile:
    lock = Pidfile(pidfile)
    if lock.is_locked() and not lock.remove_if_stale():
        print(PIDLOCKED.format(pidfile, lock.read_pid()), file=sys.stderr)  # noqa: T201 - see above
        raise SystemExit(EX_CANTCREAT)
    lock.acquire()
    return lock


def get_fdmax(default: int | None = None) -> int | None:
    """The highest number an open file can have; `default` where there is no limit."""
    with suppress(KeyError, ValueError, OSError, AttributeError):
        return int(os.sysconf("SC_OPEN_MAX"))
    if resource is None:
        return default
    most: int = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return default if most == resource.RLIM_INFINITY else most


def fd_by_path(paths: Iterable[str]) -> list[int]:
    """Numbers of the open files that are one of these."""
    wanted = []
    for path in paths:
        with suppress(OSError):
            wanted.append(os.stat(path))
    return [number for number in _open_fds() if _is_one_of(number, wanted)]


def _is_one_of(number: int, wanted: list[os.stat_result]) -> bool:
    try:
        found = os.fstat(number)
    except OSError:
        return False
    return any(os.path.samestat(found, one) for one in wanted)


def _open_fds() -> list[int]:
    directory = "/dev/fd" if IS_macOS else "/proc/self/fd"
    try:
        return sorted(int(name) for name in os.listdir(directory) if name.isdigit())
    except OSError:
        return list(range(get_fdmax(2048) or 2048))


def close_open_fds(keep: Iterable[Any] | None = None) -> None:
    """Close all files but these, which may be numbers or have one."""
    kept = {maybe_fileno(one) for one in keep or ()}
    for number in _open_fds():
        if number not in kept:
            with ignore_errno(errno.EBADF):
                os.close(number)


class DaemonContext:
    """A context that leaves the terminal: the process goes on in the background."""

    def __init__(
        self,
        pidfile: str | None = None,
        workdir: str | None = None,
        umask: int | str | None = None,
        fake: bool = False,
        after_chdir: Callable[[], Any] | None = None,
        after_forkers: bool = True,
        **kwargs: Any,
    ) -> None:
        if isinstance(umask, str):
            umask = int(umask, 8 if umask.startswith("0") else 10)
        self.workdir = workdir or DAEMON_WORKDIR
        self.umask = umask
        self.fake = fake
        self.after_chdir = after_chdir
        self.after_forkers = after_forkers
        self.stdfds = (sys.stdin, sys.stdout, sys.stderr)
        self._is_open = False

    def open(self) -> None:
        """Leave; the calling process ends and its grandchild goes on from here."""
        if self._is_open:
            return
        in_background = not self.fake
        if in_background:
            self._detach()
        # Before the files are let go: afterwards there is nowhere to complain.
        self._settle_down()
        if in_background:
            self._let_go_of_files()
        self._is_open = True

    __enter__ = open

    def close(self, *args: object) -> None:
        """Nothing to undo."""
        self._is_open = False

    __exit__ = close

    def _detach(self) -> None:
        # Twice: the second child leads no session, so it cannot get a terminal again.
        if os.fork():
            os._exit(0)
        os.setsid()
        if os.fork():
            os._exit(0)

    def _settle_down(self) -> None:
        os.chdir(self.workdir)
        if self.umask is not None:
            os.umask(self.umask)
        if self.after_chdir is not None:
            self.after_chdir()

    def _let_go_of_files(self) -> None:
        close_open_fds([*self.stdfds, *fd_by_path(["/dev/urandom"])])
        for stream in self.stdfds:
            self.redirect_to_null(maybe_fileno(stream))

    def redirect_to_null(self, fd: int | None) -> None:
        """Send what is written to this file nowhere."""
        if fd is not None:
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)


def detached(
    logfile: str | None = None,
    pidfile: str | None = None,
    uid: Any = None,
    gid: Any = None,
    umask: Any = 0,
    workdir: str | None = None,
    fake: bool = False,
    **opts: Any,
) -> DaemonContext:
    """A context that goes on in the background as another user, having checked log file and pid file."""
    if not resource:
        raise RuntimeError("This platform does not support detach.")
    signals.reset("SIGCLD")
    maybe_drop_privileges(uid=uid, gid=gid)

    def check_files() -> None:
        # Later there is no terminal to complain on.
        if logfile:
            open(logfile, "a").close()
        if pidfile:
            _create_pidlock(pidfile).release()

    workdir = os.getcwd() if workdir is None else workdir
    return DaemonContext(umask=umask, workdir=workdir, fake=fake, after_chdir=check_files)


def parse_uid(uid: Any) -> int:
    """Number of a user, given by number or name. Raises KeyError."""
    try:
        return int(uid)
    except ValueError:
        with suppress(AttributeError, KeyError):
            return int(pwd.getpwnam(uid).pw_uid)
    raise KeyError(f"User does not exist: {uid}")


def parse_gid(gid: Any) -> int:
    """Number of a group, given by number or name. Raises KeyError."""
    try:
        return int(gid)
    except ValueError:
        with suppress(AttributeError, KeyError):
            return int(grp.getgrnam(gid).gr_gid)
    raise KeyError(f"Group does not exist: {gid}")


def setuid(uid: Any) -> None:
    """Become this user."""
    os.setuid(parse_uid(uid))


def setgid(gid: Any) -> None:
    """Become a member of this group."""
    os.setgid(parse_gid(gid))


def setgroups(groups: list[int]) -> None:
    """Become a member of these groups, as far as allowed and as many as the system takes."""
    limit = None
    with suppress(ValueError, OSError):
        limit = os.sysconf("SC_NGROUPS_MAX")
    try:
        os.setgroups(groups[:limit])
    except PermissionError:
        if any(group not in groups for group in os.getgroups()):
            raise


def initgroups(uid: int, gid: int) -> None:
    """Become a member of all groups of this user."""
    if pwd:
        os.initgroups(pwd.getpwuid(uid)[0], gid)


def maybe_drop_privileges(uid: Any = None, gid: Any = None) -> None:
    """Go on as this user and group, for good. Raises SecurityError when the way back stays open."""
    if sys.platform == "win32":
        return
    if os.geteuid() and not os.getuid():
        raise SecurityError("contact support")
    user, group = uid and parse_uid(uid), gid and parse_gid(gid)
    if user:
        _become(user, group)
    elif group:
        setgid(group)
    if user and not os.getuid() and not os.geteuid():
        raise SecurityError("Still root uid after drop privileges!")
    if group and not os.getgid() and not os.getegid():
        raise SecurityError("Still root gid after drop privileges!")


def _become(uid: int, gid: int | None) -> None:
    if not gid and pwd:
        gid = pwd.getpwuid(uid).pw_gid
    assert gid is not None
    # The groups before the user, who may not change them; the group before its groups, which it may reset.
    setgid(gid)
    initgroups(uid, gid)
    setuid(uid)
    try:
        setuid(0)
    except OSError as exc:
        if exc.errno == errno.EPERM:
            return
        raise
    raise SecurityError("non-root user able to restore privileges after setuid.")


#: What tells who runs this process.
_IDS = ("getuid", "geteuid", "getgid", "getegid")


def check_privileges(accept_content: Iterable[str]) -> None:
    """Warn when a worker runs as root; raise SecurityError when it accepts pickle as well."""
    if grp is None or pwd is None:
        return
    if hasattr(os, "fchown") and not all(hasattr(os, name) for name in _IDS):
        raise SecurityError("suspicious platform, contact support")
    accepted = set(accept_content)
    pickle = bool(accepted & {"pickle", "application/group-python-serialize"})
    ids = {name.removeprefix("get"): getattr(os, name)() for name in _IDS}
    try:
        groups = {grp.getgrgid(ids["gid"])[0], grp.getgrgid(ids["egid"])[0]}
    except KeyError:
        warnings.warn(SecurityWarning(ASSUMING_ROOT), stacklevel=2)
        dangerous = True
    else:
        dangerous = not ids["uid"] or not ids["euid"] or bool(groups & {"sudo", "wheel"})
    if not dangerous:
        return
    if pickle and not os.environ.get("C_FORCE_ROOT"):
        raise SecurityError(ROOT_DISALLOWED.format(**ids))
    warnings.warn(SecurityWarning(ROOT_DISCOURAGED.format(**ids)), stacklevel=2)


def set_process_title(progname: str, info: Any = None) -> str:
    """Name this process as `ps` shows it (needs the package setproctitle); the title."""
    title = f"[{progname}] {info}" if info else f"[{progname}]"
    if _setproctitle:
        _setproctitle.setproctitle(safe_str(title))
    return title


def set_mp_process_title(progname: str, info: Any = None, hostname: str | None = None) -> str | None:
    """The same with the name of this process in its pool; nothing with `NOSETPS` in the environment."""
    if os.environ.get("NOSETPS"):
        return None
    if hostname:
        progname = f"{progname}: {hostname}"
    multiprocessing = sys.modules.get("multiprocessing")
    process = multiprocessing.current_process().name if multiprocessing else "MainProcess"
    return set_process_title(f"{progname}:{process}", info=info)


def strargv(argv: list[str]) -> str:
    """The arguments of a command as text, without its name."""
    return " ".join(argv[2 if "manage" in argv[0] else 1 :])


def set_pdeathsig(name: Any) -> None:
    """Have the system send this process a signal when its parent ends. Only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signals.signum(name))


def get_errno_name(n: Any) -> Any:
    """Number of an error given by name; a number as it is."""
    return getattr(errno, n) if isinstance(n, str) else n


@contextmanager
def ignore_errno(*errnos: Any, **kwargs: Any) -> Iterator[None]:
    """Errors of the system with one of these numbers or names pass silently inside the block."""
    ignored = {get_errno_name(number) for number in errnos}
    types: tuple[type[BaseException], ...] = kwargs.get("types") or (Exception,)
    try:
        yield
    except types as exc:
        if getattr(exc, "errno", None) not in ignored:
            raise
