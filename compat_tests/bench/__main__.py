"""Run the benchmarks: ``python -m compat_tests.bench [--quick] [--against NAME,...] [measure ...]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from compat_tests.bench import own_environment
from compat_tests.bench.contenders import CONTENDERS
from compat_tests.bench.figures import Findings
from compat_tests.bench.measures import MEASURES, spec
from compat_tests.bench.report import MARKDOWN, PLAIN, Form, show_measure, show_targets
from compat_tests.bench.rounds import run_rounds
from compat_tests.bench.spec import Size

__all__ = ("main",)

#: What runs whomever celerylite is measured against.
_ALWAYS = tuple(name for name in CONTENDERS if name.startswith(("celerylite", "floor", "python", "croniter")))
_PEERS = tuple(name for name in CONTENDERS if name not in _ALWAYS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measures named on the command line, or all, in this Python, and print what they found."""
    options = _options(arguments)
    if options.show is not None:
        _show(options)
    else:
        _run(options)


def _run(options: argparse.Namespace) -> None:
    findings, form, began = Findings(), _form(options), time.monotonic()
    contenders = {*_ALWAYS, *options.against} if options.contenders is None else options.contenders
    machine = _machine()
    print(machine, flush=True)
    for name in options.measures or MEASURES:
        run_rounds(spec(name), findings, python=sys.executable, size=options.size, contenders=contenders)
        show_measure(form, spec(name), findings)
        if options.json is not None:
            kept = {"machine": machine, "figures": list(findings.as_rows())}
            options.json.write_text(json.dumps(kept, indent=1))
    show_targets(form, findings)
    print(f"\n{time.monotonic() - began:.0f} s")


def _show(options: argparse.Namespace) -> None:
    kept = json.loads(options.show.read_text())
    findings = Findings.of_rows(kept["figures"])
    print(kept["machine"])
    for name in options.measures or MEASURES:
        show_measure(_form(options), spec(name), findings)
    show_targets(_form(options), findings)


def _form(options: argparse.Namespace) -> Form:
    return MARKDOWN if options.markdown else PLAIN


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m compat_tests.bench")
    parser.add_argument("measures", nargs="*", metavar="measure", help=f"of {', '.join(MEASURES)}; or all")
    parser.add_argument(
        "--against", type=_names, default=_PEERS, help=f"of {','.join(_PEERS)}; or all, or '' for none"
    )
    parser.add_argument("--contenders", type=_names, help="these and no others, floors and variants included")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument(
        "--show", type=Path, help="print what an earlier run wrote with --json, and run nothing"
    )
    parser.add_argument("--markdown", action="store_true", help="print tables for docs/performance.md")
    parser.add_argument("--here", action="store_true", help="in this Python: install no contenders")
    size = parser.add_mutually_exclusive_group()
    for choice, text in ((Size.QUICK, "fewer, smaller rounds"), (Size.TINY, "to see that it works")):
        size.add_argument(f"--{choice.value}", dest="size", action="store_const", const=choice, help=text)
    parser.set_defaults(size=Size.FULL)
    options = parser.parse_args(arguments)
    for name in options.measures:
        if name not in MEASURES:
            parser.error(f"measure: expected one of {', '.join(MEASURES)}, got {name!r}")
    return options


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    for name in names:
        if name not in CONTENDERS:
            raise argparse.ArgumentTypeError(f"expected some of {','.join(CONTENDERS)}, got {name!r}")
    return names


def _machine() -> str:
    versions = ", ".join(f"{name} {number}" for name, number in own_environment.versions().items())
    return (
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()}"
        f" {platform.machine()}; {versions}.\nMedian [range] (ratio to celerylite's median in the same run)."
    )


def _go_on_in_own_environment() -> None:
    """Replace this program by the same in the benchmark's own environment, unless told to stay here."""
    if not _options(None).here:
        # Whatever Python this is: some measures import packages that it may not have.
        python = own_environment.interpreter()
        os.execv(python, [python, "-m", "compat_tests.bench", "--here", *sys.argv[1:]])


def _end(*_: object) -> NoReturn:
    # As an error in the middle, so that the round that is on is ended too.
    raise SystemExit("ended before it was done")


if __name__ == "__main__":
    _go_on_in_own_environment()
    signal.signal(signal.SIGTERM, _end)
    main()
