"""Proposes a reason for each unexpected failure from its text, to be reviewed by a person."""

from __future__ import annotations

import re
from collections.abc import Sequence

from compat_tests.upstream._expectations import Expectations, Verdict
from compat_tests.upstream._run import Module

__all__ = ("note",)

#: What a failure's last lines contain, and the reason it speaks for; the first that fits is taken.
_SIGNS = (
    (r"has no attribute '_|has no attribute '[A-Z_]{3,}'|object has no attribute '__\w+'", "private-name"),
    (r"does not have the attribute|has no attribute", "internal-name"),
    (r"No module named", "absent-path"),
    (r"Expected '.*' to (be|have been) called|assert_called|Mock name=|Called 0 times", "mocked-details"),
)
_UNKNOWN = "unreviewed"


def note(found: Sequence[Module], verdicts: Sequence[Verdict], expectations: Expectations) -> Expectations:
    """The expectations with every unexpected failure noted, and without the unexpected passes."""
    excused = {path: {r: list(names) for r, names in by.items()} for path, by in expectations.excused.items()}
    for module, verdict in zip(found, verdicts, strict=True):
        by_reason = excused.setdefault(module.path, {})
        for reason, names in by_reason.items():
            by_reason[reason] = [name for name in names if name not in verdict.unexpected_passes]
        for name in verdict.unexpected_failures:
            outcome = module.tests.get(f"{module.path}::{name}")
            text = module.broken if outcome is None else outcome.text
            by_reason.setdefault(_guess(text), []).append(name)
    return Expectations(reasons=expectations.reasons, excused=excused)


def _guess(text: str) -> str:
    errors = "\n".join(line for line in text.splitlines() if line.startswith("E ")) or text
    for sign, reason in _SIGNS:
        if re.search(sign, errors):
            return reason
    return _UNKNOWN
