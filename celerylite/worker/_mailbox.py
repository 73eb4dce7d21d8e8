"""The runtime's end of remote control: reads the letters of the database's mailbox and answers them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Any

from kombu.matcher import match
from kombu.utils.json import dumps, loads

from celerylite import _clock
from celerylite._store import Letter
from celerylite.exceptions import WorkerShutdown, WorkerTerminate
from celerylite.utils.log import get_logger
from celerylite.utils.saferepr import saferepr
from celerylite.utils.serialization import jsonify
from celerylite.worker import state as worker_state
from celerylite.worker._keeper import Keeper
from celerylite.worker._panel import make_state
from celerylite.worker.control import Panel

if TYPE_CHECKING:
    from celerylite._store import Store
    from celerylite.worker import Runtime

__all__ = (
    "CONTROL_TOPIC",
    "EVENTS_TOPIC",
    "PAUSES_TOPIC",
    "RECEIVERS_TOPIC",
    "STAMPS_TOPIC",
    "LOOK_AGAIN_S",
    "Call",
    "Inbox",
    "Listener",
    "as_json",
    "is_revoked_by_stamp",
    "post_reply",
    "present_until",
    "reply_topic",
)

logger = get_logger(__name__)

#: Topic of commands for every process.
CONTROL_TOPIC = "control"
#: Topic of revoked stamps, which last: who starts later obeys them too.
STAMPS_TOPIC = "revoked stamps"
#: Topic of queues that were paused or resumed for all processes, until the next word on them.
PAUSES_TOPIC = "paused queues"

#: Topic of events.
EVENTS_TOPIC = "events"
#: Topic of those who capture events: as long as there is none, no event is written.
RECEIVERS_TOPIC = "event receivers"

_LASTING = frozenset({STAMPS_TOPIC, PAUSES_TOPIC, RECEIVERS_TOPIC})
#: Seconds until letters are read though nobody told of one.
LOOK_AGAIN_S = 30.0
#: Seconds for which a reply can be fetched.
_REPLY_LASTS = 60.0


def reply_topic(ticket: str) -> str:
    """The topic of the replies to one call."""
    return f"reply {ticket}"


def as_json(value: Any) -> str:
    """`value` as JSON; what JSON cannot hold is shown as a text."""
    try:
        return str(dumps(value))
    except TypeError:
        return str(dumps(jsonify(value, unknown_type_filter=saferepr)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One command on its way to processes."""

    method: str
    arguments: dict[str, Any] = field(default_factory=dict)
    #: Node names; None is everybody.
    destination: list[str] | None = None
    pattern: str | None = None
    matcher: str | None = None
    #: Where replies go; None: nobody waits for one.
    ticket: str | None = None
    #: The runtime that has answered already, because it lives in the caller's process.
    answered_by: str | None = None

    def reaches(self, hostname: str) -> bool:
        """Whether a node of that name is meant."""
        if self.destination:
            return hostname in self.destination
        if self.pattern and self.matcher:
            # kombu says bytes and means texts.
            return bool(match(hostname, self.pattern, self.matcher))  # type: ignore[arg-type]
        return True

    def letter(self) -> str:
        """The call as the payload of a letter."""
        return as_json(asdict(self))

    @classmethod
    def from_letter(cls, letter: Letter) -> Call:
        """The call that a letter brings."""
        return cls(**loads(letter.payload))


class Inbox:
    """The letters on some topics, each read once. For one thread."""

    def __init__(self, store: Store, topics: Collection[str]) -> None:
        self._store, self._topics = store, topics
        self._read: set[int] = set()

    def unread(self) -> list[Letter]:
        """What has come since the last call. Blocks for one statement."""
        letters = self._store.letters(self._topics)
        unread = [letter for letter in letters if letter.row not in self._read]
        # Rows are never used twice: what has expired need not be remembered.
        self._read = {letter.row for letter in letters}
        return unread

    def obey_unread(self, obey: Callable[[Letter], None]) -> None:
        """Hand what has come to `obey`; an error is logged and does not keep the next letter from it."""
        for letter in self.unread():
            try:
                obey(letter)
            except Exception:
                logger.exception("a letter of the mailbox could not be obeyed: %r", letter.payload)


def post_reply(store: Store, call: Call, owner: str, hostname: str, reply: Any) -> None:
    """Answer a call under the name `hostname`, if somebody waits for it."""
    if call.ticket is not None:
        payload = as_json({"owner": owner, "reply": {hostname: reply}})
        store.post(reply_topic(call.ticket), payload, until=_clock.time() + _REPLY_LASTS)


