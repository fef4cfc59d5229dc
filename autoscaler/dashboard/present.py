"""What if, from now: the load of the last hours again, grown, in the fluid simulator, beginning with what is ready."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autoscaler.errors import BadSettings
from autoscaler.whatif.history import demand
from autoscaler.whatif.processes import attempt
from autoscaler.whatif.run import Run
from autoscaler.whatif.scenario import Scenario
from autoscaler.whatif.tables import series

if TYPE_CHECKING:
    from autoscaler.dashboard.chronicle import Chronicle, Replica

LIMIT_S = 30.0
"""A simulation that takes longer is given up: a page waits for it."""
STEP_S = 60.0
TICK_S, MOST_DECISIONS = 15.0, 300
LEAST_POINTS = 3
USUAL_INPUT, USUAL_OUTPUT = 1155.0, 211.0
"""Mean tokens of Azure's conversation trace, where a role does not tell what it does not count."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question from the panel. growth, start_scale: factors. hours: of load to play."""

    key: str
    growth: float = 1.0
    start_scale: float = 1.0
    hours: float = 2.0

    def __post_init__(self) -> None:
        problems = []
        if not 0.01 <= self.growth <= 100:  # noqa: PLR2004 - said in the message
            problems.append(f"growth is {self.growth:g}; it must be 0.01..100")
        if not 0.05 <= self.start_scale <= 20:  # noqa: PLR2004 - likewise
            problems.append(f"start_scale is {self.start_scale:g}; it must be 0.05..20")
        if not 0.1 <= self.hours <= 24:  # noqa: PLR2004 - likewise
            problems.append(f"hours is {self.hours:g}; it must be 0.1..24")
        if problems:
            raise BadSettings(tuple(problems))


class Simulations:
    """One simulation at a time, in a process of its own, so that the loop's ticks are not delayed."""

    def __init__(self, profiles: str | None = None) -> None:
        self._profiles = profiles
        self._pool: ProcessPoolExecutor | None = None
        self._busy = asyncio.Lock()

    @property
    def busy(self) -> bool:
        """Whether one is running."""
        return self._busy.locked()

    async def ask(self, asked: Asked, chronicle: Chronicle) -> dict[str, Any]:
        """Now and what if, side by side.

        Raises:
            BadSettings: a role nobody knows, too little history, or a profile the simulator does not have.
            TimeoutError: it took longer than LIMIT_S.
        """
        runs = _runs(asked, chronicle, self._profiles)
        async with self._busy:
            loop = asyncio.get_running_loop()
            if self._pool is None:
                self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            try:
                told = [
                    await asyncio.wait_for(loop.run_in_executor(self._pool, attempt, run, loads), LIMIT_S)
                    for run, loads in runs
                ]
            except (TimeoutError, BrokenProcessPool):
                self.close()
                raise TimeoutError from None
        for one in told:
            if isinstance(one, tuple):
                raise BadSettings(one)
        now, then = (_shown(one) for one in told if isinstance(one, dict))
        return {"asked": {"growth": asked.growth, "start_scale": asked.start_scale}, "now": now, "then": then}

    def close(self) -> None:
        """End the process."""
        if self._pool is None:
            return
        for process in list((self._pool._processes or {}).values()):  # noqa: SLF001 - there is no public way to end one
            process.terminate()
        self._pool.shutdown(cancel_futures=True)
        self._pool = None


def _runs(asked: Asked, chronicle: Chronicle, profiles: str | None) -> list[tuple[Run, dict[str, Any]]]:
    replica = chronicle.replica(asked.key)
    at = chronicle.at
    told = chronicle.series(asked.key, (at or 0.0) - asked.hours * 3600) if at is not None else None
    if replica is None or told is None:
        raise BadSettings((f"role {asked.key!r}: no such role, or it has no history yet",))
    ready = _ready(told, replica)
    layout = "colocated"
    other_key, other = _other(asked.key, chronicle)
    if other is not None and at is not None:
        # Prefill and decode are one pool: played as one, each beginning with as many as the larger has.
        layout, here = "disaggregated", chronicle.series(other_key, at - asked.hours * 3600)
        if here is not None:
            ready = max(ready, _ready(here, other))
            told = _joined(asked.key, told, here)
        replica = replace(
            replica, minimum=min(replica.minimum, other.minimum), maximum=max(replica.maximum, other.maximum)
        )
    load = _demand(asked, told)
    base = _scenario(replica, ready, layout).model_copy(
        # So many decisions at most, however many hours are asked for: somebody waits for the answer.
        update={"profiles": profiles, "interval_s": max(TICK_S, asked.hours * 3600 / MOST_DECISIONS)}
    )
    changed = base.model_copy(
        update={
            "name": "what if",
            "growth": asked.growth,
            "supply": base.supply.model_copy(update={"start_scale": asked.start_scale}),
        }
    )
    return [(Run(scenario, "pool", 0), {"pool": load}) for scenario in (base, changed)]


