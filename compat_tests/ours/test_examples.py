"""The examples, driven over real HTTP: under celerylite and, with only the import swapped, under Celery."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
#: Celery itself; the example as it is; and the code written for Celery, unedited, under `celerylite run`.
LIBRARIES = ("celery", "celerylite", "celerylite run")
FINAL = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
#: Nothing that surely comes takes longer, on a machine that does other things too.
DEADLINE_S = 60.0

pytestmark = pytest.mark.timeout(180)


class Site:
    """One copy of an example in its own folder: its servers, its web client, and its files."""

    def __init__(self, example: str, library: str, folder: Path, environment: dict[str, str]) -> None:
        self.library = library
        self.folder = folder / example
        self.port = _free_port()
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            timeout=DEADLINE_S,
            limits=httpx.Limits(max_connections=200),
            trust_env=False,
        )
        self._processes: list[subprocess.Popen[bytes]] = []
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        for name in [name for name in self._environment if name.startswith(("CELERY", "PYTEST_"))]:
            del self._environment[name]
        self._copy(ROOT / "examples" / example)

    def _copy(self, example: Path) -> None:
        if example.is_dir():
            shutil.copytree(example, self.folder, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3*"))
        else:
            self.folder.mkdir()
            shutil.copy(example, self.folder)
        if self.library != "celerylite":
            self._swap_the_import()
        if self.library == "celery":
            self._give_celery_a_broker()

    def _swap_the_import(self) -> None:
        for file in self.folder.rglob("*.py"):
            file.write_text(file.read_text().replace("celerylite", "celery"))

    def _give_celery_a_broker(self) -> None:
        # Celery's broker here is a folder; what its clients put out is what its workers take in.
        (self.folder / "data_in").mkdir()
        (self.folder / "data_out").symlink_to("data_in")
        self._environment["CELERY_BROKER_URL"] = "filesystem://"
        self._environment["CELERY_RESULT_BACKEND"] = "db+sqlite:///results.sqlite3"

    def run(self, *arguments: str) -> str:
        """Run a program of the example to its end, and return what it prints."""
        done = subprocess.run(
            self._command(arguments),
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                self._command(arguments),
                cwd=self.folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        program = [sys.executable, *arguments]
        if self.library == "celerylite run":
            return [sys.executable, "-m", "celerylite", "run", "--", *program]
        return program

    def serve(self, *arguments: str, worker: tuple[str, ...]) -> subprocess.Popen[bytes]:
        """Start the web server, and Celery's worker where that is what runs the tasks."""
        if self.library == "celery":
            self.start("-m", "celery", *worker, "--pool=solo")
        process = self.start(*arguments)
        self.until(lambda: _accepts(self.port) or process.poll() is not None, "the server to listen")
        assert process.poll() is None, self.log()
        return process

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for `condition` to become true, and return what it gave."""
        deadline = time.monotonic() + DEADLINE_S
        pause = threading.Event()
        while not (value := condition()):
            assert time.monotonic() < deadline, f"expected {what}\n{self.log()}"
            pause.wait(0.05)
        return value

    def follow(self, url: str) -> list[dict[str, Any]]:
        """All different answers of a polling endpoint up to the one with a final state."""
        answers: list[dict[str, Any]] = []

        def is_final() -> bool:
            answer = self.client.get(url).json()
            if answer not in answers:
                answers.append(answer)
            return answer["state"] in FINAL

        self.until(is_final, f"{url} to come to a final state, got {answers!r}")
        return answers

    def lines(self, name: str) -> list[str]:
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []

    def log(self) -> str:
        return "\n".join(self.lines("log.txt")[-80:])

    def close(self) -> None:
        self.client.close()
        for process in self._processes:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """`kill -9` for a program and everything that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[MakeSite]:
    sites: list[Site] = []

    def make(example: str, library: str, **environment: str) -> Site:
        sites.append(Site(example, library, tmp_path, environment))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# quickstart.py


def _written_down(example: Path) -> str:
    """The output that an example ends with as a comment."""
    output = example.read_text().split("# Output:\n", 1)[1]
    return "".join(line.removeprefix("# ") + "\n" for line in output.splitlines())


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_quickstart_prints_what_it_says_it_prints(make_site: MakeSite, library: str) -> None:
    site = make_site("quickstart.py", library)
    if library == "celery":
        site.start("-m", "celery", "-A", "quickstart", "worker", "--pool=solo")
    assert site.run("quickstart.py") == _written_down(ROOT / "examples" / "quickstart.py")


def test_the_quickstart_is_under_forty_lines() -> None:
    assert len((ROOT / "examples" / "quickstart.py").read_text().splitlines()) < 40


# fastapi_app