class Listener:
    """Obeys and answers commands for one runtime, in a thread of its own. Thread-safe.

    Its own, so that it answers also while every other thread is busy with tasks.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._keeper = Keeper("celerylite-control")
        self._state = make_state(runtime)
        self._inbox = self._new_inbox()
        self._end: list[Callable[[], None]] = []

    def start(self) -> None:
        """Obey what lasts, and from now on what comes. Blocks for one statement."""
        self._inbox = self._new_inbox()
        for letter in self._inbox.unread():
            # Commands that were given before this process joined are none of its business.
            if letter.topic in _LASTING:
                self._obey(letter)
        self._keeper.add("letters", self._answer_letters, after=LOOK_AGAIN_S)
        self._end = [self._runtime.store.on_letters(lambda: self._keeper.ask("letters"))]
        self._keeper.start()

    def stop(self) -> None:
        """Answer nobody any more."""
        for end in self._end:
            end()
        self._keeper.stop(5.0)

    def _new_inbox(self) -> Inbox:
        return Inbox(self._runtime.store, {CONTROL_TOPIC, *_LASTING})

    def _answer_letters(self) -> float:
        self._inbox.obey_unread(self._obey)
        return LOOK_AGAIN_S

    def _obey(self, letter: Letter) -> None:
        if letter.topic == STAMPS_TOPIC:
            self._runtime.note_revoked_stamps(loads(letter.payload))
        elif letter.topic == PAUSES_TOPIC:
            self._pause(loads(letter.payload))
        elif letter.topic == RECEIVERS_TOPIC:
            events = self._runtime.app.events
            events.receivers_until(present_until([letter], events.origin))
        else:
            self._answer(Call.from_letter(letter))

    def _pause(self, said: dict[str, Any]) -> None:
        if said["paused"]:
            self._runtime.pause(said["queue"])
        else:
            self._runtime.resume(said["queue"])

    def _answer(self, call: Call) -> None:
        if call.answered_by == self._runtime.owner or not call.reaches(self._runtime.hostname):
            return  # It is for others.
        reply = self.answer(call)
        post_reply(self._runtime.store, call, self._runtime.owner, self._runtime.hostname, reply)

    def answer(self, call: Call) -> Any:
        """Run the command here and return its reply. Raises nothing but what ends the program."""
        logger.debug("pidbox received method %s(%s)", call.method, call.arguments)
        self._runtime.app.clock.forward()
        wrong = _wrong_call(call)
        if wrong is not None:
            logger.error("pidbox command %s(%s) cannot be run: %r", call.method, call.arguments, wrong)
            return {"error": repr(wrong)}
        try:
            reply = Panel.data[call.method](self._state, **call.arguments)
        except (WorkerShutdown, WorkerTerminate) as exc:
            self._stop_worker(now=isinstance(exc, WorkerTerminate))
            return {"ok": "shutting down"} if call.ticket is not None else None
        except Exception as exc:
            logger.exception("pidbox command error: %r", exc)
            return {"error": repr(exc)}
        # Also within this process, as Celery: what is got is what a serializer lets through.
        return loads(as_json(reply))

    def _stop_worker(self, now: bool) -> None:
        # In another thread: this one, and the caller's, are to live to tell of it.
        threading.Thread(
            target=self._runtime.shut_down, args=(now,), name="celerylite-shutdown", daemon=True
        ).start()


def _wrong_call(call: Call) -> Exception | None:
    """What is wrong with the command's name or its arguments: the sender's mistake, not the command's."""
    if call.method not in Panel.data:
        return KeyError(call.method)
    try:
        signature(Panel.data[call.method]).bind(None, **call.arguments)
    except TypeError as exc:
        return exc
    return None


def present_until(letters: Iterable[Letter], origin: str) -> float:
    """Until when somebody but `origin` captures events, by their letters (epoch seconds)."""
    said = (loads(letter.payload) for letter in letters)
    return max((float(one["until"]) for one in said if one["origin"] != origin), default=0.0)


def is_revoked_by_stamp(stamps: dict[str, Any], headers: Any) -> bool:
    """Whether one of a call's stamps was revoked."""
    for header in headers or ():
        revoked = worker_state.revoked_stamps.get(header)
        if revoked and set(_list(stamps.get(header))) & set(_list(revoked)):
            return True
    return False


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple | set) else [value]
