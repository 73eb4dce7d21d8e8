"""The page of settings says of each setting, once, what it does here, and the sources bear it out."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from celerylite.app import defaults

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(?P<name>\w+)` \| `(?P<default>.*?)` \| (?P<status>.*) \|$", re.MULTILINE)
STATUSES = ("**honoured**", "**accepted without effect**: ", "**refused**: ")

ROWS = [match.groupdict() for match in ROW.finditer((ROOT / "docs/settings.md").read_text())]
STATUS = {row["name"]: row["status"] for row in ROWS}
OURS = {f"celerylite_{key}" for key in defaults.CELERYLITE}
HONOURED = [name for name, status in STATUS.items() if status.startswith("**honoured**") or name in OURS]


def test_every_setting_is_there_once() -> None:
    named = Counter(row["name"] for row in ROWS)
    assert {name: times for name, times in named.items() if times > 1} == {}
    assert set(named) == set(defaults.DEFAULTS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_a_default_is_that_of_the_table(row: dict[str, str]) -> None:
    assert row["default"] == repr(defaults.DEFAULTS[row["name"]])


@pytest.mark.parametrize("name", [name for name in STATUS if name not in OURS])
def test_a_setting_of_celery_has_one_of_the_three_statuses(name: str) -> None:
    assert STATUS[name].startswith(STATUSES)
    assert sum(STATUS[name].count(status) for status in STATUSES) == 1


@pytest.mark.parametrize("name", HONOURED)
def test_a_setting_that_is_honoured_is_read_somewhere(name: str) -> None:
    assert name in _words_of_the_package()


@cache
def _words_of_the_package() -> frozenset[str]:
    table = ROOT / "celerylite/app/defaults.py"
    sources = (path.read_text() for path in (ROOT / "celerylite").rglob("*.py") if path != table)
    return frozenset(word for source in sources for word in re.findall(r"\w+", source))
