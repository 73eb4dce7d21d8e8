"""What `install_as_celery` promises; each test in a process of its own, because the alias is for good."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]

#: Runs code in a fresh interpreter and gives what it printed.
Python = Callable[[str], str]


@pytest.fixture
def python(tmp_path: Path) -> Python:
    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


INSTALL = "from celerylite import install_as_celery; install_as_celery()\n"


def test_celery_and_celerylite_are_one_module_whichever_is_imported_first(python: Python) -> None:
    assert (
        python(
            INSTALL + "import celerylite.app.task, celery.app.task\n"
            "import celery.schedules, celerylite.schedules\n"
            "import sys, celery, celerylite\n"
            "print(celery is celerylite, celery.app.task is celerylite.app.task,\n"
            "      celery.schedules is celerylite.schedules,\n"
            "      sys.modules['celery.schedules'] is sys.modules['celerylite.schedules'])"
        )
        == "True True True True"
    )


def test_a_module_keeps_its_own_name_and_spec(python: Python) -> None:
    assert (
        python(
            INSTALL + "import celery.exceptions as m\n"
            "print(m.__name__, m.__spec__.name, m.__package__, m.__loader__ is m.__spec__.loader)"
        )
        == "celerylite.exceptions celerylite.exceptions celerylite True"
    )


def test_a_submodule_is_an_attribute_of_its_parent_under_both_names(python: Python) -> None:
    assert (
        python(
            INSTALL + "import celery.utils.text, celery, celerylite\n"
            "print(celery.utils.text is celerylite.utils.text)"
        )
        == "True"
    )


def test_what_is_patched_under_one_name_is_patched_under_the_other(python: Python) -> None:
    assert (
        python(
            INSTALL + "from unittest.mock import patch\n"
            "import celerylite.utils.text\n"
            "with patch('celery.utils.text.pluralize', 'patched'):\n"
            "    print(celerylite.utils.text.pluralize)"
        )
        == "patched"
    )


def test_dotted_strings_and_pickles_that_name_celery_resolve_to_ours(python: Python) -> None:
    assert (
        python(
            INSTALL + "import pickle\n"
            "from kombu.utils.imports import symbol_by_name\n"
            "from celerylite.app.task import Task\n"
            "from celerylite.exceptions import Retry\n"
            "print(symbol_by_name('celery.app.task:Task') is Task,\n"
            "      pickle.loads(b'ccelery.exceptions\\nRetry\\n.') is Retry)"
        )
        == "True True"
    )


def test_the_installed_version_of_celery_is_the_one_we_follow(python: Python) -> None:
    assert (
        python(
            INSTALL + "import importlib.metadata as m\n"
            "print(m.version('celery'), m.version('Celery'), m.distribution('celery').metadata['Name'])\n"
            "import celery; print(celery.__version__, m.version('kombu') != '5.7.0x')"
        )
        == "5.7.0 5.7.0 celery\n5.7.0 True"
    )


def test_other_distributions_are_found_as_before(python: Python) -> None:
    assert (
        python(
            "import importlib.metadata as m\n"
            "before = {d.name for d in m.distributions()}\n"
            + INSTALL
            + "after = {d.name for d in m.distributions()}\n"
            "print(after - before <= {'celery'}, before - after)"
        )
        == "True set()"
    )


def test_installing_it_twice_is_the_same_as_once(python: Python) -> None:
    assert (
        python(
            INSTALL + INSTALL + "import sys\n"
            "from celerylite import _shim\n"
            "print(_shim.is_installed(), sum(type(f).__name__ == '_CeleryFinder' for f in sys.meta_path))"
        )
        == "True 1"
    )


def test_installing_it_after_the_real_celery_is_refused(python: Python) -> None:
    pytest.importorskip("celery")
    told = python(
        "import celery\n"
        "from celerylite import install_as_celery\n"
        "try:\n"
        "    install_as_celery()\n"
        "except RuntimeError as exc:\n"
        "    print(exc)\n"
        "import sys; print(sys.modules['celery'] is celery and celery.__name__)"
    )
    assert "expected to be called before the first `import celery`" in told
    assert "celerylite run -- COMMAND" in told
    assert told.endswith("\ncelery")


def test_a_path_that_we_do_not_have_is_told_with_the_page_that_lists_them(python: Python) -> None:
    told = python(
        INSTALL + "try:\n"
        "    import celery.concurrency.eventlet.nothing\n"
        "except ModuleNotFoundError as exc:\n"
        "    print(exc.name, '|', exc)"
    )
    assert told.startswith("celery.concurrency")
    assert "docs/differences.md" in told


def test_asking_for_a_name_that_a_module_lacks_is_an_ordinary_import_error(python: Python) -> None:
    assert (
        python(
            INSTALL + "try:\n"
            "    from celery import nothing_of_the_kind\n"
            "except ImportError as exc:\n"
            "    print(type(exc).__name__)"
        )
        == "ImportError"
    )


def test_python_m_celery_runs_our_command_line(python: Python) -> None:
    assert python(
        INSTALL + "import runpy, sys\n"
        "sys.argv = ['celery', '--version']\n"
        "try:\n"
        "    runpy.run_module('celery', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as exc:\n"
        "    print(exc.code)"
    ).startswith("5.7.0")


def test_unedited_code_runs(python: Python) -> None:
    assert (
        python(
            INSTALL + "from celery import Celery, shared_task, chain\n"
            "from celery.result import EagerResult\n"
            "app = Celery('x', broker='memory://', backend='cache+memory://')\n"
            "app.conf.task_always_eager = True\n"
            "@shared_task\n"
            "def add(x, y): return x + y\n"
            "print(chain(add.s(1, 2), add.s(3))().get(), isinstance(add.delay(1, 2), EagerResult))"
        )
        == "6 True"
    )
