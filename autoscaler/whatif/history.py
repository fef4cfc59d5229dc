"""The load that is asked about: a trace, a generator, a journal or Prometheus, as what the simulator plays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.errors import BadJournal, BadSettings
from autoscaler.journal import read
from autoscaler.model import Role
from autoscaler.simulator.binning import to_demand
from autoscaler.simulator.generate import generate
from autoscaler.simulator.requests import LARGEST_TOKENS, DemandSeries, Workload
from autoscaler.simulator.scaling import parse_scale, scaled
from autoscaler.simulator.trace_files import BadTrace
from autoscaler.simulator.traces import load
from autoscaler.whatif.planner_csv import planner_csv
from autoscaler.whatif.scenario import HistoryFile, HistoryGenerator, HistoryJournal, HistoryPrometheus
from metrics_adapter.prometheus import PrometheusSource
from metrics_adapter.prometheus_http import PrometheusAccess
from metrics_adapter.signals import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from autoscaler.model import Observation
    from autoscaler.whatif.scenario import AnyHistory, Scenario, Study

    Load = Workload | DemandSeries

VLLM_REQUESTS = "sum(rate(vllm:request_success_total[{window}]))"
"""PromQL of requests/s where none is given; vLLM's counters (docs.vllm.ai, metrics)."""
VLLM_INPUT = "sum(rate(vllm:prompt_tokens_total[{window}]))"
VLLM_OUTPUT = "sum(rate(vllm:generation_tokens_total[{window}]))"
MOST_POINTS = 11_000
"""Points of a Prometheus range answer; the server refuses more."""


@dataclass(frozen=True, slots=True, eq=False)
class Loads:
    """Loads by pool, `namespace/pool`; a trace has one pool, called `pool`."""

    source: str
    pools: Mapping[str, Load]

    def frame(self) -> object:
        """Tidy demand, one row per pool and bin (a minute for requests): see `tables.demand_frame`."""
        from autoscaler.whatif.tables import demand_frame  # noqa: PLC0415 - tables read this module's type

        return demand_frame(self)


def loads_of(study: Study, seed: int = 0) -> Loads:
    """The load of a study, or those of its pools by their names. Raises as `loaded`; BadSettings names the pool."""
    if study.history is not None:
        return loaded(study.history, seed)
    found: dict[str, Load] = {}
    for pool in study.pools:
        its = loaded(pool.history, seed)
        if len(its.pools) != 1:
            several = ", ".join(sorted(its.pools))
            raise BadSettings((f"pools: {pool.name}: its history has {several}; name one of them as history.pool",))
        found[pool.name] = next(iter(its.pools.values()))
    return Loads(", ".join(dict.fromkeys(load.name for load in found.values())), found)


def loaded(history: AnyHistory, seed: int = 0) -> Loads:
    """Read what a study's `history` names. Raises BadSettings, BadTrace or BadJournal, naming file and row."""
    if isinstance(history, HistoryFile):
        return from_trace(
            history.trace,
            history.format,
            scale=history.scale,
            seed=seed,
            input_tokens=history.input_tokens,
            output_tokens=history.output_tokens,
        )
    if isinstance(history, HistoryGenerator):
        return generated(history.spec, seed)
    if isinstance(history, HistoryJournal):
        return from_journal(history.journal, pool=history.pool, step_s=history.step_s)
    return from_prometheus(history)


def from_trace(
    path: str | Path,
    format: str = "demand",  # noqa: A002 - the word the command line and its users say
    *,
    scale: str = "",
    seed: int = 0,
    input_tokens: float | None = None,
    output_tokens: float | None = None,
) -> Loads:
    """A trace file (see `autoscaler.simulator.traces.load`), scaled. Raises BadTrace with row and column.

    Demand may also come as planners export it, see `planner_csv`.
    """
    found: Load
    try:
        found = load(path, format, input_tokens=input_tokens, output_tokens=output_tokens)
    except BadTrace:
        plain = format == "demand" and Path(path).is_file() and "#" not in str(path)
        if not plain or not {".csv", ".tsv", ".txt", ".gz"} & {Path(path).suffix}:
            raise
        found = planner_csv(Path(path), input_tokens, output_tokens)
    return Loads(str(path), {"pool": scaled(found, parse_scale(scale), seed) if scale else found})


def generated(spec: str, seed: int = 0) -> Loads:
    """A generated workload, `gen:…`. Raises BadSettings."""
    return Loads(spec, {"pool": generate(spec, seed)})


def binned(loads: Loads, step_s: float) -> Loads:
    """The same loads as demand per bin: rates are all that a fluid run of weeks needs. Raises BadSettings."""
    found = {
        pool: load if isinstance(load, DemandSeries) else to_demand(load, step_s) for pool, load in loads.pools.items()
    }
    return Loads(loads.source, found)


