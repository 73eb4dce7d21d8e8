"""How an app is configured: objects, modules, variables, old and new names, live and late."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from kombu import Exchange, Queue


@pytest.fixture
def bare(lib: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Make apps without any setting: `bare(**arguments_of_the_app)`."""
    for name in [name for name in os.environ if name.startswith("CELERY")]:
        monkeypatch.delenv(name)
    made: list[Any] = []

    def make(name: str = "tests", **arguments: Any) -> Any:
        made.append(lib.Celery(name, **arguments))
        return made[-1]

    yield make
    for app in made:
        app.close()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Write a module that can be imported during the test: `module("name", source)` gives the name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))

    def write(name: str, source: str) -> str:
        path = tmp_path.joinpath(*name.split("."))
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in path.relative_to(tmp_path).parents:
            if folder != Path("."):
                (tmp_path / folder / "__init__.py").touch()
        path.with_suffix(".py").write_text(source)
        return name

    return write


def _nothing() -> None:
    """A task that does nothing."""


# A configuration object


def test_an_object_with_a_namespace_stays_live(bare: Callable[..., Any]) -> None:
    settings = SimpleNamespace(CELERY_TASK_ALWAYS_EAGER=False, DEBUG=True)
    app = bare()
    app.config_from_object(settings, namespace="CELERY")
    assert app.conf.task_always_eager is False
    settings.CELERY_TASK_ALWAYS_EAGER = True
    assert app.conf.task_always_eager is True


def test_a_setting_that_a_live_object_gains_later_is_seen(bare: Callable[..., Any]) -> None:
    settings = SimpleNamespace()
    app = bare()
    app.config_from_object(settings, namespace="CELERY")
    assert app.conf.task_default_queue == "celery"
    settings.CELERY_TASK_DEFAULT_QUEUE = "later"
    assert app.conf.task_default_queue == "later"


def test_a_dict_stays_live(bare: Callable[..., Any]) -> None:
    settings = {"task_always_eager": False}
    app = bare()
    app.config_from_object(settings)
    assert app.conf.task_always_eager is False
    settings["task_always_eager"] = True
    assert app.conf.task_always_eager is True


def test_what_is_set_on_the_app_goes_before_the_object(bare: Callable[..., Any]) -> None:
    settings = SimpleNamespace(CELERY_TASK_SERIALIZER="yaml")
    app = bare()
    app.conf.task_serializer = "pickle"
    app.config_from_object(settings, namespace="CELERY")
    assert app.conf.task_serializer == "pickle"


@pytest.mark.parametrize("namespace", ["CELERY", "celery", "CELERY_"])
def test_the_namespace_decides_the_case_of_the_names(bare: Callable[..., Any], namespace: str) -> None:
    name = "CELERY_TASK_SERIALIZER" if namespace.isupper() else "celery_task_serializer"
    app = bare()
    app.config_from_object({name: "yaml"}, namespace=namespace)
    assert app.conf.task_serializer == "yaml"


def test_with_a_namespace_the_names_of_django_settings_do_not_count_as_old_ones(
    bare: Callable[..., Any],
) -> None:
    app = bare()
    app.config_from_object({"CELERY_BROKER_URL": "memory://", "CELERY_IMPORTS": ("os",)}, namespace="CELERY")
    assert (app.conf.broker_url, app.conf.imports) == ("memory://", ("os",))


def test_a_module_by_name_is_read_at_the_first_look(
    bare: Callable[..., Any], module: Callable[[str, str], str]
) -> None:
    app = bare()
    app.config_from_object("conf_that_comes_later")
    assert module("conf_that_comes_later", "task_serializer = 'yaml'") not in sys.modules
    assert app.conf.task_serializer == "yaml"


@pytest.mark.parametrize("path", ["conf_pkg.mod:Settings", "conf_pkg.mod.Settings"])
def test_a_class_in_a_module_can_be_the_configuration(
    bare: Callable[..., Any], module: Callable[[str, str], str], path: str
) -> None:
    module("conf_pkg.mod", "class Settings:\n    task_serializer = 'yaml'\n")
    app = bare()
    app.config_from_object(path)
    assert app.conf.task_serializer == "yaml"


