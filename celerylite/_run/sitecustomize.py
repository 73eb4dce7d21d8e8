"""The first thing a Python process under `celerylite run` executes: it sets the alias up and steps aside."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

_HERE = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = os.path.dirname(_HERE)


def _load(name: str) -> ModuleType:
    """Load one of celerylite's files under its own name, without importing the package.

    Most processes that run this never import celery: they shall not pay for its import.
    """
    full_name = f"celerylite.{name}"
    spec = spec_from_file_location(full_name, os.path.join(_PACKAGE, f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[full_name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _give_way_to_the_next_sitecustomize() -> None:
    """Import the `sitecustomize` that this file hides, if the environment has one."""
    hidden_by = sys.path[:]
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _HERE]
    this = sys.modules.pop("sitecustomize", None)
    try:
        import_module("sitecustomize")
    except ModuleNotFoundError as exc:
        if exc.name != "sitecustomize":
            raise
        if this is not None:
            sys.modules["sitecustomize"] = this
    finally:
        # The path as the rest of the interpreter's start expects it, without this directory.
        if sys.path == hidden_by:
            sys.path.remove(_HERE)


if os.environ.get("CELERYLITE_RUN"):
    _load("_shim").install_as_celery()
    if os.environ.get("CELERYLITE_RUN_APP"):
        _load("_autostart").under_run(
            app_name=os.environ["CELERYLITE_RUN_APP"],
            # exec keeps the process id: only the program itself has the one that was written down.
            is_program=os.environ["CELERYLITE_RUN"] == str(os.getpid()),
        )
_give_way_to_the_next_sitecustomize()
