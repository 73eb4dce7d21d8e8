"""Making apps: which one is current, what it holds, and what runs when it is first used."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_an_app_becomes_the_current_one_by_being_made(lib: Any, new_app: Callable[..., Any]) -> None:
    app = new_app("first")
    assert lib.current_app._get_current_object() is app


def test_the_app_made_last_is_the_current_one(lib: Any, new_app: Callable[..., Any]) -> None:
    new_app("first")
    second = new_app("second")
    assert lib.current_app.main == "second"
    assert lib.current_app._get_current_object() is second


def test_an_app_can_be_made_without_becoming_current(lib: Any, app: Any) -> None:
    other = lib.Celery("other", set_as_current=False)
    assert lib.current_app._get_current_object() is app
    other.set_current()
    assert lib.current_app._get_current_object() is other


def test_the_default_app_is_seen_by_other_threads(lib: Any, app: Any) -> None:
    app.set_default()
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(lib.current_app._get_current_object()))
    thread.start()
    thread.join()
    assert seen == [app]


def test_a_default_app_can_be_any_object_such_as_a_trap(submodule: Callable[[str], Any]) -> None:
    class Trap:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("Test depends on current_app")

    state = submodule("_state")
    state._set_current_app(None)
    state.set_default_app(Trap())
    with pytest.raises(RuntimeError, match="depends on current_app"):
        _ = state.current_app.tasks


def test_an_app_has_the_name_it_was_given(app: Any) -> None:
    assert app.main == "tests"
    assert repr(app).startswith("<Celery tests at 0x")


def test_constructor_arguments_set_broker_and_backend(lib: Any) -> None:
    app = lib.Celery("x", broker="memory://", backend="cache+memory://", set_as_current=False)
    assert app.conf.broker_url == "memory://"
    assert app.conf.result_backend == "cache+memory://"


def test_other_keywords_of_the_constructor_are_settings(lib: Any) -> None:
    app = lib.Celery("x", task_ignore_result=True, timezone="Europe/Oslo", set_as_current=False)
    assert app.conf.task_ignore_result is True
    assert app.conf.timezone == "Europe/Oslo"


def test_changes_is_a_mapping_of_settings(lib: Any) -> None:
    app = lib.Celery("x", changes={"task_default_queue": "fast"}, set_as_current=False)
    assert app.conf.task_default_queue == "fast"


def test_a_config_source_can_be_a_class(lib: Any) -> None:
    class Config:
        task_default_queue = "from-class"

    app = lib.Celery("x", config_source=Config, set_as_current=False)
    assert app.conf.task_default_queue == "from-class"


def test_a_namespace_is_kept_and_prefixes_the_config_source(lib: Any) -> None:
    class Config:
        CELERY_TASK_DEFAULT_QUEUE = "prefixed"

    app = lib.Celery("x", config_source=Config, namespace="CELERY", set_as_current=False)
    assert app.conf.task_default_queue == "prefixed"
    assert app.namespace == "CELERY"


def test_every_app_has_the_built_in_tasks(app: Any) -> None:
    expected = {
        "celery.accumulate",
        "celery.backend_cleanup",
        "celery.chain",
        "celery.chord",
        "celery.chord_unlock",
        "celery.chunks",
        "celery.group",
        "celery.map",
        "celery.starmap",
    }
    assert expected <= set(app.tasks)


def test_a_task_is_shared_with_apps_that_are_finalized_later(new_app: Callable[..., Any]) -> None:
    one, two = new_app("one"), new_app("two")

    @one.task(name="for.all")
    def for_all() -> None: ...

    assert two.tasks["for.all"].app is two
    assert one.tasks["for.all"].app is one


def test_a_task_that_is_not_shared_is_in_the_registry_of_its_app_only(new_app: Callable[..., Any]) -> None:
    one, two = new_app("one"), new_app("two")

    @one.task(name="only.one", shared=False)
    def only() -> None: ...

    assert "only.one" in one.tasks
    assert "only.one" not in two.tasks


def test_looking_up_an_unknown_task_raises_not_registered(app: Any, submodule: Callable[[str], Any]) -> None:
    with pytest.raises(submodule("exceptions").NotRegistered) as raised:
        _ = app.tasks["nobody.knows"]
    assert isinstance(raised.value, KeyError)
    assert str(raised.value) == "'nobody.knows'"


def test_the_decorator_works_bare_and_with_empty_parentheses(app: Any) -> None:
    @app.task
    def bare(x: int) -> int:
        return x + 1

    @app.task()
    def called(x: int) -> int:
        return x + 2

    assert (bare(1), called(1)) == (2, 3)
    assert bare.name in app.tasks
    assert called.name in app.tasks


def test_the_decorator_takes_one_function_only(app: Any) -> None:
    with pytest.raises(TypeError, match=r"@task\(\) takes exactly 1 argument"):
        app.task(len, len)


def test_the_decorator_refuses_what_is_not_callable(app: Any) -> None:
    with pytest.raises(TypeError, match=r"argument 1 to @task\(\) must be a callable"):
        app.task(1)


def test_tasks_are_made_when_the_app_is_finalized(lib: Any) -> None:
    app = lib.Celery("lazy", set_as_current=False)

    @app.task(name="lazy.task")
    def later() -> None: ...

    assert not app.finalized
    app.finalize()
    assert app.finalized
    assert app.tasks["lazy.task"].name == later.name


def test_a_lazy_false_task_is_made_at_once(lib: Any) -> None:
    app = lib.Celery("eager", set_as_current=False)

    @app.task(name="at.once", lazy=False)
    def at_once() -> None: ...

    assert app.tasks["at.once"] is at_once


def test_an_app_that_must_be_finalized_by_hand_says_so(lib: Any) -> None:
    app = lib.Celery("strict", autofinalize=False, set_as_current=False)

    @app.task
    def never() -> None: ...

    with pytest.raises(RuntimeError, match="app not finalized"):
        _ = app.tasks
    with pytest.raises(RuntimeError, match="app not finalized"):
        never.delay()


def test_register_task_takes_an_instance_of_a_class(lib: Any, app: Any) -> None:
    class Double(lib.Task):  # type: ignore[misc]
        name = "classes.double"

        def run(self, x: int) -> int:
            return x * 2

    task = app.register_task(Double())
    assert app.tasks["classes.double"] is task
    assert task(4) == 8
    assert task.app is app


def test_register_task_names_a_nameless_class_after_its_module(lib: Any, app: Any) -> None:
    class Nameless(lib.Task):  # type: ignore[misc]
        def run(self) -> None: ...

    assert app.register_task(Nameless()).name == f"{__name__}.Nameless"


def test_an_app_subclass_sees_each_sending_by_name(lib: Any, new_app: Callable[..., Any]) -> None:
    sent: list[tuple[str, Any, Any, dict[str, Any]]] = []

    class Recording(lib.Celery):  # type: ignore[misc]
        def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            sent.append((name, args, kwargs, options))
            return super().send_task(name, args, kwargs, **options)

    app = new_app(cls=Recording)

    @app.task(name="recorded")
    def recorded(x: int, y: int = 0) -> None: ...

    result = recorded.apply_async((1,), {"y": 2}, queue="slow", headers={"tenant": "a"}, priority=3)
    name, args, kwargs, options = sent[0]
    assert (name, args, kwargs) == ("recorded", (1,), {"y": 2})
    assert options["task_type"].name == "recorded"
    assert options["headers"] == {"tenant": "a"}
    assert options["queue"] == "slow"
    assert options["priority"] == 3
    assert result.id
    assert {"task_id", "link", "link_error", "result_cls", "shadow", "producer"} <= set(options)


def test_an_app_subclass_may_replace_the_class_of_tasks(lib: Any, new_app: Callable[..., Any]) -> None:
    class Base(lib.Task):  # type: ignore[misc]
        abstract = True
        flavour = "own"

    class Own(lib.Celery):  # type: ignore[misc]
        def create_task_cls(self) -> Any:
            return self.subclass_with_self(
                Base, name="Task", attribute="_app", keep_reduce=True, abstract=True
            )

    app = new_app(cls=Own)

    @app.task
    def tasted() -> None: ...

    assert tasted.flavour == "own"
    assert tasted.app is app


def test_on_after_configure_runs_when_the_configuration_is_first_read(lib: Any) -> None:
    app = lib.Celery("configured", set_as_current=False)
    seen: list[Any] = []

    @app.on_after_configure.connect
    def configured(sender: Any, **kwargs: Any) -> None:
        seen.append(sender)

    assert seen == []
    assert app.conf.task_default_queue == "celery"
    assert app.conf.timezone is None
    assert seen == [app]


def test_on_configure_and_on_after_configure_tell_of_one_configuration(lib: Any) -> None:
    app = lib.Celery("configured", set_as_current=False)
    order: list[str] = []

    @app.on_configure.connect
    def before(**kwargs: Any) -> None:
        order.append("on_configure")

    @app.on_after_configure.connect
    def after(**kwargs: Any) -> None:
        order.append("on_after_configure")

    _ = app.conf.task_default_queue
    assert order == ["on_configure", "on_after_configure"]


def test_on_after_finalize_runs_once_with_the_app(lib: Any) -> None:
    app = lib.Celery("finalized", set_as_current=False)
    seen: list[Any] = []

    @app.on_after_finalize.connect
    def finalized(sender: Any, **kwargs: Any) -> None:
        seen.append(sender)

    app.finalize()
    app.finalize()
    assert seen == [app]


def test_periodic_tasks_can_be_added_when_the_app_is_configured(new_app: Callable[..., Any]) -> None:
    app = new_app()

    @app.on_after_configure.connect
    def setup(sender: Any, **kwargs: Any) -> None:
        sender.add_periodic_task(30.0, ping.s("a"), name="ping every 30", expires=10)

    @app.task(name="periodic.ping")
    def ping(x: str) -> str:
        return x

    app.finalize()
    entry = app.conf.beat_schedule["ping every 30"]
    assert entry["task"] == "periodic.ping"
    assert tuple(entry["args"]) == ("a",)
    assert entry["options"]["expires"] == 10


def test_a_periodic_task_without_a_name_is_called_by_its_signature(app: Any) -> None:
    @app.task(name="periodic.nameless")
    def nameless(x: str) -> None: ...

    key = app.add_periodic_task(10.0, nameless.s("a"))
    assert key == "periodic.nameless('a')"
    assert key in app.conf.beat_schedule


def test_an_app_closes_at_the_end_of_a_with_block(lib: Any) -> None:
    with lib.Celery("closing", set_as_current=False) as app:
        assert app.main == "closing"


def test_an_app_can_be_pickled_with_its_settings(lib: Any) -> None:
    app = lib.Celery("pickled", set_as_current=False)
    app.conf.task_default_queue = "kept"
    copy = pickle.loads(pickle.dumps(app))
    assert copy.main == "pickled"
    assert copy.conf.task_default_queue == "kept"


def test_results_and_signatures_made_by_an_app_belong_to_it(app: Any) -> None:
    assert app.AsyncResult("some-id").app is app
    assert app.GroupResult("some-id", []).app is app
    assert app.signature("some.task").app is app


def test_the_zone_and_the_present_come_from_the_configuration(new_app: Callable[..., Any]) -> None:
    app = new_app(timezone="Europe/Oslo", enable_utc=True)
    assert str(app.timezone) == "Europe/Oslo"
    assert app.now().tzinfo is not None
    assert app.uses_utc_timezone() is False


def test_each_app_has_an_id_of_its_own(new_app: Callable[..., Any]) -> None:
    one, two = new_app(), new_app()
    assert one.oid == one.oid != two.oid


def test_steps_can_be_added_for_the_worker_and_its_consumer(app: Any) -> None:
    class Step: ...

    app.steps["worker"].add(Step)
    app.steps["consumer"].add(Step)
    assert Step in app.steps["worker"]
    assert Step in app.steps["consumer"]


def test_user_options_of_the_commands_can_be_extended(app: Any) -> None:
    app.user_options["worker"].add("an option")
    app.user_options["preload"].add("another")
    assert "an option" in app.user_options["worker"]


def test_modules_named_by_include_are_imported_by_the_loader(
    lib: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "included_tasks.py").write_text("LOADED = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    app = lib.Celery("x", include=["included_tasks"], set_as_current=False)
    app.loader.import_default_modules()
    assert "included_tasks" in app.loader.task_modules or "included_tasks" in __import__("sys").modules


def test_modules_named_by_imports_are_imported_by_the_loader(
    lib: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    (tmp_path / "imported_tasks.py").write_text("LOADED = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    app = lib.Celery("x", set_as_current=False)
    app.conf.imports = ["imported_tasks"]
    assert "imported_tasks" not in sys.modules
    app.loader.import_default_modules()
    assert sys.modules["imported_tasks"].LOADED


def _package(folder: Path, name: str, module: str, task: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("")
    (folder / name / f"{module}.py").write_text(f"MADE = {task!r}\n")


def test_autodiscovery_waits_until_modules_are_imported(
    lib: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    _package(tmp_path, "found_lazily", "tasks", "a")
    monkeypatch.syspath_prepend(tmp_path)
    app = lib.Celery("x", set_as_current=False)
    app.autodiscover_tasks(["found_lazily"])
    assert "found_lazily.tasks" not in sys.modules
    app.loader.import_default_modules()
    assert "found_lazily.tasks" in sys.modules


def test_autodiscovery_takes_a_function_that_gives_the_packages(
    lib: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    _package(tmp_path, "found_by_function", "tasks", "a")
    monkeypatch.syspath_prepend(tmp_path)
    app = lib.Celery("x", set_as_current=False)
    app.autodiscover_tasks(lambda: ["found_by_function"])
    app.loader.import_default_modules()
    assert "found_by_function.tasks" in sys.modules


def test_autodiscovery_looks_for_another_module_when_told(
    lib: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    _package(tmp_path, "found_related", "jobs", "a")
    monkeypatch.syspath_prepend(tmp_path)
    app = lib.Celery("x", set_as_current=False)
    app.autodiscover_tasks(["found_related"], related_name="jobs", force=True)
    assert "found_related.jobs" in sys.modules


def test_autodiscovery_passes_over_packages_without_tasks(
    lib: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _package(tmp_path, "found_empty", "views", "a")
    monkeypatch.syspath_prepend(tmp_path)
    app = lib.Celery("x", set_as_current=False)
    app.autodiscover_tasks(["found_empty"], force=True)


def test_autodiscovery_does_not_hide_an_import_error_inside_the_module(
    lib: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _package(tmp_path, "found_broken", "tasks", "a")
    (tmp_path / "found_broken" / "tasks.py").write_text("import there_is_no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    app = lib.Celery("x", set_as_current=False)
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        app.autodiscover_tasks(["found_broken"], force=True)