def test_a_module_that_does_not_exist_is_an_error_at_the_first_look(bare: Callable[..., Any]) -> None:
    app = bare()
    app.config_from_object("conf_that_never_comes")
    with pytest.raises(ImportError):
        _ = app.conf.task_serializer


def test_a_module_that_does_not_exist_can_be_passed_over(bare: Callable[..., Any]) -> None:
    app = bare()
    app.config_from_object("conf_that_never_comes", silent=True)
    assert app.conf.task_serializer == "json"


def test_a_module_that_fails_with_an_attribute_error_says_so(
    bare: Callable[..., Any], module: Callable[[str, str], str]
) -> None:
    app = bare()
    app.config_from_object(module("conf_with_a_slip", "import os\nos.no_such_thing\n"))
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
        _ = app.conf.task_serializer


def test_force_reads_the_object_at_once(bare: Callable[..., Any]) -> None:
    app = bare()
    app.config_from_object({"task_serializer": "yaml"}, force=True)
    assert app.configured


def test_a_second_object_takes_the_place_of_the_first(bare: Callable[..., Any]) -> None:
    app = bare()
    app.config_from_object({"task_serializer": "yaml"})
    assert app.conf.task_serializer == "yaml"
    app.config_from_object({"result_serializer": "pickle"})
    assert (app.conf.task_serializer, app.conf.result_serializer) == ("json", "pickle")


# Variables and the command line


