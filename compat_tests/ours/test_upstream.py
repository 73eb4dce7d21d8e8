"""What is written down about Celery's own tests holds together, without running them."""

from __future__ import annotations

import re
from pathlib import Path

from compat_tests.upstream._environment import REPOSITORY
from compat_tests.upstream._expectations import Baseline, Expectations
from compat_tests.upstream._modules import INTEGRATION
from compat_tests.upstream._report import page

TESTS = REPOSITORY / "compat_tests"


def test_every_test_that_is_not_passed_is_one_of_celerys_and_has_one_known_reason() -> None:
    baseline, expectations = Baseline.load(), Expectations.load()
    for module, by_reason in expectations.excused.items():
        names = [name for excused in by_reason.values() for name in excused]
        assert set(by_reason) <= set(expectations.reasons), module
        assert sorted(set(names)) == sorted(names), module
        assert set(names) <= set(baseline.passed[module]), module


def test_the_tests_that_reasons_name_are_there() -> None:
    named = set(re.findall(r"\btest_\w+", " ".join(Expectations.load().reasons.values())))
    assert len(named) >= 5
    files = [file for folder in ("both", "ours") for file in (TESTS / folder).glob("test_*.py")]
    assert named <= set(re.findall(r"^def (test_\w+)", "\n".join(map(Path.read_text, files)), re.MULTILINE))


def test_the_page_about_conformance_says_what_is_expected() -> None:
    # `python -m compat_tests.upstream --docs` writes it.
    written = (REPOSITORY / "docs" / "conformance.md").read_text()
    assert written == page(Baseline.load(), Expectations.load())


def test_at_least_2500_of_celerys_unit_tests_pass() -> None:
    baseline, expectations = Baseline.load(), Expectations.load()
    passed = sum(
        len(names) - len(expectations.of(module))
        for module, names in baseline.passed.items()
        if module not in INTEGRATION
    )
    assert passed >= 2500
