"""The base of loaders, and how the task modules of packages are found."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kombu.utils import json

from celerylite import _clock, signals
from celerylite.app.defaults import _OPTIONS, Option
from celerylite.utils.collections import DictAttribute, force_mapping
from celerylite.utils.functional import maybe_list
from celerylite.utils.imports import NotAPackage, find_module, import_from_cwd, symbol_by_name

if TYPE_CHECKING:
    from celerylite.app.base import Celery
    from celerylite.app.task import Task

__all__ = ("BaseLoader",)

_RACE_PROTECTION = False

CONFIG_INVALID_NAME = """\
Error: Module '{module}' doesn't exist, or it's not a valid \
Python module name.
"""

CONFIG_WITH_SUFFIX = (
    CONFIG_INVALID_NAME
    + """\
Did you mean '{suggest}'?
"""
)

unconfigured: Any = object()

_CAST = re.compile(r"\((\w+)\)")


class BaseLoader:
    """What reads the configuration of an app, imports its task modules, and hears of a worker's steps.

    Subclasses override `read_configuration` and the `on_...` methods, which do nothing here.
    """

    #: Modules that every worker imports.
    builtin_modules: frozenset[str] = frozenset()
    #: Whether a configuration was found.
    configured = False
    #: Paths of result backends by the scheme of their URL, in place of the usual ones.
    override_backends: Mapping[str, str] = {}
    #: Whether `init_worker` has run.
    worker_initialized = False

    _conf: Any = unconfigured

    def __init__(self, app: Celery, **kwargs: Any) -> None:
        self.app = app
        #: Names of the task modules that were imported.
        self.task_modules: set[str] = set()

    def now(self, utc: bool = True) -> datetime:
        """Give the moment: aware in UTC, or without a zone in local time."""
        now = _clock.utcnow()
        return now if utc else now.astimezone().replace(tzinfo=None)

    def on_task_init(self, task_id: str, task: Task[..., Any]) -> None:
        """Hear that a task is about to run."""

    def on_process_cleanup(self) -> None:
        """Hear that a task has run."""

    def on_worker_init(self) -> None:
        """Hear that the worker has started and imported its modules."""

    def on_worker_shutdown(self) -> None:
        """Hear that the worker stops."""

    def on_worker_process_init(self) -> None:
        """Hear that a child process has started."""

    def import_task_module(self, module: str) -> Any:
        """Import a module that holds tasks, also from the working directory, and note its name."""
        self.task_modules.add(module)
        return self.import_from_cwd(module)

    def import_module(self, module: str, package: str | None = None) -> Any:
        """Import a module."""
        return importlib.import_module(module, package=package)

    def import_from_cwd(
        self, module: str, imp: Callable[..., Any] | None = None, package: str | None = None
    ) -> Any:
        """Import a module, also from the working directory."""
        return import_from_cwd(module, self.import_module if imp is None else imp, package=package)

    def import_default_modules(self) -> list[Any]:
        """Send `import_modules`, which runs pending autodiscovery, then import what the settings name.

        Raises what a receiver raises: a task module that fails to import must not go unnoticed.
        """
        for _, response in signals.import_modules.send(sender=self.app):
            if isinstance(response, Exception):
                raise response
        return [self.import_task_module(module) for module in self.default_modules]

    def init_worker(self) -> None:
        """Import the default modules and tell `on_worker_init`; only once."""
        if not self.worker_initialized:
            self.worker_initialized = True
            self.import_default_modules()
            self.on_worker_init()

    def shutdown_worker(self) -> None:
        """Tell `on_worker_shutdown`."""
        self.on_worker_shutdown()

    def init_worker_process(self) -> None:
        """Tell `on_worker_process_init`."""
        self.on_worker_process_init()

    def config_from_object(self, obj: Any, silent: bool = False) -> bool:
        """Take the configuration from an object, a mapping, or the path of either; it stays live.

        Raises ImportError or AttributeError for a path that leads nowhere; with `silent` gives False instead.
        """
        if isinstance(obj, str):
            try:
                obj = self._smart_import(obj, imp=self.import_from_cwd)
            except (ImportError, AttributeError):
                if silent:
                    return False
                raise
        self._conf = force_mapping(obj)
        overrides = self._conf.get("override_backends")
        if overrides is not None:
            self.override_backends = overrides
        return True

    def _smart_import(self, path: str, imp: Callable[..., Any] | None = None) -> Any:
        imp = imp or self.import_module
        if ":" not in path:
            try:
                return imp(path)
            except ImportError:
                pass  # not a module, so its last part must be an attribute
        return symbol_by_name(path, imp=imp)

    def _import_config_module(self, name: str) -> Any:
        try:
            self.find_module(name)
        except NotAPackage as exc:
            if name.endswith(".py"):
                suggest = name.removesuffix(".py")
                raise NotAPackage(CONFIG_WITH_SUFFIX.format(module=name, suggest=suggest)) from exc
            raise NotAPackage(CONFIG_INVALID_NAME.format(module=name)) from exc
        return self.import_from_cwd(name)

    def find_module(self, module: str) -> Any:
        """Import a module; raises NotAPackage if a part before the last is not a package."""
        return find_module(module)

    def cmdline_config_parser(
        self,
        args: Iterable[str],
        namespace: str | None = "celery",
        re_type: re.Pattern[str] = _CAST,
        extra_types: Mapping[str, Callable[[Any], Any]] | None = None,
        override_types: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Read settings from arguments such as `worker.concurrency=4` or `.pool=solo` (in `namespace`).

        The type is that of the setting unless the value starts with one: `task.foo=(int)3`.
        Raises ValueError for a value of the wrong type, KeyError for an unknown setting without a type.
        """
        types = {**Option.typemap, **(extra_types or {"json": json.loads})}
        aliases = override_types or {"tuple": "json", "list": "json", "dict": "json"}

        def parse(arg: str) -> tuple[str, Any]:
            key, value = arg.split("=", 1)
            name = _setting_name(key, namespace)
            cast = re_type.match(value)
            if cast:
                kind = aliases.get(cast.group(1), cast.group(1))
                return name, types[kind](value[cast.end() :])
            return name, _to_python(name, value)

        return dict(parse(arg) for arg in args)

    def read_configuration(self, env: str = "CELERY_CONFIG_MODULE") -> DictAttribute | None:
        """Give the module that the variable `env` names as a mapping; None without such a variable.

        Raises ImportError if it cannot be imported.
        """
        name = os.environ.get(env)
        return DictAttribute(self._import_config_module(name)) if name else None

    def autodiscover_tasks(self, packages: Sequence[str] | None, related_name: str | None = "tasks") -> None:
        """Import the module `related_name` of each package that has one, and note its name."""
        found = autodiscover_tasks(packages or (), related_name)
        self.task_modules.update(module.__name__ for module in found if module)

    @cached_property
    def default_modules(self) -> tuple[str, ...]:
        """Names of the modules that a worker imports: built-in ones, `imports`, `include`."""
        conf = self.app.conf
        return (*self.builtin_modules, *maybe_list(conf.imports), *maybe_list(conf.include))

    @property
    def conf(self) -> Any:
        """The configuration, read at the first look; None if there is none."""
        if self._conf is unconfigured:
            self._conf = self.read_configuration()
        return self._conf


