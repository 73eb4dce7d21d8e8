"""One round of one contender, in a process of its own: ``python -m compat_tests.bench.driver MEASURE ...``.

The last line of its output is the figures, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from typing import NoReturn

from compat_tests.bench.measures import runner
from compat_tests.bench.spec import Order, Size

__all__ = ("main",)


def main() -> None:
    """Arguments: measure, contender, size, and the moment at which this process was asked for."""
    measure, contender, size, asked_at = sys.argv[1:]
    order = Order(measure=measure, contender=contender, size=Size(size), asked_at=float(asked_at))
    # So that what was started is stopped, and a database is dropped, when time is up.
    signal.signal(signal.SIGTERM, _end)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        figures = runner(measure)(order)
        os.chdir("/")
    print(json.dumps(figures))


def _end(*_: object) -> NoReturn:
    raise SystemExit("ended before it was done")


if __name__ == "__main__":
    main()
