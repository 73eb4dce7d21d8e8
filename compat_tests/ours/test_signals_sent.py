"""All 34 signals: which test shows that each is sent where Celery sends it, and those no other file shows."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from kombu.exceptions import ContentDisallowed

from celerylite import Celery, signals
from celerylite.utils.dispatch import Signal
from compat_tests.conftest import Journal

LIFE = "both/test_signals_worker.py"
NEVER = "test_signals_of_green_threads_and_of_celery_3_are_never_sent"

#: Signal -> (file, test) that sees it sent, with Celery where the file is in `both/`.
SHOWN: dict[str, tuple[str, str]] = {
    "before_task_publish": (
        "both/test_sending.py",
        "test_before_task_publish_is_told_everything_about_the_message",
    ),
    "after_task_publish": ("both/test_sending.py", "test_after_task_publish_is_told_the_queue"),
    "task_received": ("both/test_running.py", "test_received_is_told_the_request_before_it_runs"),
    "task_prerun": ("both/test_running.py", "test_prerun_is_told_the_call"),
    "task_postrun": ("both/test_running.py", "test_postrun_is_told_the_value_and_the_state"),
    "task_success": ("both/test_running.py", "test_success_is_told_the_value"),
    "task_retry": ("both/test_running.py", "test_retry_is_told_the_request_and_the_reason"),
    "task_failure": ("both/test_running.py", "test_failure_is_told_exception_and_traceback"),
    "task_revoked": ("both/test_states.py", "test_an_expired_task_is_told_as_revoked_and_expired"),
    "task_rejected": ("ours/test_signals_sent.py", "test_a_message_that_cannot_be_read_is_told_as_rejected"),
    "task_unknown": ("both/test_running.py", "test_an_unknown_task_is_told_and_fails"),
    "task_internal_error": ("both/test_signals.py", "test_a_defect_around_a_task_is_told"),
    "import_modules": (LIFE, "test_a_signal_of_the_worker_comes_with_this"),
    "celeryd_init": (LIFE, "test_a_signal_of_the_worker_comes_with_this"),
    "celeryd_after_setup": (LIFE, "test_a_signal_of_the_worker_comes_with_this"),
    "worker_init": (LIFE, "test_a_signal_of_the_worker_comes_with_this"),
    "worker_process_init": (LIFE, "test_a_signal_of_the_worker_comes_with_this"),
    "worker_ready": (LIFE, "test_the_life_of_a_worker_is_told_in_this_order"),
    "heartbeat_sent": (LIFE, "test_a_heartbeat_is_told"),
    "worker_shutting_down": (LIFE, "test_a_signal_of_the_worker_comes_with_this"),
    "worker_shutdown": (LIFE, "test_a_signal_of_the_worker_comes_with_this"),
    "after_setup_logger": (LIFE, "test_a_signal_of_the_worker_comes_with_this"),
    "after_setup_task_logger": (LIFE, "test_a_signal_of_the_worker_comes_with_this"),
    "setup_logging": (
        "both/test_configuration_logging.py",
        "test_a_receiver_of_setup_logging_takes_it_over",
    ),
    "worker_process_shutdown": (
        "ours/test_prefork.py",
        "test_a_child_tells_when_it_starts_and_when_it_leaves",
    ),
    "worker_before_create_process": (
        "ours/test_control_events.py",
        "test_a_pool_says_before_it_starts_a_child_process",
    ),
    "beat_init": ("both/test_schedules_beat.py", "test_a_service_ticks_until_it_is_stopped"),
    "beat_embedded_init": ("ours/test_ticks.py", "test_the_beat_signals_are_sent_once"),
    "user_preload_options": (
        "ours/test_cli.py",
        "test_an_app_can_be_the_default_and_take_options_of_its_own",
    ),
    "eventlet_pool_started": (LIFE, NEVER),
    "eventlet_pool_preshutdown": (LIFE, NEVER),
    "eventlet_pool_postshutdown": (LIFE, NEVER),
    "eventlet_pool_apply": (LIFE, NEVER),
    "task_sent": (LIFE, NEVER),
}


def test_the_table_has_every_signal_and_its_tests_are_there() -> None:
    assert set(SHOWN) == {name for name, each in vars(signals).items() if isinstance(each, Signal)}
    assert len(SHOWN) == 34


@pytest.mark.parametrize(("name", "file", "test"), [(name, *place) for name, place in SHOWN.items()])
def test_a_signal_is_seen_by_the_test_that_is_named_for_it(name: str, file: str, test: str) -> None:
    found = getattr(_module(file), test)
    assert inspect.isfunction(found)
    # A parametrised test has the names in its mark.
    cases = [mark.args for mark in getattr(found, "pytestmark", ()) if mark.name == "parametrize"]
    assert test == NEVER or f"{name}" in inspect.getsource(found) + repr(cases)


def _module(file: str) -> Any:
    return importlib.import_module(f"compat_tests.{file.removesuffix('.py').replace('/', '.')}")


def test_a_message_that_cannot_be_read_is_told_as_rejected(
    file_app: Celery, receive: Callable[..., Any], journal: Journal
) -> None:
    @file_app.task(serializer="pickle")
    def job() -> None: ...

    receive(signals.task_rejected, lambda message, exc, **_: journal.note((message.id, type(exc))))
    result = job.delay()
    journal.until((result.id, ContentDisallowed))


def test_a_runtime_in_a_program_sends_the_signals_of_a_worker(
    file_app: Celery, receive: Callable[..., Any], journal: Journal
) -> None:
    for name in (
        *("import_modules", "worker_init", "worker_process_init", "worker_ready"),
        *("worker_process_shutdown", "worker_shutdown"),
    ):
        receive(getattr(signals, name), lambda name=name, **_: journal.note(name))
    file_app.start_runtime()
    file_app.close()
    assert journal == [
        *("import_modules", "worker_init", "worker_process_init", "worker_ready"),
        *("worker_process_shutdown", "worker_shutdown"),
    ]
