"""What errors say: each sentence of the app, the runtime and the backends is asserted in some test."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celerylite import chain, shared_task
from celerylite.app.routes import Router
from celerylite.app.utils import find_app
from celerylite.backends.base import BaseBackend, BaseKeyValueStoreBackend, DisabledBackend
from celerylite.exceptions import ImproperlyConfigured, InvalidTaskError, QueueNotFound
from compat_tests.ours.runtime_fixtures import MakeApp

ROOT = Path(__file__).parents[2]

#: Sentences that no test can bring about, and why.
UNREACHED = {
    "the event loop for coroutine tasks did not start": "the interpreter would have to refuse a new loop",
}


def test_the_app_says_what_it_expected(make_app: MakeApp) -> None:
    app = make_app()
    with pytest.raises(ImproperlyConfigured, match="setup_security: expected no message signing"):
        app.setup_security()
    with pytest.raises(ValueError, match="The worker sub-command must be specified in argv"):
        app.worker_main(["beat"])
    with pytest.raises(InvalidTaskError, match=r"Task class 'Nameless' must specify \.name attribute"):
        app.tasks.register(type("Nameless", (app.Task,), {"name": None})())
    app.conf.task_create_missing_queue_type = "round"
    with pytest.raises(
        ValueError, match=r"Invalid queue type 'round'\. Valid types are 'classic' and 'quorum'"
    ):
        app.send_task("anything", queue="missing")


def test_shared_task_says_how_it_is_used() -> None:
    with pytest.raises(TypeError, match=r"@shared_task\(\) takes one function, got \(1, 2\)"):
        shared_task(1, 2)  # type: ignore[call-overload]

    def work() -> None:
        return None

    with pytest.raises(TypeError, match="@shared_task was applied more than once to the same function"):
        shared_task(shared_task(work))


def test_a_router_without_an_app_knows_no_default_queue() -> None:
    with pytest.raises(QueueNotFound, match="expected a router with an app to find the default queue of 'x'"):
        Router().route({}, "x")


def test_a_module_whose_celery_is_the_package_is_no_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_with_package.py").write_text("import celerylite as celery\n")
    (tmp_path / "module_without_app.py").write_text("\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AttributeError, match="attribute 'celery' is the celery module not the instance"):
        find_app("module_with_package")
    with pytest.raises(AttributeError, match="module 'module_without_app' has no attribute 'celery'"):
        find_app("module_without_app")


def test_what_is_only_a_name_is_no_task(make_app: MakeApp) -> None:
    app = make_app()
    with pytest.raises(NotImplementedError, match="chain is not a real task"):
        app.tasks["celery.chain"]()

    @app.task(bind=True)
    def replacing(self: Any) -> None:
        self.replace(chain())

    with pytest.raises(ImproperlyConfigured, match="Cannot replace with an empty chain"):
        replacing()


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda b: b.store_result("id", 1, "SUCCESS"), "backend does not implement store_result."),
        (lambda b: b.forget("id"), "backend does not implement forget."),
        (lambda b: b.get_task_meta("id"), "backend does not implement get_task_meta_for."),
        (lambda b: b.restore_group("id"), "backend does not implement restore_group."),
        (lambda b: b.save_group("id", []), "backend does not implement save_group."),
        (lambda b: b.delete_group("id"), "backend does not implement delete_group."),
        (lambda b: b.add_to_chord("id", None), "Backend does not support add_to_chord"),
    ],
)
def test_a_backend_says_what_its_author_left_out(
    make_app: MakeApp, call: Callable[[Any], Any], complaint: str
) -> None:
    class Empty(BaseBackend):
        pass

    with pytest.raises(NotImplementedError, match=complaint):
        call(Empty(app=make_app()))


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda b: b.get("key"), "Must implement the get method."),
        (lambda b: b.mget(["key"]), "Does not support get_many"),
        (lambda b: b.set("key", "value"), "Must implement the set method."),
        (lambda b: b.delete("key"), "Must implement the delete method"),
        (lambda b: b.incr("key"), "Does not implement incr"),
    ],
)
def test_a_store_of_keys_says_what_its_author_left_out(
    make_app: MakeApp, call: Callable[[Any], Any], complaint: str
) -> None:
    with pytest.raises(NotImplementedError, match=complaint):
        call(BaseKeyValueStoreBackend(app=make_app()))


def test_an_app_without_results_says_so(make_app: MakeApp) -> None:
    backend = DisabledBackend(app=make_app())
    with pytest.raises(
        NotImplementedError, match="Starting chords requires a result backend to be configured"
    ):
        backend.ensure_chords_allowed()
    with pytest.raises(NotImplementedError, match="No result backend is configured"):
        backend.get_state("id")


def test_every_sentence_in_our_grammar_is_asserted_in_a_test() -> None:
    """Those that say what was expected; the others are Celery's and are compared with Celery."""
    tests = "".join(path.read_text().replace("\\", "") for path in (ROOT / "compat_tests").rglob("test_*.py"))
    missing = [
        f"{path.relative_to(ROOT)}: {' ... '.join(sentence)}"
        for path in _sources()
        for sentence in _sentences(path)
        if "expected" in " ".join(sentence) and not _is_asserted(sentence, tests)
    ]
    assert missing == []


def _sources() -> Iterator[Path]:
    for folder in ("app", "backends"):
        yield from sorted((ROOT / "celerylite" / folder).rglob("*.py"))
    # The others in there have Celery's paths and, with them, its words.
    yield from sorted((ROOT / "celerylite" / "worker").glob("_*.py"))
    yield ROOT / "celerylite" / "_message.py"


def _sentences(path: Path) -> Iterator[list[str]]:
    """The texts with which the module raises, each as the parts between its values."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            text = node.exc.args[0]
            pieces = text.values if isinstance(text, ast.JoinedStr) else [text]
            parts = [
                piece.value
                for piece in pieces
                if isinstance(piece, ast.Constant) and isinstance(piece.value, str)
            ]
            if parts:
                yield parts


def _is_asserted(sentence: list[str], tests: str) -> bool:
    """Whether three words of it in a row are in some test."""
    if any(part in UNREACHED for part in sentence):
        return True
    words = [part.split() for part in sentence]
    return any(
        " ".join(part[start : start + 3]) in tests for part in words for start in range(max(0, len(part) - 2))
    )
