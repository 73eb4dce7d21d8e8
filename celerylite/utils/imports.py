"""Modules and objects that are given by name."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module, reload
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from kombu.utils.imports import symbol_by_name

__all__ = (
    "NotAPackage",
    "qualname",
    "instantiate",
    "symbol_by_name",
    "cwd_in_path",
    "find_module",
    "import_from_cwd",
    "reload_from_cwd",
    "module_file",
    "gen_task_name",
)

#: The file that is `__main__` in the parent, where a child process was started anew.
MP_MAIN_FILE = os.environ.get("MP_MAIN_FILE")


class NotAPackage(Exception):
    """A name with dots goes through a module that is no package."""


def qualname(obj: Any) -> str:
    """`module.name` of a function or class; of its class for any other object."""
    if not hasattr(obj, "__name__") and hasattr(obj, "__class__"):
        obj = obj.__class__
    name: str = obj.__qualname__
    # As Celery: the module is left out where the name has a dot already.
    return name if "." in name else f"{obj.__module__}.{name}"


def instantiate(name: Any, *args: Any, **kwargs: Any) -> Any:
    """An instance of the class, which may be given by name."""
    return symbol_by_name(name)(*args, **kwargs)


@contextmanager
def cwd_in_path() -> Iterator[str | None]:
    """Modules in the working directory can be imported inside the block."""
    try:
        cwd = os.getcwd()
    except FileNotFoundError:  # it was removed
        cwd = ""
    if not cwd or cwd in sys.path:
        yield None
        return
    sys.path.insert(0, cwd)
    try:
        yield cwd
    finally:
        with suppress(ValueError):
            sys.path.remove(cwd)


def find_module(module: str, path: Any = None, imp: Callable[[str], Any] | None = None) -> Any:
    """Import it, the working directory included. Raises NotAPackage when a part of the name is no package."""
    imp = imp or import_module
    with cwd_in_path():
        try:
            return imp(module)
        except ImportError:
            _check_packages(module, imp)
            raise


def _check_packages(module: str, imp: Callable[[str], Any]) -> None:
    parts = module.split(".")
    for length in range(1, len(parts)):
        package = ".".join(parts[:length])
        try:
            found = imp(package)
        except ImportError:
            return
        if not hasattr(found, "__path__"):
            raise NotAPackage(package)


def import_from_cwd(module: str, imp: Callable[..., Any] | None = None, package: str | None = None) -> Any:
    """Import it; the working directory comes first."""
    with cwd_in_path():
        return (imp or import_module)(module, package=package)


def reload_from_cwd(module: ModuleType, reloader: Callable[[ModuleType], Any] | None = None) -> Any:
    """Load it again; the working directory comes first."""
    with cwd_in_path():
        return (reloader or reload)(module)


def module_file(module: Any) -> str:
    """Its source file."""
    name: str = module.__file__
    return name.removesuffix("c") if name.endswith(".pyc") else name


def gen_task_name(app: Any, name: str, module_name: str | None) -> str:
    """The name of a task that has none: module and function.

    For a script it is `app.main` in place of the module.
    """
    module_name = module_name or "__main__"
    module = sys.modules.get(module_name)
    if module is not None:
        module_name = module.__name__
        if MP_MAIN_FILE and getattr(module, "__file__", None) == MP_MAIN_FILE:
            # In a child process that was started anew, the script has the name of its file.
            module_name = "__main__"
    if module_name == "__main__" and app.main:
        return f"{app.main}.{name}"
    return ".".join(part for part in (module_name, name) if part)


@cache
def load_extension_class_names(namespace: str) -> tuple[tuple[str, str], ...]:
    """`(name, class path)` of what installed packages register under this entry point group.

    Looked up once per process: reading the metadata of every package is slow.
    """
    return tuple((entry.name, entry.value) for entry in entry_points(group=namespace))


def load_extension_classes(namespace: str) -> Iterator[tuple[str, Any]]:
    """`(name, class)` of the same; one that cannot be imported is warned about and left out."""
    for name, class_name in load_extension_class_names(namespace):
        try:
            found = symbol_by_name(class_name)
        except (ImportError, SyntaxError) as exc:
            warnings.warn(f"Cannot load {namespace} extension {class_name!r}: {exc!r}", stacklevel=2)
        else:
            yield name, found
