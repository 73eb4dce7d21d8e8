"""The alias that lets `import celery` find celerylite, for code that cannot or should not be edited."""

# Only the standard library is imported here, and nothing of celerylite: `celerylite run` loads this file
# at the start of every Python process it is responsible for, and most of them never import celery.

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from os import PathLike
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
    from importlib.metadata import Distribution, DistributionFinder
else:
    # The import system asks for methods, not for classes, and these are not cheap to import.
    Loader = MetaPathFinder = object

__all__ = ("CELERY_VERSION", "install_as_celery", "is_installed")

#: The Celery release whose behaviour and version number the alias answers with.
CELERY_VERSION = "5.7.0"

_ALIAS = "celery"
_TARGET = "celerylite"

_METADATA = f"""\
Metadata-Version: 2.1
Name: {_ALIAS}
Version: {CELERY_VERSION}
Summary: celerylite, answering for Celery in this process
License: BSD-3-Clause
"""


def install_as_celery() -> None:
    """Make `celery` and every `celery.x.y` resolve to the same module objects as `celerylite.x.y`.

    Call it before the first `import celery`; calling it again does nothing. From then on
    `importlib.metadata.version("celery")` answers with the Celery release that is followed.
    Raises RuntimeError, changing nothing, when the real Celery is already imported.
    """
    if is_installed():
        return
    _refuse_beside_real_celery()
    finder = _CeleryFinder()
    # In front: an installed Celery must not be found first.
    sys.meta_path.insert(0, finder)
    _alias_what_is_imported()


def is_installed() -> bool:
    """Whether `install_as_celery` took effect in this process."""
    return any(isinstance(finder, _CeleryFinder) for finder in sys.meta_path)


def _refuse_beside_real_celery() -> None:
    imported = sys.modules.get(_ALIAS)
    if imported is None or imported is sys.modules.get(_TARGET):
        return
    raise RuntimeError(
        "install_as_celery(): expected to be called before the first `import celery`, got the real Celery "
        f"already imported from {getattr(imported, '__file__', None)!r}; "
        "call it first, or start the program with `celerylite run -- COMMAND`"
    )


def _alias_what_is_imported() -> None:
    prefix = f"{_TARGET}."
    for name, module in list(sys.modules.items()):
        if name == _TARGET or name.startswith(prefix):
            sys.modules[_ALIAS + name[len(_TARGET) :]] = module


class _CeleryFinder(MetaPathFinder):
    """Finds `celery...` among celerylite's modules, and the metadata of a distribution named celery."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _ALIAS and not fullname.startswith(f"{_ALIAS}."):
            return None
        real_name = _TARGET + fullname[len(_ALIAS) :]
        real = find_spec(real_name)
        if real is None:
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: celerylite has no {real_name!r}; "
                "docs/differences.md lists what Celery has and celerylite has not",
                name=fullname,
            )
        return _alias_spec(fullname, real)

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Distribution]:
        name = None if context is None else context.name
        if name is None or name.lower() == _ALIAS:
            yield _distribution()

    def invalidate_caches(self) -> None:
        """Nothing is cached."""


def _alias_spec(fullname: str, real: ModuleSpec) -> ModuleSpec:
    # The origin becomes sys.argv[0] under `python -m celery`.
    spec = ModuleSpec(
        fullname,
        _AliasLoader(real),
        origin=real.origin,
        is_package=real.submodule_search_locations is not None,
    )
    if real.submodule_search_locations is not None:
        spec.submodule_search_locations = list(real.submodule_search_locations)
    spec.has_location = real.has_location
    return spec


class _AliasLoader(Loader):
    """Gives the module object that the real name has, instead of loading a second copy of it."""

    def __init__(self, real: ModuleSpec) -> None:
        self._real = real
        self._own_spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self._real.name)
        # The import system puts the alias's spec on whatever is returned here; `exec_module` undoes it.
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own_spec

    # What follows is for runpy (`python -m celery`), tracebacks and debuggers.

    def get_code(self, fullname: str) -> CodeType | None:
        return cast("CodeType | None", self._ask("get_code"))

    def get_source(self, fullname: str) -> str | None:
        return cast("str | None", self._ask("get_source"))

    def get_filename(self, fullname: str) -> str:
        return cast(str, self._ask("get_filename"))

    def is_package(self, fullname: str) -> bool:
        return self._real.submodule_search_locations is not None

    def _ask(self, question: str) -> object:
        answer = getattr(self._real.loader, question, None)
        if answer is None:
            raise ImportError(f"{self._real.loader!r} cannot answer {question}", name=self._real.name)
        return answer(self._real.name)


@cache
def _distribution() -> Distribution:
    """What instrumentation packages read before they agree to work: a name and a version."""
    # Here, because it is not cheap to import and whoever asks has done so.
    from importlib.metadata import Distribution

    class CeleryDistribution(Distribution):
        def read_text(self, filename: str | PathLike[str]) -> str | None:
            return _METADATA if str(filename) == "METADATA" else None

        def locate_file(self, path: str | PathLike[str]) -> Any:
            return os.path.join(os.path.dirname(os.path.dirname(__file__)), path)

    return CeleryDistribution()
