"""Many runs side by side: policies x traces x seeds in parallel processes, and what can be said of them together."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import statistics
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from autoscaler.errors import BadSettings
from autoscaler.policies.registry import make
from autoscaler.scoreboard_bounds import ORACLE, oracle_result, started_static, static_counts
from autoscaler.simulator.generate import generate
from autoscaler.simulator.generator_text import parse_generator
from autoscaler.simulator.requests import DemandSeries
from autoscaler.simulator.scaling import parse_scale, scaled
from autoscaler.simulator.score import BIN_S
from autoscaler.simulator.setup import Setup
from autoscaler.simulator.simulate import simulate
from autoscaler.simulator.traces import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from autoscaler.simulator.requests import Workload
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
        share: the part of its duration to run, such as (0, 1/3); taken after scaling.
    """

    source: str
    format: str = "requests"
    scale: str = ""
    input_tokens: float | None = None
    output_tokens: float | None = None
    share: tuple[float, float] = (0.0, 1.0)

    def check(self) -> None:
        """Raises what `load` would for a file, a generator's text or a scale that is not sound; draws nothing."""
        if self.scale:
            parse_scale(self.scale)
        if self.source.startswith(GENERATED):
            parse_generator(self.source)
        else:
            load(self.source, self.format, input_tokens=self.input_tokens, output_tokens=self.output_tokens)

    def load(self, seed: int) -> Workload | DemandSeries:
        """Read or generate, then scale. Raises BadSettings or the loader's own errors, which name file and row."""
        if self.source.startswith(GENERATED):
            found: Workload | DemandSeries = generate(self.source, seed)
        else:
            found = load(self.source, self.format, input_tokens=self.input_tokens, output_tokens=self.output_tokens)
        if self.scale:
            found = scaled(found, parse_scale(self.scale), seed)
        if self.share != (0.0, 1.0):
            found = found.between(self.share[0] * found.duration, self.share[1] * found.duration)
        return found if isinstance(found, DemandSeries) else _lasting(found)


def _lasting(load: Workload) -> Workload:
    """At least one bin of the comparison long: GPU time, rates and the oracle's bound count until the load ends.

    Requests that all come at once (one row, one time) end as they begin, and would be served for nothing.
    """
    if load.duration >= BIN_S or not len(load):
        return load
    note = f"lasts {load.duration:g} s; counted as {BIN_S:g} s, the grain of the score"
    return replace(load, horizon_s=BIN_S, notes=(*load.notes, note))


@dataclass(frozen=True, slots=True)
class Job:
    """One run: a trace, a policy (or the oracle) with its knobs, a seed, a setup; `fluid`: requests flow too."""

    trace: TraceSpec
    policy: str
    seed: int
    setup: Setup = field(default_factory=Setup)
    knobs: Mapping[str, str] = field(default_factory=dict)
    fluid: bool = False


def run_job(job: Job) -> Result:
    """Run one job in this process. The seed is that of the workload's scaling and of the world alike.

    Static policies get the counts that the trace needs for the roles they were given none for; a note says so.

    Raises:
        BadSettings: a policy, knob, setup or trace that cannot be; BadTrace: a file that is not sound.
    """
    if job.seed < 0:
        raise BadSettings((f"seed is {job.seed}; it must be >= 0",))
    if job.policy == ORACLE:
        return oracle_result(job.trace.load(job.seed), job.setup, seed=job.seed, knobs=job.knobs)
    policy = make(job.policy, job.knobs)
    load = job.trace.load(job.seed)
    counts = static_counts(job.policy, job.knobs, load, job.setup)
    if not counts:
        return simulate(load, policy, job.setup, seed=job.seed, fluid=job.fluid)
    setup = started_static(job.setup, counts)
    told = {role: str(count) for role, count in counts.items()}
    result = simulate(load, make(job.policy, {**job.knobs, **told}), setup, seed=job.seed, fluid=job.fluid)
    said = ", ".join(f"{role} {count}" for role, count in counts.items())
    return replace(result, notes=(*result.notes, f"{job.policy} computed from the whole trace: {said}"))


def check(policies: Iterable[str]) -> None:
    """Raises BadSettings for the first name that is no policy, nor the oracle."""
    for name in policies:
        if name != ORACLE:
            make(name)


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


TABLES, PICTURES = (".csv", ".parquet"), (".png", ".svg", ".pdf")
"""Endings of files that can be written."""


def check_files(out: Path | None, plot: Path | None) -> None:
    """Raises BadSettings, before anything has run for an hour, for files that could not be written at its end."""
    problems = []
    for option, path, endings in (("--out", out, TABLES), ("--plot", plot, PICTURES)):
        if path is None:
            continue
        if path.suffix not in endings:
            problems.append(f"{option} {path}: must end in {' or '.join(endings)}")
        elif not path.parent.is_dir():
            problems.append(f"{option} {path}: there is no folder {path.parent}")
        elif path.is_dir():
            problems.append(f"{option} {path}: is a folder; name a file")
        elif not os.access(path if path.exists() else path.parent, os.W_OK):
            problems.append(f"{option} {path}: may not be written; choose another place, or change its permissions")
        package = {".parquet": "pyarrow", ".csv": None}.get(path.suffix, "matplotlib")
        if path.suffix in endings and package is not None and importlib.util.find_spec(package) is None:
            problems.append(f"{option} {path}: needs {package}; pip install 'tidegate[scoreboard]'")
    if problems:
        raise BadSettings(tuple(problems))


def write_table(results: Sequence[Result], path: Path) -> None:
    """All results as CSV or Parquet, by the file's ending.

    Raises:
        BadSettings: another ending, no pyarrow, or a file that cannot be written.
    """
    check_files(path, None)
    records = flat(results)
    try:
        if path.suffix == ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(records[0]) if records else [])
                writer.writeheader()
                writer.writerows(records)
            return
        import pyarrow as pa  # noqa: PLC0415 - an extra: 40 MB that only this needs
        import pyarrow.parquet as pq  # noqa: PLC0415 - likewise

        pq.write_table(pa.Table.from_pylist(records), path)
    except OSError as error:
        raise BadSettings((f"--out {path}: cannot be written: {error.strerror or error}",)) from None


def draw(results: Sequence[Result], path: Path) -> None:
    """Two pictures in one file per trace: ready replicas against need over time, and cost against SLO attainment.

    Raises:
        BadSettings: matplotlib is missing, or the file cannot be written.
    """
    check_files(None, path)
    from autoscaler.scoreboard_picture import draw_traces  # noqa: PLC0415 - matplotlib is an extra

    draw_traces(results, path)
