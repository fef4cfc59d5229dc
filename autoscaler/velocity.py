"""Token physics: what a replica can do, and how many replicas a load needs.

One iteration of an engine with continuous batching and chunked prefill takes

    s = a + p*C + c*n + d*R          seconds

with C prompt tokens computed in it, n requests decoding and R their resident (KV) tokens. Everything follows:

* **Prefill velocity** V_P = 1 / (p + a/B) uncached prompt tokens/s, B the prompt tokens per iteration at saturation.
* **Decode velocity**: n requests of k resident tokens take ITL = a + n*(c + d*k); at the ITL target T the batch is
  n = (T - a) / (c + d*k), capped by KV (n*k <= capacity) and by `max_running`; V_D = n / ITL(n) output tokens/s.
* **Link velocity** V_N = link bandwidth / KV bytes per token; a prefill replica does min(V_P, V_N).
* **Colocated**: with P prompt and G output tokens/s on one replica, s = a + p*P*s + (c + d*k)*G*s, so ITL <= T means
  (c + d*k)*G + p*P <= 1 - a/T: each load takes its share of the time that is left beside the fixed cost.

Head-room is not a utilisation number but what the latency target needs: prefill by the waiting-time tail of M/G/m
(Allen-Cunneen with Sakasegawa's approximation; Bolch et al., Queueing Networks and Markov Chains, section 6.6),
decode by square-root staffing of the number of requests in service (Halfin and Whitt 1981).
Sources: TokenScale (arXiv 2512.03416) for velocities as the signal, Sarathi-Serve (OSDI'24) for chunked prefill.
Units: tokens, seconds, tokens/s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

from autoscaler.model import Role, Velocity

if TYPE_CHECKING:
    from collections.abc import Callable

KV_FILL = 0.9
"""Share of KV worth planning with: above it vLLM starts to preempt and recompute (recorded runs: from about 0.93)."""
MIN_TARGET_SHARE = 0.25
"""Share of the TTFT target always left for waiting, so that a prompt slower than the target stays servable."""
MOST_REPLICAS = 100_000
"""Where searching stops: far above any pool, so that a nonsensical load still gives a finite wish."""
EPSILON = 1e-9
"""Rounding slack, so that 3.0000000001 engines are 3."""


@dataclass(frozen=True, slots=True)
class StepModel:
    """Seconds per iteration: a (`base`), p (`per_prompt_token`), c (`per_running`), d (`per_resident_token`)."""

    base: float
    per_prompt_token: float
    per_running: float
    per_resident_token: float


@dataclass(frozen=True, slots=True)
class Engine:
    """What one engine (one data-parallel rank) is made of.

    Attributes:
        step: its iteration time.
        kv_capacity: KV tokens it can hold.
        max_running: most requests in a batch.
        batched_tokens: most tokens in one iteration (`max_num_batched_tokens`).
        link_tokens: KV tokens/s its link can move; None when nothing is handed over.
    """

    step: StepModel
    kv_capacity: float
    max_running: float
    batched_tokens: float
    link_tokens: float | None = None

    def with_step(self, step: StepModel) -> Engine:
        """The same engine at another speed. Spelt out, as every tick needs three of each role's."""
        return Engine(step, self.kv_capacity, self.max_running, self.batched_tokens, self.link_tokens)


@dataclass(frozen=True, slots=True)
class Mix:
    """The requests' shape: mean uncached prompt tokens, mean output tokens, mean resident tokens while decoding."""

    prompt: float
    output: float
    resident: float


@dataclass(frozen=True, slots=True)
class Target:
    """Latency targets, s, and the share of requests that should meet them."""

    ttft_s: float
    itl_s: float
    attainment: float = 0.95


def link_velocity(bandwidth_bytes: float, kv_bytes_per_token: float) -> float:
    """KV tokens/s over a link of `bandwidth_bytes` bytes/s. 12.5e9 / 131,072 = 95,367 tokens/s for an 8B model."""
    return bandwidth_bytes / kv_bytes_per_token


