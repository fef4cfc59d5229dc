"""The emulated cluster as a process: `python -m autoscaler.demo.fleet --config FILE`.

It plays what Tidegate does not own: the traffic, the router, the replicas with their `/metrics`, the Deployments and
the HPAs that follow Tidegate's external metric. It runs in real time until SIGTERM or SIGINT, then writes its last
state and exits 0. A configuration it cannot use ends it with 2 and the reason on stderr, before anything starts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web
from pydantic import ValidationError

from autoscaler.demo.config import FleetConfig
from autoscaler.demo.control import control_app
from autoscaler.demo.files import write_json
from autoscaler.demo.hpa_follower import ExternalMetricClient, Follower, follower, wait_or
from autoscaler.demo.pool import EmulatedPool
from autoscaler.demo.replica_metrics import ReplicaMetrics
from autoscaler.demo.replica_server import ReplicaServer
from autoscaler.demo.state import PoolHistory, pool_state

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from autoscaler.demo.deployment import Deployment
    from autoscaler.simulator.engine_types import EngineRole

_SAMPLE_SECONDS = 1.0
_GOODBYE_SECONDS = 0.5
EXIT_BAD_CONFIG = 2


class Fleet:
    """The running fleet: pools, their replicas' servers, their HPAs."""

    def __init__(self, config: FleetConfig) -> None:
        self.config = config
        self._started = (time.time(), time.monotonic())
        start = self._started[0]
        self.pools = [EmulatedPool(pool, config.seed + index, start) for index, pool in enumerate(config.pools)]
        self.servers: dict[str, ReplicaServer] = {}
        self._histories = [PoolHistory() for _ in self.pools]
        self._followers: list[dict[EngineRole, Follower]] = [
            {
                role: follower(pool.config.namespace, pool.config.name, deployment.config, config.hpa)
                for role, deployment in pool.deployments.items()
                if config.hpa.follow
            }
            for pool in self.pools
        ]
        self._labels: dict[str, dict[str, str]] = {}
        self._told = False

    def now(self) -> float:
        """Unix seconds that never go back."""
        unix, monotonic = self._started
        return unix + time.monotonic() - monotonic

    def state(self, history_samples: int | None = None) -> dict[str, Any]:
        """Everything, as JSON, with at most so many of the latest samples of each pool's history."""
        now = self.now()
        pools = [
            pool_state(pool, history, history_samples, self.servers, following)
            for pool, history, following in zip(self.pools, self._histories, self._followers, strict=True)
        ]
        met = sum(pool["slo"]["met"] for pool in pools)
        judged = met + sum(pool["slo"]["missed"] for pool in pools)
        return {
            "at": now,
            "started_at": self._started[0],
            "elapsed_s": now - self._started[0],
            "slo_attainment": met / judged if judged else None,
            "gpu_seconds": sum(pool["gpu_seconds"] for pool in pools),
            "requests_arrived": sum(pool["requests"]["arrived"] for pool in pools),
            "requests_finished": sum(pool["requests"]["finished"] for pool in pools),
            "pools": pools,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, or until the parent named in the configuration is gone."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._stop_servers)
            await self._advance()
            control = web.AppRunner(control_app(self), access_log=None, shutdown_timeout=_GOODBYE_SECONDS)
            await control.setup()
            stack.push_async_callback(control.cleanup)
            await web.TCPSite(control, "127.0.0.1", self.config.control_port).start()
            url = f"http://127.0.0.1:{control.addresses[0][1]}"
            write_json(self.config.paths.endpoints, {"pid": os.getpid(), "control": url})
            session = await stack.enter_async_context(aiohttp.ClientSession())
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._play(stop))
                    client = ExternalMetricClient(self.config.hpa, session)
                    for pool, following in zip(self.pools, self._followers, strict=True):
                        for role, one in following.items():
                            tasks.create_task(self._follow(client, pool.deployments[role], one, stop))
            finally:
                self._sample()
                write_json(self.config.paths.stats, self.state())

    async def _play(self, stop: asyncio.Event) -> None:
        sampled_at = 0.0
        while not await wait_or(stop, self.config.tick_seconds):
            await self._advance()
            if self.now() - sampled_at >= _SAMPLE_SECONDS:
                sampled_at = self._sample()
                if self.config.parent_pid not in {None, os.getppid()}:
                    stop.set()

    def _sample(self) -> float:
        """Note down where everything stands, and when that was."""
        now = self.now()
        for pool, history in zip(self.pools, self._histories, strict=True):
            pool.advance(now)
            history.sample(pool, now)
        return now

    async def _advance(self) -> None:
        now = self.now()
        for pool in self.pools:
            pool.advance(now)
        await self._match_servers(now)

    async def _follow(
        self, client: ExternalMetricClient, deployment: Deployment, following: Follower, stop: asyncio.Event
    ) -> None:
        """The HPA controller's loop for one deployment."""
        while not stop.is_set():
            answer = await client.get(following.namespace, following.selector)
            replicas = (deployment.wanted, deployment.existing)
            wanted = following.sync(self.now(), replicas, answer)
            if wanted != deployment.wanted:
                deployment.scale(wanted, self.now())
            await wait_or(stop, self.config.hpa.sync_seconds)

    async def _match_servers(self, now: float) -> None:
        """Open a port for every replica that became ready, close those of the departed, and tell Prometheus."""
        present: set[str] = set()
        changed = not self._told
        for pool in self.pools:
            for deployment in pool.deployments.values():
                present |= deployment.replicas.keys()
                changed |= await self._open_servers(pool, deployment, now)
        for pod in self.servers.keys() - present:
            await self.servers.pop(pod).stop()
            del self._labels[pod]
            changed = True
        if changed:
            targets = [
                {"targets": [f"127.0.0.1:{server.port}"], "labels": self._labels[pod]}
                for pod, server in self.servers.items()
            ]
            write_json(self.config.paths.targets, targets)
            self._told = True

    async def _open_servers(self, pool: EmulatedPool, deployment: Deployment, now: float) -> bool:
        opened = False
        # A copy: while a server starts, the follower or a control request may add or remove replicas.
        for replica in list(deployment.replicas.values()):
            if replica.engine is None or replica.pod in self.servers:
                continue
            metrics = ReplicaMetrics(replica.engine, pool.config.model_name, now, pool.config.kv_bytes_per_token)
            server = ReplicaServer(metrics)
            await server.start()
            self.servers[replica.pod] = server
            self._labels[replica.pod] = {
                "namespace": pool.config.namespace,
                "pool": pool.config.name,
                "role": deployment.config.role.value,
                "pod": replica.pod,
            }
            opened = True
        return opened

    async def _stop_servers(self) -> None:
        for server in self.servers.values():
            await server.stop()


async def _serve(config: FleetConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Fleet(config).run(stop)


def read_config(path: Path) -> FleetConfig:
    """Read a fleet configuration.

    Raises:
        ValueError: the file cannot be read or is not a valid configuration; names file, key, value and what is wrong.
    """
    try:
        return FleetConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ValueError("\n".join(_fault_line(path, fault) for fault in error.errors())) from error


def _fault_line(path: Path, fault: ErrorDetails) -> str:
    where = ".".join(map(str, fault["loc"])) or "whole file"
    return f"{path}: {where}: {fault['msg']} (got {str(fault['input'])[:80]})"


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m autoscaler.demo.fleet", description="Run an emulated fleet.")
    parser.add_argument("--config", type=Path, required=True, help="JSON file")
    path: Path = parser.parse_args(arguments).config
    try:
        config = read_config(path)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_CONFIG
    asyncio.run(_serve(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
