"""The layers of the package, read out of its imports: each module imports its own layer or a lower one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "celerylite"

#: The longest name that fits decides. A new module at the top of the package needs its line here.
LAYERS = {
    "states": 0,
    "exceptions": 0,
    "_commands": 0,
    "signals": 0,
    "local": 0,
    "utils": 0,
    "_clock": 0,
    "_lazy": 0,
    "_once": 0,
    "_einfo": 0,
    "_cron": 0,
    "platforms": 0,
    "_autostart": 1,
    "_call_keys": 1,
    "_state": 1,
    "_message": 1,
    "_interrupts": 0,
    "_outbox": 1,
    "_request": 1,
    "schedules": 1,
    "_store": 2,
    "security": 2,
    # Backends give groups back as results; results ask whatever backend they are given.
    "backends": 3,
    "result": 3,
    "canvas": 3,
    "_canvas": 3,
    "_workflow": 3,
    "_awaiting": 3,
    "_ready": 3,
    "_result_members": 3,
    "_result_meta": 3,
    "worker": 4,
    "beat": 4,
    "_ticks": 4,
    "_entries": 4,
    "_specs": 4,
    "_reconcile": 4,
    "_schedule": 4,
    "_custom_beat": 4,
    "_beat_pidbox": 4,
    "_run": 4,
    "app": 5,
    "loaders": 5,
    "events": 5,
    "apps": 6,
    "bin": 6,
    "contrib": 6,
    "fixups": 6,
    "_shim": 6,
    "__main__": 6,
    "": 6,
}

#: What loads late, in this one place, because it is costly or optional: module -> imports inside functions.
LATE: dict[str, set[str]] = {
    # Loaded by every process under `celerylite run`; who asks for metadata has imported it.
    "celerylite._shim": {"importlib.metadata"},
    # Loaded in every process under `celerylite run -A`, of which few serve.
    "celerylite._autostart": {"asyncio", "celerylite.app.utils"},
    # `celery.__main__` is imported by code that wants no click.
    "celerylite.__main__": {"celerylite.bin.celery"},
    # One exception is a click one; nobody but the command line loads click for it.
    "celerylite.exceptions": {"celerylite._commands"},
    # Optional: without it, tracebacks come back as text.
    "celerylite.result": {"tblib"},
    # Django is there or not.
    "celerylite.fixups.django": {"django", "django.core.checks"},
}

#: Where a dependency may be imported.
HOMES = {
    "sqlalchemy": ("celerylite._store",),
    "click": ("celerylite.bin", "celerylite.__main__", "celerylite._commands"),
    "croniter": ("celerylite._cron",),
}

NEVER = frozenset({"celery", "billiard", "vine"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported module, by whom, and whether that happens inside a function."""

    importer: str
    module: str
    late: bool


class _Collector(ast.NodeVisitor):
    """Walks one module and notes its imports; those for type checkers alone do not count."""

    def __init__(self, importer: str, package: str, known: frozenset[str]) -> None:
        self.found: list[Import] = []
        self._importer, self._package, self._known = importer, package, known
        self._depth = 0

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.orelse:
                self.visit(statement)
            return
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._note(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parents = self._package.split(".")[: len(self._package.split(".")) - node.level + 1]
            base = ".".join([*parents, base]).rstrip(".")
        for alias in node.names:
            module = f"{base}.{alias.name}"
            self._note(module if module in self._known else base)

    def _note(self, module: str) -> None:
        self.found.append(Import(importer=self._importer, module=module, late=self._depth > 0))


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}


def _imports() -> Iterator[Import]:
    known = frozenset(FILES)
    for name, path in FILES.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        collector = _Collector(name, package, known)
        collector.visit(ast.parse(path.read_text()))
        yield from collector.found


IMPORTS = tuple(_imports())


def _layer(module: str) -> int:
    parts = module.split(".")[1:]
    for length in range(len(parts), 0, -1):
        layer = LAYERS.get(".".join(parts[:length]))
        if layer is not None:
            return layer
    return LAYERS[""]


def _belongs(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_every_module_has_a_layer() -> None:
    tops = {name.split(".")[1] for name in FILES if "." in name}
    assert tops <= set(LAYERS), "expected a line in LAYERS for each, got none for these"


def test_each_module_imports_its_own_layer_or_lower_ones() -> None:
    upward = [
        f"{found.importer} ({_layer(found.importer)}) imports {found.module} ({_layer(found.module)})"
        for found in IMPORTS
        if _belongs(found.module, PACKAGE)
        and not found.late
        and _layer(found.module) > _layer(found.importer)
    ]
    assert not upward, "\n".join(upward)


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in FILES}
    for found in IMPORTS:
        if _belongs(found.module, PACKAGE) and not found.late and found.module != found.importer:
            graph[found.importer].add(found.module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_imports_inside_functions_are_the_listed_ones() -> None:
    late = {(found.importer, found.module) for found in IMPORTS if found.late}
    listed = {(importer, module) for importer, modules in LATE.items() for module in modules}
    assert late - listed == set(), "expected imports at the top, or a line with the reason in LATE"
    assert listed - late == set(), "expected LATE to list what there is"


def test_nothing_imports_celery_or_its_helpers() -> None:
    assert not [found for found in IMPORTS if found.module.split(".")[0] in NEVER]


@pytest.mark.parametrize("dependency", HOMES)
def test_a_dependency_is_imported_in_its_home_only(dependency: str) -> None:
    homes = HOMES[dependency]
    strays = {
        found.importer
        for found in IMPORTS
        if _belongs(found.module, dependency) and not any(_belongs(found.importer, home) for home in homes)
    }
    assert not strays


def test_asyncio_lives_in_few_files() -> None:
    users = {found.importer for found in IMPORTS if _belongs(found.module, "asyncio")}
    assert len(users) <= 6, sorted(users)


#: What reads the clock of the machine, by the module it is in.
READS_TIME = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"},
    "datetime.datetime": {"now", "utcnow", "today"},
    "datetime.date": {"today"},
}


def test_the_time_is_read_in_one_file() -> None:
    readers = {name: found for name, path in FILES.items() if (found := _reads_of_time(path.read_text()))}
    assert readers.pop("celerylite._clock") == {"time.time", "time.monotonic"}
    assert readers == {}


@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.time()",
        "import time as _time\nnow = _time.monotonic",
        "from time import monotonic as now\nnow()",
        "import datetime\ndatetime.datetime.now()",
        "from datetime import UTC, datetime\ndatetime.now(UTC)",
        "from datetime import date\ndate.today()",
    ],
)
def test_a_read_of_the_time_is_found_whatever_it_is_called(code: str) -> None:
    assert len(_reads_of_time(code)) == 1


def _reads_of_time(code: str) -> set[str]:
    """What is used of `READS_TIME`, by the names that the code has for it."""
    tree = ast.parse(code)
    full: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            full |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    reads = {f"{owner}.{name}" for owner, names in READS_TIME.items() for name in names}
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Name, ast.Attribute))}
    return {_in_full(name, full) for name in used} & reads


def _in_full(name: str, full: dict[str, str]) -> str:
    first, dot, rest = name.partition(".")
    return full.get(first, "") + dot + rest
