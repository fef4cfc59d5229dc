"""What the demonstration writes before it starts: the configurations of the fleet, of Prometheus and of the loop."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from autoscaler.demo.config import FleetConfig, HpaConfig, PathsConfig
from autoscaler.demo.scenario import default_scenario
from autoscaler.profiles import load_profiles

if TYPE_CHECKING:
    from pathlib import Path

    from autoscaler.demo.config import PoolConfig, RoleConfig

SCRAPE_S = 1.0
"""Scrape interval; in a cluster it is usually 15 s."""
TICK_S = 2.0
WINDOW_S = 8.0
"""Rates over eight scrapes: a burst of a few seconds has to show."""
STABILISE_S = 12.0
PROFILE = "demo-8b/small-gpu/tp1"
OFF_BY = 1.25
"""The profile the loop starts from makes the engines this much slower than they are, so that learning shows."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Folder, ports and length of one demonstration; every path and address follows."""

    folder: Path
    api_port: int
    status_port: int
    prometheus_port: int
    control_port: int
    seconds: float
    seed: int

    @property
    def api_url(self) -> str:
        """The external-metrics API."""
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def status_url(self) -> str:
        """The status page."""
        return f"http://127.0.0.1:{self.status_port}"

    @property
    def prometheus_url(self) -> str:
        """Prometheus."""
        return f"http://127.0.0.1:{self.prometheus_port}"

    @property
    def control_url(self) -> str:
        """The fleet."""
        return f"http://127.0.0.1:{self.control_port}"

    @property
    def tls_folder(self) -> Path:
        """The self-signed CA and certificate."""
        return self.folder / "tls"

    @property
    def ca_file(self) -> Path:
        """What clients of the API verify it with."""
        return self.tls_folder / "ca.crt"

    @property
    def fleet_file(self) -> Path:
        """The fleet's configuration."""
        return self.folder / "fleet.json"

    @property
    def config_file(self) -> Path:
        """The loop's configuration: an example worth reading."""
        return self.folder / "tidegate.yaml"

    @property
    def prometheus_file(self) -> Path:
        """Prometheus' configuration."""
        return self.folder / "prometheus.yml"

    @property
    def samples_folder(self) -> Path:
        """Prometheus' data."""
        return self.folder / "prometheus-data"

    @property
    def targets_file(self) -> Path:
        """The fleet's replicas, in file_sd format."""
        return self.folder / "targets.json"

    @property
    def endpoints_file(self) -> Path:
        """Written by the fleet once it serves."""
        return self.folder / "endpoints.json"

    @property
    def stats_file(self) -> Path:
        """Written by the fleet at its end."""
        return self.folder / "stats.json"

    @property
    def memory_file(self) -> Path:
        """The loop's memory."""
        return self.folder / "memory.json"

    @property
    def journal_file(self) -> Path:
        """The loop's journal."""
        return self.folder / "journal.jsonl"

    @property
    def processes_file(self) -> Path:
        """Process IDs and addresses."""
        return self.folder / "processes.json"


def clear(stage: Stage) -> None:
    """Remove what an earlier demonstration left in the folder: old samples and memories would be taken for this one's.

    Raises OSError.
    """
    for stale in (
        stage.memory_file, stage.journal_file, stage.journal_file.with_name(stage.journal_file.name + ".1"),
        stage.targets_file, stage.endpoints_file, stage.stats_file, stage.processes_file,
        *(stage.folder / f"{name}.log" for name in ("fleet", "loop", "prometheus")),
    ):  # fmt: skip
        stale.unlink(missing_ok=True)
    if (stage.samples_folder / "wal").is_dir():
        shutil.rmtree(stage.samples_folder)


def write(stage: Stage, *, scrape: bool) -> None:
    """Write all configuration files. Raises OSError."""
    pools = default_scenario(stage.seconds, stage.seed)
    fleet = FleetConfig(
        pools=pools,
        hpa=HpaConfig(base_url=stage.api_url, ca_file=stage.ca_file, sync_seconds=1.0),
        paths=PathsConfig(targets=stage.targets_file, endpoints=stage.endpoints_file, stats=stage.stats_file),
        seed=stage.seed,
        control_port=stage.control_port,
        parent_pid=os.getpid(),
    )
    stage.fleet_file.write_text(fleet.model_dump_json(indent=1), encoding="utf-8")
    _dump(stage.prometheus_file, _prometheus(stage))
    _dump(stage.config_file, _loop(stage, pools, scrape=scrape))
    profiles = stage.folder / "profiles"
    profiles.mkdir(exist_ok=True)
    _dump(profiles / "demo.yaml", _profile(pools[0]))


def _dump(path: Path, value: Any) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")


