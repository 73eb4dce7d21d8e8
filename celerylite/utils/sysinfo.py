"""How large and how busy this machine is."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from kombu.utils.objects import cached_property

__all__ = (
    "load_average",
    "df",
    "AUTO_CONCURRENCY",
    "is_auto_concurrency",
    "available_cpu_count",
    "cgroup_cpu_quota",
    "CpuBudget",
    "cpu_budget",
)

#: The `worker_concurrency` that asks for the CPUs this process may really use.
AUTO_CONCURRENCY = "auto"

CGROUP_ROOT = "/sys/fs/cgroup"
PROC_SELF_CGROUP = "/proc/self/cgroup"

#: Reads quota and period, in microseconds as text, from a directory of a group.
_Reader = Callable[[Path], tuple[str, str] | None]


class CpuBudget(NamedTuple):
    """How many CPUs there are for this process, and why."""

    #: What to use.
    count: int  # type: ignore[assignment]
    #: What the scheduler lets it run on.
    available: int
    #: What its container may use of them; None for no limit, or when nobody asked.
    quota: float | None


def cpu_budget(use_cgroup_quota: bool = True) -> CpuBudget:
    """The CPUs for this process; a container's quota counts as the next whole number, at least one."""
    available = available_cpu_count()
    quota = cgroup_cpu_quota() if use_cgroup_quota else None
    count = available if quota is None else min(available, max(1, math.ceil(quota)))
    return CpuBudget(count, available, quota)


def is_auto_concurrency(value: Any) -> bool:
    """Is it the word `auto`, in any case?"""
    return isinstance(value, str) and value.strip().lower() == AUTO_CONCURRENCY


def available_cpu_count() -> int:
    """How many CPUs this process may run on; 2 where that is unknown."""
    if hasattr(os, "process_cpu_count"):
        count: int | None = os.process_cpu_count()
    else:
        count = _affinity()
    return count or os.cpu_count() or 2


def _affinity() -> int | None:
    if not hasattr(os, "sched_getaffinity"):
        return None
    try:
        return len(os.sched_getaffinity(0))
    except OSError:
        return None


def cgroup_cpu_quota() -> float | None:
    """The CPUs that the control groups of this process allow: the least on the way to the root.

    None: no limit.
    """
    unified, legacy, controllers = _own_groups()
    if unified is None and legacy is None:
        unified = legacy = "/"
    root = Path(CGROUP_ROOT)
    if unified is not None:
        quota = _least_quota(root, unified, _unified_quota)
        if quota is not None:
            return quota
    if legacy is None:
        return None
    # Named after all controllers of the hierarchy; not every host has the shorter link.
    quotas = (_least_quota(root / mount, legacy, _legacy_quota) for mount in (controllers, "cpu"))
    return next((quota for quota in quotas if quota is not None), None)


def _own_groups() -> tuple[str | None, str | None, str]:
    """Paths of this process's group in version 2 and version 1, and the controllers of the latter."""
    unified = legacy = None
    controllers = "cpu"
    for line in (_read(Path(PROC_SELF_CGROUP)) or "").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        number, names, path = parts
        if number == "0" and not names:
            unified = path
        elif "cpu" in names.split(","):
            legacy, controllers = path, names
    return unified, legacy, controllers


def _least_quota(base: Path, group: str, read: _Reader) -> float | None:
    quotas = (_cpus(read(base / level)) for level in _levels(group))
    return min((quota for quota in quotas if quota is not None), default=None)


def _levels(group: str) -> Iterable[str]:
    """The group and all above it, relative to the mount; one from another namespace is brought below it."""
    path = PurePosixPath(os.path.normpath("/" + group.lstrip("/")))
    return [str(level).lstrip("/") for level in (path, *path.parents)]


def _unified_quota(directory: Path) -> tuple[str, str] | None:
    words = (_read(directory / "cpu.max") or "").split()
    return (words[0], words[1]) if len(words) == 2 else None


def _legacy_quota(directory: Path) -> tuple[str, str] | None:
    quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
    return None if quota is None or period is None else (quota.strip(), period.strip())


def _cpus(limit: tuple[str, str] | None) -> float | None:
    """Quota by period; None for no limit, which is the word `max` or a negative number."""
    if limit is None:
        return None
    try:
        quota, period = int(limit[0]), int(limit[1])
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def load_average() -> tuple[float, ...]:
    """The load over 1, 5 and 15 minutes; zeros where the system does not say."""
    if not hasattr(os, "getloadavg"):
        return 0.0, 0.0, 0.0
    return tuple(math.ceil(load * 100) / 100 for load in os.getloadavg())


class df:
    """How full the disk under a path is."""

    def __init__(self, path: str | bytes | os.PathLike[Any]) -> None:
        self.path = path

    @cached_property
    def stat(self) -> os.statvfs_result:
        """What the system says, asked once."""
        return os.statvfs(os.path.abspath(self.path))

    @property
    def total_blocks(self) -> float:
        """Size in KiB."""
        return float(self.stat.f_blocks * self.stat.f_frsize / 1024)

    @property
    def available(self) -> float:
        """What is free for this user, in KiB."""
        return float(self.stat.f_bavail * self.stat.f_frsize / 1024)

    @property
    def capacity(self) -> int:
        """What is used, in per cent."""
        used = self.stat.f_blocks - self.stat.f_bfree
        capacity: float = used * 100.0 / (used + self.stat.f_bavail) + 0.5
        return math.ceil(capacity)
