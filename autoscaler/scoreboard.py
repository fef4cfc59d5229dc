"""Many runs side by side: policies x traces x seeds in parallel processes, and what can be said of them together."""

from __future__ import annotations

import csv
import json
import math
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autoscaler.errors import BadSettings
from autoscaler.policies.registry import make
from autoscaler.simulator.generate import generate
from autoscaler.simulator.scaling import parse_scale, scaled
from autoscaler.simulator.setup import Setup
from autoscaler.simulator.simulate import simulate
from autoscaler.simulator.traces import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from autoscaler.simulator.requests import DemandSeries, Workload
    from autoscaler.simulator.result import Result

GENERATED = "gen:"
"""A trace that begins so is generated instead of read."""


@dataclass(frozen=True, slots=True)
class TraceSpec:
    """Where a load comes from.

    Attributes:
        source: a file, or a generator's specification (`gen:…`).
        format: of the file; ignored for a generator.
        scale: such as `superpose:20`; empty for none.
        input_tokens, output_tokens: constants for columns a demand file lacks.
    """

    source: str
    format: str = "requests"
    scale: str = ""
    input_tokens: float | None = None
    output_tokens: float | None = None

    def load(self, seed: int) -> Workload | DemandSeries:
        """Read or generate, then scale. Raises BadSettings or the loader's own errors, which name file and row."""
        if self.source.startswith(GENERATED):
            found: Workload | DemandSeries = generate(self.source, seed)
        else:
            found = load(self.source, self.format, input_tokens=self.input_tokens, output_tokens=self.output_tokens)
        return scaled(found, parse_scale(self.scale), seed) if self.scale else found


@dataclass(frozen=True, slots=True)
class Job:
    """One run: a trace, a policy with its knobs, a seed, a setup."""

    trace: TraceSpec
    policy: str
    seed: int
    setup: Setup = field(default_factory=Setup)
    knobs: Mapping[str, str] = field(default_factory=dict)


def run_job(job: Job) -> Result:
    """Run one job in this process. The seed is that of the workload's scaling and of the world alike."""
    return simulate(job.trace.load(job.seed), make(job.policy, job.knobs), job.setup, seed=job.seed)


def run_jobs(jobs: Sequence[Job], workers: int, done: Callable[[Job], None] | None = None) -> list[Result]:
    """Run all jobs, `workers` at a time, and return their results in the jobs' order whatever order they end in."""
    if workers <= 1 or len(jobs) <= 1:
        results = []
        for job in jobs:
            results.append(run_job(job))
            if done:
                done(job)
        return results
    found: dict[int, Result] = {}
    with ProcessPoolExecutor(workers) as pool:
        waiting = {pool.submit(run_job, job): index for index, job in enumerate(jobs)}
        try:
            for future in as_completed(waiting):
                found[waiting[future]] = future.result()
                if done:
                    done(jobs[waiting[future]])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [found[index] for index in range(len(jobs))]


MEASURES = (
    "slo_attainment",
    "ttft_p50_s",
    "ttft_p99_s",
    "tpot_p99_s",
    "gpu_hours",
    "cost_per_million_tokens",
    "gpu_utilisation",
    "peak_over_ask",
    "direction_changes",
    "supply_correlation",
    "recovery_s",
    "lost_training_gpu_hours",
)
"""What the table and the files hold of each result, in this order."""


@dataclass(frozen=True, slots=True)
class Row:
    """One policy on one trace: mean and standard deviation over seeds of every measure; NaN where none is known."""

    trace: str
    policy: str
    seeds: int
    mean: Mapping[str, float]
    spread: Mapping[str, float]


def summed_up(results: Iterable[Result]) -> list[Row]:
    """One row per trace and policy, the best SLO attainment first, then the fewest GPU-hours."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.trace, result.policy), []).append(result)
    rows = []
    for (trace, policy), group in groups.items():
        values = {name: [float(getattr(result, name)) for result in group] for name in MEASURES}
        told = {name: [value for value in found if math.isfinite(value)] for name, found in values.items()}
        mean = {name: statistics.fmean(found) if found else math.nan for name, found in told.items()}
        spread = {name: statistics.stdev(found) if len(found) > 1 else 0.0 for name, found in told.items()}
        rows.append(Row(trace, policy, len(group), mean, spread))
    return sorted(rows, key=lambda row: (row.trace, -round(row.mean["slo_attainment"], 4), row.mean["gpu_hours"]))


def flat(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Each result as one flat record, the configuration as JSON text: for CSV and Parquet."""
    records = []
    for result in results:
        plain = result.as_json()
        record = {name: plain[name] for name in plain if name not in {"config", "notes"}}
        records.append({**record, "notes": "; ".join(plain["notes"]), "config": json.dumps(plain["config"])})
    return records


def write_table(results: Sequence[Result], path: Path) -> None:
    """All results as CSV or Parquet, by the file's ending. Raises BadSettings for others, or without pyarrow."""
    records = flat(results)
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(records[0]) if records else [])
            writer.writeheader()
            writer.writerows(records)
        return
    if path.suffix != ".parquet":
        raise BadSettings((f"--out {path}: must end in .csv or .parquet",))
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra: 40 MB that only this needs
        import pyarrow.parquet as pq  # noqa: PLC0415 - likewise
    except ImportError:
        raise BadSettings(
            (f"--out {path}: Parquet needs pyarrow; pip install 'tidegate[scoreboard]', or use .csv",)
        ) from None
    pq.write_table(pa.Table.from_pylist(records), path)


def draw(results: Sequence[Result], path: Path) -> None:
    """Two pictures in one file per trace: ready replicas against need over time, and cost against SLO attainment.

    Raises BadSettings when matplotlib is missing or the ending is not one it can write.
    """
    try:
        from autoscaler.scoreboard_picture import draw_traces  # noqa: PLC0415 - matplotlib is an extra
    except ImportError:
        raise BadSettings((f"--plot {path}: needs matplotlib; pip install 'tidegate[scoreboard]'",)) from None
    draw_traces(results, path)