def test_a_variable_can_name_the_module(
    bare: Callable[..., Any], module: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROJ_CONF", module("conf_by_variable", "task_serializer = 'yaml'"))
    app = bare()
    app.config_from_envvar("PROJ_CONF")
    assert app.conf.task_serializer == "yaml"


def test_a_variable_that_is_not_set_is_an_error(
    bare: Callable[..., Any], submodule: Callable[[str], Any]
) -> None:
    improperly = submodule("exceptions").ImproperlyConfigured
    with pytest.raises(improperly, match="The environment variable 'NO_SUCH_CONF' is not set"):
        bare().config_from_envvar("NO_SUCH_CONF")
    assert bare().config_from_envvar("NO_SUCH_CONF", silent=True) is False


def test_the_variable_celery_config_module_is_read_without_being_asked(
    bare: Callable[..., Any], module: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_CONFIG_MODULE", module("conf_by_default", "task_serializer = 'yaml'"))
    assert bare().conf.task_serializer == "yaml"


@pytest.mark.parametrize(
    ("variable", "setting"),
    [
        ("CELERY_BROKER_URL", "broker_url"),
        ("CELERY_BROKER_READ_URL", "broker_read_url"),
        ("CELERY_BROKER_WRITE_URL", "broker_write_url"),
        ("CELERY_RESULT_BACKEND", "result_backend"),
    ],
)
def test_a_variable_goes_before_the_setting(
    bare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, variable: str, setting: str
) -> None:
    app = bare()
    app.conf[setting] = "memory://configured"
    assert getattr(app.conf, setting) == "memory://configured"
    monkeypatch.setenv(variable, "memory://variable")
    assert getattr(app.conf, setting) == "memory://variable"


def test_brokers_to_read_from_and_to_write_to_are_the_broker_unless_set(bare: Callable[..., Any]) -> None:
    conf = bare(broker="memory://one").conf
    assert (conf.broker_read_url, conf.broker_write_url) == ("memory://one", "memory://one")


def test_the_command_line_sets_settings_in_a_namespace(bare: Callable[..., Any]) -> None:
    app = bare()
    app.conf.finalize()
    app.config_from_cmdline(
        ["task.serializer=yaml", ".concurrency=3", ".bar=(int)4", 'database.engine_options=(dict){"a": 1}'],
        namespace="worker",
    )
    conf = app.conf
    assert (conf.task_serializer, conf.worker_concurrency, conf.worker_bar) == ("yaml", "3", 4)
    assert conf.database_engine_options == {"a": 1}


def test_a_value_of_the_wrong_type_on_the_command_line_names_its_setting(bare: Callable[..., Any]) -> None:
    app = bare()
    app.conf.finalize()
    with pytest.raises(ValueError, match="'broker_port': invalid literal for int"):
        app.config_from_cmdline(["broker.port=foobar"])


# Arguments of the app


def test_arguments_of_the_app_are_settings(bare: Callable[..., Any]) -> None:
    app = bare(broker="memory://x", backend="cache+memory://", include=["os"], task_default_queue="jobs")
    assert app.conf.broker_url == "memory://x"
    assert app.conf.result_backend == "cache+memory://"
    assert app.conf.include == ["os"]
    assert app.conf.task_default_queue == "jobs"


def test_arguments_of_the_app_go_before_its_object(bare: Callable[..., Any]) -> None:
    app = bare(broker="memory://argument")
    app.config_from_object({"broker_url": "memory://object", "task_serializer": "yaml"})
    assert (app.conf.broker_url, app.conf.task_serializer) == ("memory://argument", "yaml")


def test_an_app_can_have_its_object_as_an_argument(bare: Callable[..., Any]) -> None:
    assert bare(config_source={"task_serializer": "yaml"}).conf.task_serializer == "yaml"


# Old names, one by one and as a whole


def test_old_names_work_one_by_one_and_read_back_as_new_ones(bare: Callable[..., Any]) -> None:
    app = bare()
    app.conf.CELERY_ALWAYS_EAGER = True
    app.conf["CELERY_TASK_SERIALIZER"] = "yaml"
    app.conf.update({"CELERY_DEFAULT_QUEUE": "jobs", "SECRET_KEY": "of flask"})
    conf = app.conf
    assert (conf.task_always_eager, conf.task_serializer, conf.task_default_queue) == (True, "yaml", "jobs")
    assert conf.SECRET_KEY == "of flask"


def test_old_names_work_after_the_configuration_was_read(bare: Callable[..., Any]) -> None:
    app = bare()
    assert app.conf.task_always_eager is False
    app.conf.CELERY_ALWAYS_EAGER = True
    assert (app.conf.task_always_eager, app.conf["CELERY_ALWAYS_EAGER"]) == (True, True)


def test_an_object_of_old_names_is_read_under_both(bare: Callable[..., Any]) -> None:
    app = bare()
    app.config_from_object({"CELERY_ALWAYS_EAGER": 44, "CELERYD_CONCURRENCY": 2, "BROKER_URL": "memory://o"})
    conf = app.conf
    assert (conf.task_always_eager, conf.worker_concurrency, conf.broker_url) == (44, 2, "memory://o")
    assert conf.CELERY_ALWAYS_EAGER == 44
    assert conf.CELERY_DEFAULT_QUEUE == "celery"


def test_one_object_of_old_and_new_names_is_refused_with_the_list_of_renames(
    bare: Callable[..., Any], submodule: Callable[[str], Any]
) -> None:
    app = bare()
    app.config_from_object({"task_serializer": "json", "result_serializer": "json", "CELERY_ALWAYS_EAGER": 1})
    with pytest.raises(submodule("exceptions").ImproperlyConfigured) as caught:
        _ = app.conf.task_serializer
    assert str(caught.value) == (
        "\n\nCannot mix new and old setting keys, please rename the\n"
        "following settings to the new format:\n\n"
        "CELERY_ALWAYS_EAGER                  -> task_always_eager\n\n"
    )


def test_mostly_old_names_are_asked_to_be_all_old(
    bare: Callable[..., Any], submodule: Callable[[str], Any]
) -> None:
    app = bare()
    app.config_from_object(
        {"CELERY_ALWAYS_EAGER": 1, "CELERY_TASK_SERIALIZER": "json", "worker_concurrency": 2}
    )
    with pytest.raises(submodule("exceptions").ImproperlyConfigured) as caught:
        _ = app.conf.task_serializer
    assert str(caught.value) == (
        "\n\nCannot mix new setting names with old setting names, please\n"
        "rename the following settings to use the old format:\n\n"
        "worker_concurrency                   -> CELERYD_CONCURRENCY\n\n"
        "Or change all of the settings to use the new format :)\n\n"
    )


def test_a_setting_under_both_of_its_names_is_no_mix(bare: Callable[..., Any]) -> None:
    app = bare()
    app.config_from_object({"task_always_eager": True, "CELERY_ALWAYS_EAGER": True})
    assert app.conf.task_always_eager is True


def test_the_name_for_a_namespace_set_on_the_app_itself_means_nothing(bare: Callable[..., Any]) -> None:
    app = bare()
    app.conf.CELERY_TASK_ALWAYS_EAGER = True
    assert app.conf.task_always_eager is False
    assert app.conf.CELERY_TASK_ALWAYS_EAGER is True


def test_old_names_are_warned_about_when_asked(
    bare: Callable[..., Any], submodule: Callable[[str], Any]
) -> None:
    app = bare()
    app.config_from_object({"CELERY_ALWAYS_EAGER": True})
    assert app.conf.task_always_eager
    with pytest.warns(submodule("exceptions").CDeprecationWarning, match="Use the task_always_eager instead"):
        assert app.conf.maybe_warn_deprecated_settings() is True


def test_new_names_are_not_warned_about(bare: Callable[..., Any]) -> None:
    app = bare()
    app.config_from_object({"task_always_eager": True})
    assert app.conf.task_always_eager
    assert app.conf.maybe_warn_deprecated_settings() is False


# The settings as a mapping


def test_an_unknown_setting_is_kept(bare: Callable[..., Any]) -> None:
    app = bare()
    app.conf.ANYTHING = {"at": "all"}
    app.config_from_object({"of_mine": 1})
    assert (app.conf.ANYTHING, app.conf["ANYTHING"], app.conf.of_mine) == ({"at": "all"}, {"at": "all"}, 1)


def test_a_setting_that_nobody_gave_is_missing(bare: Callable[..., Any]) -> None:
    conf = bare().conf
    with pytest.raises(AttributeError, match="'Settings' object has no attribute 'no_such_setting'"):
        _ = conf.no_such_setting
    with pytest.raises(KeyError):
        _ = conf["no_such_setting"]
    assert conf.get("no_such_setting", 7) == 7
    assert "no_such_setting" not in conf
    assert "task_always_eager" in conf


def test_defaults_can_be_put_under_the_settings(bare: Callable[..., Any]) -> None:
    app = bare()
    app.conf.mine = "given"
    app.add_defaults({"mine": "default", "yours": "default", "task_serializer": "yaml"})
    assert (app.conf.mine, app.conf.yours, app.conf.task_serializer) == ("given", "default", "yaml")
    app.add_defaults(lambda: {"theirs": "late"})
    app.conf.add_defaults({"ours": "later"})
    assert (app.conf.theirs, app.conf.ours) == ("late", "later")


def test_the_first_of_several_settings_that_has_a_value(bare: Callable[..., Any]) -> None:
    app = bare()
    app.conf.second = 2
    assert app.conf.first("no_such", "timezone", "second", "task_serializer") == 2
    assert app.conf.first("no_such", "neither") is None


def test_settings_are_found_by_the_name_in_their_namespace(bare: Callable[..., Any]) -> None:
    app = bare(task_always_eager=True)
    assert app.conf.find_value_for_key("always_eager") is True
    assert app.conf.find_value_for_key("concurrency", "worker") is None
    assert app.conf.find_option("prefetch_multiplier")[:2] == ("worker", "prefetch_multiplier")
    assert app.conf.find_option("TASK_SERIALIZER")[:2] == (None, "task_serializer")
    assert app.conf.get_by_parts("task", None, "default", "queue") == "celery"
    with pytest.raises(KeyError):
        app.conf.find_option("no_such_setting")


def test_a_value_counts_as_set_only_if_someone_set_it(bare: Callable[..., Any]) -> None:
    app = bare()
    app.config_from_object({"CELERY_TASK_ALWAYS_EAGER": False}, namespace="CELERY")
    assert app.conf.value_set_for("task_always_eager")
    assert not app.conf.value_set_for("task_serializer")


def test_clearing_takes_the_changes_away_and_leaves_the_rest(bare: Callable[..., Any]) -> None:
    app = bare(task_always_eager=True)
    app.config_from_object({"task_serializer": "yaml"})
    assert app.conf.task_always_eager is True
    app.conf.clear()
    assert (app.conf.task_always_eager, app.conf.task_serializer) == (False, "yaml")


def test_a_copy_of_the_settings_has_changes_of_its_own(bare: Callable[..., Any]) -> None:
    app = bare()
    app.config_from_object({"CELERY_TASK_ALWAYS_EAGER": True}, namespace="CELERY")
    copied = app.conf.copy()
    assert copied.task_always_eager is True
    copied.task_always_eager = False
    assert (copied.task_always_eager, app.conf.task_always_eager) == (False, True)


def test_a_reference_to_the_settings_taken_early_stays_good(bare: Callable[..., Any]) -> None:
    app = bare()
    conf = app.conf
    conf.task_serializer = "yaml"
    app.config_from_object({"result_serializer": "pickle"})
    assert (conf.task_serializer, conf.result_serializer) == ("yaml", "pickle")
    conf.task_serializer = "json"
    assert app.conf.task_serializer == "json"


def test_two_apps_do_not_share_a_default(bare: Callable[..., Any]) -> None:
    one, other = bare(), bare()
    one.conf.beat_schedule["entry"] = {}
    one.conf.broker_transport_options["x"] = 1
    assert other.conf.beat_schedule == {}
    assert other.conf.broker_transport_options == {}


def test_passwords_are_not_shown(bare: Callable[..., Any]) -> None:
    app = bare(broker="amqp://user:hunter2@host//", backend="redis://:hunter2@host/0")
    app.conf.update(SECRET_KEY="hunter2", database_url="x://hunter2", task_serializer="yaml")
    shown = app.conf.table()
    assert shown["task_serializer"] == "yaml"
    assert shown["SECRET_KEY"] == "********"
    assert "hunter2" not in app.conf.humanize()
    assert "hunter2" not in app.bugreport()
    assert "hunter2" in app.conf.humanize(censored=False)


def test_the_table_has_the_defaults_only_when_asked(bare: Callable[..., Any]) -> None:
    conf = bare(task_serializer="yaml").conf
    assert "worker_pool" not in conf.table()
    assert conf.table(with_defaults=True)["worker_pool"] == "prefork"
    assert "task_serializer: 'yaml'" in conf.humanize().splitlines()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@localhost:6379/0", "redis://:********@localhost:6379/0"),
        ("redis://user:p,a;ss@localhost/0", "redis://user:********@localhost/0"),
        ("redis://user@localhost/0", "redis://user@localhost/0"),
        ("redis://ambiguous@extra@localhost/0", "redis://********@localhost/0"),
        ("db+postgresql://u:s@h/d?a=1;b=2", "db+postgresql://u:********@h/d?a=1;b=2"),
        (
            "sentinel://:s1@h1:1;sentinel://:s2@h2:2/0",
            "sentinel://:********@h1:1;sentinel://:********@h2:2/0",
        ),
        ("sentinel://u1:p1@h1;;h2;u3:p3@h3/0", "sentinel://u1:********@h1;h2;u3:********@h3/0"),
        ("mongodb://u:s@h1:1,u:s@h2:2/db?x=y", "mongodb://u:********@h1:1,u:********@h2:2/db?x=y"),
        (
            "azureblockblob://AccountName=a;AccountKey=S#X==",
            "azureblockblob://AccountName=a;AccountKey=********",
        ),
        ("azureblockblob://E=https://h/?v=1&SIG=S;N=a", "azureblockblob://E=https://h/?v=1&SIG=********;N=a"),
        ("disabled", "disabled"),
        ("", ""),
        (None, None),
    ],
)
def test_urls_are_shown_without_their_passwords(
    submodule: Callable[[str], Any], url: str | None, shown: str | None
) -> None:
    assert submodule("app.utils").sanitize_url(url) == shown