def prefill_velocity(engine: Engine) -> tuple[float, str]:
    """Uncached prompt tokens/s of one prefill engine, and what limits it (`compute` or `link`)."""
    compute = 1.0 / (engine.step.per_prompt_token + engine.step.base / engine.batched_tokens)
    if engine.link_tokens is not None and engine.link_tokens < compute:
        return engine.link_tokens, "link"
    return compute, "compute"


def decode_batch(engine: Engine, resident: float, itl_s: float) -> tuple[float, str]:
    """Largest running batch that keeps the ITL target and fits in KV, and what limits it (`itl`, `kv`, `batch`).

    At least 1: an engine that cannot meet the target with one request still serves it, late.
    """
    per_request = engine.step.per_running + engine.step.per_resident_token * resident
    batch, binds = engine.max_running, "batch"
    if per_request > 0 and (itl_s - engine.step.base) / per_request < batch:
        batch, binds = (itl_s - engine.step.base) / per_request, "itl"
    if resident > 0 and KV_FILL * engine.kv_capacity / resident < batch:
        batch, binds = KV_FILL * engine.kv_capacity / resident, "kv"
    return max(1.0, batch), binds


def decode_velocity(engine: Engine, resident: float, itl_s: float) -> tuple[float, str, float]:
    """Output tokens/s of one decode engine at its largest batch; what limits it; that batch."""
    batch, binds = decode_batch(engine, resident, itl_s)
    itl = engine.step.base + batch * (engine.step.per_running + engine.step.per_resident_token * resident)
    return batch / itl, binds, batch


def colocated_share(engine: Engine, mix: Mix, itl_s: float) -> tuple[float, float]:
    """Replicas needed per prompt token/s and per output token/s when both run on one engine.

    From (c + d*k)*G + p*P <= 1 - a/T. KV and batch limits raise the output share when they bind before the ITL.
    """
    return _prompt_share(engine, itl_s), 1.0 / decode_velocity(engine, mix.resident, itl_s)[0]


def _prompt_share(engine: Engine, itl_s: float) -> float:
    left = max(1.0 - engine.step.base / itl_s, 0.05)
    # Below 5 % nothing is left beside the fixed cost: the target is out of reach, and more replicas would not help.
    return engine.step.per_prompt_token / left


def waiting_tail(servers: int, utilisation: float, service_s: float, delay_s: float, variability: float) -> float:
    """P(wait > delay) in an M/G/m queue, approximately.

    P(W > 0) = Pw = rho^(sqrt(2(m+1)) - 1) (Sakasegawa), the delayed wait variability * s / (m * (1 - rho)) on average
    and exponentially: P(W > t) = Pw * exp(-t / that mean). `variability` is (Ca^2 + Cs^2)/2.
    """
    if utilisation >= 1.0:
        return 1.0
    if utilisation <= 0.0:
        return 0.0
    busy = math.pow(utilisation, math.sqrt(2.0 * (servers + 1)) - 1.0)
    mean_wait_of_delayed = variability * service_s / (servers * (1.0 - utilisation))
    if mean_wait_of_delayed <= 0:
        return 0.0
    return min(1.0, busy * math.exp(-delay_s / mean_wait_of_delayed))


def _smallest(enough: Callable[[int], bool], start: int) -> int:
    """Smallest count from `start` for which `enough(count)` holds (it must be monotone); at most MOST_REPLICAS."""
    low, high, step = start, start, 1
    # The head-room above the mean is a replica or two: doubling the count at once asked six times where this asks two.
    while high < MOST_REPLICAS and not enough(high):
        low, high, step = high + 1, high + step, 2 * step
    high = min(high, MOST_REPLICAS)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high


