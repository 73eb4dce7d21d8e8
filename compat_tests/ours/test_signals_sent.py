"""All 34 signals: which test shows that each is sent where Celery sends it, and those no other file shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from celerylite import Celery, signals
from celerylite.utils.dispatch import Signal
from compat_tests.conftest import Journal

TESTS = Path(__file__).parents[1]

LIFE = "both/test_signals_worker.py"
NEVER = "test_signals_of_green_threads_and_of_celery_3_are_never_sent"

#: Signal -> (file, test) that sees it sent, with Celery where the file is in `both/`.
SHOWN = {
    "before_task_publish": ("both/test_sending.py", None),
    "after_task_publish": ("both/test_sending.py", None),
    "task_received": ("both/test_running.py", None),
    "task_prerun": ("both/test_running.py", None),
    "task_postrun": ("both/test_running.py", None),
    "task_success": ("both/test_running.py", None),
    "task_retry": ("both/test_running.py", None),
    "task_failure": ("both/test_running.py", None),
    "task_revoked": ("both/test_running.py", None),
    "task_rejected": ("both/test_running.py", None),
    "task_unknown": ("both/test_running.py", None),
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
    "beat_init": ("both/test_schedules_beat.py", None),
    "beat_embedded_init": ("ours/test_ticks.py", None),
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
    for name, (file, test) in SHOWN.items():
        text = (TESTS / file).read_text()
        assert test is None or f"def {test}(" in text, (name, test)
        assert test == NEVER or name in text, (name, file)


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
