"""What a tick of the schedule costs with few entries and with many, and how late tasks start."""

from __future__ import annotations

from importlib.util import find_spec

from compat_tests.bench._rounds import compare, print_table

__all__ = ("lateness", "tick")

# One entry is due each time; the others are due tomorrow. The clock is moved by hand, so that nothing is
# measured but the tick itself: it publishes into an SQLite file.
_OURS = """
import os, statistics, tempfile, time
os.chdir(tempfile.mkdtemp())
from celerylite import Celery, _clock
from celerylite._ticks import Ticker
app = Celery("bench")
entries = {{f"e{{n}}": {{"task": "t", "schedule": 86400.0 + n}} for n in range({count} - 1)}}
app.conf.update(result_expires=None, beat_schedule={{"due": {{"task": "t", "schedule": 1.0}}, **entries}})
clock = _clock.ManualClock()
laps = []
with _clock.use(clock):
    ticker = Ticker(app, app.store)
    ticker.start()
    for _ in range(300):
        clock.advance(1)
        began = time.perf_counter()
        assert ticker.fire_due(clock.time()) == 1
        laps.append(time.perf_counter() - began)
app.close()
print(1000 * statistics.{average}(laps))
"""

# An interval of nothing is always due. What is sent goes to Celery's broker in memory.
_CELERY = """
import statistics, time
from celery import Celery
from celery.beat import Scheduler
app = Celery("bench", broker="memory://")
entries = {{f"e{{n}}": {{"task": "t", "schedule": 86400.0 + n}} for n in range({count} - 1)}}
app.conf.update(result_expires=None, beat_schedule={{"due": {{"task": "t", "schedule": 0.0}}, **entries}})
scheduler = Scheduler(app=app)
laps = []
for _ in range(300):
    began = time.perf_counter()
    assert scheduler.tick() == 0
    laps.append(time.perf_counter() - began)
print(1000 * statistics.{average}(laps[1:]))
"""

# Jobs in memory, run in place: nothing is published and nothing is kept.
_APSCHEDULER = """
import statistics, time
from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.background import BackgroundScheduler
scheduler = BackgroundScheduler(executors={{"default": DebugExecutor()}}, timezone="UTC")
ran = []
scheduler.add_job(ran.append, "interval", seconds=0.001, args=(1,), coalesce=True, misfire_grace_time=60)
for n in range({count} - 1):
    scheduler.add_job(ran.append, "interval", seconds=86400 + n, args=(1,))
scheduler.start(paused=True)
scheduler.state = 1
laps = []
for _ in range(300):
    time.sleep(0.002)
    began = time.perf_counter()
    scheduler._process_jobs()
    laps.append(time.perf_counter() - began)
assert len(ran) >= 290
print(1000 * statistics.{average}(laps))
"""

_LATENESS = """
import os, tempfile, threading, time
from datetime import datetime
os.chdir(tempfile.mkdtemp())
from celerylite import Celery
app = Celery("bench")
entries = {{f"e{{n}}": {{"task": "t", "schedule": 86400.0 + n}} for n in range({count} - 1)}}
due = {{"task": "note", "schedule": 0.1}}
app.conf.update(result_expires=None, beat_schedule={{"due": due, **entries}})
late, done = [], threading.Event()

@app.task(name="note", bind=True)
def note(self):
    due = datetime.fromisoformat(self.request.get("celerylite_due_at")).timestamp()
    late.append(time.time() - due)
    if len(late) == 120:
        done.set()

app.start_runtime(beat=True)
assert done.wait(60)
app.close()
late = sorted(late[20:120])
print(1000 * late[{percent} * len(late) // 100])
"""

_MANY, _FEW = 10_000, 10


def tick(rounds: int) -> None:
    """Milliseconds of a tick that fires one entry of few, and of many."""
    contenders = {"celerylite": _OURS, "celery.beat": _CELERY}
    if find_spec("apscheduler") is None:
        print("\nAPScheduler is not installed here: left out")
    else:
        contenders["APScheduler, no database"] = _APSCHEDULER
    for name, source in contenders.items():
        programs = {
            f"{count} entries, {average}": source.format(count=count, average=average)
            for average in ("median", "mean")
            for count in (_FEW, _MANY)
        }
        numbers = compare(programs, max(rounds // 3, 2))
        print_table(f"a tick of {name} that fires one entry", "ms", numbers, f"{_FEW} entries, median")


def lateness(rounds: int) -> None:
    """Milliseconds from when a run is due until its task starts, in the process that fires it."""
    programs = {
        f"{count} entries, p{percent}": _LATENESS.format(count=count, percent=percent)
        for count in (_FEW, _MANY)
        for percent in (50, 99)
    }
    numbers = compare(programs, max(rounds // 5, 1))
    print_table("from due to started, SQLite file", "ms", numbers, f"{_FEW} entries, p50")