def prometheus_command(stage: Stage) -> list[str]:
    """How Prometheus is started."""
    return [
        "prometheus",
        f"--config.file={stage.prometheus_file}",
        f"--storage.tsdb.path={stage.samples_folder}",
        f"--web.listen-address=127.0.0.1:{stage.prometheus_port}",
        "--storage.tsdb.retention.time=1d",
        "--log.level=warn",
    ]


def _prometheus(stage: Stage) -> dict[str, Any]:
    every = f"{SCRAPE_S:g}s"
    return {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": "15s"},
        "scrape_configs": [
            {
                "job_name": "engines",
                "file_sd_configs": [{"files": [str(stage.targets_file)], "refresh_interval": "1s"}],
            },
            {
                "job_name": "kube-state-metrics",
                "metrics_path": "/kube-state",
                # Its series carry their own namespace and deployment, as the real one's do.
                "honor_labels": True,
                "static_configs": [{"targets": [f"127.0.0.1:{stage.control_port}"]}],
            },
            {"job_name": "tidegate", "static_configs": [{"targets": [f"127.0.0.1:{stage.status_port}"]}]},
        ],
    }


def _loop(stage: Stage, pools: list[PoolConfig], *, scrape: bool) -> dict[str, Any]:
    source: dict[str, Any] = {"kind": "prometheus", "window_s": WINDOW_S, "max_age_s": 3 * TICK_S}
    if scrape:
        source |= {
            "kind": "scrape",
            "scrape": {"file_sd": str(stage.targets_file), "interval_s": SCRAPE_S, "timeout_s": 2.0},
        }
    else:
        source |= {
            "replica_counts": "kube-state-metrics",
            "prometheus": {"url": stage.prometheus_url, "timeout_s": 2.0, "retries": 1, "discovery_interval_s": 15.0},
        }
    return {
        "source": source,
        "loop": {
            "interval_s": TICK_S,
            "memory_file": str(stage.memory_file),
            "journal_file": str(stage.journal_file),
        },
        "pools": [_pool(pool) for pool in pools],
        "supply": [{"accelerator": "small-gpu", "gpus": 18, "price_per_gpu_hour": 0.8}],
        "profiles_dir": str(stage.folder / "profiles"),
        # Starts take 4 to 5 s here instead of minutes; everything else is scaled with them.
        "lead": {"start_s": 6.0, "preempt_s": 6.0, "provision_s": 6.0},
        "forecast": {"quantile": 0.9, "history_s": 360 * TICK_S},
        "guards": {"stabilise_down_s": STABILISE_S, "start_deadline_s": 30.0},
        "serving": {
            "port": stage.api_port,
            "status_port": stage.status_port,
            "soft_age_s": 3 * TICK_S,
            "hard_age_s": 6 * TICK_S,
            "tls": {"directory": str(stage.tls_folder), "names": ["localhost", "127.0.0.1"]},
        },
    }


def _pool(pool: PoolConfig) -> dict[str, Any]:
    return {
        "name": pool.name,
        "namespace": pool.namespace,
        "model_name": pool.model_name,
        "profile": PROFILE,
        "link_gbps": pool.link_bytes_per_second * 8 / 1e9,
        "slo": {"ttft_s": pool.slo.ttft_seconds, "itl_s": pool.slo.tpot_seconds},
        "roles": {role.role.value: _role(pool, role) for role in pool.roles},
    }


def _role(pool: PoolConfig, role: RoleConfig) -> dict[str, Any]:
    return {
        "min_replicas": role.min_replicas,
        "max_replicas": role.max_replicas,
        "target": {"kind": "Deployment", "name": f"{pool.name}-{role.role.value}"},
    }


def _profile(pool: PoolConfig) -> dict[str, Any]:
    """The decode engine's true figures, made worse; the shape is that of the 8B model the fleet plays."""
    decode = pool.roles[-1].engine
    like = load_profiles().find("llama-3.1-8b", "l4", 1)
    heads = {"layers": 32, "kv_heads": 8, "head_dim": 128, "parameters_billion": 8.03}
    entry = {
        "accelerator": "small-gpu",
        "tensor_parallel": 1,
        "gpus": 1,
        "step_base_s": decode.step_seconds * OFF_BY,
        "per_prefill_token_s": decode.prefill_token_seconds * OFF_BY,
        "prefill_request_s": 0.01,
        "per_running_s": decode.sequence_seconds * OFF_BY,
        "per_resident_token_s": decode.resident_token_seconds * OFF_BY,
        "kv_bytes_per_token": like.kv_bytes_per_token,
        "kv_capacity_tokens": decode.kv_capacity_tokens,
        "max_running": decode.max_running,
        "max_batched_tokens": decode.max_batched_tokens,
        "weights_gb": like.weights_gb,
        "evidence": "inferred",
        "source": f"the emulated engine's own figures, {OFF_BY - 1:.0%} too slow on purpose",
        "relative_uncertainty": 0.3,
    }
    return {"model": "demo-8b", "architecture": heads, "profiles": [entry]}
