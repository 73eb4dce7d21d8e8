"""Sending the body of a chord: an internal message of its own, so that it is sent exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celerylite import _workflow
from celerylite._message import decode_body
from celerylite._outbox import Outbox
from celerylite._store import ClaimLost, Delivery
from celerylite.utils.log import get_logger
from celerylite.worker import _settlement

if TYPE_CHECKING:
    from celerylite.worker import Runtime

__all__ = ("send_body",)

logger = get_logger("celery.worker")


def send_body(runtime: Runtime, delivery: Delivery) -> None:
    """Publish the body with the results of the header, in the transaction that ends the internal message.

    A crash before the commit leaves that message to be delivered again; after it, there is nothing left.
    """
    (group_id,) = decode_body(delivery.message, {"application/json"}).args
    parts = _settlement.patiently(lambda: runtime.store.chord_parts(group_id), runtime.stop_event)
    if parts is None:
        return  # The runtime stops while the database is away: whoever comes next sends it.
    headers = delivery.message.headers
    with Outbox() as box:
        failed = _workflow.send_chord_body(
            runtime.app,
            group_id,
            _workflow.body_of(parts),
            parts,
            parent_id=headers.get("parent_id"),
            root_id=headers.get("root_id"),
        )
    try:
        _settlement.commit(
            runtime,
            delivery,
            outbox=box.messages,
            results=failed.results,
            chord_parts=tuple(failed.chord_parts),
            close_chord=group_id,
        )
    except ClaimLost:
        logger.warning("the body of chord %s was sent by another process", group_id)
