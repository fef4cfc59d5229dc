"""Opening replicas' ports takes time, and deployments are scaled meanwhile."""

import asyncio
from pathlib import Path

import pytest

from autoscaler.demo import fleet as fleet_module
from autoscaler.demo.config import FleetConfig
from autoscaler.demo.fleet import Fleet
from autoscaler.demo.replica_server import ReplicaServer
from tests.demo.test_fleet_process import fleet_config


def test_scaling_while_a_server_starts_is_taken_up_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Fleet(FleetConfig.model_validate(fleet_config(tmp_path, "https://127.0.0.1:1", tmp_path / "ca.pem")))
    deployment = next(iter(one.pools[0].deployments.values()))
    sizes = iter([5, 1])

    class Slow(ReplicaServer):
        """A server during whose start the HPA scales its deployment."""

        async def start(self) -> None:
            await super().start()
            if size := next(sizes, None):
                deployment.scale(size, one.now())

    async def steps() -> None:
        for _ in range(3):
            await one._advance()
        await one._stop_servers()

    monkeypatch.setattr(fleet_module, "ReplicaServer", Slow)
    asyncio.run(steps())
    present = {pod for role in one.pools[0].deployments.values() for pod in role.replicas}
    assert one.servers.keys() <= present
