"""Findings as tables: for a terminal, and as Markdown for the page on performance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from compat_tests.bench.contenders import CONTENDERS
from compat_tests.bench.figures import Findings
from compat_tests.bench.spec import Figure, Spec
from compat_tests.bench.targets import verdicts

__all__ = ("MARKDOWN", "PLAIN", "Form", "show_measure", "show_targets")

#: How rows become text; the first row is the heading.
Form = Callable[[str, Sequence[Sequence[str]]], str]


def PLAIN(title: str, rows: Sequence[Sequence[str]]) -> str:
    """Columns under each other."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(["", title, *lines])


def MARKDOWN(title: str, rows: Sequence[Sequence[str]]) -> str:
    """A table with a heading above it."""
    heading, *others = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"\n### {title}\n", heading, "|---" * len(rows[0]) + "|", *others])


def show_measure(form: Form, spec: Spec, findings: Findings) -> None:
    """One row per contender: median, range in brackets, and the ratio to the reference."""
    heading = ["contender", *(figure.title for figure in spec.figures)]
    if _says_durable(spec):
        heading.append("durable on return")
    rows = [heading, *_rows(spec, findings)]
    if len(rows) > 1:
        print(form(f"{spec.title} [{spec.name}]", rows), flush=True)
    for (measure, contender), reason in findings.failures.items():
        if measure == spec.name:
            print(f"\n{CONTENDERS[contender].title}: not measured: {reason}", flush=True)


def _rows(spec: Spec, findings: Findings) -> Iterable[list[str]]:
    for contender in spec.contenders:
        cells = [_cell(spec, figure, contender, findings) for figure in spec.figures]
        if any(cell != "-" for cell in cells):
            ending = [CONTENDERS[contender].durable] if _says_durable(spec) else []
            yield [CONTENDERS[contender].title, *cells, *ending]


def _cell(spec: Spec, figure: Figure, contender: str, findings: Findings) -> str:
    values = findings.values(spec.name, contender, figure.key)
    median = findings.median(spec.name, contender, figure.key)
    if median is None:
        return "-"
    text = f"{median:,.{figure.digits}f}"
    if len(values) > 1 and min(values) != max(values):
        text += f" [{min(values):,.{figure.digits}f} to {max(values):,.{figure.digits}f}]"
    ratio = findings.ratio(spec.name, contender, figure.key, spec.reference)
    return text if ratio is None or contender == spec.reference else f"{text} ({ratio:.3g}x)"


def _says_durable(spec: Spec) -> bool:
    return spec.name in ("enqueue", "enqueue-100", "throughput")


def show_targets(form: Form, findings: Findings) -> None:
    """One row per target."""
    rows = [("target", "required", "measured", ""), *verdicts(findings)]
    print(form("Targets (ratios of medians of this run)", rows), flush=True)