def _setting_name(key: str, namespace: str | None) -> str:
    key = key.lower().replace(".", "_")
    if not key.startswith("_"):
        return key
    return f"{namespace.lower()}{key}" if namespace else key[1:]


def _to_python(name: str, value: str) -> Any:
    try:
        return _OPTIONS[name].to_python(value)
    except ValueError as exc:
        raise ValueError(f"{name!r}: {exc}") from exc


def autodiscover_tasks(
    packages: Iterable[str], related_name: str | None = "tasks"
) -> Sequence[ModuleType | None]:
    """Import the module `related_name` of each package; None stands for a package without one.

    A call from inside another, made by a module that is being imported, does nothing.
    """
    global _RACE_PROTECTION
    if _RACE_PROTECTION:
        # As Celery: the outer call goes on to import the rest.
        return ()
    _RACE_PROTECTION = True
    try:
        return [find_related_module(package, related_name) for package in packages]
    finally:
        _RACE_PROTECTION = False


def find_related_module(package: str, related_name: str | None) -> ModuleType | None:
    """Import `package.related_name`, or `package` itself without a name; None if there is no such module.

    `package` may be the path of a class in a module of the package, as in Django's INSTALLED_APPS.
    Raises ModuleNotFoundError if the package does not exist or the module imports what does not exist.
    """
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError:
        package, _, _ = package.rpartition(".")
        if not package:
            raise
    else:
        if not related_name and module:
            return module
    name = f"{package}.{related_name}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name == name:
            return None
        raise
