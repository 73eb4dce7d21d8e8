"""The words for where a task stands, and their order of importance."""

from __future__ import annotations

__all__ = (
    "PENDING",
    "RECEIVED",
    "STARTED",
    "SUCCESS",
    "FAILURE",
    "REVOKED",
    "RETRY",
    "IGNORED",
    "READY_STATES",
    "UNREADY_STATES",
    "EXCEPTION_STATES",
    "PROPAGATE_STATES",
    "precedence",
    "state",
)

#: Nothing is known about the id: waiting, or never sent.
PENDING = "PENDING"
#: A runtime took the message; seen in events only.
RECEIVED = "RECEIVED"
#: Running now (`task_track_started`).
STARTED = "STARTED"
#: Returned a value.
SUCCESS = "SUCCESS"
#: Raised an exception, or was given up.
FAILURE = "FAILURE"
#: Stopped by `revoke`, or expired.
REVOKED = "REVOKED"
#: Turned away with `Reject`; seen in events only.
REJECTED = "REJECTED"
#: Waits for its next attempt.
RETRY = "RETRY"
#: Ended with `Ignore`: no state was written.
IGNORED = "IGNORED"

#: The result will not change any more.
READY_STATES = frozenset({SUCCESS, FAILURE, REVOKED})
#: There is more to come.
UNREADY_STATES = frozenset({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
#: The result is an exception.
EXCEPTION_STATES = frozenset({FAILURE, RETRY, REVOKED})
#: The result is an exception that `get()` raises.
PROPAGATE_STATES = frozenset({FAILURE, REVOKED})
# As Celery: IGNORED and REJECTED are not among "all" states.
ALL_STATES = frozenset({PENDING, RECEIVED, STARTED, SUCCESS, FAILURE, RETRY, REVOKED})

#: Most important first; None is the place of every state that is not built in.
PRECEDENCE: list[str | None] = [
    SUCCESS,
    FAILURE,
    None,
    REVOKED,
    STARTED,
    RECEIVED,
    REJECTED,
    RETRY,
    PENDING,
]
#: Position of each state in `PRECEDENCE`.
PRECEDENCE_LOOKUP: dict[str | None, int] = {name: index for index, name in enumerate(PRECEDENCE)}
NONE_PRECEDENCE: int = PRECEDENCE_LOOKUP[None]


def precedence(state: str) -> int:
    """Position in the order of importance: the lower, the more important."""
    return PRECEDENCE_LOOKUP.get(state, NONE_PRECEDENCE)


class state(str):
    """A state that compares by importance instead of by letter.

    `state(SUCCESS) > state(PENDING)`; a state of the user's own stands below SUCCESS and FAILURE
    and above the rest. Equality and hash stay those of `str`.
    """

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return precedence(other) < precedence(self)

    def __le__(self, other: str) -> bool:
        return precedence(other) <= precedence(self)

    def __gt__(self, other: str) -> bool:
        return precedence(other) > precedence(self)

    def __ge__(self, other: str) -> bool:
        return precedence(other) >= precedence(self)
