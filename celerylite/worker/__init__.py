"""The runtime: takes messages of this process's queues, runs them, and makes their outcome durable."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from celerylite import _clock
from celerylite._lazy import lazy_module
from celerylite._store import ClaimLost, Delivery, Store, WorkerRow, this_process
from celerylite._store.processes import is_gone
from celerylite.exceptions import WorkerLostError
from celerylite.utils import uuid
from celerylite.utils.log import get_logger
from celerylite.utils.nodenames import default_nodename
from celerylite.worker import _chords, _execute, _report, _settlement
from celerylite.worker._coroutines import LoopThread
from celerylite.worker._deciding import Deciding
from celerylite.worker._defect import conclude_defect
from celerylite.worker._execution import Execution, request_of
from celerylite.worker._keeper import Keeper
from celerylite.worker._kinds import Kinds, available_cpus, chosen_pool, default_threads, queues_of
from celerylite.worker._lease import Lease
from celerylite.worker._limited import LimitedRun
from celerylite.worker._limits import Deadlines, RateLimits
from celerylite.worker._lost import conclude_lost
from celerylite.worker._pools import ThreadPool
from celerylite.worker._publishing import Publishing
from celerylite.worker._remote import RemoteControlled
from celerylite.worker._slots import Kind, Slots
from celerylite.worker._taking import LOOK_AGAIN_S, Taking
from celerylite.worker.worker import WorkController

if TYPE_CHECKING:
    import asyncio

    from celerylite._ticks import Ticker
    from celerylite.app.base import Celery
    from celerylite.worker import _child_run, _prefork
else:
    # Few programs have child processes.
    _child_run = lazy_module("celerylite.worker._child_run")
    _prefork = lazy_module("celerylite.worker._prefork")

__all__ = ("Runtime", "WorkController", "queues_of")

logger = get_logger("celery.worker")

#: Coroutines that run at once when ``worker_concurrency`` does not say; they cost little while they wait.
_COROUTINES = 100
#: Threads for the steps around coroutines, which may block on the database.
_STEP_THREADS = 4
#: Seconds a child process has for its own clean-up when the runtime stops.
_CHILD_GRACE_S = 5.0
#: Seconds that a stop may take before it says what it waits for.
_PATIENCE_S = 1.0


class Runtime(Publishing, Taking, RemoteControlled, Deciding):
    """Runs the tasks of one app in this process. Thread-safe.

    A message that is published here and can run here is claimed by its insert and handed over in memory.
    Others are claimed by the keeper, a thread that also rescues what dead processes left. The lease and
    the schedule have threads of their own. Plain functions run in threads, coroutines on a loop.
    """

    eager = False
    propagates = False

    def __init__(
        self,
        app: Celery,
        store: Store,
        *,
        queues: Collection[str] | None = None,
        concurrency: int | None = None,
        hostname: str | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        ticker: Ticker | None = None,
        pool: str | None = None,
        least_processes: int | None = None,
        only_known: bool = False,
    ) -> None:
        conf = app.conf
        self.app = app
        self.store = store
        self.hostname = default_nodename(hostname)
        self.owner = uuid()
        #: None takes from every queue.
        self.queues = None if queues is None else frozenset(queues)
        self._only_known = only_known
        self._paused: set[str] = set()
        self.concurrency = concurrency or conf.worker_concurrency
        threads = self.concurrency or default_threads()
        coroutines = self.concurrency or _COROUTINES
        self._kinds = Kinds(app, pool or chosen_pool(app))
        self.processes = self.concurrency or available_cpus()
        #: Child processes that stay when there is little to do: all of them where every task needs one.
        self.least_processes = least_processes or (self.processes if self._kinds.prefork else 1)
        self._children: _prefork.ProcessPool | None = None
        self._slots = Slots(
            {Kind.THREAD: threads, Kind.LOOP: coroutines, Kind.PROCESS: self.processes},
            total=self.concurrency,
            room=max(1, threads * max(1, conf.worker_prefetch_multiplier or 1)),
        )
        self._pool = ThreadPool("celerylite-task", threads)
        self._conductors = ThreadPool("celerylite-child", self.processes)
        self._steps = ThreadPool("celerylite-step", _STEP_THREADS)
        self._loop = LoopThread(loop)
        self._keeper = Keeper("celerylite-keeper")
        #: Fires the schedule: handlers of the user's run there, which may block.
        self._beat = Keeper("celerylite-beat")
        self._deadlines = Deadlines()
        self._rates = RateLimits()
        self._ticker = ticker
        self._knows_schedule = False
        self._lease_s = float(conf.celerylite_lease)
        self._lease = Lease(store, self.owner, self._lease_s, self._row)
        self.keeps_history = bool(conf.celerylite_history)
        self._mutex = threading.Lock()
        self._running: dict[int, Execution] = {}
        self._limited: dict[str, LimitedRun] = {}
        self._revoked: set[str] = set()
        self._stopping = threading.Event()
        self._unsubscribe: list[Callable[[], None]] = []
        self._init_remote(self.processes if self._kinds.prefork else threads, is_named=hostname is not None)

    # -- start and stop --------------------------------------------------------------------------------

    def start(self) -> None:
        """Join the processes of this database and begin to take messages. Blocks for a few statements."""
        self._lease.join()
        self._start_remote()
        # Before anything can start: what was revoked while nobody ran must not run first of all.
        self._revoked = self.store.revoked()
        self._unsubscribe = [
            self.store.on_new_messages(partial(self._keeper.ask, "claim")),
            self.store.on_letters(partial(self._keeper.ask, "revokes")),
            # A moment later: on SQLite every commit of another process says that there may be letters.
            self.store.on_letters(partial(self._beat.ask, "schedule edits", 0.1)),
        ]
        self._keeper.add("rescue", self._rescue)
        self._keeper.add("revokes", self._read_revokes)
        self._keeper.add("claim", self._claim)
        self._keeper.add("fill", self._fill_all, after=None)
        self._keeper.start()
        self._lease.start()
        if self._ticker is not None:
            self._beat.add("schedule", self._start_schedule)
            self._beat.add("schedule edits", self._look_at_schedule, after=None)
            self._beat.start()
        if self._kinds.prefork:
            self._process_pool().start(self.least_processes)
        logger.info("%s ready.", self.hostname, extra={"action": "started"})

    def stop(self, grace: float | None = None) -> None:
        """Take nothing new, give back what has not started, and wait `grace` seconds for what runs.

        Then, by the delivery contract: tasks with `acks_late` are given back, others end as
        FAILURE(WorkerLostError). Blocks. The store stays open.
        """
        if self._stopping.is_set():
            return  # Somebody else stops it.
        self._stopping.set()
        try:
            self._wind_down(grace)
        finally:
            # Last of all: until here tasks may run, and nobody shall take them for lost.
            self._lease.leave()
        logger.info("%s stopped.", self.hostname, extra={"action": "stopped"})

    def _wind_down(self, grace: float | None) -> None:
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        # In this order: nothing new is claimed, what is held goes back, then the running ones may finish.
        self._slots.close()
        self._keeper.stop()
        self._beat.stop()
        if self._ticker is not None:
            self._ticker.close()
        self._give_back_held()
        # What has ended without being committed has nothing left to wait for.
        self.store.flush()
        if not self._wait_for_running(self._grace(grace)):
            self._end_running()
        if self._children is not None:
            self._children.stop(_CHILD_GRACE_S)
        self._conductors.stop(0.2)
        self._pool.stop(0.2)
        # The loop before the steps: what it cancels has still to be concluded.
        self._loop.stop()
        self._steps.stop(2.0)
        self._deadlines.stop()
        self.store.rest()
        self._stop_remote()

    def _wait_for_running(self, grace: float) -> bool:
        """Wait until nothing runs, and tell who watches why the program does not end. False after `grace`."""
        if self._slots.wait_idle(min(grace, _PATIENCE_S)):
            return True
        left = max(0.0, grace - _PATIENCE_S)
        if left:
            names = ", ".join(f"{x.name}[{x.id}]" for x in self.running())
            logger.warning("stopping: waiting up to %.0f s more for %s", left, names)
        return self._slots.wait_idle(left)

    def hurry(self) -> None:
        """Have `stop`, running or to come, wait no longer for what runs."""
        self._slots.hurry()

    def _grace(self, grace: float | None) -> float:
        if grace is not None:
            return grace
        return float(self.app.conf.worker_soft_shutdown_timeout or self.app.conf.celerylite_exit_grace)

    def _give_back_held(self) -> None:
        held = self._slots.take_held()
        if held:
            _settlement.patiently(partial(self.store.give_back, held), self._stopping)

    def _end_running(self) -> None:
        self.store.flush()
        with self._mutex:
            left = [x for x in self._running.values() if not x.settling]
        for x in left:
            try:
                self._end_now(x)
            except Exception:
                logger.exception("could not end %s[%s]; whoever comes next will find it lost", x.name, x.id)

    def _end_now(self, x: Execution) -> None:
        with self._mutex:
            run = self._limited.get(x.id)
        delivery = x.delivery
        again = delivery is not None and x.task is not None and x.task.acks_late
        fate = "it will be delivered again" if again else "it is kept as FAILURE (WorkerLostError)"
        logger.warning("stopping: %s[%s] did not end in time, %s", x.name, x.id, fate)
        if delivery is None or not again:
            self.decide(x, WorkerLostError(f"Worker stopped while {x.name}[{x.id}] was running"))
        elif self.take_decision(x, abandon=True):
            _settlement.patiently(lambda: self.store.give_back([delivery]), self._stopping)
        if run is not None and x.abandoned:
            run.interrupt(SystemExit)

    def use_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run coroutines on `loop`, the program's own, from now on."""
        self._loop.adopt(loop)

    @property
    def stop_event(self) -> threading.Event:
        """Set once `stop` was called."""
        return self._stopping

    def is_last(self) -> bool:
        """Whether nothing runs here, or waits here to run, but the task that asks."""
        return self._slots.is_last()

    def drain(self, timeout: float | None = None, *, with_schedule: bool = False) -> None:
        """Wait until nothing that is due waits or runs. Raises TimeoutError after `timeout` seconds."""
        end = None if timeout is None else _clock.monotonic() + timeout
        while not self.is_idle(with_schedule):
            left = None if end is None else end - _clock.monotonic()
            if left is not None and left <= 0:
                running, held = self._slots.counts()
                raise TimeoutError(
                    f"expected all tasks to end within {timeout} s, got {running} running and {held} waiting"
                )
            if with_schedule:
                # A chore that read the clock just before it was moved by hand would come too late.
                self._beat.ask("schedule")
                self._keeper.ask("claim")
            self._slots.wait_pause(0.05 if left is None else min(0.05, left))

    def is_idle(self, with_schedule: bool = False) -> bool:
        """Whether nothing that is due waits or runs here (nor in the schedule).

        Commits the outcomes that wait, and asks the database. Blocks.
        """
        # Before the database is asked: what fires meanwhile is found there.
        if with_schedule and self._is_firing():
            return False
        moves = self._slots.moves()
        self.store.flush()
        if self._slots.counts() != (0, 0):
            return False
        due_at = self.store.next_due()
        if due_at is not None and due_at <= _clock.time():
            return False
        lengths = self.store.queue_lengths(self._names())
        mine = [queue for queue in lengths if self.takes_from(queue)]
        # What was claimed meanwhile is in neither until it is held; and what ran may have woken more.
        at_rest = not self._claims and moves == self._slots.moves()
        return not mine and at_rest and self._slots.counts() == (0, 0)

    def _is_firing(self) -> bool:
        if self._ticker is None:
            return False
        return not self._knows_schedule or self._ticker.is_firing(_clock.time())

    # -- where a call runs ------------------------------------------------------------------------------

    def _kind(self, name: str) -> Kind:
        return self._kinds.of(name)

    # -- other chores of the keeper ----------------------------------------------------------------------

    def _row(self) -> WorkerRow:
        return this_process(self.owner, self.hostname, os.getpid(), self.queues)

    def _rescue(self) -> float:
        by_lease = self._lease.is_steady()
        for delivery in self.store.rescue(self.owner, is_gone, by_lease=by_lease, names=self._names()):
            self._steps.submit(partial(self._conclude_lost, delivery))
        return self._lease_s / 2

    def _conclude_lost(self, delivery: Delivery) -> None:
        try:
            conclude_lost(self, delivery)
        except BaseException as exc:
            self._conclude_defect(delivery, exc)

    def _read_revokes(self) -> float:
        self._revoked = self.store.revoked()
        # Each as soon as it is taken: the next statement may fail.
        for delivery in self._slots.take_held(lambda delivery: delivery.message.id in self._revoked):
            self._steps.submit(partial(self._turn_away, delivery))
        for delivery in self.store.claim_scheduled(self.owner, self._revoked) if self._revoked else ():
            self._steps.submit(partial(self._turn_away, delivery))
        return 30.0

    def _turn_away(self, delivery: Delivery) -> None:
        if _settlement.patiently(partial(self.store.begin, [delivery]), self._stopping):
            # Runs it after all if the revoke was lifted meanwhile.
            self._run_delivery(Kind.THREAD, delivery, has_place=False)

    def _start_schedule(self) -> float | None:
        if self._ticker is not None:
            self._ticker.start()
            self._knows_schedule = True
            self._beat.add("schedule", self._fire_schedule)
        return None

    def _fire_schedule(self) -> float | None:
        if self._ticker is None:
            return None
        self._ticker.fire_due(_clock.time())
        due = self._ticker.next_due()
        # Not until it is due: the machine may sleep meanwhile, or have its clock set, and the wait is by
        # a clock that does not notice.
        return LOOK_AGAIN_S if due is None else min(LOOK_AGAIN_S, max(0.0, due - _clock.time()))

    def _look_at_schedule(self) -> None:
        if self._ticker is not None and self._ticker.look():
            self._beat.ask("schedule")

    def schedule_changed(self) -> None:
        """Read the schedule again."""
        if self._ticker is not None:
            self._knows_schedule = False
            self._beat.add("schedule", self._start_schedule)

    # -- running -----------------------------------------------------------------------------------------

    def _launch(self, delivery: Delivery) -> None:
        """Run a delivery whose place is taken."""
        kind = self._kind(delivery.message.name)
        if kind is Kind.LOOP:
            self._steps.submit(partial(self._begin_coroutine, delivery))
        else:
            self._pool_of(kind).submit(partial(self._work, kind, delivery))

    def _start_held(self, kind: Kind) -> None:
        """Have a thread go on with what is held: there is a place for it."""
        if kind is Kind.LOOP:
            self._steps.submit(self._go_on_with_coroutine)
        else:
            self._pool_of(kind).submit(lambda: self._work(kind, self._next_of(kind)))

    def _pool_of(self, kind: Kind) -> ThreadPool:
        return self._pool if kind is Kind.THREAD else self._conductors

    def _work(self, kind: Kind, delivery: Delivery | None) -> None:
        """Run this delivery and those of its kind held after it, in this thread or conducted by it."""
        while delivery is not None:
            if not self._run_delivery(kind, delivery):
                return  # Another thread has this one's place.
            self._release(kind)
            if self._slots.backlog and self._pool_of(kind).submit_behind(partial(self._go_on, kind)):
                return  # With what has begun already; afterwards as many as there are places begin together.
            delivery = self._next_of(kind)

    def _go_on(self, kind: Kind) -> None:
        self._work(kind, self._next_of(kind, fill=True))

    def _run_delivery(self, kind: Kind, delivery: Delivery, has_place: bool = True) -> bool:
        """Run one delivery to its end. False when it was decided from outside and its place given away."""
        x: Execution | None = None
        try:
            if delivery.message.name == _settlement.CHORD_BODY:
                copy_context().run(_chords.send_body, self, delivery)
            else:
                x = self.execution(delivery, has_place)
                copy_context().run(self._run_here if kind is Kind.THREAD else self._run_in_child, x)
        except BaseException as exc:
            if x is not None:
                self.take_decision(x)
            self._conclude_defect(delivery, exc)
        return x is None or not x.abandoned

    def _run_here(self, x: Execution) -> None:
        _execute.prepare(x)
        if x.entered:
            LimitedRun.in_thread(self, x).perform()
        self._conclude(x)

    def _run_in_child(self, x: Execution) -> None:
        # All further steps are the child's; it asks for its outcome to be settled.
        _execute.receive(x)
        if x.state is None:
            _child_run.ChildRun(self, x, self._process_pool()).perform()
        else:
            self._conclude(x)

    def _process_pool(self) -> _prefork.ProcessPool:
        with self._mutex:
            if self._children is None:
                self._children = _prefork.pool_for(self)
            return self._children

    def _conclude_defect(self, delivery: Delivery, exc: BaseException) -> None:
        with self._mutex:
            self._running.pop(delivery.row, None)
        conclude_defect(self, delivery, exc)

    def _begin_coroutine(self, delivery: Delivery) -> None:
        context = copy_context()
        x: Execution | None = None
        try:
            x = self.execution(delivery)
            context.run(_execute.prepare, x)
        except BaseException as exc:
            if x is not None:
                self.take_decision(x)
            self._conclude_defect(delivery, exc)
            if x is None or not x.abandoned:
                self._go_on_with_coroutines()
            return
        if not x.entered or x.raised is not None:
            context.run(self._end_coroutine, x)
            return
        limited = LimitedRun.on_loop(self, x, self._loop)

        def done(value: Any, raised: BaseException | None) -> None:
            limited.close()
            x.retval, x.raised = value, raised
            self._steps.submit(partial(context.run, self._end_coroutine, x))

        try:
            self._loop.run(context.run(limited.coroutine), context, done)
        except BaseException as exc:
            done(None, exc)

    def _end_coroutine(self, x: Execution) -> None:
        try:
            self._conclude(x)
        except BaseException as exc:
            if x.delivery is not None:
                self._conclude_defect(x.delivery, exc)
        if not x.abandoned:  # Else its place was given away when it was.
            self._go_on_with_coroutines()

    def _go_on_with_coroutines(self) -> None:
        self._release(Kind.LOOP)
        self._go_on_with_coroutine()

    def _go_on_with_coroutine(self) -> None:
        delivery = self._next_of(Kind.LOOP)
        if delivery is not None:
            self._launch(delivery)

    def _conclude(self, x: Execution) -> None:
        self.take_decision(x)
        try:
            _execute.conclude(x)
        finally:
            if not x.settling:
                self.forget_execution(x)

    def take_decision(self, x: Execution, abandon: bool = False) -> bool:
        """Whether the caller is the one who settles `x`: the first to ask, and nobody after."""
        with self._mutex:
            first, x.decided = not x.decided, True
            x.abandoned = x.abandoned or (first and abandon)
            return first

    def execution(self, delivery: Delivery, has_place: bool = True) -> Execution:
        """The record of a delivery that is about to run; it counts as running until it is forgotten."""
        x = Execution(
            app=self.app,
            site=self,
            id=delivery.message.id,
            name=delivery.message.name,
            request=request_of(delivery, self.hostname),
            delivery=delivery,
            has_place=has_place,
        )
        _execute.bind_outbox(x)
        with self._mutex:
            self._running[delivery.row] = x
        return x

    def forget_execution(self, x: Execution) -> None:
        """It does not run any more."""
        if x.delivery is not None:
            with self._mutex:
                # A message that was put back may run again already.
                if self._running.get(x.delivery.row) is x:
                    del self._running[x.delivery.row]

    def run_began(self, run: LimitedRun) -> None:
        """A task's code begins; from now on it can be interrupted."""
        with self._mutex:
            self._limited[run.execution.id] = run

    def run_ended(self, run: LimitedRun) -> None:
        """A task's code has ended."""
        with self._mutex:
            self._limited.pop(run.execution.id, None)

    def running(self) -> list[Execution]:
        """What runs now."""
        with self._mutex:
            return list(self._running.values())

    # -- ending ------------------------------------------------------------------------------------------

    def settle(self, x: Execution) -> None:
        """Commit the outcome; waits while the database is away. Raises ClaimLost."""
        _settlement.settle(self, x)

    def settle_later(self, x: Execution) -> None:
        """Commit the outcome together with what is committed next; does not wait for it."""
        if x.delivery is None:
            return  # Nothing was claimed.
        x.settling = True
        self._slots.settling(1)
        try:
            _settlement.settle_later(self, x, x.delivery, partial(self._settled, x))
        except BaseException:
            x.settling = False
            self._slots.settling(-1)
            raise

    def _settled(self, x: Execution, again: _settlement.Retry | None) -> None:
        if again is not None:
            # Patiently, and not on the thread of whoever led that commit.
            self._steps.submit(partial(self._settle_again, x, again))
            return
        try:
            self.events.ended(x)
        finally:
            self.forget_execution(x)
            self._slots.settling(-1)

    def _settle_again(self, x: Execution, again: _settlement.Retry) -> None:
        try:
            again()
        except ClaimLost:
            _report.outcome_discarded(x)
        except BaseException as exc:
            if x.delivery is not None:
                self._conclude_defect(x.delivery, exc)
        finally:
            self.forget_execution(x)
            self._slots.settling(-1)

    def later(self, after: float, call: Callable[[], None]) -> int:
        """Call `call` on a step thread in `after` seconds; returns the number for `not_later`."""
        return self._deadlines.at(after, partial(self._steps.submit, call))

    def not_later(self, number: int) -> None:
        """Do not call it any more."""
        self._deadlines.cancel(number)
