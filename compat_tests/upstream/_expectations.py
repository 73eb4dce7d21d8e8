"""What is expected of each test: what Celery does with it, and the reasons why we do not pass some."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compat_tests.upstream._run import Module

__all__ = ("Baseline", "Expectations", "Verdict", "judge")

_HERE = Path(__file__).resolve().parent
_SLOW_S = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """By module: the tests that Celery passes, what it does with the others, and which take long."""

    passed: dict[str, list[str]]
    others: dict[str, dict[str, str]]
    slow: dict[str, dict[str, float]]

    @classmethod
    def load(cls, path: Path = _HERE / "baseline.json") -> Baseline:
        """Read the file; without one nothing is known of Celery."""
        if not path.exists():
            return cls(passed={}, others={}, slow={})
        data = json.loads(path.read_text())
        return cls(passed=data["passed"], others=data["others"], slow=data["slow"])

    def with_modules(self, modules: Iterable[Module]) -> Baseline:
        """The same with what a run on Celery found."""
        passed, others, slow = dict(self.passed), dict(self.others), dict(self.slow)
        for module in modules:
            path = module.path
            names = {name.removeprefix(f"{path}::"): outcome for name, outcome in module.tests.items()}
            passed[path] = sorted(name for name, found in names.items() if found.outcome == "passed")
            others[path] = {
                name: found.outcome for name, found in sorted(names.items()) if found.outcome != "passed"
            }
            slow[path] = {
                name: found.seconds for name, found in sorted(names.items()) if found.seconds > _SLOW_S
            }
        return Baseline(passed=passed, others=others, slow=slow)

    def save(self, path: Path = _HERE / "baseline.json") -> None:
        """Write the file."""
        data = {
            name: {module: found for module, found in sorted(getattr(self, name).items()) if found}
            for name in ("passed", "others", "slow")
        }
        path.write_text(json.dumps(data, indent=0, ensure_ascii=True) + "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """The reasons, and by module and reason the tests that are not passed."""

    reasons: dict[str, str]
    excused: dict[str, dict[str, list[str]]]

    @classmethod
    def load(cls, path: Path = _HERE / "expectations.toml") -> Expectations:
        """Read the file."""
        if not path.exists():
            return cls(reasons={}, excused={})
        data: dict[str, Any] = tomllib.loads(path.read_text())
        return cls(reasons=data.pop("reasons"), excused=data)

    def save(self, path: Path = _HERE / "expectations.toml") -> None:
        """Write the file, in one order."""
        lines = [_HEADING, "[reasons]"]
        lines += [f"{name} = {json.dumps(text)}" for name, text in self.reasons.items()]
        for module, by_reason in sorted(self.excused.items()):
            if any(by_reason.values()):
                lines += ["", f'["{module}"]']
            for reason, names in sorted(by_reason.items()):
                if names:
                    lines += [f"{reason} = [", *(f"    {json.dumps(name)}," for name in sorted(names)), "]"]
        path.write_text("\n".join(lines) + "\n")

    def of(self, module: str) -> dict[str, str]:
        """The reason by test, for one module."""
        found = self.excused.get(module, {})
        return {name: reason for reason, names in found.items() for name in names}


_HEADING = """\
# The tests of Celery's that pass on Celery and not on celerylite, each with its reason.
# A failure that is not here and a pass that is here both fail a run.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a run of one module says about the expectations."""

    path: str
    baseline: int
    passed: int
    excused: Mapping[str, int]
    unexpected_failures: list[str]
    unexpected_passes: list[str]


def judge(module: Module, baseline: Baseline, expectations: Expectations) -> Verdict:
    """Compare what came of a module with what was expected of it."""
    reasons = expectations.of(module.path)
    known = baseline.passed.get(module.path, [])
    passed = {
        name
        for name in known
        if (found := module.tests.get(f"{module.path}::{name}")) and found.outcome == "passed"
    }
    missed = [name for name in known if name not in passed]
    excused: dict[str, int] = {}
    for name in missed:
        if name in reasons:
            excused[reasons[name]] = excused.get(reasons[name], 0) + 1
    return Verdict(
        path=module.path,
        baseline=len(known),
        passed=len(passed),
        excused=excused,
        unexpected_failures=[name for name in missed if name not in reasons],
        unexpected_passes=sorted(passed & set(reasons)),
    )
