"""The names that users import: those of Celery at the top, and `__all__` wherever a path is public."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import celery
import pytest

import celerylite

ROOT = Path(__file__).parents[2]

#: What Celery exports without meaning to: modules of its own inside, and names it gave up long ago.
NOT_MEANT = frozenset({"local", "log", "registry", "messaging", "execute", "maybe_patch_concurrency"})
#: Written beside `__all__` in ours; a test of its own compares them.
VERSIONS = frozenset({"SERIES", "VERSION", "VERSION_BANNER", "version_info", "version_info_t"})
OURS = frozenset({"install_as_celery"})


def _public_modules() -> list[str]:
    """All paths that Celery has too, without the packages that hold nothing but modules."""
    names = []
    for path in sorted((ROOT / "celerylite").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        inner = parts[:-1] if parts[-1] == "__init__" else parts
        empty = len(ast.parse(path.read_text()).body) <= 1
        if not empty and not any(part.startswith("_") for part in inner):
            names.append(".".join(inner))
    return names


def test_the_top_level_names_are_those_of_celery_and_ours() -> None:
    of_celery = {
        name
        for name in celery.__all__
        if hasattr(celery, name) and not name.startswith("_") and name not in NOT_MEANT | VERSIONS
    }
    assert set(celerylite.__all__) - OURS == of_celery
    assert set(celerylite.__all__) >= OURS


@pytest.mark.parametrize("name", ["VERSION", "VERSION_BANNER", "SERIES", "__version__", "version_info"])
def test_the_version_is_that_of_the_celery_it_follows(name: str) -> None:
    assert getattr(celerylite, name) == getattr(celery, name)


def test_every_name_at_the_top_resolves() -> None:
    assert [name for name in celerylite.__all__ if not hasattr(celerylite, name)] == []
    assert set(celerylite.__all__) <= set(dir(celerylite))


@pytest.mark.parametrize("module", _public_modules())
def test_a_public_module_lists_its_names(module: str) -> None:
    path = ROOT.joinpath(*module.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    assigned = {
        target.id
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    assert "__all__" in assigned, f"{module}: expected __all__"
    loaded = importlib.import_module(module)
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []


def test_public_classes_name_the_path_that_users_import_them_from() -> None:
    inside = []
    for module in _public_modules():
        loaded = sys.modules.get(module) or importlib.import_module(module)
        for name in loaded.__all__:
            public = getattr(loaded, name)
            # Not isinstance: a proxy would look for its task.
            home = public.__module__ if issubclass(type(public), type) else ""
            if home.startswith("celerylite") and any(part.startswith("_") for part in home.split(".")):
                inside.append(f"{module}.{name} says {home}")
    assert not inside, "\n".join(inside)