# Settings that follow others


def test_exchange_and_routing_key_of_the_default_queue_are_its_name_unless_set(
    bare: Callable[..., Any],
) -> None:
    conf = bare(task_default_queue="jobs").conf
    assert (conf.task_default_exchange, conf.task_default_routing_key) == ("jobs", "jobs")
    conf.task_default_routing_key = "key"
    assert (conf.task_default_exchange, conf.task_default_routing_key) == ("jobs", "key")


def test_the_time_zone_is_that_of_django_unless_set(bare: Callable[..., Any]) -> None:
    app = bare()
    app.config_from_object({"TIME_ZONE": "Europe/Paris"})
    assert app.conf.timezone == "Europe/Paris"
    app.conf.timezone = "Asia/Tokyo"
    assert app.conf.timezone == "Asia/Tokyo"


def test_a_task_takes_its_options_from_the_settings(bare: Callable[..., Any]) -> None:
    app = bare(task_serializer="yaml", task_acks_late=True, task_default_rate_limit="10/s", task_time_limit=9)
    task = app.task(name="t")(_nothing)
    assert (task.serializer, task.acks_late, task.rate_limit, task.time_limit) == ("yaml", True, "10/s", 9)


def test_annotations_set_attributes_of_tasks(bare: Callable[..., Any]) -> None:
    app = bare(task_annotations={"t": {"rate_limit": "5/m"}, "*": {"time_limit": 3}})
    one, other = app.task(name="t")(_nothing), app.task(name="u")(_nothing)
    assert (one.rate_limit, one.time_limit) == ("5/m", 3)
    assert (other.rate_limit, other.time_limit) == (None, 3)


