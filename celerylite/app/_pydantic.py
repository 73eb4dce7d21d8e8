"""Tasks that take and return pydantic models: validated where they run, plain data on the way."""

from __future__ import annotations

import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celerylite.exceptions import ImproperlyConfigured
from celerylite.utils.annotations import annotation_is_class, annotation_issubclass, get_optional_arg

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("PydanticFunction",)


class PydanticFunction:
    """A function between plain data and models: what its annotations say are models are converted."""

    def __init__(
        self,
        app: Celery,
        function: Callable[..., Any],
        task_name: str,
        *,
        strict: bool,
        context: Mapping[str, Any] | None,
        dump_kwargs: Mapping[str, Any] | None,
        bound: bool,
    ) -> None:
        self._base = _base_model()
        self._function = function
        self._strict = strict
        self._bound = bound
        self._context = {**(context or {}), "celery_app": app, "celery_task_name": task_name}
        self._dump = {"mode": "json", **(dump_kwargs or {})}
        self._signature = inspect.signature(function)
        self._hints = _type_hints(function)

    def wrapped(self) -> Callable[..., Any]:
        """The function the task runs: validates its arguments and dumps what it returns."""
        if inspect.iscoroutinefunction(self._function):

            @functools.wraps(self._function)
            async def run_async(*args: Any, **kwargs: Any) -> Any:
                bound = self._validated(args, kwargs)
                return self._dumped(await self._function(*bound.args, **bound.kwargs))

            return run_async

        @functools.wraps(self._function)
        def run(*args: Any, **kwargs: Any) -> Any:
            bound = self._validated(args, kwargs)
            return self._dumped(self._function(*bound.args, **bound.kwargs))

        return run

    def dump_arguments(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Arguments as they travel: models that the task will get back as equal models become data.

        Others are left for the serializer, which refuses them as it does for any task.
        """
        if not self._has_models(args, kwargs):
            return args, kwargs
        try:
            self._signature.bind(*([None] if self._bound else []), *(args or ()), **(kwargs or {}))
        except TypeError:
            return args, kwargs  # They do not fit: the check of arguments or the task will say so.
        # What holds no model is handed on as it came.
        if self._has_models(args, None):
            args = self._dump_positional(args)
        if self._has_models(None, kwargs):
            kwargs = {name: self._dump_value(name, value) for name, value in kwargs.items()}
        return args, kwargs

    def _dump_positional(self, args: Any) -> Any:
        names = self._positional_names()
        dumped = [self._dump_value(name, value) for name, value in zip(names, args, strict=False)]
        dumped += list(args)[len(dumped) :]
        return dumped if isinstance(args, list) else tuple(dumped)

    def _has_models(self, args: Any, kwargs: Any) -> bool:
        if not isinstance(args or (), list | tuple) or not isinstance(kwargs or {}, Mapping):
            return False
        return any(isinstance(value, self._base) for value in (*(args or ()), *(kwargs or {}).values()))

    def _positional_names(self) -> list[str]:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [name for name, p in self._signature.parameters.items() if p.kind in kinds]
        return names[1:] if self._bound else names

    def _dump_value(self, name: str, value: Any) -> Any:
        parameter = self._signature.parameters.get(name)
        model = self._model_of(name, value) if parameter else None
        if model is None or not isinstance(value, self._base) or hasattr(type(value), "__json__"):
            return value
        try:
            data = value.model_dump(**self._dump)
            return data if self._validate(model, data) == value else value
        except Exception:
            # Its validators may only work where the task runs: leave the model to the serializer.
            return value

    def _validated(self, args: Any, kwargs: Any) -> inspect.BoundArguments:
        bound = self._signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            model = self._model_of(name, value)
            if model is not None:
                bound.arguments[name] = self._validate(model, value)
        return bound

    def _validate(self, model: Any, value: Any) -> Any:
        return model.model_validate(value, strict=self._strict, context=self._context)

    def _dumped(self, returned: Any) -> Any:
        annotation = self._hints.get("return", self._signature.return_annotation)
        annotation = get_optional_arg(annotation) or annotation
        if (
            annotation_is_class(annotation)
            and isinstance(returned, self._base)
            and isinstance(returned, annotation)
        ):
            return returned.model_dump(**self._dump)
        return returned

    def _model_of(self, name: str, value: Any) -> Any:
        annotation = self._hints.get(name, self._signature.parameters[name].annotation)
        optional = get_optional_arg(annotation)
        if optional is not None and value is not None:
            annotation = optional
        return annotation if annotation_issubclass(annotation, self._base) else None


def _base_model() -> type[Any]:
    try:
        # Here, not at the top: pydantic is the user's choice.
        return typing.cast("type[Any]", importlib.import_module("pydantic").BaseModel)
    except ModuleNotFoundError as exc:
        raise ImproperlyConfigured(
            "You need to install pydantic to use pydantic model serialization."
        ) from exc


def _type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, AttributeError, TypeError):
        # Names that cannot be resolved here (imports for type checkers only): the raw annotations do.
        return {}
