"""Run Celery's own tests: ``python -m compat_tests.upstream [--lib celery] [MODULE ...]``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from compat_tests.upstream import _propose, _report
from compat_tests.upstream._environment import LIBS, prepare, require_note_pad
from compat_tests.upstream._expectations import Baseline, Expectations, Verdict, judge
from compat_tests.upstream._modules import INTEGRATION, MODULES, select
from compat_tests.upstream._run import Module, run_modules


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for; 1 when anything came out otherwise than expected."""
    options = _options(argv)
    if options.list:
        print("\n".join(MODULES))
        return 0
    if options.docs:
        _report.write_page(Baseline.load(), Expectations.load())
        return 0
    modules = select(options.module)
    if any(module in INTEGRATION for module in modules):
        require_note_pad()
    baseline = Baseline.load()
    environment = prepare(options.lib)
    order = sorted(modules, key=lambda path: _report.weight(baseline, path), reverse=True)
    runs = run_modules(
        environment,
        order,
        slowest=baseline.slow,
        # What Celery does not pass itself says nothing about us.
        left_out={} if options.lib == "celery" else dict(baseline.others),
        processes=options.processes,
        tell=_tell_progress,
    )
    found = sorted(runs, key=lambda module: modules.index(module.path))
    if options.details:
        options.details.write_text(json.dumps(_details(found), indent=1))
    if options.lib == "celery":
        return _keep_baseline(baseline, found)
    return _compare(found, baseline, propose=options.propose)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m compat_tests.upstream", description=__doc__)
    parser.add_argument("module", nargs="*", help="parts of the paths of the modules to run; all without")
    parser.add_argument("--lib", choices=LIBS, default="celerylite", help="celery: measure the baseline")
    parser.add_argument("--processes", type=int, default=2, help="how many modules run at once")
    parser.add_argument("--details", type=Path, help="write every outcome and its text to this JSON file")
    parser.add_argument(
        "--propose", action="store_true", help="note unexpected failures in expectations.toml"
    )
    parser.add_argument("--docs", action="store_true", help="only write docs/conformance.md anew")
    parser.add_argument("--list", action="store_true", help="only name the modules")
    return parser.parse_args(argv)


def _tell_progress(module: Module) -> None:
    counts = _report.counts(module)
    print(f"{module.path}: {counts} in {module.seconds:.0f} s", file=sys.stderr, flush=True)
    if module.broken:
        print(module.broken, file=sys.stderr, flush=True)


def _details(found: Sequence[Module]) -> dict[str, dict[str, object]]:
    return {
        name: {"outcome": outcome.outcome, "seconds": outcome.seconds, "text": outcome.text}
        for module in found
        for name, outcome in module.tests.items()
    }


def _keep_baseline(baseline: Baseline, found: Sequence[Module]) -> int:
    """Celery is what the others are measured by: whatever it does is noted."""
    baseline.with_modules(found).save()
    for module in found:
        print(f"{module.path}: {_report.counts(module)}")
    return 0


def _compare(found: Sequence[Module], baseline: Baseline, *, propose: bool) -> int:
    expectations = Expectations.load()
    verdicts = [judge(module, baseline, expectations) for module in found]
    print(_report.table(verdicts))
    for verdict in verdicts:
        _tell_unexpected(verdict)
    if propose:
        _propose.note(found, verdicts, expectations).save()
    unexpected = [v for v in verdicts if v.unexpected_failures or v.unexpected_passes]
    return 1 if unexpected else 0


def _tell_unexpected(verdict: Verdict) -> None:
    for name in verdict.unexpected_failures:
        print(f"unexpected failure: {verdict.path}::{name}")
    for name in verdict.unexpected_passes:
        print(f"unexpected pass: {verdict.path}::{name}")


if __name__ == "__main__":
    sys.exit(main())
