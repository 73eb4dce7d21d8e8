"""Run the benchmarks: ``python -m compat_tests.bench [--quick] [name ...]``."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable

from compat_tests.bench import beat, depth, footprint, latency, round_trip, web

MEASURES: dict[str, Callable[[int], None]] = {
    "import": footprint.import_time,
    "first-result": footprint.first_result,
    "round-trip": round_trip.round_trip,
    "latency": latency.start_latency,
    "depth": depth.depth,
    "web": web.web,
    "beat-tick": beat.tick,
    "beat-lateness": beat.lateness,
}


def main() -> None:
    """Run the measures named on the command line, or all."""
    parser = argparse.ArgumentParser(prog="python -m compat_tests.bench")
    parser.add_argument("names", nargs="*", choices=[*MEASURES, []], help="measures to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    options = parser.parse_args()
    print(f"Python {platform.python_version()} on {platform.machine()}; read ratios, not absolutes")
    for name in options.names or MEASURES:
        MEASURES[name](5 if options.quick else 15)


if __name__ == "__main__":
    main()