def prefill_engines(
    rate: float, backlog: float, velocity: float, prompt: float, target: Target, *, variability: float = 1.0
) -> int:
    """Prefill engines for `rate` uncached prompt tokens/s and `backlog` tokens already waiting.

    The waiting-time tail beyond the TTFT target minus the prompt's own service time must be at most 1 - attainment,
    and the backlog must drain within that time too (first come, first served: capacity >= backlog / time left).
    More load never gives fewer. `variability` is (Ca^2 + Cs^2)/2; 1 for Poisson arrivals of exponential size.
    """
    if rate <= 0 and backlog <= 0:
        return 0
    service = max(prompt, 1.0) / velocity
    slack = max(target.ttft_s - service, MIN_TARGET_SHARE * target.ttft_s)
    drain = math.ceil(backlog / (velocity * slack) - EPSILON)
    start = max(1, drain, math.floor(rate / velocity) + 1)

    def enough(count: int) -> bool:
        tail = waiting_tail(count, rate / (count * velocity), service, slack, variability)
        return tail <= 1.0 - target.attainment

    return _smallest(enough, min(start, MOST_REPLICAS))


@lru_cache(maxsize=64)
def _deviate(quantile: float) -> float:
    """The standard normal's quantile."""
    return NormalDist().inv_cdf(quantile)


def decode_engines(rate: float, in_service: float, velocity: float, batch: float, target: Target) -> int:
    """Decode engines for `rate` output tokens/s and `in_service` requests running or waiting now.

    The offered number of requests in service is N = rate * batch / velocity (Little's law at the full batch's ITL); it
    fluctuates like a Poisson variable, so N + z*sqrt(N) places are wanted, z the normal quantile of the attainment.
    What is in service already must find a place as well. More load never gives fewer.
    """
    if rate <= 0 and in_service <= 0:
        return 0
    offered = max(rate, 0.0) * batch / velocity
    places = offered + _deviate(target.attainment) * math.sqrt(offered)
    engines = max(1, math.ceil(places / batch - EPSILON), math.ceil(in_service / batch - EPSILON))
    return min(engines, MOST_REPLICAS)


def colocated_engines(
    prompt_rate: float, output_rate: float, backlog: float, in_service: float, engine: Engine, mix: Mix, target: Target
) -> int:
    """Engines that both prefill and decode, for prompt and output tokens/s, waiting prompt tokens, requests in service.

    The shares of both loads add up (module docstring); the backlog drains at what decode leaves of an engine, within
    the TTFT target; requests in service need places in the batch. More load never gives fewer.
    """
    velocity, _, batch = decode_velocity(engine, mix.resident, target.itl_s)
    per_prompt, per_output = _prompt_share(engine, target.itl_s), 1.0 / velocity
    decode = decode_engines(output_rate, in_service, velocity, batch, target)
    share = prompt_rate * per_prompt + output_rate * per_output
    if share <= 0 and backlog <= 0:
        return decode
    service = max(mix.prompt, 1.0) * per_prompt
    slack = max(target.ttft_s - service, MIN_TARGET_SHARE * target.ttft_s)
    drain = math.ceil(output_rate * per_output + backlog * per_prompt / slack - EPSILON)
    start = max(1, decode, drain, math.floor(share) + 1)

    def enough(count: int) -> bool:
        return waiting_tail(count, share / count, service, slack, 1.0) <= 1.0 - target.attainment

    return _smallest(enough, min(start, MOST_REPLICAS))


def role_velocity(role: Role, engine: Engine, mix: Mix, itl_s: float) -> Velocity:
    """The one velocity to show for a role (tokens/s of one engine), with what binds it; uncertainty left at 0."""
    if role is Role.PREFILL:
        tokens, binds = prefill_velocity(engine)
        return Velocity(tokens, 0.0, "", binds)
    tokens, binds, batch = decode_velocity(engine, mix.resident, itl_s)
    if role is Role.COLOCATED and mix.output > 0:
        per_prompt, per_output = colocated_share(engine, mix, itl_s)
        tokens = 1.0 / (per_output + per_prompt * mix.prompt / mix.output)
    return Velocity(tokens, 0.0, "", binds, batch)
