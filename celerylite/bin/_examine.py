"""What is to be said about a project: what differs from Celery in what it uses, and what will not work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, timedelta
from functools import partial
from typing import Any

from kombu import serialization

from celerylite import _clock
from celerylite._entries import cleanup_entry, evaluate_args, evaluate_kwargs, read_entry, row_name
from celerylite._specs import read_spec
from celerylite.beat import Service, StoreScheduler
from celerylite.bin._without_effect import reason_of_setting
from celerylite.utils.imports import qualname
from celerylite.utils.time import rate
from celerylite.worker._kinds import chosen_pool, is_prefork

__all__ = ("Finding", "examine")

_BEAT = "docs/beat.md"
_DIFFERENCES = "docs/differences.md"
_ENTRY = f"{_BEAT}#what-an-entry-can-say"
_BROKER = f"{_DIFFERENCES}#a-broker-is-not-contacted"
_HARD_LIMIT = f"{_DIFFERENCES}#a-hard-time-limit-leaves-the-thread-behind"
_SIGNING = f"{_DIFFERENCES}#message-signing"
_UNKNOWN_TASK = "docs/failures.md#nobody-knows-the-task-or-its-content-is-not-accepted"
_ARGUMENTS = "docs/failures.md#arguments-that-do-not-fit-or-cannot-be-serialised"

#: How many of the next runs of an entry are shown.
_RUNS = 5
#: Celery's pools that run on green threads, or are classes of somebody else.
_NO_POOLS = ("eventlet", "gevent", "custom")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report."""

    #: "ok", "differs" or "fails".
    kind: str
    text: str
    #: Page and heading that say more.
    link: str


def _ok(text: str, link: str) -> Finding:
    return Finding(kind="ok", text=text, link=link)


def _differs(text: str, link: str) -> Finding:
    return Finding(kind="differs", text=text, link=link)


def _fails(text: str, link: str) -> Finding:
    return Finding(kind="fails", text=text, link=link)


def examine(app: Any) -> Iterator[Finding]:
    """What is to be said about the project of `app`, whose task modules are imported on the way."""
    for part in (_imports, _database, _settings, _pool, _bootsteps, _queues, _tasks, _schedule):
        yield from part(app)


def _imports(app: Any) -> Iterator[Finding]:
    try:
        app.loader.import_default_modules()
        app.finalize()
    except Exception as exc:
        text = f"the task modules cannot be imported: {type(exc).__name__}: {exc}"
        yield _fails(text, f"{_DIFFERENCES}#paths-that-are-not-here")


def _database(app: Any) -> Iterator[Finding]:
    link = "docs/settings.md#which-database"
    try:
        waiting = sum(app.store.queue_lengths().values())
    except Exception as exc:
        yield _fails(f"database {app.shown_database}: {exc}", link)
    else:
        yield _ok(f"database {app.shown_database}: {waiting} call(s) wait", link)
    try:
        app.backend  # noqa: B018 - making it is the test
    except Exception as exc:
        yield _fails(f"the result backend cannot be made: {type(exc).__name__}: {exc}", link)
    if app._database.in_memory:
        yield _differs("the database is in memory: gone with the process, and for tests", link)
    for name, url in app._database.ignored:
        scheme = str(url).partition("://")[0]
        yield _differs(f"{name} ({scheme}://) is not contacted: the database has queue and results", _BROKER)


def _settings(app: Any) -> Iterator[Finding]:
    for name in sorted(app.conf.table(with_defaults=False)):
        reason = reason_of_setting(name)
        if reason is not None:
            yield _differs(f"setting {name} has no effect: {reason}", _section_of(name))
    for name in ("task_serializer", "result_serializer"):
        yield from _serializer(name, getattr(app.conf, name))
    try:
        app.timezone  # noqa: B018 - reading it is the test
    except Exception as exc:
        yield _fails(f"timezone {app.conf.timezone!r}: {exc}", "docs/settings.md#general")


def _section_of(setting: str) -> str:
    """Where the page of settings speaks of it."""
    return f"docs/settings.md#{setting.partition('_')[0]}"


def _serializer(setting: str, name: str) -> Iterator[Finding]:
    known = sorted(serialization.registry.name_to_type)
    if name == "auth":
        yield _fails(f"{setting} 'auth': messages are not signed", _SIGNING)
    elif name not in known:
        yield _fails(f"{setting}: expected one of {', '.join(known)}, got {name!r}", _section_of(setting))
    elif name == "pickle":
        yield _differs(f"{setting} 'pickle': who can write to the database can run code", _SIGNING)


def _pool(app: Any) -> Iterator[Finding]:
    pool = chosen_pool(app)
    if pool in _NO_POOLS:
        text = f"worker_pool {pool!r}: tasks run in threads, and `worker -P {pool}` is refused"
        yield _differs(text, f"{_DIFFERENCES}#pools-of-green-threads-are-not-here")
    elif pool is None:
        text = "worker_pool is not set: plain functions run in threads, not in child processes"
        yield _differs(text, f"{_DIFFERENCES}#plain-functions-run-in-threads")
    limit = app.conf.task_time_limit
    if limit and not is_prefork(pool):
        yield _differs(f"task_time_limit: after {limit} s a task fails, and its thread runs on", _HARD_LIMIT)


def _bootsteps(app: Any) -> Iterator[Finding]:
    for blueprint in ("worker", "consumer"):
        for step in sorted(qualname(step) for step in app.steps[blueprint]):
            yield _fails(f"bootstep {step} is not run", f"{_DIFFERENCES}#bootsteps-are-not-run")


