"""LocalStack and Local: every thread and every coroutine has its own."""

from __future__ import annotations

import asyncio
import threading

import pytest

from celerylite.utils.threads import Local, LocalManager, LocalStack, bgThread

DEADLINE_S = 5.0


def test_what_was_pushed_last_is_on_top() -> None:
    stack: LocalStack[int] = LocalStack()
    assert (stack.top, stack.pop(), len(stack)) == (None, None, 0)
    assert stack.push(1) == [1]
    assert stack.push(2) == [1, 2]
    assert (stack.top, stack.stack, len(stack)) == (2, [1, 2], 2)
    assert stack.pop() == 2
    assert stack.top == 1


def test_the_list_that_is_given_out_is_a_copy() -> None:
    stack: LocalStack[int] = LocalStack()
    stack.push(1)
    stack.stack.append(2)
    assert stack.stack == [1]


def test_a_thread_does_not_see_what_another_pushed() -> None:
    stack: LocalStack[str] = LocalStack()
    stack.push("main")
    seen: list[object] = []

    def look() -> None:
        seen.append(stack.top)
        stack.push("other")

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(DEADLINE_S)
    assert seen == [None]
    assert stack.stack == ["main"]


def test_coroutines_that_run_by_turns_do_not_see_each_other() -> None:
    stack: LocalStack[str] = LocalStack()

    async def run(name: str, mine: asyncio.Event, other: asyncio.Event) -> list[str]:
        stack.push(name)
        other.set()
        await asyncio.wait_for(mine.wait(), DEADLINE_S)
        return stack.stack

    async def both() -> tuple[list[str], list[str]]:
        stack.push("parent")
        first, second = asyncio.Event(), asyncio.Event()
        found = await asyncio.gather(run("a", first, second), run("b", second, first))
        assert stack.stack == ["parent"]
        return found[0], found[1]

    assert asyncio.run(both()) == (["parent", "a"], ["parent", "b"])


def test_the_proxy_of_an_empty_stack_says_so_when_it_is_used() -> None:
    stack: LocalStack[list[str]] = LocalStack()
    proxy = stack()
    with pytest.raises(RuntimeError, match="object unbound"):
        proxy[0]
    stack.push(["foo"])
    assert proxy[0] == "foo"


def test_attributes_of_a_local_stay_in_their_thread() -> None:
    local = Local()
    local.user = "me"
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(hasattr(local, "user")))
    thread.start()
    thread.join(DEADLINE_S)
    assert seen == [False]
    assert dict(local) == {"user": "me"}
    LocalManager([local]).cleanup()
    assert not hasattr(local, "user")


def test_a_background_thread_ends_after_its_round() -> None:
    class Counter(bgThread):
        rounds = 0
        ran = threading.Event()

        def body(self) -> None:
            self.rounds += 1
            self.ran.set()

    thread = Counter()
    thread.start()
    assert thread.ran.wait(DEADLINE_S)
    thread.stop()
    assert not thread.is_alive()
    assert thread.rounds >= 1