def test_annotations_can_be_objects_and_later_ones_do_not_hide_the_first(bare: Callable[..., Any]) -> None:
    class Annotation:
        def annotate(self, task: Any) -> dict[str, Any] | None:
            return {"marked": "object"} if task.name == "t" else None

    app = bare(task_annotations=(Annotation(), {"t": {"marked": "dict"}}))
    assert app.task(name="t")(_nothing).marked == "object"


# Queues


def test_queues_of_kombu_are_taken_as_they_are(bare: Callable[..., Any]) -> None:
    queues = [Queue("fast", Exchange("work", type="topic"), routing_key="work.fast"), Queue("slow")]
    app = bare(broker="memory://", task_queues=queues)
    assert set(app.amqp.queues) == {"fast", "slow"}
    assert app.amqp.queues["fast"].routing_key == "work.fast"
    assert app.amqp.queues["fast"].exchange.name == "work"


def test_a_queue_that_is_not_in_the_list_is_made(bare: Callable[..., Any]) -> None:
    app = bare(broker="memory://", task_queues=[Queue("fast")])
    assert app.amqp.queues["other"].name == "other"


def test_a_queue_that_is_not_in_the_list_is_an_error_if_none_may_be_made(
    bare: Callable[..., Any], submodule: Callable[[str], Any]
) -> None:
    app = bare(broker="memory://", task_queues=[Queue("celery")], task_create_missing_queues=False)
    task = app.task(name="t")(_nothing)
    with pytest.raises(submodule("exceptions").QueueNotFound, match="Queue 'other' missing from task_queues"):
        task.apply_async(queue="other")


