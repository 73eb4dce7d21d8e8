"""The account of a run: what became of every call, held against the delivery contract."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from celerylite import states
from celerylite._store import ResultRow
from compat_tests.chaos._ledger import Entry

__all__ = ("Account", "draw_up")

#: Seconds by which a start may be early without counting as such: clocks are read at different places.
_TOLERANCE_S = 0.05
#: Seconds a revoke gets to reach every process.
_REVOKE_S = 1.5


@dataclass(slots=True, kw_only=True)
class _Call:
    """One id of an offer that was made."""

    id: str
    role: str
    kind: str
    offered_at: float
    not_before: float
    accepted: bool = False
    value: int | None = None
    after: list[str] = field(default_factory=list)
    revoked_at: float | None = None
    starts: list[Entry] = field(default_factory=list)
    ends: list[Entry] = field(default_factory=list)
    state: str = states.PENDING
    result: Any = None

    @property
    def late(self) -> bool:
        return self.role.startswith("late")

    @property
    def exception(self) -> str | None:
        """The type of the exception it failed with."""
        return self.result.get("exc_type") if isinstance(self.result, dict) else None


@dataclass(slots=True, kw_only=True)
class Account:
    """What is printed at the end. Each problem is a sentence that names the call."""

    offers: int = 0
    accepted: int = 0
    refused: int = 0
    calls: int = 0
    starts: int = 0
    again: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    by_state: Counter[str] = field(default_factory=Counter)
    disturbances: Counter[str] = field(default_factory=Counter)
    problems: dict[str, list[str]] = field(
        default_factory=lambda: {"lost": [], "stuck": [], "twice": [], "wrong": []}
    )

    @property
    def is_clean(self) -> bool:
        """Whether the contract was kept."""
        return not any(self.problems.values())

    def lines(self, shown: int = 10) -> Iterable[str]:
        """The account as text."""
        yield f"offered      {self.offers} offers ({_listed(self.by_kind)})"
        yield f"accepted     {self.accepted} offers = {self.calls} calls; refused {self.refused}"
        yield f"disturbed    {_listed(self.disturbances)}"
        yield f"started      {self.starts}; of these again, as the contract allows: {self.again}"
        yield f"finished     {_listed(self.by_state)}"
        for name, problems in self.problems.items():
            yield f"{name:<12} {len(problems)}"
            yield from (f"    {problem}" for problem in problems[:shown])


def draw_up(entries: Iterable[Entry], results: Mapping[str, ResultRow], left: Mapping[str, int]) -> Account:
    """Hold what the ledger says against the results, and against the messages that are still there."""
    account = Account()
    book = _Book(account)
    for entry in entries:
        book.take(entry)
    book.read(results)
    for call in book.calls.values():
        book.judge(call, left.get(call.id))
    return account


class _Book:
    """The calls of a run, put together from the ledger."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.calls: dict[str, _Call] = {}
        self._offers: dict[str, list[str]] = {}
        #: When each process was hurt.
        self._hurt: dict[int, list[float]] = defaultdict(list)

    # -- reading ---------------------------------------------------------------------------------------

    def take(self, entry: Entry) -> None:
        """Enter one line of the ledger."""
        what = entry["what"]
        if what == "offered":
            self._offer(entry)
        elif what == "accepted":
            self._account.accepted += 1
            for task_id in self._offers[entry["number"]]:
                self.calls[task_id].accepted = True
        elif what == "refused":
            self._account.refused += 1
        elif what == "revoked":
            self.calls[entry["id"]].revoked_at = entry["at"]
        elif what in ("started", "ended"):
            self._run(entry)
        elif what in ("disturbed", "hung", "cut"):
            self._disturb(entry)

    def _offer(self, entry: Entry) -> None:
        self._account.offers += 1
        self._account.by_kind[entry["kind"]] += 1
        self._offers[entry["number"]] = list(entry["ids"])
        for task_id, role in entry["ids"].items():
            self.calls[task_id] = _Call(
                id=task_id,
                role=role,
                kind=entry["kind"],
                offered_at=entry["at"],
                not_before=entry["at"] + entry["not_before"],
                value=entry["values"].get(task_id),
                after=entry["after"].get(task_id, []),
            )

    def _run(self, entry: Entry) -> None:
        call = self.calls.get(entry["id"])
        if call is None:
            self._account.problems["wrong"].append(f"{entry['task']}[{entry['id']}] ran, but nobody sent it")
        elif entry["what"] == "started":
            self._account.starts += 1
            call.starts.append(entry)
        else:
            call.ends.append(entry)

    def _disturb(self, entry: Entry) -> None:
        if entry["what"] == "hung":
            self._account.problems["stuck"].append(f"process {entry['victim']} did not end at SIGTERM")
        elif entry["what"] == "cut":
            self._account.disturbances[entry["how"]] += entry["number"]
        else:
            self._account.disturbances[entry["how"]] += 1
            self._hurt[entry["victim"]].append(entry["at"])

    def read(self, results: Mapping[str, ResultRow]) -> None:
        """Enter what the database says of each call."""
        for task_id, row in results.items():
            call = self.calls[task_id]
            call.state = row.status
            call.result = None if row.result is None else json.loads(row.result)

    # -- judging ---------------------------------------------------------------------------------------

    def judge(self, call: _Call, message: int | None) -> None:
        """Find what is wrong with one call."""
        if message is not None:
            self._complain("stuck", call, f"its message is still there in state {message}")
        self._judge_starts(call)
        if not call.accepted:
            return  # Its publisher was killed or refused: nothing is promised.
        self._account.calls += 1
        self._account.by_state[call.state + (f" ({call.exception})" if call.exception else "")] += 1
        if call.state in states.READY_STATES:
            self._judge_outcome(call)
        elif message is None:
            self._complain("lost", call, f"its state is {call.state} and there is no message")

    def _judge_starts(self, call: _Call) -> None:
        if call.starts and call.starts[0]["at"] < call.not_before - _TOLERANCE_S:
            early_s = call.not_before - call.starts[0]["at"]
            self._complain("wrong", call, f"it started {early_s:.3f} s before its eta")
        attempts: dict[int, list[Entry]] = defaultdict(list)
        for start in call.starts:
            attempts[start["retries"]].append(start)
        for starts in attempts.values():
            for first, second in pairwise(starts):
                self._judge_second_start(call, first, second)

    def _judge_second_start(self, call: _Call, first: Entry, second: Entry) -> None:
        where = f"in {first['pid']} and, {second['at'] - first['at']:.3f} s later, in {second['pid']}"
        if not call.late:
            self._complain("twice", call, f"acknowledged early, but started {where}")
        elif not self._was_hurt(first):
            self._complain("twice", call, f"started {where}, though nothing had happened to the first")
        else:
            self._account.again += 1

    def _was_hurt(self, start: Entry) -> bool:
        """Whether something happened to the process that had started a call."""
        # What was signalled before may take effect after: a grace that ends, a lease that lapses.
        return bool(self._hurt[start["pid"]])

    def _judge_outcome(self, call: _Call) -> None:
        if call.state == states.SUCCESS:
            self._judge_success(call)
        elif call.state == states.REVOKED:
            if call.revoked_at is None and call.kind != "revoked":
                self._complain("wrong", call, "REVOKED, but nobody revoked it")
        elif call.exception == "WorkerLostError":
            self._judge_worker_lost(call)
        elif call.role != "failing" and not any(self._failed(each) for each in call.after):
            self._complain("wrong", call, f"failed without a reason: {call.result}")
        if call.after and call.starts and not all(self._succeeded(each) for each in call.after):
            self._complain("wrong", call, "started, but what it had to wait for did not succeed")

    def _judge_success(self, call: _Call) -> None:
        if not call.starts:
            self._complain("wrong", call, "SUCCESS, but it never started")
        if call.value is None or call.result != call.value:
            self._complain("wrong", call, f"expected the value {call.value}, got {call.result}")
        revoked_in_time = call.revoked_at is not None and call.revoked_at < call.not_before - _REVOKE_S
        if revoked_in_time:
            self._complain("wrong", call, "ran, though it had been revoked")

    def _judge_worker_lost(self, call: _Call) -> None:
        if call.after and not call.starts:
            return  # Failed along with what it waited for, or lost like any other.
        if call.starts and not self._was_hurt(call.starts[-1]):
            self._complain("wrong", call, f"WorkerLostError, though {call.starts[-1]['pid']} was left alone")

    def _failed(self, task_id: str) -> bool:
        call = self.calls.get(task_id)
        return call is not None and call.state in states.PROPAGATE_STATES

    def _succeeded(self, task_id: str) -> bool:
        return self.calls[task_id].state == states.SUCCESS

    def _complain(self, what: str, call: _Call, problem: str) -> None:
        self._account.problems[what].append(f"{call.role}[{call.id}] of {call.kind}: {problem}")


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items())) or "none"
