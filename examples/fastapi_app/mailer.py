"""A pretended mail server: it refuses each address twice, then it takes the mail."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path

OUTBOX = Path(os.environ.get("OUTBOX", "outbox.txt"))
#: Seconds that the server takes to answer.
ANSWER_S = float(os.environ.get("MAIL_ANSWER_S", "0.05"))
REFUSALS = 2

_tries: Counter[str] = Counter()
_lock = threading.Lock()


class MailServerBusy(Exception):
    """The server is there, but takes no mail now: try again later."""


def send(address: str, text: str) -> None:
    """Deliver one mail, which is one line in the outbox file."""
    time.sleep(ANSWER_S)
    with _lock:
        _tries[address] += 1
        if _tries[address] <= REFUSALS:
            raise MailServerBusy(f"421 {address}: try again later")
        with OUTBOX.open("a") as outbox:
            outbox.write(f"{address}: {text}\n")


def delivered() -> list[str]:
    """All mails that were taken, oldest first."""
    return OUTBOX.read_text().splitlines() if OUTBOX.exists() else []