# When things happen


def test_the_configuration_is_read_at_the_first_look(bare: Callable[..., Any]) -> None:
    app = bare()
    app.config_from_object({"task_serializer": "yaml"})
    app.conf.result_serializer = "yaml"
    assert not app.configured
    assert app.conf.task_serializer == "yaml"
    assert app.configured


def test_on_after_configure_runs_once_when_the_configuration_is_read(bare: Callable[..., Any]) -> None:
    app = bare()
    seen: list[Any] = []

    @app.on_after_configure.connect(weak=False)
    def configured(sender: Any, source: Any, **kwargs: Any) -> None:
        seen.append((sender, source["task_serializer"]))
        sender.add_periodic_task(10.0, sender.signature("t"), name="every ten")

    assert seen == []
    assert "every ten" in app.conf.beat_schedule
    assert app.conf.task_serializer == "json"
    assert seen == [(app, "json")]


def test_on_configure_can_give_the_configuration(bare: Callable[..., Any]) -> None:
    app = bare()
    app.on_configure.connect(
        lambda sender, **kw: sender.config_from_object({"task_serializer": "yaml"}), weak=False
    )
    assert app.conf.task_serializer == "yaml"


# Loaders and task modules


def test_loaders_have_short_names(submodule: Callable[[str], Any]) -> None:
    loaders = submodule("loaders")
    assert loaders.get_loader_cls("app") is submodule("loaders.app").AppLoader
    assert loaders.get_loader_cls("default") is submodule("loaders.default").Loader


