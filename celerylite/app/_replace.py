"""``self.replace``: making another signature take the place of the running call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celerylite.canvas import _chain, group, signature
from celerylite.exceptions import ImproperlyConfigured
from celerylite.utils.functional import maybe_list

if TYPE_CHECKING:
    from celerylite.app.task import Task
    from celerylite.canvas import Signature

__all__ = ("prepare_replacement",)


def prepare_replacement(task: Task[..., Any], sig: Signature[Any]) -> Signature[Any]:
    """`sig` with the id, links, chord and rest of chain of the call that `task` is executing."""
    _refuse_impossible(sig)
    sig = _with_single_end(task, sig)
    _inherit_links(task, sig)
    sig.freeze(task.request.id)
    nesting = task.request.get("replaced_task_nesting", 0) + 1
    sig.set(
        chord=task.request.chord,
        group_id=task.request.group,
        group_index=task.request.group_index,
        root_id=task.request.root_id,
        replaced_task_nesting=nesting,
    )
    if isinstance(sig, _chain):
        for member in maybe_list(sig.tasks) or []:
            member.set(replaced_task_nesting=nesting)
    replacement: Signature[Any] = _with_rest_of_chain(task, sig, nesting)
    return replacement


def _refuse_impossible(sig: Signature[Any]) -> None:
    if "chord" in sig.options:
        raise ImproperlyConfigured("A signature replacing a task must not be part of a chord")
    if isinstance(sig, _chain) and not getattr(sig, "tasks", True):
        raise ImproperlyConfigured("Cannot replace with an empty chain")


def _with_single_end(task: Task[..., Any], sig: Any) -> Any:
    # A group has no single last task that links could hang on: collect its results in one.
    collect = task.app.tasks["celery.accumulate"].s(index=0)
    if isinstance(sig, group):
        sig |= collect
    if isinstance(sig, _chain) and isinstance(sig.tasks[-1], group):
        sig.tasks = list(sig.tasks)
        sig.tasks[-1] |= collect
    return sig


def _inherit_links(task: Task[..., Any], sig: Any) -> None:
    for callback in maybe_list(task.request.callbacks) or []:
        sig.link(callback)
    for errback in maybe_list(task.request.errbacks) or []:
        sig.link_error(errback)
    if isinstance(sig, _chain) and "link" in sig.options:
        # Callbacks belong to the last step, as more steps may be added behind the chain.
        last = sig.tasks[-1].options.setdefault("link", [])
        last.extend(maybe_list(sig.options.pop("link")))


def _with_rest_of_chain(task: Task[..., Any], sig: Any, nesting: int) -> Any:
    for step in reversed(task.request.chain or []):
        following = signature(step, app=task.app)
        following.set(replaced_task_nesting=nesting)
        sig |= following
    return sig
