"""docs/failures.md: each event says what becomes of task, result and caller, and names its test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: What an operator looks for.
_EVENTS = (
    "exception", "soft time limit", "hard time limit", "SIGTERM", "kill -9", "power cut", "server is away",
    "disk is full", "locked", "clock jumps", "Two releases",
)  # fmt: skip


def _events() -> dict[str, str]:
    text = (ROOT / "docs" / "failures.md").read_text().split("\n## See it happen")[0]
    sections = re.split(r"^### ", re.sub(r"^## .*$", "", text, flags=re.MULTILINE), flags=re.MULTILINE)[1:]
    return {section.splitlines()[0]: section for section in sections}


def _test_names() -> set[str]:
    return {
        node.name
        for file in (ROOT / "compat_tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_event_of_the_list_has_a_heading() -> None:
    headings = "\n".join(_events())
    assert [event for event in _EVENTS if event not in headings] == []


def test_each_event_speaks_of_task_result_and_caller_and_names_a_test_that_exists() -> None:
    known, wrong = _test_names(), []
    for heading, section in _events().items():
        wrong += [
            f"{heading}: no {part}"
            for part in ("**Task**", "**Result**", "**Caller**")
            if part not in section
        ]
        named = re.findall(r"`(test_\w+)`", section.partition("**Test**")[2])
        wrong += [] if named else [f"{heading}: names no test"]
        wrong += [f"{heading}: {name} does not exist" for name in named if name not in known]
    assert not wrong, "\n".join(wrong)
