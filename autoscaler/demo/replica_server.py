"""The HTTP endpoint of one emulated replica: its `/metrics`, its `/health`, and the ways it can misbehave."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING

from aiohttp import web

from autoscaler.demo.replica_metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from autoscaler.demo.replica_metrics import ReplicaMetrics

_GARBAGE = (
    b'\x00\xff\xfe<html>502 Bad Gateway</html>\nvllm:num_requests_running{engine="0",model_name="} 7\n'
    b"vllm:kv_cache_usage_perc{ 0.5 0.7 x\n# TYPE # TYPE\n\xc3\x28 }{ 1e999e 9\n"
)
_GOODBYE_SECONDS = 0.2


class Fault(StrEnum):
    """How a replica's endpoint misbehaves. Serving requests goes on: only what can be seen of it breaks."""

    NONE = "none"
    GARBAGE = "garbage"
    """200 with bytes that are no exposition text."""
    HANG = "hang"
    """Accepts and never answers."""
    REFUSE = "refuse"
    """Connection refused."""
    NAN = "nan"
    """Proper text whose every number is NaN."""


class ReplicaServer:
    """Serves one replica on a port of its own, the same one for its whole life."""

    def __init__(self, metrics: ReplicaMetrics) -> None:
        self.fault = Fault.NONE
        self.port = 0
        self._metrics = metrics
        self._runner: web.AppRunner | None = None
        self._unhang = asyncio.Event()

    async def start(self) -> None:
        """Listen on 127.0.0.1, on a free port the first time."""
        app = web.Application()
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/health", self._get_health)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GOODBYE_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        if self.port == 0:
            self.port = int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the port and every connection; safe to call twice."""
        self._unhang.set()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def misbehave(self, fault: Fault) -> None:
        """Change how it behaves from now on.

        Raises:
            OSError: coming back from `refuse`, the port is taken.
        """
        self.fault = fault
        self._unhang.set()
        self._unhang = asyncio.Event()
        if fault is Fault.REFUSE:
            await self.stop()
        elif self._runner is None:
            await self.start()

    async def _get_metrics(self, _request: web.Request) -> web.Response:
        if self.fault is Fault.GARBAGE:
            return web.Response(body=_GARBAGE, headers={"Content-Type": CONTENT_TYPE})
        await self._maybe_hang()
        text = self._metrics.render(poison=self.fault is Fault.NAN)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _get_health(self, _request: web.Request) -> web.Response:
        await self._maybe_hang()
        return web.Response(text="")

    async def _maybe_hang(self) -> None:
        if self.fault is Fault.HANG:
            await self._unhang.wait()