def _serve_shop(site: Site) -> subprocess.Popen[bytes]:
    return site.serve(
        *("-m", "uvicorn", "api:app", "--port", str(site.port), "--log-level", "warning"),
        worker=("-A", "tasks", "worker", "--beat"),
    )


@pytest.fixture(params=LIBRARIES)
def shop(request: pytest.FixtureRequest, make_site: MakeSite) -> Site:
    site = make_site("fastapi_app", request.param, MAIL_RETRY_S="0.2", REPORT_ROW_S="0.05", TALLY_EVERY_S="1")
    _serve_shop(site)
    return site


def test_the_shop_mails_a_new_customer_once_though_the_mail_server_refuses_twice(shop: Site) -> None:
    response = shop.client.post("/signups", json={"email": "ada@example.org"})
    assert response.status_code == 202
    answers = shop.follow(f"/tasks/{response.json()['task']}")
    assert {answer["state"] for answer in answers} <= {"PENDING", "STARTED", "RETRY", "SUCCESS"}
    assert answers[-1]["result"] == "sent at try 3"
    assert shop.lines("outbox.txt") == ["ada@example.org: welcome!"]


def test_a_report_of_the_shop_tells_its_progress(shop: Site) -> None:
    response = shop.client.post("/reports", json={"rows": 20})
    assert response.status_code == 202
    answers = shop.follow(f"/tasks/{response.json()['task']}")
    told = [answer["progress"] for answer in answers if answer["state"] == "PROGRESS"]
    # The task may end between the two reads of one poll: that one tells the result.
    progress = [step for step in told if "done" in step]
    assert progress
    assert all(step["of"] == 20 and 1 <= step["done"] <= 20 for step in progress)
    assert [step["done"] for step in progress] == sorted(step["done"] for step in progress)
    assert answers[-1]["result"] == {"rows": 20, "total": 210}


def test_the_shop_books_a_payment_once_however_often_it_is_reported(shop: Site) -> None:
    paid = {"id": "evt_1", "type": "payment.succeeded", "amount": 4200}
    assert _report_payment(shop, paid, secret=b"a guess").status_code == 401
    assert [_booked(shop, event) for event in (paid, paid, {"id": "evt_2", "type": "payment.opened"})] == [
        "booked",
        "booked before",
        "ignored",
    ]


def _booked(shop: Site, event: dict[str, Any]) -> str:
    response = _report_payment(shop, event)
    assert response.status_code == 202
    result: str = shop.follow(f"/tasks/{response.json()['task']}")[-1]["result"]
    return result


def _report_payment(shop: Site, event: dict[str, Any], secret: bytes = b"not-a-secret") -> httpx.Response:
    body = json.dumps(event).encode()
    signature = hmac.new(secret, body, hashlib.sha256).hexdigest()
    return shop.client.post("/webhooks/payments", content=body, headers={"X-Signature": signature})


def test_the_shop_tallies_on_its_beat_schedule_though_no_request_comes(shop: Site) -> None:
    shop.until(lambda: len(shop.lines("tally.txt")) >= 2, "two tallies")
    assert set(shop.lines("tally.txt")) == {"0"}


# What only celerylite promises of the shop: no second process, and nothing lost.

CUSTOMERS = [f"customer-{number}@example.org" for number in range(200)]


def _sign_up(site: Site, address: str) -> str:
    response = site.client.post("/signups", json={"email": address})
    assert response.status_code == 202, response.text
    task_id: str = response.json()["task"]
    return task_id


def _stored_states(site: Site) -> dict[str, str]:
    """The states as any program reads them from Celery's own result table."""
    with closing(sqlite3.connect(site.folder / "celerylite.sqlite3", timeout=30)) as connection:
        return dict(connection.execute("SELECT task_id, status FROM celery_taskmeta"))


def _all_final(site: Site, ids: list[str]) -> bool:
    states = _stored_states(site)
    return all(states.get(task_id) in FINAL for task_id in ids)


def test_two_hundred_sign_ups_at_once_are_taken_without_waiting_and_all_succeed(make_site: MakeSite) -> None:
    site = make_site("fastapi_app", "celerylite", MAIL_ANSWER_S="0.01")
    _serve_shop(site)
    started = time.monotonic()
    with ThreadPoolExecutor(200) as callers:
        ids = list(callers.map(lambda address: _sign_up(site, address), CUSTOMERS))
    # Two retries of one second each come before a mail is sent, and the server has forty threads: five
    # rounds of two seconds if requests waited for their tasks.
    assert time.monotonic() - started < 10
    site.until(lambda: _all_final(site, ids), "every sign-up to end")
    assert {site.client.get(f"/tasks/{task_id}").json()["state"] for task_id in ids} == {"SUCCESS"}
    assert sorted(site.lines("outbox.txt")) == sorted(f"{address}: welcome!" for address in CUSTOMERS)