def _ready(told: dict[str, list[float | None]], replica: Replica) -> int:
    return next((int(count) for count in reversed(told["ready"]) if count is not None), replica.minimum)


def _other(key: str, chronicle: Chronicle) -> tuple[str, Replica | None]:
    """The other role of a disaggregated pool: decode's of prefill, prefill's of decode."""
    pool, _, role = key.rpartition("/")
    other = {"prefill": f"{pool}/decode", "decode": f"{pool}/prefill"}.get(role, "")
    return other, chronicle.replica(other)


def _joined(
    key: str, own: dict[str, list[float | None]], other: dict[str, list[float | None]]
) -> dict[str, list[float | None]]:
    """What the pool is asked: requests and prompt tokens as prefill counts them, output tokens as decode does."""
    prefill, decode = (own, other) if key.endswith("/prefill") else (other, own)
    made = dict(zip(decode["t"], decode["output_rate"], strict=True))
    return {**prefill, "output_rate": [made.get(at) for at in prefill["t"]]}


def _scenario(replica: Replica, ready: int, layout: str) -> Scenario:
    gpus = max(replica.gpus, 1)
    return Scenario.model_validate(
        {
            "name": "as now",
            "profile": replica.profile,
            "layout": layout,
            "minimum": replica.minimum,
            "maximum": max(replica.maximum, 1),
            "initial": min(max(ready, replica.minimum), replica.maximum),
            "supply": {"price_per_gpu_hour": replica.price_per_hour / gpus or 2.5, "node_gpus": max(8, gpus)},
        }
    )


def _demand(asked: Asked, told: dict[str, list[float | None]]) -> Any:
    """The pool's load over the last hours as demand per minute, repeated where the history is shorter."""
    columns = [_column(told, name) for name in ("load", "request_rate", "prompt_rate", "output_rate")]
    times, load = np.array(told["t"], dtype=np.float64), columns[0]
    known = np.isfinite(load)
    if known.sum() < LEAST_POINTS:
        raise BadSettings((f"role {asked.key}: {known.sum()} ticks with a load so far; {LEAST_POINTS} are needed",))
    span = max(float(times[known][-1] - times[known][0]), STEP_S)
    bins = max(3, round(asked.hours * 3600 / STEP_S))
    grid = times[known][0] + np.mod(np.arange(bins) * STEP_S, span)
    loads = np.interp(grid, times[known], load[known])
    # A prefill role's load is prompt tokens, any other's output tokens.
    counted = USUAL_OUTPUT if asked.key.endswith("/colocated") else USUAL_INPUT
    amounts = []
    for column, tokens in zip(columns[1:], (1.0, USUAL_INPUT, USUAL_OUTPUT), strict=True):
        here = np.isfinite(column)
        rate = np.interp(grid, times[here], column[here]) if here.any() else loads * tokens / counted
        amounts.append(rate * STEP_S)
    return demand(asked.key, STEP_S, amounts)


def _column(told: dict[str, list[float | None]], name: str) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in told[name]], dtype=np.float64)


def _shown(outcome: dict[str, Any]) -> dict[str, Any]:
    table = series(outcome).groupby("t_s", as_index=False)[["needed", "ready"]].sum()
    kept = ("slo_attainment", "gpu_hours", "total_cost", "ttft_p99_s", "tpot_p99_s", "peak_replicas")
    return {
        **{name: outcome[name] for name in kept},
        "t": table["t_s"].tolist(),
        "needed": [int(count) for count in table["needed"]],
        "ready": [int(count) for count in table["ready"]],
    }
