"""The oracle: a clairvoyant lower bound on GPU-hours for a wanted SLO attainment, with the same lead times.

It knows every arrival beforehand, orders each replica exactly one lead time before it is needed, never queues, wastes
nothing on head-room and picks the requests it may miss where they cost most:

1. Per bin, the load of a role in engines: x = sum of load / velocity at the latency target (fractions; no head-room).
   Prompts are work at once; outputs are as late as the target allows, one token per TPOT, so that bursts spread.
2. ceil(x) engines serve all. Of the top one only the part x - floor(x) is used; giving it up saves a whole engine for
   the bin and misses that part of the bin's requests. Requests worth 1 - attainment are given up where an engine saved
   costs the fewest of them (the fractional knapsack's greedy, which is optimal since each saves the same).
3. What is left is cut into levels: engine j is needed whenever more than j - 1 are. Between two such times it is kept,
   or given back and started again, whichever holds GPUs for less: min(gap, lead).

It is a bound, not a policy: nobody reaches it. Prefill and decode each may miss that share of the requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.model import Role, Tier
from autoscaler.simulator.need import Sums
from autoscaler.velocity import Mix, colocated_share, decode_velocity, prefill_velocity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autoscaler.rules import RoleRules
    from autoscaler.simulator.requests import DemandSeries, Workload
    from autoscaler.simulator.scenes import Stage

    Floats = NDArray[np.float64]
    Counts = NDArray[np.int64]

ORACLE_BIN_S = 15.0
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Bound:
    """The bound. `replicas`: by role, those needed in each bin of `bin_s` seconds."""

    gpu_hours: float
    attainment: float
    bin_s: float
    replicas: dict[str, list[int]]


def oracle(load: Workload | DemandSeries, staged: Stage, attainment: float, bin_s: float = ORACLE_BIN_S) -> Bound:
    """The fewest GPU-hours that serve a share `attainment` of a load, all start-ups being the median one.

    Args:
        load: what is coming.
        staged: the world; the lead time is that of a start on a prepared node.
        attainment: 0..1.
        bin_s: grain; averages over wider bins need less, so that the bound stays one.

    Raises:
        ValueError: an attainment outside 0..1.
    """
    if not 0 <= attainment <= 1:
        raise ValueError(f"attainment is {attainment}; it must be 0..1")
    start = np.arange(max(1, int(np.ceil(load.duration / bin_s))), dtype=np.float64) * bin_s
    end = np.minimum(start + bin_s, max(load.duration, bin_s))
    pace_s = min((rule.target.itl_s for rule in staged.scene.roles), default=0.0)
    requests, prompt, output = Sums.of(load, pace_s).within(start, end)
    lead = next((rung.lead_s for rung in staged.scene.supply if rung.tier is Tier.START), 0.0)
    gpu_s = 0.0
    found: dict[str, list[int]] = {}
    for rule in staged.scene.roles:
        engines = _engines(rule, requests, prompt, output, end - start)
        counts = shaved(engines, requests, (1 - attainment) * float(requests.sum()), rule.minimum, rule.maximum)
        gpu_s += rule.gpus * held_s(counts, end - start, lead)
        found[rule.key.role.value] = counts.tolist()
    return Bound(gpu_s / HOUR_S, attainment, bin_s, found)


def _engines(rule: RoleRules, requests: Floats, prompt: Floats, output: Floats, over: Floats) -> Floats:
    """Engines' worth of load per bin, fractions included, at the latency target and without head-room."""
    total = max(float(requests.sum()), 1e-9)
    mean_prompt, mean_output = float(prompt.sum()) / total, float(output.sum()) / total
    mix = Mix(mean_prompt, mean_output, max(mean_prompt + mean_output / 2, 1.0))
    if rule.key.role is Role.PREFILL:
        return prompt / over / prefill_velocity(rule.engine)[0]
    if rule.key.role is Role.DECODE:
        return output / over / decode_velocity(rule.engine, mix.resident, rule.target.itl_s)[0]
    per_prompt, per_output = colocated_share(rule.engine, mix, rule.target.itl_s)
    return (prompt * per_prompt + output * per_output) / over


def shaved(engines: Floats, requests: Floats, may_miss: float, minimum: int, maximum: int) -> Counts:
    """Whole engines per bin after giving up requests worth `may_miss` where an engine saved costs fewest of them."""
    counts = np.ceil(engines - 1e-9).astype(np.int64)
    safe = np.maximum(engines, 1e-12)
    top = np.where(counts > 0, engines - (counts - 1), 0.0) / safe * requests
    whole = requests / np.maximum(safe, 1.0)
    order = np.argsort(top, kind="stable")
    order = order[(counts[order] > minimum) & (requests[order] > 0)]
    spent = np.cumsum(top[order])
    # Rounding must not keep a request that may just be missed.
    dropped = order[spent <= may_miss + 1e-9 * float(requests.sum())]
    left = may_miss - (float(spent[len(dropped) - 1]) if len(dropped) else 0.0)
    counts[dropped] -= 1
    cheapest = float(whole[requests > 0].min()) if (requests > 0).any() else 0.0
    # Only a load of a few engines, or a very low attainment, leaves enough to give up second engines: bin by bin then.
    while cheapest > 0 and left >= cheapest:
        able = np.flatnonzero((counts > minimum) & (requests > 0) & (whole <= left))
        if not len(able):
            break
        pick = able[np.argmin(whole[able])]
        counts[pick] -= 1
        left -= float(whole[pick])
    return np.clip(counts, minimum, maximum)


def held_s(counts: Counts, over: Floats, lead_s: float) -> float:
    """Engine-seconds held: needed time, and between two needs the shorter of the gap and a new start-up."""
    ends = np.cumsum(over)
    starts = ends - over
    total = float((counts * over).sum())
    for level in range(1, int(counts.max(initial=0)) + 1):
        needed = np.flatnonzero(counts >= level)
        gaps = starts[needed[1:]] - ends[needed[:-1]]
        total += float(np.minimum(gaps[gaps > 0], lead_s).sum())
        if needed[0] > 0:
            total += min(lead_s, float(starts[needed[0]]))
    return total
