"""Run the chaos: ``python -m compat_tests.chaos --database URL --minutes N --processes K``."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from celerylite._store import open_store
from compat_tests.chaos._account import Account, draw_up
from compat_tests.chaos._database import ChaosDatabase, open_database
from compat_tests.chaos._ledger import Ledger, entries
from compat_tests.chaos._processes import Crew, Plan

#: What happens, and how often in comparison.
_EVENTS = {"kill": 11, "kill publisher": 3, "terminate": 3, "stop": 3, "cut connections": 3}

#: Seconds without any progress after which what is left counts as stuck.
_STUCK_S = 30.0
#: Seconds the rest of the work may take at most.
_SETTLE_S = 180.0


class Chaos:
    """One run: trouble for a time, then peace until everything is settled, then the account."""

    def __init__(self, options: argparse.Namespace, directory: Path, database: ChaosDatabase) -> None:
        self._options, self._directory, self._database = options, directory, database
        self._random = random.Random(options.seed)
        self._ledger = Ledger(directory, "chaos")
        plan = Plan(
            database=database.url,
            directory=directory,
            processes=options.processes,
            rate=options.rate,
            lease_s=options.lease,
            grace_s=options.grace,
            seed=options.seed,
            prefork=options.prefork,
        )
        self._crew = Crew(plan, self._ledger)
        self._pause = threading.Event()
        self._restarted_at = time.monotonic()

    def run(self) -> Account:
        """Do all of it."""
        try:
            # The tables first, by one: what a run looks for is elsewhere.
            open_store(self._database.url).close()
            self._crew.fill()
            self._trouble()
            self._crew.end_publishing()
            self._settle()
            self._crew.dismiss()
            return self._account()
        finally:
            self._crew.abandon()

    def _trouble(self) -> None:
        end = time.monotonic() + self._options.minutes * 60
        while time.monotonic() < end:
            # This is the pace of the trouble, not a wait for something.
            self._pause.wait(self._random.uniform(0.2, 1.8) * self._options.interval)
            self._crew.fill()
            events = {**_EVENTS, "kill child": 6 if self._options.prefork else 0}
            (event,) = self._random.choices(list(events), list(events.values()))
            self._happen(event)
            self._maybe_restart()

    def _happen(self, event: str) -> None:
        if event == "cut connections":
            cut = self._database.kill_connections(self._random)
            self._ledger.write("cut", how="connections cut", number=cut)
            return
        member = self._crew.pick(self._random, "publisher" if event == "kill publisher" else "worker")
        if member is None:
            return  # All of them are young, or asleep.
        if event == "terminate":
            self._crew.terminate(member)
        elif event == "kill child":
            self._crew.kill_child(self._random, member)
        elif event == "stop":
            self._crew.stop(member, self._options.lease * self._random.uniform(0.8, 2.5))
        else:
            self._crew.kill(member)

    def _maybe_restart(self) -> None:
        command, every_s = self._options.restart_command, self._options.restart_every
        if command and time.monotonic() - self._restarted_at > every_s:
            subprocess.run(command, shell=True, check=True, timeout=120)
            self._restarted_at = time.monotonic()
            self._ledger.write("cut", how="server restarts", number=1)

    def _settle(self) -> None:
        began = time.monotonic()
        fewest, changed_at = len(self._database.left()), began
        while fewest and time.monotonic() - began < _SETTLE_S and time.monotonic() - changed_at < _STUCK_S:
            self._pause.wait(0.25)
            self._crew.fill()
            left = len(self._database.left())
            if left < fewest:
                fewest, changed_at = left, time.monotonic()

    def _account(self) -> Account:
        found = list(entries(self._directory))
        ids = [task_id for entry in found if entry["what"] == "offered" for task_id in entry["ids"]]
        store = open_store(self._database.url)
        try:
            results = store.get_results(ids)
        finally:
            store.close()
        return draw_up(found, results, self._database.left())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m compat_tests.chaos", description=__doc__)
    add = parser.add_argument
    add("--database", default="sqlite://", help="sqlite:// or the URL of a server on this machine")
    add("--minutes", type=float, default=2.0, help="how long the trouble lasts (default: %(default)s)")
    add("--processes", type=int, default=6, help="workers and publishers together (default: %(default)s)")
    add("--rate", type=float, default=8.0, help="offers in a second, per publisher (default: %(default)s)")
    add("--interval", type=float, default=1.2, help="seconds between events (default: %(default)s)")
    add("--lease", type=float, default=4.0, help="seconds of celerylite_lease (default: %(default)s)")
    add("--grace", type=float, default=0.5, help="seconds a stopped worker waits (default: %(default)s)")
    add("--seed", type=int, default=random.randrange(1_000_000), help="repeats the same choices")
    add("--restart-command", default="", help="shell command that restarts the server; others may use it!")
    add("--restart-every", type=float, default=30.0, help="seconds between restarts (default: %(default)s)")
    add("--prefork", action="store_true", help="every second worker has child processes, killed as well")
    add("--keep", action="store_true", help="keep ledger and logs even of a clean run")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run, print the account; 0 when the contract was kept."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Whoever ends a run ends its processes too, and drops its database.
        signal.signal(number, lambda *_: sys.exit(2))
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    database = open_database(options.database, directory)
    print(f"chaos on {options.database} for {options.minutes:g} min, seed {options.seed}", flush=True)
    try:
        account = Chaos(options, directory, database).run()
    finally:
        database.drop()
    for line in account.lines():
        print(line)
    if account.is_clean and not options.keep:
        shutil.rmtree(directory)
    else:
        print(f"ledger and logs: {directory}")
    return 0 if account.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