def from_journal(path: str | Path, *, pool: str | None = None, step_s: float = 60.0) -> Loads:
    """The demand that a journal saw, per pool.

    Requests are those that completed (first tokens where completions are not reported), prompt tokens those arriving
    at prefill or colocated engines, output tokens those generated. Ticks that saw nothing leave a gap that holds the
    last rates, at most a quarter of all bins.

    Args:
        path: the journal.
        pool: `namespace/pool` to take alone.
        step_s: width of a bin, s.

    Raises:
        BadJournal: damaged, no tick with rates, or more than a quarter of the time unseen. BadSettings: no such pool.
    """
    rows: dict[str, list[tuple[float, float, float, float]]] = {}
    for seen, _ in read(Path(path)):
        for name, rates in _rates(seen).items():
            rows.setdefault(name, []).append((seen.at, *rates))
    if not rows:
        raise BadJournal(f"{path}: no tick in it tells rates of tokens; record one under load")
    if pool is not None and pool not in rows:
        raise BadSettings((f"journal {path} has no pool {pool!r}; it has {', '.join(sorted(rows))}",))
    kept = {pool: rows[pool]} if pool is not None else rows
    return Loads(str(path), {name: _binned(f"{path}:{name}", points, step_s) for name, points in kept.items()})


def _rates(seen: Observation) -> dict[str, tuple[float, float, float]]:
    """By pool: requests/s, prompt tokens/s, output tokens/s; pools without a rate are left out."""
    found: dict[str, list[float]] = {}
    for role in seen.roles:
        name = f"{role.key.namespace}/{role.key.pool}"
        sums = found.setdefault(name, [0.0, 0.0, 0.0, 0.0])
        if role.key.role is not Role.DECODE and role.prompt_rate is None and role.computed_rate is None:
            continue
        if role.key.role is not Role.DECODE:
            sums[0] += role.first_token_rate or role.completion_rate or 0.0
            sums[1] += role.prompt_rate if role.prompt_rate is not None else role.computed_rate or 0.0
            sums[3] += 1.0
        if role.key.role is not Role.PREFILL:
            sums[2] += role.generation_rate or 0.0
    return {name: (sums[0], sums[1], sums[2]) for name, sums in found.items() if sums[3]}


def _binned(name: str, points: Sequence[tuple[float, float, float, float]], step_s: float) -> DemandSeries:
    """Mean rates per bin times its width; a bin nobody saw has the one's before it."""
    table = np.array(points, dtype=np.float64)
    if len(table) < 2:  # noqa: PLR2004 - a rate needs a duration
        raise BadJournal(f"{name}: {len(table)} ticks; two are needed")
    at = table[:, 0] - table[0, 0]
    bins = max(1, math.ceil((at[-1] + 1e-9) / step_s))
    where = np.minimum((at / step_s).astype(np.int64), bins - 1)
    counts = np.bincount(where, minlength=bins)
    means = [
        np.bincount(where, weights=table[:, column], minlength=bins) / np.maximum(counts, 1) for column in (1, 2, 3)
    ]
    # A bin narrower than the loop's interval is empty by rights; only wider ones are gaps.
    usual = float(np.median(np.diff(at)))
    unseen = float(np.mean(counts == 0)) if usual < step_s else 0.0
    if unseen > 0.25:  # noqa: PLR2004 - see the docstring of from_journal
        raise BadJournal(f"{name}: {unseen:.0%} of its time is unseen; at most 25 % may be, or demand is made up")
    last = np.maximum.accumulate(np.where(counts > 0, np.arange(bins), 0))
    amounts = [mean[last] * step_s for mean in means]
    notes = (f"{unseen:.1%} of the bins unseen, held at the last rates",) if unseen else ()
    return demand(name, step_s, amounts, notes)


def demand(name: str, step_s: float, amounts: Sequence[np.ndarray], notes: Iterable[str] = ()) -> DemandSeries:
    """Demand per bin that the simulator takes: tokens without requests get one request per 1,000 tokens.

    Engines that report tokens but no requests would otherwise be refused; 1,000 prompt tokens are the mean of Azure's
    conversation trace (1,155).
    """
    requests, prompt, output = (np.maximum(np.asarray(part, dtype=np.float64), 0.0) for part in amounts)
    made_up = (requests <= 0) & (prompt + output > 0)
    requests = np.where(made_up, np.maximum((prompt + output) / 1000.0, 1e-6), requests)
    said = list(notes)
    if made_up.any():
        said.append(f"{int(made_up.sum())} bins had tokens but no requests: counted as one per 1,000 tokens")
    grid = np.arange(len(requests), dtype=np.float64) * step_s
    prompt, output = (np.where(requests > 0, part, 0.0) for part in (prompt, output))
    return DemandSeries(name, grid, step_s, requests, prompt, output, tuple(said))


