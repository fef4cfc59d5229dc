"""One tick of the loop against a real Prometheus and a generated fleet: where the time goes, and how much memory.

    python bench/tick.py                               1,000 pools x 8 replicas, colocated
    python bench/tick.py --pools 10,100,1000           queries per tick beside one another
    python bench/tick.py --disaggregated               half prefill and half decode replicas in each pool
    python bench/tick.py --supply scarce               every GPU is held already, so that the plan has to choose
    python bench/tick.py --json                        the same as one JSON list

Everything is the product's own: settings, PrometheusSource, LiveWorld.observe, tick, Publisher and Recorder. Memory
starts with a full load history, so that the first tick measured costs what the thousandth does. Target at 1,000 pools:
p95 of a whole tick at most 2.0 s and at most 600 MiB resident, on two cores shared with Prometheus and the fleet.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import structlog
from generated_fleet import Fleet, namespace, pool_name
from tick_rig import Rig
from tick_stages import Stages, quantile, table
from tick_world import RealPrometheus, Usage, generated, scraping

from autoscaler import build, store
from autoscaler.memory import Memory, RoleMemory
from autoscaler.settings import Settings
from forecasting.series import Series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoscaler.build import Parts
    from autoscaler.model import Decision

TARGET_S, TARGET_MIB, AT_POOLS = 2.0, 600.0, 1000
QUIET_CORES = 0.2
"""Others using less of the machine than this while a tick lasts leave it undisturbed."""
PROFILE = "llama-3.1-8b/h100-80gb/tp1"
SPLIT = 5
"""Accelerator names of the split supply: contention then falls apart into as many plans."""
DISCOVERY_EVERY = 4
"""Ticks between discoveries, as at the defaults (60 s and 15 s)."""
SILENT = structlog.make_filtering_bound_logger(logging.ERROR)


def settings_for(fleet: Fleet, url: str, directory: Path, given: argparse.Namespace) -> Settings:
    """The configuration of such a fleet, as its owner would write it."""
    names = [f"h100-{n}" for n in range(SPLIT)] if given.supply == "scarce-split" else ["h100"]
    roles = ("prefill", "decode") if fleet.disaggregated else ("colocated",)
    held = -(-fleet.pools // len(names)) * fleet.replicas
    scarce = {"gpus": held, "preemptible_gpus": held // 40, "preempt_gang": 8, "provisionable_gpus": 16, "node_gpus": 8}
    supply = [{"accelerator": name, **({} if given.supply == "plenty" else scarce)} for name in names]
    pools = [
        {
            "name": pool_name(n),
            "namespace": namespace(n),
            "model_name": f"model-{n:04d}",
            "match": {"pool": pool_name(n)},
            "profile": PROFILE,
            "accelerator": names[n % len(names)],
            "priority": 1.0 + n % 3,
            "roles": {role: {"min_replicas": 1, "max_replicas": 4 * fleet.replicas} for role in roles},
        }
        for n in range(fleet.pools)
    ]
    every = given.interval_s
    return Settings(
        source={
            "window_s": given.window_s,
            "max_age_s": max(4 * given.scrape_s, 15.0),
            "prometheus": {
                "url": url,
                "timeout_s": 30.0,
                "discovery_interval_s": max(10.0, DISCOVERY_EVERY * every - every / 2),
            },
        },
        loop={
            "interval_s": every,
            "memory_file": str(directory / "memory.json"),
            "journal_file": str(directory / "journal.jsonl"),
        },
        pools=pools,
        supply=supply,
    )


def seeded(parts: Parts, fleet: Fleet, now: float) -> Memory:
    """A memory with a full history, as after hours of running."""
    rules = parts.rules
    keep = round(rules.history_s / rules.bin_s)
    first = now - keep * rules.bin_s
    each = fleet.load * fleet.replicas / (2 if fleet.disaggregated else 1)
    roles = {}
    for n, rule in enumerate(rules.roles):
        wave = [1.0 + 0.3 * ((7 * k + n) % 20 - 10) / 10 for k in range(keep)]
        prompt = Series.of(((first + k * rules.bin_s, 800 * each * w) for k, w in enumerate(wave)), rules.bin_s, keep)
        output = Series.of(((first + k * rules.bin_s, 200 * each * w) for k, w in enumerate(wave)), rules.bin_s, keep)
        roles[rule.key] = RoleMemory(prompt_load=prompt, output_load=output)
    return Memory(roles, now)


def measure(
    rig: Rig, fleet: Fleet, server: RealPrometheus, child: psutil.Process, given: argparse.Namespace
) -> dict[str, Any]:
    """Tick `given.ticks` times at the given interval, and say what that took."""
    memory = seeded(rig.parts, fleet, time.time())
    before = Usage.now(server, child)
    rss, quiet, paces = [], [], [pace()]
    decision = None
    for number, now in enumerate(rig.world.ticks()):
        if number == given.warm:
            rig.stages.ticks.clear()
            before = Usage.now(server, child)
        started = Usage.now(server, child)
        decision, memory = rig.tick(now, memory)
        quiet.append(Usage.now(server, child).others(started) < QUIET_CORES)
        rss.append(psutil.Process().memory_info().rss / 2**20)
        if number + 1 == given.warm + given.ticks:
            break
    paces.append(pace())
    used = Usage.now(server, child).facts(before, given.ticks)
    looks = rig.source.readings[-given.ticks :]
    rig.source.close()
    facts = {
        **(decided(decision) if decision else {}),
        "engines reporting": sum(reading.reporting for reading in looks[-1].by_key.values()),
        "queries per tick": quantile([look.queries for look in looks], 0.5),
        "queries at most, discovering": max(look.queries for look in looks),
        "source notes": list(looks[-1].notes[:3]),
        "resident MiB now": round(rss[-1], 1),
        "resident MiB peak": round(max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, *rss), 1),
        **used,
        "3 million additions took s": [round(seconds, 3) for seconds in paces],
        **undisturbed(rig.stages, quiet[given.warm :]),
        "Prometheus resident MiB": round(server.rss_mib()),
        **kept(rig.parts.settings, given.warm + given.ticks),
    }
    return {"pools": fleet.pools, "replicas": fleet.replicas, "stages": rig.stages.summary(), "facts": facts}


def undisturbed(stages: Stages, quiet: Sequence[bool]) -> dict[str, Any]:
    """The same for the ticks during which nobody else used the machine to speak of."""
    whole = [sum(tick.values()) for tick, alone in zip(stages.ticks, quiet, strict=True) if alone]
    return {
        "ticks, of them undisturbed": f"{len(quiet)}, {len(whole)}",
        "undisturbed p50, p95 s": [round(quantile(whole, q), 3) for q in (0.5, 0.95)] if whole else None,
    }


def pace() -> float:
    """Seconds of CPU for three million additions: 0.1 on a free core, more when its twin works too."""
    began, total = time.process_time(), 0
    for n in range(3_000_000):
        total += n
    return time.process_time() - began


def decided(decision: Decision) -> dict[str, Any]:
    """What the last tick came to."""
    roles, plan = decision.roles, decision.plan
    return {
        "roles": len(roles),
        "blind roles": sum(role.blind is not None for role in roles),
        "blind, for example": next((role.blind for role in roles if role.blind is not None), None),
        "wanted / ready replicas": f"{sum(r.desired or 0 for r in roles)} / {sum(r.ready or 0 for r in roles)}",
        "plan": plan.status if plan else None,
        "plan says": plan.notes[0] if plan and plan.notes else None,
    }


def kept(settings: Settings, ticks: int) -> dict[str, float]:
    """What is on disk, and how long a restart needs to read it."""
    memory, journal = Path(settings.loop.memory_file or ""), Path(settings.loop.journal_file or "")
    began = time.perf_counter()
    store.load(memory)
    return {
        "restoring memory, s": round(time.perf_counter() - began, 3),
        "memory file MB": round(memory.stat().st_size / 1e6, 2),
        "journal MB per tick": round(journal.stat().st_size / 1e6 / ticks, 3),
    }


def machine() -> dict[str, Any]:
    """What it ran on."""
    said = subprocess.run(["prometheus", "--version"], capture_output=True, text=True, check=True)
    return {
        "machine": f"{platform.machine()}, {_processor()}",
        "cores": os.cpu_count(),
        "load average before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "highspy", "pulp", "prometheus-api-client")},
        "prometheus": (said.stdout or said.stderr).split()[2],
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def one_run(pools: int, given: argparse.Namespace) -> dict[str, Any]:
    """Start everything for so many pools, let the window fill, measure."""
    fleet = Fleet(pools, given.replicas, given.disaggregated, given.load)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-")))
        port, child = stack.enter_context(generated(fleet))
        server = stack.enter_context(scraping(directory, port, pools, given.scrape_s))
        parts = build.parts(settings_for(fleet, server.url, directory, given))
        server.await_engines(pools * given.replicas)
        time.sleep(given.window_s + given.scrape_s)  # the rates' window has to fill
        return measure(Rig(parts), fleet, server, child, given)


def verdict(found: dict[str, Any]) -> str | None:
    """Whether the target holds; None where it is not stated."""
    if found["pools"] != AT_POOLS:
        return None
    alone = found["facts"]["undisturbed p50, p95 s"]
    p95, peak = found["stages"]["whole tick"]["p95_ms"] / 1000, found["facts"]["resident MiB peak"]
    holds = "holds" if p95 <= TARGET_S and peak <= TARGET_MIB else "MISSED"
    said = f"p95 {p95:.2f} s (at most {TARGET_S:g}), peak {peak:.0f} MiB (at most {TARGET_MIB:g})"
    return f"target {holds}: {said}" + (f"; undisturbed p95 {alone[1]:.2f} s" if alone else "")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", default="1000", help="how many; several separated by commas")
    parser.add_argument("--replicas", type=int, default=8, help="of each pool")
    parser.add_argument("--disaggregated", action="store_true", help="half of them prefill, half decode")
    parser.add_argument("--ticks", type=int, default=20, help="measured")
    parser.add_argument("--warm", type=int, default=2, help="ticks before")
    parser.add_argument("--supply", choices=("plenty", "scarce", "scarce-split"), default="plenty")
    parser.add_argument("--load", type=float, default=20.0, help="requests/s of one replica")
    parser.add_argument("--interval-s", type=float, default=5.0, help="between ticks; the product's default is 15")
    parser.add_argument("--scrape-s", type=float, default=15.0, help="Prometheus' scrape interval")
    parser.add_argument("--window-s", type=float, default=60.0, help="of the rates")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> int:
    """Run, print, and exit with 1 where the target is missed."""
    given = arguments()
    if shutil.which("prometheus") is None:
        print("prometheus is not installed (Debian package: prometheus)", file=sys.stderr)
        return 2
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr), wrapper_class=SILENT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the processes started here would outlive this one
    on = machine()
    runs = [one_run(int(pools), given) for pools in str(given.pools).split(",")]
    said = [verdict(run) for run in runs]
    if given.json:
        print(json.dumps({"machine": on, "runs": runs, "verdicts": said}))
    else:
        print("\n".join(f"{name:<34}{value}" for name, value in on.items()))
        for run, words in zip(runs, said, strict=True):
            kind = "disaggregated" if given.disaggregated else "colocated"
            print(f"\n{run['pools']} {kind} pools x {run['replicas']} replicas, supply {given.supply}")
            print(table(run), *([words] if words else []), sep="\n")
    return 1 if any(words and "MISSED" in words for words in said) else 0


if __name__ == "__main__":
    sys.exit(main())
