"""The modules of Celery's test suite that are run."""

from __future__ import annotations

__all__ = ("INTEGRATION", "MODULES", "UNIT", "select")

_INTEGRATION = (
    "canvas tasks group_chains beat inspect logfile_format worker database_backend "
    "mem_leak_in_exception_handling loader upgrade events_state_memory_leak serialization security"
)

#: Tasks sent to a running worker. What is absent tests a broker, Redis, memcached or Azure.
INTEGRATION = tuple(f"t/integration/test_{name}.py" for name in _INTEGRATION.split())

_UNIT = {
    "tasks": "canvas chord context result stamping states tasks trace",
    "app": (
        "annotations app backends beat builtins celery control defaults exceptions loaders log preload_cli "
        "registry routes schedules utils"
    ),
    "utils": (
        "annotations collections debug deprecated dispatcher functional graph imports iso8601 local "
        "nodenames objects pickle platforms saferepr serialization sysinfo term text threads time utils"
    ),
    "events": "cursesmon dumper events snapshot state",
    "contrib": "abortable manager migrate pytest rdb sphinx worker",
    "bin": "beat control daemonization multi upgrade worker",
    "security": "certificate key security serialization",
    "fixups": "django",
    "backends": "base database",
}

#: Unit tests of what users import. What is absent tests the worker's inside, pools, brokers, other stores.
UNIT = tuple(f"t/unit/{folder}/test_{name}.py" for folder, names in _UNIT.items() for name in names.split())

MODULES = INTEGRATION + UNIT + ("t/unit/contrib/django/test_task.py", "t/unit/test_canvas.py")


def select(wanted: list[str]) -> list[str]:
    """The modules whose path contains one of `wanted`, all when nothing is wanted.

    Raises SystemExit for a word that no module contains.
    """
    for word in wanted:
        if not any(word in module for module in MODULES):
            raise SystemExit(f"expected a part of a module's path, got {word!r}; see --list")
    return [module for module in MODULES if not wanted or any(word in module for word in wanted)]