def test_a_server_killed_in_the_middle_ends_every_accepted_sign_up_after_its_restart(
    make_site: MakeSite,
) -> None:
    site = make_site("fastapi_app", "celerylite", TALLY_EVERY_S="1")
    server = _serve_shop(site)
    ids = _sign_up_until(site, 80, lambda: kill(server))
    assert len(ids) >= 80
    assert not _all_final(site, ids), "expected the kill to come in the middle"
    tallies = len(site.lines("tally.txt"))

    _serve_shop(site)
    # From here on no request is sent: the server goes on by itself.
    site.until(lambda: _all_final(site, ids), "every accepted sign-up to end")
    site.until(lambda: len(site.lines("tally.txt")) > tallies, "the beat schedule to fire")
    _check_what_the_crash_left(site, ids)


def _sign_up_until(site: Site, count: int, then: Callable[[], None]) -> list[str]:
    """Let all customers sign up at once, do `then` after `count` answers; the ids that were accepted."""
    ids: list[str] = []
    with ThreadPoolExecutor(50) as callers:
        for call in as_completed([callers.submit(_sign_up, site, address) for address in CUSTOMERS]):
            if isinstance(call.exception(), httpx.TransportError):
                continue
            ids.append(call.result())
            if len(ids) == count:
                then()
    return ids


def _check_what_the_crash_left(site: Site, ids: list[str]) -> None:
    """Each task either succeeded, and its mail is out, or says that its worker was lost."""
    answers = [site.client.get(f"/tasks/{task_id}").json() for task_id in ids]
    lost = [answer for answer in answers if answer["state"] == "FAILURE"]
    assert all("WorkerLostError" in answer["error"] for answer in lost), lost
    assert {answer["state"] for answer in answers} <= {"SUCCESS", "FAILURE"}
    assert len(site.lines("outbox.txt")) >= len(answers) - len(lost)


# flask_app


@pytest.fixture(params=LIBRARIES)
def flask_site(request: pytest.FixtureRequest, make_site: MakeSite) -> Site:
    site = make_site("flask_app", request.param, FLASK_GREETING="Good morning")
    site.serve(
        *("-m", "flask", "--app", "make_celery", "run", "--port", str(site.port)),
        worker=("-A", "make_celery", "worker"),
    )
    return site


def _flask_result(site: Site, url: str, **form: str) -> list[dict[str, Any]]:
    response = site.client.post(url, data=form)
    assert response.status_code == 202
    return site.follow(f"/result/{response.json()['task']}")


def test_a_flask_task_runs_inside_the_application_context(flask_site: Site) -> None:
    assert _flask_result(flask_site, "/greet", name="Ada")[-1] == {
        "state": "SUCCESS",
        "ready": True,
        "successful": True,
        "value": "Good morning, Ada!",
    }


def test_a_flask_task_that_fails_hands_its_exception_to_the_page(flask_site: Site) -> None:
    assert _flask_result(flask_site, "/divide", a="1", b="0")[-1] == {
        "state": "FAILURE",
        "ready": True,
        "successful": False,
        "value": "ZeroDivisionError('float division by zero')",
    }


def test_a_flask_task_tells_its_progress(flask_site: Site) -> None:
    answers = _flask_result(flask_site, "/count", to="10")
    told = [answer["value"] for answer in answers if answer["state"] == "PROGRESS"]
    # As above: the last one may be the result already.
    progress = [step for step in told if step != 10]
    assert progress
    assert all(set(step) == {"current", "total"} for step in progress)
    assert answers[-1]["value"] == 10


# django_project


@pytest.fixture(params=LIBRARIES)
def django_site(request: pytest.FixtureRequest, make_site: MakeSite) -> Site:
    site = make_site("django_project", request.param)
    site.run("manage.py", "migrate", "--verbosity", "0")
    site.serve("manage.py", "runserver", "--noreload", str(site.port), worker=("-A", "proj", "worker"))
    return site


def test_a_django_view_orders_a_report_and_polls_for_it(django_site: Site) -> None:
    response = django_site.client.post("/reports/", data={"title": "Sales"})
    assert response.status_code == 202
    ordered = response.json()
    answers = django_site.follow(f"/tasks/{ordered['task']}/")
    assert {answer["state"] for answer in answers} <= {"PENDING", "STARTED", "PROGRESS", "SUCCESS"}
    assert answers[-1]["result"] == {"report": ordered["report"], "lines": 5}
    page = f"/reports/{ordered['report']}/"
    django_site.until(lambda: django_site.client.get(page).json()["announced"], "the report to be announced")
    report = django_site.client.get(page).json()
    assert report["text"].splitlines() == [f"Sales, line {number}" for number in range(1, 6)]
