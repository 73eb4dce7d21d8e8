"""What is measured: one module each, with its SPEC and its `run(order)`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from compat_tests.bench.spec import Order, Spec

__all__ = ("MEASURES", "runner", "spec")

#: In the order of the report. A module is loaded by who needs it: a contender's memory is to be its own.
MEASURES = (
    "enqueue",
    "enqueue-100",
    "throughput",
    "round-trip",
    "io",
    "chain",
    "chord-100",
    "chord-10000",
    "footprint",
    "import-time",
    "idle",
    "tick",
    "tick-firing",
    "next-fire",
    "lateness",
    "start-elsewhere",
    "depth",
    "web",
    "hops",
    "parts",
)


def spec(name: str) -> Spec:
    """The description of a measure."""
    return cast(Spec, _module(name).SPEC)


def runner(name: str) -> Callable[[Order], dict[str, float]]:
    """What a fresh process calls: the figures by their keys."""
    return cast("Callable[[Order], dict[str, float]]", _module(name).run)


def _module(name: str) -> Any:
    return import_module(f"{__name__}.{name.replace('-', '_')}")
