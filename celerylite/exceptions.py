"""Every exception and warning that celerylite raises.

Exception
    CeleryError
        ImproperlyConfigured
        SecurityError
        TaskPredicate
            Ignore
            Reject
            Retry
        TaskError
            AlreadyRegistered
            ChordError
            IncompleteStream
            InvalidTaskError
            MaxRetriesExceededError
            NotRegistered               (also a KeyError)
            QueueNotFound               (also a KeyError)
            TaskRevokedError
            TimeoutError
        AlreadyQueued                   (celerylite only)
        ClaimLost                       (celerylite only)
        SchemaTooNew                    (celerylite only)
    BackendError
        BackendGetMetaError
        BackendStoreError
    OperationalError                    (kombu's)
    SoftTimeLimitExceeded
    Terminated
    TimeLimitExceeded
    WorkerLostError
    CeleryCommandException              (a click.ClickException)
    UserWarning
        CeleryWarning
            AlwaysEagerIgnored
            DuplicateNodenameWarning
            DuplicateTaskNameWarning
            FixupWarning
            NotConfigured
            SecurityWarning
    DeprecationWarning
        CDeprecationWarning
    PendingDeprecationWarning
        CPendingDeprecationWarning
SystemExit
    WorkerShutdown
    WorkerTerminate
"""

from __future__ import annotations

import numbers
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from kombu.exceptions import OperationalError
from kombu.utils.encoding import safe_repr

from celerylite.utils.serialization import get_pickleable_exception

if TYPE_CHECKING:
    from celerylite._commands import CeleryCommandException

__all__ = (
    "reraise",
    # warnings
    "CeleryWarning",
    "AlwaysEagerIgnored",
    "DuplicateNodenameWarning",
    "DuplicateTaskNameWarning",
    "FixupWarning",
    "NotConfigured",
    "SecurityWarning",
    "CPendingDeprecationWarning",
    "CDeprecationWarning",
    # configuration and security
    "CeleryError",
    "ImproperlyConfigured",
    "SecurityError",
    # messaging
    "OperationalError",
    # raised by a task to say how it ends
    "TaskPredicate",
    "Ignore",
    "Reject",
    "Retry",
    # about a task
    "TaskError",
    "QueueNotFound",
    "IncompleteStream",
    "NotRegistered",
    "AlreadyRegistered",
    "TimeoutError",
    "MaxRetriesExceededError",
    "TaskRevokedError",
    "InvalidTaskError",
    "ChordError",
    # result store
    "BackendError",
    "BackendGetMetaError",
    "BackendStoreError",
    # limits and lost workers
    "SoftTimeLimitExceeded",
    "TimeLimitExceeded",
    "WorkerLostError",
    "Terminated",
    # stopping a worker
    "WorkerShutdown",
    "WorkerTerminate",
    # command line
    "CeleryCommandException",
    # celerylite's own
    "AlreadyQueued",
    "ClaimLost",
    "SchemaTooNew",
)

UNREGISTERED_FMT = "Task of kind {0} never registered, please make sure it's imported."


def reraise(tp: type[BaseException], value: BaseException, tb: TracebackType | None = None) -> NoReturn:
    """Raise `value` again, with `tb` as its traceback; `tp` is ignored."""
    raise value if value.__traceback__ is tb else value.with_traceback(tb)


class CeleryWarning(UserWarning):
    """Parent of all warnings given here, apart from the deprecations."""


class AlwaysEagerIgnored(CeleryWarning):
    """`send_task` was called under `task_always_eager`, which it does not obey."""


class DuplicateNodenameWarning(CeleryWarning):
    """Two workers answer to one node name."""


class DuplicateTaskNameWarning(CeleryWarning):
    """Two functions were registered under one task name."""


class FixupWarning(CeleryWarning):
    """Something is wrong with the integration of a framework."""


class NotConfigured(CeleryWarning):
    """No configuration module was found."""


class SecurityWarning(CeleryWarning):
    """The set-up is dangerous."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """This will be deprecated."""


class CDeprecationWarning(DeprecationWarning):
    """This is deprecated."""


class CeleryError(Exception):
    """Parent of the errors of this package."""


class ImproperlyConfigured(CeleryError):
    """A setting is missing, or has a value that makes no sense."""


class SecurityError(CeleryError):
    """Refused for reasons of security."""


class TaskPredicate(CeleryError):
    """Parent of what a task raises to say how it ends, without having failed."""


class Retry(TaskPredicate):
    """The task will run again.

    `when` is a number of seconds from now, or a moment; `exc` is what made the task try again, in a form that
    can be pickled, and `excs` its repr.
    """

    #: What to say instead of the generated text.
    message: str | None = None
    #: What made the task try again.
    exc: BaseException | None = None
    #: Seconds from now, or a moment.
    when: float | datetime | None = None

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: float | datetime | None = None,
        is_eager: bool = False,
        sig: Any = None,
        **kwargs: Any,
    ) -> None:
        self.message = message
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        self.excs: str | None
        if isinstance(exc, str):
            self.exc, self.excs = None, exc
        else:
            self.exc = get_pickleable_exception(exc) if exc is not None else None
            self.excs = safe_repr(exc) if exc else None
        # As Celery: the exception itself is its own first argument.
        super().__init__(self, exc, when, **kwargs)

    def humanize(self) -> str:
        """When the next attempt is, as a phrase."""
        return f"in {self.when}s" if isinstance(self.when, numbers.Number) else f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        reason = f": {self.excs}" if self.excs else ""
        return f"Retry {self.humanize()}{reason}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.exc, self.when)


#: Its name in old versions.
RetryTaskError = Retry


class Ignore(TaskPredicate):
    """The task ends here and writes no state."""


class Reject(TaskPredicate):
    """The task turns its message away; with `requeue` it is delivered again."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class TaskError(CeleryError):
    """Parent of the errors about a task."""