def test_a_loader_of_the_user_reads_the_configuration(
    bare: Callable[..., Any], submodule: Callable[[str], Any]
) -> None:
    class FileLoader(submodule("loaders.base").BaseLoader):  # type: ignore[misc]
        def read_configuration(self) -> dict[str, Any]:
            return {"task_serializer": "yaml"}

    assert bare(loader=FileLoader).conf.task_serializer == "yaml"


def test_task_modules_of_packages_are_found_when_the_worker_imports_its_modules(
    bare: Callable[..., Any], module: Callable[[str, str], str]
) -> None:
    module("first_pkg.tasks", "X = 1")
    module("first_pkg.jobs", "X = 1")
    module("second_pkg.views", "X = 1")
    app = bare()
    app.autodiscover_tasks(["first_pkg", "second_pkg"])
    app.autodiscover_tasks(lambda: ["first_pkg"], related_name="jobs")
    assert "first_pkg.tasks" not in sys.modules
    app.loader.import_default_modules()
    assert {"first_pkg.tasks", "first_pkg.jobs"} <= set(sys.modules)
    assert {"first_pkg.tasks", "first_pkg.jobs"} <= app.loader.task_modules


def test_an_error_in_a_task_module_is_not_hidden(
    bare: Callable[..., Any], module: Callable[[str, str], str]
) -> None:
    module("broken_pkg.tasks", "import no_such_thing_at_all")
    with pytest.raises(ModuleNotFoundError, match="no_such_thing_at_all"):
        bare().autodiscover_tasks(["broken_pkg"], force=True)


def test_a_package_that_does_not_exist_is_an_error(bare: Callable[..., Any]) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        bare().autodiscover_tasks(["no_such_package"], force=True)


def test_the_path_of_an_app_config_class_stands_for_its_package(
    submodule: Callable[[str], Any], module: Callable[[str, str], str]
) -> None:
    module("django_like.tasks", "X = 1")
    found = submodule("loaders.base").find_related_module("django_like.Config", "tasks")
    assert found.X == 1
    assert submodule("loaders.base").find_related_module("django_like", None).__name__ == "django_like"


def test_imports_and_include_are_imported_by_the_worker(
    bare: Callable[..., Any], module: Callable[[str, str], str]
) -> None:
    app = bare(include=[module("included_mod", "X = 1")])
    app.conf.imports = module("imported_mod", "X = 2")
    app.loader.init_worker()
    assert sys.modules["included_mod"].X == 1
    assert sys.modules["imported_mod"].X == 2


# Finding the app of a command


def _project(module: Callable[[str, str], str], lib: Any, where: str, name: str) -> None:
    module(where, f"from {lib.__name__} import Celery\n{name} = Celery('found', set_as_current=False)\n")


@pytest.mark.parametrize(
    ("where", "name", "asked"),
    [
        ("proj_a", "app", "proj_a"),
        ("proj_b", "celery", "proj_b"),
        ("proj_c", "other", "proj_c"),
        ("proj_d", "other", "proj_d:other"),
        ("proj_e", "other", "proj_e.other"),
        ("proj_f.celery", "app", "proj_f"),
        ("proj_g.celery", "anything", "proj_g.celery"),
    ],
)
def test_an_app_is_found_by_what_stands_after_dash_a(
    lib: Any,
    submodule: Callable[[str], Any],
    module: Callable[[str, str], str],
    where: str,
    name: str,
    asked: str,
) -> None:
    _project(module, lib, where, name)
    app = submodule("app.utils").find_app(asked)
    assert isinstance(app, lib.Celery)
    assert app.main == "found"
    app.close()


def test_a_module_without_an_app_is_an_error(
    submodule: Callable[[str], Any], module: Callable[[str, str], str]
) -> None:
    module("proj_without", "X = 1")
    with pytest.raises(AttributeError, match="module 'proj_without' has no attribute 'celery'"):
        submodule("app.utils").find_app("proj_without")
    with pytest.raises(ModuleNotFoundError):
        submodule("app.utils").find_app("no_such_project")


def test_a_module_object_given_with_a_colon_is_taken_as_it_is(
    submodule: Callable[[str], Any], module: Callable[[str, str], str]
) -> None:
    module("proj_colon", "import os")
    assert isinstance(submodule("app.utils").find_app("proj_colon:os"), ModuleType)
