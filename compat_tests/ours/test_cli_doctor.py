"""`celerylite doctor`: what it says of a project, line by line, each with the page that says more."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from kombu import Exchange, Queue

from celerylite import Celery, _clock
from celerylite.bin import _examine
from celerylite.bin._examine import examine
from celerylite.bin.celery import main_for_app
from celerylite.schedules import crontab, schedule, solar
from compat_tests.ours.runtime_fixtures import MakeApp

ROOT = Path(__file__).parents[2]

Doctor = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Examine an app: the exit code, and the lines without their links."""

    def examine(app: Celery, *words: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = main_for_app(app, ["--no-color", "doctor", *words])
        return code, [line.partition("  -> ")[0] for line in capsys.readouterr().out.splitlines()]

    return examine


@pytest.fixture
def app(make_app: MakeApp) -> Celery:
    return make_app("shop", celerylite_runtime=False)


def test_a_project_without_trouble_ends_with_zero(app: Celery, doctor: Doctor, database: Path) -> None:
    app.task(name="shop.add")(lambda x, y: x + y)
    code, lines = doctor(app)
    assert code == 0
    assert lines[0] == f"ok       database sqlite:///{database}: 0 call(s) wait"
    assert "ok       1 task(s)" in lines
    assert lines[-1] == "0 will not work, 1 differ, 3 as usual."
    # The one thing that everybody ought to know.
    assert lines[1].startswith("differs  worker_pool is not set: plain functions run in threads")


def test_servers_that_are_not_contacted_are_named_without_passwords(
    make_app: MakeApp, doctor: Doctor
) -> None:
    code, lines = doctor(make_app(broker_url="amqp://user:secret@rabbit//"))
    assert code == 0
    assert "differs  broker_url (amqp://) is not contacted: the database has queue and results" in lines
    assert not any("secret" in line for line in lines)


def test_settings_without_effect_are_named_with_the_reason(make_app: MakeApp, doctor: Doctor) -> None:
    code, lines = doctor(make_app(worker_state_db="x", redis_db=3, task_track_started=True))
    assert code == 0
    assert "differs  setting worker_state_db has no effect: revoked tasks are in the database" in lines
    assert any(line.startswith("differs  setting redis_db has no effect: a result backend") for line in lines)
    assert not any("task_track_started" in line for line in lines)


def test_what_is_not_supported_is_named(app: Celery, doctor: Doctor) -> None:
    class Step: ...

    app.steps["worker"].add(Step)
    app.conf.update(
        task_serializer="auth",
        result_serializer="nonsense",
        worker_pool="gevent",
        task_time_limit=300,
        task_queues=[Queue("news", Exchange("news", type="fanout"))],
    )
    code, lines = doctor(app)
    assert code == 1
    for expected in (
        "fails    task_serializer 'auth': messages are not signed",
        "fails    result_serializer: expected one of ",
        "differs  worker_pool 'gevent': tasks run in threads, and `worker -P gevent` is refused",
        "differs  task_time_limit: after 300 s a task fails, and its thread runs on",
        "fails    bootstep ",
        "differs  queue news: its fanout exchange copies and routes nothing; the queue's name counts",
    ):
        assert any(line.startswith(expected) for line in lines), (expected, lines)


def test_pickle_is_named_for_what_it_is(make_app: MakeApp, doctor: Doctor) -> None:
    code, lines = doctor(make_app(task_serializer="pickle"))
    assert code == 0
    assert "differs  task_serializer 'pickle': who can write to the database can run code" in lines


def test_a_zone_that_is_none_does_not_work(make_app: MakeApp, doctor: Doctor) -> None:
    code, lines = doctor(make_app(timezone="Europe/Atlantis"))
    assert code == 1
    assert any(line.startswith("fails    timezone 'Europe/Atlantis': ") for line in lines)


def test_modules_that_cannot_be_imported_do_not_work(make_app: MakeApp, doctor: Doctor) -> None:
    code, lines = doctor(make_app(include=["nothing_of_the_kind"]))
    assert code == 1
    assert lines[0].startswith("fails    the task modules cannot be imported: ModuleNotFoundError: ")


def test_a_database_that_cannot_be_used_does_not_work(tmp_path: Path, doctor: Doctor) -> None:
    app = Celery("nowhere", backend=f"db+sqlite:///{tmp_path}/missing/x.sqlite3")
    code, lines = doctor(app)
    assert code == 1
    assert lines[0].startswith(f"fails    database sqlite:///{tmp_path}/missing/x.sqlite3: ")
    app.close()


def test_tasks_that_differ_are_named(app: Celery, doctor: Doctor) -> None:
    @app.task(name="shop.report")
    def report(day: int, /, year: int) -> None: ...

    @app.task(name="shop.fetch")
    async def fetch(url: str) -> None: ...

    @app.task(name="shop.slow", time_limit=30)
    def slow() -> None: ...

    @app.task(name="shop.killed", time_limit=30, pool="prefork")
    def killed() -> None: ...

    @app.task(name="shop.limited", rate_limit="seven")
    def limited() -> None: ...

    code, lines = doctor(app)
    assert code == 1
    assert [line for line in lines if "task shop." in line] == [
        "differs  task shop.fetch is a coroutine: it runs on the loop",
        "fails    task shop.limited: rate_limit: expected a rate such as '10/m', got 'seven'",
        "differs  task shop.report: day can only be given by position, not by name",
        "differs  task shop.slow: after 30 s it fails, and its thread runs on",
    ]


def _schedule_lines(lines: list[str]) -> list[str]:
    return [line for line in lines if " schedule " in line and "celery.backend_cleanup" not in line]


def test_the_schedule_is_shown_with_its_next_five_runs_in_its_zone(app: Celery, doctor: Doctor) -> None:
    app.task(name="shop.add")(lambda: None)
    app.conf.timezone = "Europe/Berlin"
    app.conf.beat_schedule = {
        "ny": {"task": "shop.add", "schedule": crontab(hour=9, minute=0, tz="America/New_York")},
        "spring": {"task": "shop.add", "schedule": crontab(hour=2, minute=30)},
        "every": {"task": "shop.add", "schedule": schedule(90)},
        "sunset": {"task": "shop.add", "schedule": solar("sunset", 52.5, 13.4)},
    }
    # The night before Berlin's clocks go forward.
    with _clock.use(_clock.ManualClock(1774652400.0)):  # 2026-03-28 00:00 CET
        code, lines = doctor(app)
    assert code == 0
    every, new_york, spring, sunset = _schedule_lines(lines)
    assert every == (
        "ok       schedule 'every' of shop.add: next Sat 2026-03-28 00:01:30 CET, "
        "Sat 2026-03-28 00:03:00 CET, Sat 2026-03-28 00:04:30 CET, "
        "Sat 2026-03-28 00:06:00 CET, Sat 2026-03-28 00:07:30 CET"
    )
    assert new_york.startswith("ok       schedule 'ny' of shop.add: next Sat 2026-03-28 09:00:00 EDT, Sun ")
    assert "Sat 2026-03-28 02:30:00 CET, Sun 2026-03-29 03:00:00 CEST, Mon 2026-03-30 02:30:00 CEST" in spring
    assert [run.split()[1] for run in sunset.partition(": next ")[2].split(", ")] == [
        f"2026-03-{day}" for day in ("28", "29", "30", "31")
    ] + ["2026-04-01"]


def test_entries_that_will_not_work_are_named(app: Celery, doctor: Doctor) -> None:
    app.task(name="shop.add")(lambda x: None)
    app.conf.beat_schedule = {
        "args": {"task": "shop.add", "schedule": 30.0},
        "cron": {"task": "shop.add", "schedule": "0 9 * * 9", "args": (1,)},
        "lost": {"task": "shop.gone", "schedule": 30.0},
        "typo": {"task": "shop.add", "schedule": 30.0, "argz": (1,)},
    }
    code, lines = doctor(app)
    assert code == 1
    args, cron, lost, typo = _schedule_lines(lines)
    assert re.fullmatch(
        r"fails    schedule 'args' of shop.add: .*missing 1 required positional argument: 'x'", args
    )
    assert cron.startswith("fails    schedule 'cron': schedule: expected a cron line of five fields")
    assert lost == "fails    schedule 'lost' of shop.gone: no task of this name is registered"
    (link,) = (finding.link for finding in examine(app) if "shop.gone" in finding.text)
    assert link == "docs/failures.md#nobody-knows-the-task-or-its-content-is-not-accepted"
    assert typo.startswith("fails    schedule 'typo': beat_schedule['typo']: expected the keys")


def test_entries_that_were_edited_at_run_time_are_shown_too(app: Celery, doctor: Doctor) -> None:
    app.task(name="shop.add")(lambda: None)
    app.conf.beat_schedule = {"often": {"task": "shop.add", "schedule": 30.0}}
    app.schedule.add("later", task="shop.add", schedule="0 9 * * *")
    app.schedule.pause("later")
    app.schedule.change("often", schedule=60.0)
    often, later, paused = _schedule_lines(doctor(app)[1])
    assert later.startswith("ok       schedule 'later' of shop.add (edited): next ")
    assert paused == "differs  schedule 'later' is paused"
    assert often.startswith("ok       schedule 'often' of shop.add (edited): next ")


def test_a_scheduler_of_the_users_is_named_or_does_not_work(make_app: MakeApp, doctor: Doctor) -> None:
    app = make_app(beat_scheduler="celery_redbeat_of_nobody:Scheduler")
    code, lines = doctor(app)
    assert code == 1
    assert any("fails    beat_scheduler 'celery_redbeat_of_nobody:Scheduler': " in line for line in lines)
    app.conf.beat_scheduler = "celerylite.beat:Scheduler"
    assert (
        "ok       schedule: celerylite.beat.Scheduler decides, which may keep entries of its own"
        in (doctor(app)[1])
    )


def test_the_app_may_be_named_after_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "examined.py").write_text(
        "from celerylite import Celery\n"
        f"app = Celery('examined', backend='db+sqlite:///{tmp_path}/x.sqlite3')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main_for_app(None, ["doctor", "-A", "examined"]) == 0
    assert f"{tmp_path}/x.sqlite3" in capsys.readouterr().out
    sys.modules.pop("examined").app.close()
    with pytest.raises(click.UsageError, match="The module nowhere_to_be_found was not found"):
        main_for_app(None, ["doctor", "-A", "nowhere_to_be_found"])


def test_the_report_can_be_read_by_programs(app: Celery, capsys: pytest.CaptureFixture[str]) -> None:
    main_for_app(app, ["doctor", "--json"])
    found: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {tuple(each) for each in found} == {("kind", "text", "link")}
    assert {each["kind"] for each in found} == {"ok", "differs"}


def test_every_line_has_a_link_to_a_heading_that_is_there(
    app: Celery, capsys: pytest.CaptureFixture[str]
) -> None:
    main_for_app(app, ["--no-color", "doctor"])
    *lines, empty, _summary = capsys.readouterr().out.splitlines()
    assert empty == ""
    assert all("  -> docs/" in line for line in lines)
    source = Path(_examine.__file__).read_text()
    constants = {name: value for name, value in vars(_examine).items() if isinstance(value, str)}
    links = {re.sub(r"\{(\w+)\}", lambda found: constants[found[1]], link) for link in _links(source)}
    assert len(links) > 10
    for link in links:
        page, _, anchor = link.partition("#")
        text = (ROOT / page).read_text()
        assert not anchor or anchor in {_anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.M)}


def _links(source: str) -> set[str]:
    return set(re.findall(r'"((?:docs/|\{_)[^"\s]*)"', source)) - {
        "docs/settings.md#{setting.partition('_')[0]}"
    }


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