def _queues(app: Any) -> Iterator[Finding]:
    for name, queue in sorted(app.amqp.queues.items()):
        type_ = getattr(queue.exchange, "type", "direct")
        if type_ in ("fanout", "topic", "headers"):
            yield _differs(
                f"queue {name}: its {type_} exchange copies and routes nothing; the queue's name counts",
                f"{_DIFFERENCES}#exchanges-and-bindings-decide-nothing-but-the-queue",
            )


# -- tasks -------------------------------------------------------------------------------------------


def _tasks(app: Any) -> Iterator[Finding]:
    own = {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}
    yield _ok(f"{len(own)} task(s)", "docs/lifecycle.md")
    for name, task in sorted(own.items()):
        for check in (_positional_only, _coroutine, _hard_limit, _rate):
            yield from check(f"task {name}", task)


def _positional_only(name: str, task: Any) -> Iterator[Finding]:
    parameters = inspect.signature(task.run).parameters.values()
    only = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_ONLY]
    if only:
        yield _differs(f"{name}: {', '.join(only)} can only be given by position, not by name", _ARGUMENTS)


def _coroutine(name: str, task: Any) -> Iterator[Finding]:
    if inspect.iscoroutinefunction(task.run):
        yield _differs(f"{name} is a coroutine: it runs on the loop", f"{_DIFFERENCES}#coroutine-tasks-run")


def _hard_limit(name: str, task: Any) -> Iterator[Finding]:
    limit = task.time_limit
    if not limit or limit == task.app.conf.task_time_limit or inspect.iscoroutinefunction(task.run):
        return  # Nothing to say, or nothing that was not said of all.
    if not is_prefork(getattr(task, "pool", None) or chosen_pool(task.app)):
        yield _differs(f"{name}: after {limit} s it fails, and its thread runs on", _HARD_LIMIT)


def _rate(name: str, task: Any) -> Iterator[Finding]:
    limit = task.rate_limit or task.app.conf.task_default_rate_limit
    try:
        rate(limit)
    except (TypeError, ValueError):
        text = f"{name}: rate_limit: expected a rate such as '10/m', got {limit!r}"
        yield _fails(text, _section_of("task_default_rate_limit"))


# -- the schedule ------------------------------------------------------------------------------------


def _schedule(app: Any) -> Iterator[Finding]:
    try:
        scheduler = Service(app, scheduler_cls=app.conf.beat_scheduler).scheduler_class
    except Exception as exc:
        yield _fails(f"beat_scheduler {app.conf.beat_scheduler!r}: {exc}", _section_of("beat_scheduler"))
        return
    if scheduler is not StoreScheduler:
        yield _ok(f"schedule: {qualname(scheduler)} decides, which may keep entries of its own", _BEAT)
    edited = _edited(app)
    given = dict(app.conf.beat_schedule or {})
    if _is_pruned(app):
        given.setdefault("celery.backend_cleanup", cleanup_entry())
    for name, values in sorted(given.items(), key=lambda item: str(item[0])):
        row = edited.pop(row_name(str(name)), None)
        yield from _read(app, name, row, partial(read_entry, app, name, values))
    for name, row in sorted(edited.items()):
        if row.spec is not None:
            yield from _read(app, name, row, dict)


def _is_pruned(app: Any) -> bool:
    try:
        return bool(app.conf.result_expires and not app.backend.supports_autoexpire)
    except Exception:
        return False  # There is no backend, of which a line above speaks.


def _edited(app: Any) -> dict[str, Any]:
    """What was edited while programs ran; nothing if the database, of which a line above speaks, is away."""
    try:
        return dict(app.store.periodic())
    except Exception:
        return {}


def _read(app: Any, name: Any, row: Any, configured: Callable[[], Any]) -> Iterator[Finding]:
    is_edited = row is not None and row.spec is not None
    try:
        entry = read_spec(app, row.name, row.spec) if is_edited else configured()
    except Exception as exc:
        yield _fails(f"schedule {name!r}: {exc}", _ENTRY)
        return
    yield from _entry(app, f"schedule {name!r} of {entry.task}{' (edited)' if is_edited else ''}", entry)
    if row is not None and not row.enabled:
        yield _differs(f"schedule {name!r} is paused", f"{_BEAT}#while-programs-run")


def _entry(app: Any, described: str, entry: Any) -> Iterator[Finding]:
    try:
        wrong = _wrong_call(app, entry)
        runs = ", ".join(_next_runs(entry.schedule))
    except Exception as exc:
        yield _fails(f"{described}: {exc}", _ENTRY)
        return
    if wrong:
        yield _fails(f"{described}: {wrong}", _ARGUMENTS if entry.task in app.tasks else _UNKNOWN_TASK)
    else:
        yield _ok(f"{described}: next {runs}", _BEAT)


def _wrong_call(app: Any, entry: Any) -> str | None:
    """What is wrong with the task of an entry and its arguments."""
    task = app.tasks.get(entry.task)
    if task is None:
        return "no task of this name is registered"
    check = getattr(task, "__header__", None)
    if check is None or not task.typing:
        return None  # A task that takes anything.
    try:
        check(*evaluate_args(entry.args), **evaluate_kwargs(entry.kwargs))
    except TypeError as exc:
        return str(exc)
    return None


def _next_runs(schedule: Any) -> Iterator[str]:
    """The next runs, by the clocks of the schedule's own zone."""
    now = moment = _clock.utcnow()
    for _ in range(_RUNS):
        if hasattr(schedule, "next_run_after"):
            moment = schedule.next_run_after(moment)
        elif hasattr(schedule, "run_every"):
            moment += schedule.run_every
        else:
            # The sun, or a class of the user's: it is asked how long from now, had it run at that moment.
            moment = max(now + schedule.remaining_estimate(moment), moment + timedelta(seconds=1))
        yield moment.astimezone(getattr(schedule, "tz", UTC)).strftime("%a %Y-%m-%d %H:%M:%S %Z")
