"""The benchmarks start, measure celerylite beside the floor, and judge what they found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compat_tests.bench.__main__ import main
from compat_tests.bench.contenders import CONTENDERS
from compat_tests.bench.figures import Findings
from compat_tests.bench.measures import MEASURES, runner, spec
from compat_tests.bench.report import MARKDOWN, PLAIN
from compat_tests.bench.targets import TARGETS, verdicts

BENCH = Path(__file__).parents[1] / "bench"

DEADLINE_S = 40.0

#: What the machine of the tests has without installing a peer.
HERE = ["--here", "--tiny", "--contenders", "celerylite,floor-commit"]


def test_a_measure_runs_celerylite_and_the_floor_and_prints_their_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*HERE, "--json", str(tmp_path / "figures.json"), "enqueue"])
    out = capsys.readouterr().out
    assert "celerylite, SQLite file" in out
    assert "durable on return" in out
    kept = json.loads((tmp_path / "figures.json").read_text())
    rows = {row["contender"]: row for row in kept["figures"] if row["figure"] == "per_s"}
    assert set(rows) == {"celerylite", "floor-commit"}
    ratio = rows["floor-commit"]["median"] / rows["celerylite"]["median"]
    assert f"({ratio:.3g}x)" in out
    assert "not measured" in out, "the target against a peer that did not run"
    main(["--show", str(tmp_path / "figures.json")])
    shown = capsys.readouterr().out
    assert shown.strip() == out.rpartition("\n\n")[0].strip(), "the same, but for how long it took"


def test_it_goes_on_in_its_own_environment_whatever_python_starts_it(tmp_path: Path) -> None:
    bench = tmp_path / "compat_tests" / "bench"
    shutil.copytree(BENCH, bench, ignore=shutil.ignore_patterns(".venv"))
    # As if the contenders had been installed: what this Python has.
    python = bench / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    shutil.copy(bench / "requirements.txt", bench / ".venv" / "installed.txt")
    # Without the packages that are installed for it.
    command = [
        sys.executable,
        "-S",
        "-m",
        "compat_tests.bench",
        "--tiny",
        "--contenders",
        "celerylite",
        "parts",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(BENCH.parent.parent)])}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr
    assert "Parts of a call, one thread" in done.stdout


def test_a_contender_that_cannot_run_is_named_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    # Its library is not one of those that the tests install.
    main(["--here", "--tiny", "--contenders", "huey", "enqueue"])
    assert "not measured: ModuleNotFoundError: No module named 'huey'" in capsys.readouterr().out


def test_an_unknown_measure_or_contender_is_refused_with_the_names_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["speed"])
    assert "measure: expected one of enqueue, " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--against", "cron"])
    assert "got 'cron'" in capsys.readouterr().err


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_is_complete(name: str) -> None:
    description = spec(name)
    assert description.name == name
    assert callable(runner(name))
    assert set(description.contenders) <= set(CONTENDERS)
    assert description.reference in description.contenders


def test_each_target_is_of_figures_and_contenders_that_its_measure_has() -> None:
    for bound in (bound for target in TARGETS for bound in target.bounds):
        measures = {bound.measure: bound.ours, bound.over_measure or bound.measure: bound.against}
        for measure, contender in measures.items():
            assert bound.key in {figure.key for figure in spec(measure).figures}
            assert contender in ("", *spec(measure).contenders)


def _verdict(findings: Findings, text: str, required: str) -> tuple[str, str]:
    found = {(row[0], row[1]): row[2:] for row in verdicts(findings)}
    return found[text, required]


def test_a_target_is_met_missed_or_not_measured() -> None:
    findings = Findings()
    assert _verdict(findings, "end to end", ">= 5 x celery") == ("-", "not measured")
    for per_s in (900.0, 1000.0, 5000.0):
        findings.add("throughput", "celery", {"per_s": per_s})
    findings.add("throughput", "celerylite", {"per_s": 5001.0})
    assert _verdict(findings, "end to end", ">= 5 x celery") == ("5.001", "met")
    findings.add("throughput", "celerylite", {"per_s": 3000.0})
    assert _verdict(findings, "end to end", ">= 5 x celery") == ("4", "NOT met")


def test_of_two_ways_to_meet_a_target_one_is_enough() -> None:
    findings = Findings()
    findings.add("enqueue-100", "celerylite", {"per_s": 9000.0})
    findings.add("enqueue-100", "floor-group", {"per_s": 18000.0})
    assert _verdict(findings, "100 callers on a loop", ">= 15000 or >= 0.45 x floor-group") == (
        "9000 or 0.5",
        "met",
    )


def test_tables_are_columns_or_markdown() -> None:
    rows = [("a", "bb"), ("ccc", "d")]
    assert PLAIN("Title", rows) == "\nTitle\n  a    bb\n  ccc  d"
    assert MARKDOWN("Title", rows) == "\n### Title\n\n| a | bb |\n|---|---|\n| ccc | d |"
