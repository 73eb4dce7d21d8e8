"""Three calls and their results, from one file: run it with `python quickstart.py`."""

from __future__ import annotations

from celerylite import Celery, Task, chain, group

app = Celery("quickstart")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(bind=True, max_retries=3, default_retry_delay=0)
def fetch(self: Task, page: str) -> str:
    if self.request.retries < 2:
        raise self.retry(exc=ConnectionError(f"{page} does not answer"))
    return f"{page} answered at try {self.request.retries + 1}"


if __name__ == "__main__":
    print("one call:", add.delay(2, 3).get(timeout=30))
    print("one after the other:", chain(add.s(2, 3), add.s(10))().get(timeout=30))
    print("all at once, then the sum:", (group(add.s(n, n) for n in range(5)) | total.s())().get(timeout=30))
    print("with retries:", fetch.delay("example.org").get(timeout=30))

# Output:
# one call: 5
# one after the other: 15
# all at once, then the sum: 20
# with retries: example.org answered at try 3
