"""Interleaved rounds: contenders take turns, so that a machine whose speed drifts is fair to all."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping

__all__ = ("compare", "print_table")


def compare(programs: Mapping[str, str], rounds: int) -> dict[str, list[float]]:
    """Run each program (source text that prints one number) `rounds` times, in turn; the numbers per name.

    One run each comes first and does not count: it fills caches.
    """
    # Compiled files as on any installation; some containers forbid them.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    numbers: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, source in programs.items():
            command = [sys.executable, "-c", source]
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, timeout=120, env=environment
            )
            if turn:
                numbers[name].append(float(done.stdout.strip().splitlines()[-1]))
    return numbers


def print_table(title: str, unit: str, numbers: Mapping[str, list[float]], reference: str) -> None:
    """Print median, range and the ratio to `reference` of each contender."""
    print(f"\n{title} ({unit}; ratio to {reference})")
    base = statistics.median(numbers[reference])
    for name, values in numbers.items():
        median = statistics.median(values)
        print(
            f"  {name:<24} median {median:9.4f}   min {min(values):9.4f}   max {max(values):9.4f}"
            f"   ratio {median / base:6.2f}"
        )