class QueueNotFound(KeyError, TaskError):
    """A task was routed to a queue that `task_queues` does not have."""


class IncompleteStream(TaskError):
    """Data ended too early."""


class NotRegistered(KeyError, TaskError):
    """No task has this name."""

    def __repr__(self) -> str:
        return UNREGISTERED_FMT.format(self)


class AlreadyRegistered(TaskError):
    """A task with this name is there already."""


class TimeoutError(TaskError):
    """What was waited for did not come in time."""


class MaxRetriesExceededError(TaskError):
    """The task used up all its attempts. `task_args` and `task_kwargs` are those of the call."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_args: Any = kwargs.pop("task_args", [])
        self.task_kwargs: Any = kwargs.pop("task_kwargs", {})
        super().__init__(*args, **kwargs)


class TaskRevokedError(TaskError):
    """The task was revoked, so there is no result."""


class InvalidTaskError(TaskError):
    """The message of a task cannot be understood."""


class ChordError(TaskError):
    """A member of a chord failed, so its body cannot run."""


class BackendError(Exception):
    """The result store could not be read or written."""


class BackendGetMetaError(BackendError):
    """The result store could not be read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args)
        self.task_id: str = kwargs.get("task_id", "")

    def __repr__(self) -> str:
        return f"{super().__repr__()} task_id:{self.task_id}"


class BackendStoreError(BackendError):
    """The result store could not be written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args)
        self.state: str = kwargs.get("state", "")
        self.task_id: str = kwargs.get("task_id", "")

    def __repr__(self) -> str:
        return f"{super().__repr__()} state:{self.state} task_id:{self.task_id}"


class SoftTimeLimitExceeded(Exception):
    """The task ran for longer than its soft limit: a last chance to clean up."""

    def __str__(self) -> str:
        return f"SoftTimeLimitExceeded{self.args}"


class TimeLimitExceeded(Exception):
    """The task ran for longer than its hard limit and was given up."""

    def __str__(self) -> str:
        return f"TimeLimitExceeded{self.args}"


class WorkerLostError(Exception):
    """The worker that ran the task is gone."""


class Terminated(Exception):
    """The task was stopped on request, by `revoke(terminate=True)`."""


class WorkerShutdown(SystemExit):
    """Ends the worker: what runs is finished first."""


class WorkerTerminate(SystemExit):
    """Ends the worker at once."""


#: Its name in old versions.
SystemTerminate = WorkerTerminate


class AlreadyQueued(CeleryError):
    """A call with this key waits or runs, and the caller asked to be told or needs a result of its own.

    `key` is the key, `task_id` the call that holds it.
    """

    def __init__(self, key: str, task_id: str) -> None:
        super().__init__(key, task_id)
        self.key = key
        self.task_id = task_id

    def __str__(self) -> str:
        return (
            f"unique key {self.key!r}: expected it to be free, but task {self.task_id} holds it; wait for "
            "that one, or leave the key out"
        )


class ClaimLost(CeleryError):
    """Another runtime has taken over the message, so this one's outcome was not written.

    Happens to a runtime that was silent for longer than its lease and was taken for dead.
    """

    def __init__(self, task_id: str, owner: str) -> None:
        super().__init__(task_id, owner)
        self.task_id = task_id
        self.owner = owner

    def __str__(self) -> str:
        return (
            f"task {self.task_id}: expected its message to be owned by {self.owner!r}, but another runtime "
            "took it over; its outcome counts, this one was discarded"
        )


class SchemaTooNew(CeleryError):
    """The database was written by a newer celerylite, which this one must not touch."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(found, known)
        self.found = found
        self.known = known

    def __str__(self) -> str:
        return (
            f"database schema: expected version {self.known} or older, got {self.found}; "
            "upgrade celerylite here, or use another database"
        )


def __getattr__(name: str) -> Any:
    # click is loaded for the command line only, and a class cannot inherit from what is not loaded yet.
    if name == "CeleryCommandException":
        from celerylite._commands import CeleryCommandException

        globals()[name] = CeleryCommandException
        return CeleryCommandException
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
