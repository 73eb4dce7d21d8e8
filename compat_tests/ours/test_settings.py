"""The table of settings: Celery's 207, one by one, and ours beside them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import celerylite
from celerylite.app import defaults
from celerylite.app.utils import detect_settings, find_app
from celerylite.exceptions import CPendingDeprecationWarning, ImproperlyConfigured

of_celery: Any = importlib.import_module("celery.app.defaults")

CELERY: dict[str, Any] = dict(of_celery.flatten(of_celery.NAMESPACES))
OURS: dict[str, defaults.Option] = dict(defaults.flatten(defaults.NAMESPACES))


def _here(value: Any) -> Any:
    """Where Celery names one of its own modules we name the one of the same path here."""
    if isinstance(value, str) and value.startswith("celery."):
        return value.replace("celery.", "celerylite.", 1)
    return value


def test_there_are_as_many_settings_as_in_celery() -> None:
    assert len(CELERY) == 207
    assert list(OURS) == list(CELERY)


@pytest.mark.parametrize("name", CELERY)
def test_a_setting_has_the_default_of_celery(name: str) -> None:
    assert OURS[name].default == _here(CELERY[name].default)
    assert type(OURS[name].default) is type(CELERY[name].default)
    assert defaults.DEFAULTS[name] == OURS[name].default


@pytest.mark.parametrize("name", CELERY)
def test_a_setting_has_the_type_of_celery(name: str) -> None:
    expected = CELERY[name].type
    # One setting of Celery has the class `int` for its type, which its own conversion does not know.
    assert OURS[name].type == ("int" if expected is int else expected)


@pytest.mark.parametrize("name", CELERY)
def test_a_setting_has_the_old_name_of_celery(name: str) -> None:
    old = of_celery._TO_OLD_KEY[name]
    assert defaults._TO_OLD_KEY[name] == old
    assert defaults._TO_NEW_KEY[old] == name
    assert defaults._OLD_DEFAULTS[old] == _here(CELERY[name].default)


@pytest.mark.parametrize("name", CELERY)
def test_a_deprecated_setting_says_the_same_as_in_celery(name: str) -> None:
    for field in ("alt", "deprecate_by", "remove_by"):
        assert getattr(OURS[name], field) == getattr(CELERY[name], field)


@pytest.mark.parametrize("name", CELERY)
def test_a_setting_is_found_where_celery_finds_it(name: str) -> None:
    space, _, key = name.partition("_")
    for asked in [(name,), (key, space) if key else (name,), (key or name,), (name.upper(), "")]:
        assert _found(defaults.find, asked) == _found(of_celery.find, asked)


def _found(find: Callable[..., Any], asked: tuple[str, ...]) -> Any:
    try:
        namespace, key, _ = find(*asked)
    except KeyError as exc:
        return str(exc)
    return namespace, key


@pytest.mark.parametrize(
    "name", [name for name in dir(of_celery) if name.startswith("DEFAULT_") and name.isupper()]
)
def test_the_constants_of_celery_are_there(name: str) -> None:
    assert getattr(defaults, name) == getattr(of_celery, name)


def test_nothing_in_the_table_names_a_module_of_celery() -> None:
    assert [name for name, option in OURS.items() if str(option.default).startswith("celery.")] == []


def test_text_becomes_the_type_of_the_setting() -> None:
    option = defaults.NAMESPACES["worker"]["prefetch_multiplier"]
    assert option.to_python("3") == 3
    assert defaults.NAMESPACES["task"]["always_eager"].to_python("yes") is True
    assert repr(option) == "<Option: type->int default->4>"


def test_a_deprecated_setting_is_warned_about() -> None:
    source = SimpleNamespace(task_acks_on_failure_or_timeout=False, task_serializer="json")
    with pytest.warns(CPendingDeprecationWarning, match="task_acks_on_failure and task_acks_on_timeout"):
        assert defaults.find_deprecated_settings(source) is source


# Our own settings


def test_our_settings_do_not_touch_those_of_celery() -> None:
    own = {f"celerylite_{key}" for key in defaults.CELERYLITE}
    assert set(defaults.DEFAULTS) - own == set(CELERY)
    assert not own & set(CELERY)


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("celerylite_runtime", "auto"),
        ("celerylite_beat", "auto"),
        ("celerylite_durability", "normal"),
        ("celerylite_exit_grace", 30.0),
        ("celerylite_lease", 20.0),
        ("celerylite_history", True),
        ("celerylite_history_expires", 604800.0),
        ("celerylite_warn_ignored", True),
    ],
)
def test_our_settings_have_defaults_under_either_kind_of_names(name: str, default: Any) -> None:
    assert detect_settings({"task_serializer": "json"})[name] == default
    assert detect_settings({"CELERY_TASK_SERIALIZER": "json"})[name] == default
    assert detect_settings({"CELERY_TASK_SERIALIZER": "json"}, prefix="CELERY")[name] == default


@pytest.mark.parametrize("name", ["celerylite_runtime", "CELERYLITE_RUNTIME"])
@pytest.mark.parametrize("others", [{"task_serializer": "json"}, {"CELERY_TASK_SERIALIZER": "json"}])
def test_our_settings_stand_beside_old_names_and_new_ones(name: str, others: dict[str, Any]) -> None:
    settings = detect_settings({**others, name: "off"})
    assert settings.celerylite_runtime == "off"
    assert not {key for key in settings.deprecated_settings or () if key.startswith("CELERYLITE")}


@pytest.mark.parametrize("name", ["CELERYLITE_RUNTIME", "CELERY_CELERYLITE_RUNTIME"])
def test_in_a_namespace_our_settings_go_with_the_prefix_and_without(name: str) -> None:
    assert detect_settings({name: "off"}, prefix="CELERY").celerylite_runtime == "off"


def test_a_mix_of_names_is_refused_for_every_old_name() -> None:
    mixed = {"task_serializer": "json", "result_serializer": "json", "CELERY_ALWAYS_EAGER": True}
    with pytest.raises(ImproperlyConfigured, match=r"CELERY_ALWAYS_EAGER +-> task_always_eager"):
        detect_settings(mixed)


def test_a_configuration_that_was_never_given_is_empty() -> None:
    settings = detect_settings(None, {"CELERY_ALWAYS_EAGER": True})
    assert settings.task_always_eager is True
    assert settings.deprecated_settings == {"CELERY_ALWAYS_EAGER"}


# The report


@pytest.fixture
def app() -> Iterator[Any]:
    app = celerylite.Celery(
        "report", set_as_current=False, broker="amqp://u:hunter2@h//", backend="cache+memory://"
    )
    yield app
    app.close()


def test_the_report_names_both_versions_and_no_password(app: Any) -> None:
    report = app.bugreport()
    assert "software -> celery:5.7" in report
    assert "celerylite:" in report
    assert "transport:amqp (not contacted) results:cache+memory://" in report
    assert "hunter2" not in report


def test_an_app_among_others_of_a_module_is_found(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("only_for_this_test")
    module.something, module.mine = 1, app
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert find_app("only_for_this_test") is app
