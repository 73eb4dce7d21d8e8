"""`celerylite events` as a program: what it prints, and what its camera sees, of tasks in another process."""

from __future__ import annotations

import pytest

from celerylite import Celery
from celerylite.bin.celery import main_for_app
from compat_tests.ours.runtime_fixtures import DEADLINE_S, MakeApp, Program, StartProgram
from compat_tests.ours.test_control_events import WORKER

DUMP = r"""
from celerylite.bin.celery import main_for_app
main_for_app(app, ["--no-color", "events", *sys.argv[1:]])
"""

CAMERA = r"""
from celerylite.events.snapshot import Polaroid

class Camera(Polaroid):
    said = set()

    def __init__(self, state, **options):
        super().__init__(state, **options)
        say("made", self.freq, options["maxrate"])

    def on_shutter(self, state):
        for line in (*(f"sees {name}" for name in state.workers), *map(self.describe, state.tasks_by_time())):
            if line not in self.said:
                self.said.add(line)
                say(line)

    def describe(self, pair):
        return f"pictured {pair[0]} {pair[1].name} {pair[1].state}"

app.conf.celerylite_runtime = False
sys.modules["pictures"] = sys.modules["__main__"]
"""

pytestmark = pytest.mark.timeout(60)  # Two programs, which start slowly on a busy machine.


@pytest.fixture
def asker(make_app: MakeApp) -> Celery:
    """An app that only sends."""
    return make_app(celerylite_runtime=False)


@pytest.fixture
def worker(start_program: StartProgram) -> Program:
    """A program that runs tasks and sends events."""
    program = start_program(WORKER, name="a_worker")
    program.until("ready")
    return program


def test_events_are_printed_as_they_come(asker: Celery, worker: Program, start_program: StartProgram) -> None:
    dump = start_program(DUMP, "-d", name="a_dump")
    dump.until("-> evdump: starting capture...")
    # Now it is known to the worker that somebody listens.
    dump.until("a@here [")
    result = asker.send_task("add", (1, 2))
    assert result.get(timeout=DEADLINE_S) == 3
    seen: list[str] = []
    while not seen or "task succeeded" not in seen[-1]:
        seen.append(dump.until("a@here ["))
    told = [line for line in seen if " task " in line]
    assert [line.partition("] ")[2].split(":")[0].split(" add(")[0] for line in told] == [
        "task received",
        "task started",
        "task succeeded",
    ]
    assert f"add({result.id}) args=(1, 2) kwargs={{}}" in told[-1]
    assert "result=3" in told[-1]


def test_a_failure_of_a_task_that_nobody_knows_is_printed_with_name_and_id(
    asker: Celery, worker: Program, start_program: StartProgram
) -> None:
    dump = start_program(DUMP, "-d", name="a_dump")
    dump.until("a@here [")
    result = asker.send_task("nobody.knows", (1, 2))
    line = dump.until("a@here [")
    while "task failed" not in line:
        line = dump.until("a@here [")
    assert f"task failed: nobody.knows({result.id}) " in line
    assert "NotRegistered" in line


def test_a_camera_sees_the_tasks_of_another_process(
    asker: Celery, worker: Program, start_program: StartProgram
) -> None:
    camera = start_program(
        CAMERA + DUMP,
        *("--camera", "pictures.Camera", "--frequency", "0.05", "--maxrate", "100/s"),
        name="a_camera",
    )
    camera.until("-> evcam: Taking snapshots with pictures.Camera (every 0.05 secs.)")
    camera.until("made 0.05 100/s")
    # Now it is known to the worker that somebody listens.
    camera.until("sees a@here")
    result = asker.send_task("add", (1, 2))
    camera.until(f"pictured {result.id} add SUCCESS")


def test_without_a_choice_it_says_what_there_is(asker: Celery, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="expected --dump or --camera") as caught:
        main_for_app(asker, ["events"])
    assert getattr(caught.value, "exit_code", None) == 2


def test_a_camera_that_is_not_there_is_told(asker: Celery) -> None:
    with pytest.raises(
        Exception, match=r"Unable to run the `events` command\. Reason: No module named 'nope'"
    ):
        main_for_app(asker, ["events", "--camera", "nope.Camera"])
