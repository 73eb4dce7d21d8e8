"""The procrastinate app that the client and the worker share."""

from __future__ import annotations

import asyncio
import os

from procrastinate import App, PsycopgConnector

app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_DATABASE"]))


@app.task(name="bench.noop")
async def noop() -> int:
    """Nothing."""
    return 1


@app.task(name="bench.pause")
async def pause() -> int:
    """50 ms of waiting."""
    await asyncio.sleep(0.05)  # noqa: TID251 -- the I/O that is measured
    return 1
