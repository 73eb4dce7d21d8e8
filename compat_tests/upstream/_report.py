"""The table of a run, and the page that has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from compat_tests.upstream._environment import REPOSITORY
from compat_tests.upstream._expectations import Baseline, Expectations, Verdict
from compat_tests.upstream._modules import INTEGRATION, MODULES
from compat_tests.upstream._run import Module

__all__ = ("counts", "page", "table", "weight", "write_page")

_PAGE = REPOSITORY / "docs" / "conformance.md"


def counts(module: Module) -> str:
    """How many tests of a module came to which end."""
    found = Counter(outcome.outcome for outcome in module.tests.values())
    return ", ".join(f"{number} {name}" for name, number in sorted(found.items())) or "nothing ran"


def weight(baseline: Baseline, path: str) -> float:
    """About how long a module takes: long ones go first, so that none is left alone at the end."""
    slow = sum(baseline.slow.get(path, {}).values())
    tests = len(baseline.passed.get(path, []))
    return slow + tests * (1.5 if path in INTEGRATION else 0.1)


def table(verdicts: Sequence[Verdict]) -> str:
    """One line for each module, one for all: baseline, passed, excused by reason."""
    lines = ["| module | Celery passes | passed | excused |", "|---|---:|---:|---|"]
    lines += [_line(f"`{v.path}`", [v]) for v in verdicts]
    lines.append(_line("**all**", verdicts))
    return "\n".join(lines)


def _line(name: str, verdicts: Sequence[Verdict]) -> str:
    excused: Counter[str] = Counter()
    for verdict in verdicts:
        excused.update(verdict.excused)
    words = ", ".join(f"{number} {reason}" for reason, number in excused.most_common())
    baseline = sum(verdict.baseline for verdict in verdicts)
    passed = sum(verdict.passed for verdict in verdicts)
    return f"| {name} | {baseline} | {passed} | {words} |"


def write_page(baseline: Baseline, expectations: Expectations) -> None:
    """Write docs/conformance.md anew."""
    _PAGE.write_text(page(baseline, expectations))


def page(baseline: Baseline, expectations: Expectations) -> str:
    """The page, from what is expected: a run that finds anything else fails."""
    verdicts = {
        path: _expected(path, baseline, expectations) for path in MODULES if baseline.passed.get(path)
    }
    unit = [v for path, v in verdicts.items() if path not in INTEGRATION]
    integration = [v for path, v in verdicts.items() if path in INTEGRATION]
    used = {reason for verdict in verdicts.values() for reason in verdict.excused}
    reasons = [f"- **{name}**: {text}" for name, text in expectations.reasons.items() if name in used]
    return _TEXT.format(
        integration=table(integration),
        unit=table(unit),
        reasons="\n".join(reasons),
        **_totals(verdicts.values()),
    )


def _expected(path: str, baseline: Baseline, expectations: Expectations) -> Verdict:
    reasons = expectations.of(path)
    passed = [name for name in baseline.passed[path] if name not in reasons]
    return Verdict(
        path=path,
        baseline=len(baseline.passed[path]),
        passed=len(passed),
        excused=Counter(reasons.values()),
        unexpected_failures=[],
        unexpected_passes=[],
    )


def _totals(verdicts: Iterable[Verdict]) -> dict[str, int]:
    found = list(verdicts)
    return {"passed": sum(v.passed for v in found), "baseline": sum(v.baseline for v in found)}


_TEXT = """\
# Conformance: Celery's own tests

celerylite is measured by the test suite of Celery 5.7.0. Of the {baseline} tests in the modules below that
Celery itself passes, celerylite passes {passed}. Each of the others is listed with its reason in
`compat_tests/upstream/expectations.toml`.

```console
$ python -m compat_tests.upstream                       # run them all; 1 if anything is not as expected
$ python -m compat_tests.upstream tasks/test_canvas     # only these modules
$ python -m compat_tests.upstream --lib celery          # measure Celery itself: the baseline
$ python -m compat_tests.upstream --docs                # write this page anew
```

The tests come from Celery's source archive, which the command fetches; none of it is in this repository.
`celery` resolves to celerylite (`install_as_celery()`), in the processes that tests start too. Each module
has a process of its own, each test 20 seconds, or twice what Celery needs. Nothing is run a second time.

A run takes five to ten minutes on two cores, the first one a minute more. Without `redis-server` on the PATH
it does not begin and says so; `python -m compat_tests.upstream t/unit` needs none. Where pip cannot fetch the
archive, or what the tests import, it says that no test has been run and ends with 1. `.ci/run` runs all as
its last step, and only the unit tests, saying so, where there is no `redis-server`.

## Tasks sent to a running worker

Celery runs these with Redis as broker and backend; celerylite with `memory://` and an SQLite file. Many tasks
of these tests leave notes in Redis, so a Redis runs beside them as a note-pad. It is no broker and holds no
results.

{integration}

## Unit tests of what users import

{unit}

## The reasons

{reasons}
"""