def from_prometheus(history: HistoryPrometheus, access: PrometheusAccess | None = None) -> Loads:
    """Demand from a Prometheus range query.

    Args:
        history: address, queries and span.
        access: credentials and TLS, where the address alone is not enough.

    Raises:
        BadSettings: the server cannot be asked, or a query gives no series, or more than one.
    """
    window = f"{max(60, round(2 * history.step_s))}s"
    source = PrometheusSource(access or PrometheusAccess(history.url))
    address = source.access.address  # without credentials: the load's name stands in reports and in kept runs
    try:
        end = history.end if history.end is not None else source.server_time()
        step = max(history.step_s, history.duration_s / MOST_POINTS)
        grid = np.arange(max(1, round(history.duration_s / step))) * step + (end - history.duration_s)
        columns = []
        for said, usual in (
            (history.requests, VLLM_REQUESTS),
            (history.input_tokens, VLLM_INPUT),
            (history.output_tokens, VLLM_OUTPUT),
        ):
            query = said or usual.format(window=window)
            series = source.range(query, float(grid[0]), float(grid[-1]), step)
            columns.append(_on_grid(query, series, grid, step))
    except SourceError as error:
        raise BadSettings((f"history.url: {error}",)) from None
    finally:
        source.close()
    seen = np.logical_or.reduce([np.isfinite(column) for column in columns])
    if not seen.any():
        raise BadSettings((f"history: {address} has no samples of these series in the last {history.duration_s:g} s",))
    first = int(np.argmax(seen))
    last = len(seen) - int(np.argmax(seen[::-1]))
    rates = [_filled(column[first:last]) for column in columns]
    gaps = 1.0 - float(np.mean(seen[first:last]))
    notes = [f"{gaps:.1%} of the bins had no samples, held at the last rates"] if gaps else []
    return Loads(address, {"pool": demand(address, step, [rate * step for rate in rates], notes)})


def _on_grid(
    query: str, series: Sequence[tuple[dict[str, str], list[tuple[float, float]]]], grid: np.ndarray, step: float
) -> np.ndarray:
    if len(series) != 1:
        problem = f"{len(series)} series; write one that sums to a single series, such as sum(rate(…[5m]))"
        raise BadSettings((f"history: {query} gives {problem}",))
    found = np.full(len(grid), math.nan)
    for at, value in series[0][1]:
        place = round((at - float(grid[0])) / step)
        if 0 <= place < len(found) and math.isfinite(value):
            found[place] = value
    return found


def _filled(values: np.ndarray) -> np.ndarray:
    """Gaps at the last value before them, zero before the first."""
    known = np.isfinite(values)
    last = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    held: np.ndarray = np.where(known, values, 0.0)[np.maximum(last, 0)]
    return np.where(last >= 0, held, 0.0)


def grown(load_: Load, scenario: Scenario, seed: int) -> Load:
    """The load with a scenario's growth and mix shift.

    Requests grow by superposing shifted copies and thinning them (whole copies only exist), demand by multiplication.
    """
    if isinstance(load_, DemandSeries):
        if scenario.growth == scenario.input_growth == scenario.output_growth == 1.0:
            return load_
        return DemandSeries(
            load_.name,
            load_.t_s,
            load_.bin_s,
            load_.requests * scenario.growth,
            load_.prompt * scenario.growth * scenario.input_growth,
            load_.output * scenario.growth * scenario.output_growth,
            (*load_.notes, _said(scenario)),
        )
    found = load_
    if scenario.growth != 1.0:
        copies = math.ceil(scenario.growth)
        found = scaled(found, parse_scale(f"superpose:{copies},thin:{scenario.growth / copies:.9g}"), seed)
    if scenario.input_growth == scenario.output_growth == 1.0:
        return found
    return Workload(
        found.name,
        found.arrival_s,
        _longer(found.prompt, scenario.input_growth),
        _longer(found.output, scenario.output_growth),
        # Blocks of a longer prompt are nobody's: what was cached grows with it instead.
        cached=None if found.cached is None else _cached(found.cached, found.prompt, scenario.input_growth),
        blocks=found.blocks if scenario.input_growth == 1.0 else None,
        kind=found.kind,
        notes=(*found.notes, _said(scenario)),
        horizon_s=found.horizon_s,
    )


def _said(scenario: Scenario) -> str:
    return f"{scenario.growth:g}x requests, {scenario.input_growth:g}x input, {scenario.output_growth:g}x output tokens"


def _longer(tokens: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(np.rint(tokens * factor), 1, LARGEST_TOKENS).astype(np.int32)


def _cached(cached: np.ndarray, prompt: np.ndarray, factor: float) -> np.ndarray:
    whole = np.rint(cached * factor).astype(np.int64)
    shorter: np.ndarray = np.minimum(whole, _longer(prompt, factor) - 1)
    return shorter.astype(np.int32)
