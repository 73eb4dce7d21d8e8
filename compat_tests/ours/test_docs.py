"""The pages: their code runs, their links lead somewhere, and what they name exists."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")
OUTPUT = "# Output:\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One program of a page."""

    page: Path
    line: int
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def _blocks() -> list[Block]:
    return [
        Block(page=page, line=page.read_text().count("\n", 0, match.start()) + 1, code=match[1])
        for page in PAGES
        for match in BLOCK.finditer(page.read_text())
    ]


def _expected_output(code: str) -> str | None:
    if OUTPUT not in code:
        return None
    lines = code.split(OUTPUT, 1)[1].splitlines()
    return "".join(line.removeprefix("#").removeprefix(" ") + "\n" for line in lines)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("block", _blocks(), ids=str)
def test_the_code_of_a_page_is_a_program_that_runs(block: Block, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(block.code)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CELERY")}
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    expected = _expected_output(block.code)
    if expected is not None:
        assert done.stdout == expected, done.stderr


UNEDITED = """\
from celery import Celery
    import celery.signals
from celery.result import AsyncResult
from proj import celery
from .celery import app
import celery_other
app = Celery("proj", broker="redis://")  # import celery
"""


@pytest.mark.skipif(shutil.which("perl") is None, reason="the command needs perl")
def test_the_command_for_switching_changes_imports_and_nothing_else(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "switching.md").read_text()
    command = next(line.removeprefix("$ ") for line in page.splitlines() if line.startswith("$ grep"))
    (tmp_path / "proj.py").write_text(UNEDITED)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, timeout=20)
    changed = (tmp_path / "proj.py").read_text().splitlines()
    assert changed[:3] == [
        "from celerylite import Celery",
        "    import celerylite.signals",
        "from celerylite.result import AsyncResult",
    ]
    assert changed[3:] == UNEDITED.splitlines()[3:]


def _anchor(heading: str) -> str:
    words = re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", ""))
    return words.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_to_files_and_headings_that_exist(page: Path) -> None:
    broken = []
    for target, anchor in LINK.findall(page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        file = (page.parent / target).resolve()
        if not file.exists():
            broken.append(target)
        elif anchor and anchor not in {_anchor(line.lstrip("#")) for line in _headings(file)}:
            broken.append(f"{target}#{anchor}")
    assert not broken


def _headings(page: Path) -> list[str]:
    return [line for line in page.read_text().splitlines() if line.startswith("#")]


def test_the_first_program_of_the_readme_comes_before_line_30() -> None:
    first = next(block for block in _blocks() if block.page.name == "README.md")
    assert first.line + first.code.count("\n") < 30
    assert len([line for line in first.code.split(OUTPUT)[0].splitlines() if line]) <= 12


def _test_names() -> set[str]:
    return {
        node.name
        for file in (ROOT / "compat_tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def _differences() -> dict[str, str]:
    text = (ROOT / "docs" / "differences.md").read_text()
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    return {section.splitlines()[0]: section for section in sections}


def test_each_difference_says_why_and_what_to_do_and_names_a_test_that_exists() -> None:
    known = _test_names()
    wrong = []
    for heading, section in _differences().items():
        wrong += [
            f"{heading}: no {part}" for part in ("**Celery**", "**Here**", "**Why**") if part not in section
        ]
        wrong += [f"{heading}: no **What to do**"] if "**What to do**" not in section else []
        named = re.findall(r"`(test_\w+)`", section)
        wrong += [f"{heading}: names no test"] if not named else []
        wrong += [f"{heading}: {name} does not exist" for name in named if name not in known]
    assert not wrong, "\n".join(wrong)


def test_the_newest_entry_of_the_changelog_is_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    entries = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "docs" / "changelog.md").read_text(), re.MULTILINE)
    assert next(entry for entry in entries if entry != "Unreleased") == version


def test_contributing_and_the_ci_script_name_the_same_commands() -> None:
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    contributing = (ROOT / "docs" / "contributing.md").read_text()
    for command in ("ruff check", "ruff format --check", "mypy", "pytest"):
        assert command in script
        assert command in contributing
