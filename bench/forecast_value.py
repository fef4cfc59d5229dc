"""What the forecast is worth: GPU-hours and SLO attainment in the simulator, with it and without, at equal attainment.

    python bench/forecast_value.py [--quick] [--json]

Off: the present load times a fixed head-room, at every lead time; on: the product's forecast at a fixed quantile, and
at each tier's own from prices. Both see the same backlog, learn the same lead times and pass the same guards. Each is
run at several levels, which gives a line of GPU-hours against attainment; lines are compared at the attainments that
both reach, and where the forecast does not help that is printed as well.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autoscaler.policies.token_dynamics import TokenDynamics
from autoscaler.simulator.generate import generate
from autoscaler.simulator.setup import Setup, SupplySetup
from autoscaler.simulator.simulate import simulate
from autoscaler.tick import tick
from forecasting.forecaster import Forecast, LastValue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoscaler.memory import Memory
    from autoscaler.model import Decision, Observation
    from autoscaler.policies.policy import Follow, Scene
    from forecasting.series import Series

LOADS = {
    "diurnal": "gen:diurnal,rate=60,peak=3,period=14400,duration=28800",
    "ramp": "gen:ramp,rate=20,to=4,over=900,duration=7200",
    "bursty diurnal": "gen:diurnal+onoff,rate=60,peak=3,period=14400,duration=28800",
    "steady": "gen:poisson,rate=60,duration=7200",
}
HEAD_ROOM = (0.0, 0.1, 0.2, 0.35, 0.5, 0.8)
QUANTILES = (0.8, 0.85, 0.9, 0.95, 0.99)
SEEDS = (0, 1)


@dataclass(frozen=True, slots=True)
class Reactive:
    """The present load and a share of it, whatever the lead time."""

    head_room: float

    def forecast(
        self, series: Series, at: float, horizons: Sequence[float], quantiles: Sequence[float]
    ) -> Forecast | None:
        """See `Forecaster.forecast`."""
        said = LastValue().forecast(series, at, horizons, quantiles)
        if said is None:
            return None
        rows = tuple(tuple(value * (1.0 + self.head_room) for value in row) for row in said.values)
        return replace(said, values=rows, basis=f"present load and {self.head_room:.0%}", confident=True)


@dataclass(frozen=True, slots=True)
class WithoutForecast:
    """The tick with the reactive hand alone."""

    head_room: float
    plain: TokenDynamics = field(default_factory=TokenDynamics)

    @property
    def name(self) -> str:
        """For the result."""
        return f"reactive {self.head_room:.0%}"

    @property
    def interval_s(self) -> float:
        """As the product's."""
        return self.plain.interval_s

    @property
    def follow(self) -> Follow:
        """As the product's."""
        return self.plain.follow

    def start(self, scene: Scene) -> Memory:
        """As the product's."""
        return self.plain.start(scene)

    def decide(self, seen: Observation, memory: Memory, scene: Scene) -> tuple[Decision, Memory]:
        """The product's tick, foreseeing nothing."""
        usual = replace(self.plain.rules(scene), days=False, fallback_margin=0.0, quantile=0.9)
        return tick(seen, memory, replace(usual, forecaster=Reactive(self.head_room)))


def point(spec: str, policy: Any, seeds: Sequence[int]) -> dict[str, Any]:
    """Mean GPU-hours and attainment over the seeds."""
    setup = Setup(maximum=60, supply=SupplySetup(start_s=(115.0, 200.0)))
    runs = [simulate(generate(spec, seed), policy, setup, seed=seed, fluid=True) for seed in seeds]
    return {
        "policy": policy.name,
        "gpu_hours": float(np.mean([run.gpu_hours for run in runs])),
        "attainment": float(np.mean([run.slo_attainment for run in runs])),
    }


def frontier(points: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Attainment ascending, and the fewest GPU-hours that reach at least it."""
    ordered = sorted(points, key=lambda each: each["attainment"])
    reached = np.array([each["attainment"] for each in ordered])
    hours = np.array([each["gpu_hours"] for each in ordered])
    return reached, np.minimum.accumulate(hours[::-1])[::-1]


def compared(off: list[dict[str, Any]], on: list[dict[str, Any]]) -> dict[str, float] | None:
    """GPU-hours with over without at the middle of the attainments both reach, and there; None: they share none."""
    (a, hours_a), (b, hours_b) = frontier(off), frontier(on)
    low, high = max(a[0], b[0]), min(a[-1], b[-1])
    if low > high:
        return None
    at = np.linspace(low, high, 21)
    ratio = np.interp(at, b, hours_b) / np.interp(at, a, hours_a)
    return {"from": float(low), "to": float(high), "gpu_hours_ratio": float(ratio.mean()), "best": float(ratio.min())}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, three levels, two loads")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    seeds = SEEDS[:1] if asked.quick else SEEDS
    every = 2 if asked.quick else 1
    loads = dict(list(LOADS.items())[:2]) if asked.quick else LOADS
    report = {}
    for name, spec in loads.items():
        off = [point(spec, WithoutForecast(share), seeds) for share in HEAD_ROOM[::every]]
        on = [
            point(spec, replace(TokenDynamics(quantile=q), name=f"forecast {q:.0%}"), seeds) for q in QUANTILES[::every]
        ]
        priced = point(spec, replace(TokenDynamics(), name="forecast by prices"), seeds)
        report[name] = {"off": off, "on": on, "priced": priced, "compared": compared(off, [*on, priced])}
        if not asked.json:
            show(name, report[name])
    if asked.json:
        print(json.dumps(report, indent=2))


def show(name: str, found: dict[str, Any]) -> None:
    """One load as a table, and what the forecast was worth."""
    print(f"\n{name}: {LOADS[name]}")
    for each in (*found["off"], *found["on"], found["priced"]):
        print(f"  {each['policy']:20} {each['gpu_hours']:8.2f} GPU-hours  {each['attainment']:7.2%} within the SLO")
    result = found["compared"]
    if result is None:
        print("  no attainment that both reach: nothing to compare")
        return
    gain = 1.0 - result["gpu_hours_ratio"]
    words = "saves" if gain > 0 else "DOES NOT HELP: costs"
    print(
        f"  at equal attainment ({result['from']:.2%} to {result['to']:.2%}) the forecast {words} "
        f"{abs(gain):.1%} of the GPU-hours on average, {1 - result['best']:+.1%} at best"
    )


if __name__ == "__main__":
    main()
