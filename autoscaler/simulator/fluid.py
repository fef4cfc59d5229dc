"""A pool as a fluid: rates instead of requests, in steps of seconds. For days and weeks.

Per replica with n requests running, r of them admitted per second, P uncached prompt tokens each, O output tokens each
and k = prompt + O/2 resident tokens each, a step takes (docstring of autoscaler.velocity)

    s = (a + (c + d*k)*n) / (1 - p*P*r),    at most with a full chunk of B prompt tokens: a + p*B + (c + d*k)*n,

requests leave at n / (O*s), and n moves to its equilibrium r*O*s within the time of one stay, exponentially. Admission
is bounded by the chunk (B/(P*s)) and by places (batch limit, KV); what is not admitted waits. A prefill replica serves
min(its velocity, its link); its KV goes on to decode.

How many of the arrivals meet their targets: a request waits for the queue before it, for half a step, for its own
prompt, and, for prompts that came just before it, an exponential time (M/M/1 over the time spent in prefill). Its TPOT
is s with a log-normal spread of TPOT_SIGMA, what requests' own simulated TPOT had around the fluid's.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoscaler.model import Role
from autoscaler.simulator.telemetry import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoscaler.simulator.engine_types import EngineProfile
    from autoscaler.simulator.fluid_load import FluidLoad, Shape
    from autoscaler.simulator.setup import Slo
    from autoscaler.simulator.wiring import Link

SHARED = 0.35
"""Prompts in a prefill engine's step beyond the first, over the square of the share of prompts that find all engines
busy: one of them must wait, and another for the same engine. Of requests played one by one on 8 to 18 engines it was
0.3 to 0.4, on 3 and 4 engines 0.45 to 0.55."""
LONGER = 1.6
"""Prompts that one with others in its step sees it computed with, over the mean number of others: 2 if that number were
geometric. From overload to calm, prefill time and steps are then within 3 % of requests' own; on 3 engines 11 % off."""
MOST_BUSY = 0.95
"""Beyond this share of busy time, waiting by chance is no longer told from the queue that means already make."""
KV_FULL = 0.97
"""Share of KV that running requests fill before the queue stops: whole blocks and the last prompt do not fit."""


@dataclass(slots=True)
class Flow:
    """One role: open replicas, what is in all of them together, cumulative counts as engines have them.

    `step_s`: a step's duration; `decode_s`: that of one without prompts. `chance`: requests that wait because arrivals
    and prompts are uneven, where means would not: what an engine's queue shows beside `queue`.
    """

    role: Role
    open: int = 0
    queue: float = 0.0
    running: float = 0.0
    step_s: float = 0.0
    decode_s: float = 0.0
    chance: float = 0.0
    count: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(Sample._fields[Sample._fields.index("prompt") :], 0.0)
    )


class FluidFleet:
    """All engines of one pool as flows; replicas have numbers only so that pods can name them.

    Attributes:
        now: simulated seconds. load, profile: what flows; how fast engines are. flows: by role. born: replicas ever.
        arrived, finished, tokens: requests so far, and output tokens of the finished ones.
        met: what arrivals met, per span: (s, bin of the load, requests, wait in s, chance of being delayed by others
            and the mean of that delay in s, step time in s).
    """

    def __init__(self, load: FluidLoad, profile: EngineProfile, slo: Slo, link: Link | None) -> None:
        self.now = self._flowed = 0.0
        self._busy_s = 0.0
        self.met: list[tuple[float, int, float, float, float, float, float]] = []
        self.arrived = self.finished = self.tokens = 0.0
        self.load = load
        self._shapes = load.shapes()
        self.profile = profile
        self._slo = slo
        self._link = link
        roles = (Role.COLOCATED,) if link is None else (Role.PREFILL, Role.DECODE)
        self.flows = {role: Flow(role) for role in roles}
        self._roles: dict[int, Role] = {}
        self._closed: dict[int, float] = {}
        self._where: dict[int, int] = {}
        self._domains: dict[Role, Counter[int]] = {role: Counter() for role in roles}
        self._alive = dict.fromkeys(roles, 0)
        self.born = 0

    @property
    def busy_s(self) -> float:
        """Seconds that engines have computed."""
        self._catch_up()
        return self._busy_s

    def add(
        self, role: Role, profile: EngineProfile, _noise: Iterator[float] | None, _width: float, domain: int
    ) -> int:
        """A replica is ready; all engines are as fast as the newest one, and a fluid has no steps to be noisy."""
        self._catch_up()
        self.profile = profile
        number = self.born
        self.born += 1
        self._roles[number] = role
        self._alive[role] += 1
        self.flows[role].open += 1
        self._where[number] = domain
        self._domains[role][domain] += 1
        return number

    def close(self, number: int) -> None:
        """It takes no more requests; the load is the others' at once."""
        if number not in self._closed:
            self._catch_up()
            self._closed[number] = self.now
            role = self._roles[number]
            self.flows[role].open -= 1
            self._domains[role][self._where[number]] -= 1

    def empty(self, number: int) -> bool:
        """Whether its last request is done."""
        return self.busy_for(number) <= 0

    def busy_for(self, number: int) -> float:
        """Seconds until its last request is done: the longest of n stays takes about ln(n) + 1 mean ones."""
        flow = self.flow(self._roles[number])
        stay = 1.0
        if flow.role is not Role.PREFILL:
            stay = self._shape().output * max(flow.step_s, self.profile.step_seconds)
        many = flow.running / max(1, flow.open)
        return self._closed[number] + stay * (1 + math.log(max(many, 1.0))) - self.now

    def remove(self, number: int) -> None:
        """It is gone."""
        self.close(number)
        self._alive[self._roles[number]] -= 1
        del self._closed[number], self._roles[number], self._where[number]

    def numbers(self) -> list[int]:
        """Numbers of all replicas there are, ascending."""
        return sorted(self._roles)

    def inside(self) -> float:
        """Requests that have arrived and may still finish; less than half a one is none."""
        self._catch_up()
        left = sum(flow.queue + flow.running for flow in self.flows.values())
        return left if left >= 0.5 else 0.0  # noqa: PLR2004 - a fluid never quite ends

    @property
    def resident(self) -> float:
        """KV tokens of a running request, as requests are now."""
        return self._shape().resident

    @property
    def computed(self) -> float:
        """Uncached prompt tokens of a request, as requests are now."""
        return self._shape().computed

    def alive(self, role: Role) -> list[int]:
        """Numbers of a role's replicas, those that drain included."""
        return [number for number, its in self._roles.items() if its is role]

    def count(self, role: Role) -> int:
        """How many those are."""
        return self._alive[role]

    def lives(self, number: int, role: Role) -> bool:
        """Whether it is one of them."""
        return self._roles.get(number) is role

    def flow(self, role: Role) -> Flow:
        """A role's flow as of now."""
        self._catch_up()
        return self.flows[role]

    def advance(self, until: float) -> None:
        """It is `until` now. What flowed since is worked out when somebody looks or replicas come and go."""
        self.now = until

    def _catch_up(self) -> None:
        """Let it flow until now, in steps that end at the load's bins."""
        step = self.load.step_s
        while self._flowed < self.now - 1e-9:
            end = min(self.now, (math.floor(self._flowed / step + 1e-9) + 1) * step)
            self._flow(end - self._flowed)
            self._flowed = end

    def _shape(self) -> Shape:
        index = int(self._flowed / self.load.step_s + 1e-9)
        return self._shapes[min(index, len(self._shapes) - 1)]

    def _flow(self, span: float) -> None:
        shape = self._shape()
        self.arrived += shape.rate * span
        if self._link is None:
            flow = self.flows[Role.COLOCATED]
            admitted, waited = self._generate(flow, shape, span, shape.rate, shape.computed)
            busy = self._prefill_share(shape, admitted / max(1, flow.open))
            base = 0.5 * flow.step_s + flow.decode_s
        else:
            rate, waited, busy = self._prefill(shape, span)
            flow = self.flows[Role.DECODE]
            _, queued = self._generate(flow, shape, span, rate, 0.0)
            waited += queued + self._moved_s(shape, self._link)
            base = self.profile.step_seconds + 1.5 * flow.step_s
        if shape.rate > 0:
            self._judge(shape, span, waited + base + self.profile.frontend_seconds, busy, flow.step_s)

    def _moved_s(self, shape: Shape, link: Link) -> float:
        """Seconds that a prompt's KV takes to move, on the mean over pairs of replicas, some of them across domains."""
        ends = [self._domains[role] for role in (Role.PREFILL, Role.DECODE)]
        pairs = ends[0].total() * ends[1].total()
        near = sum(count * ends[1][domain] for domain, count in ends[0].items())
        slower = 1.0 if not pairs else (near + (pairs - near) / link.across) / pairs
        return shape.prompt * link.bytes_per_token / link.bytes_per_s * slower

    def _prefill_share(self, shape: Shape, admitted: float) -> float:
        """Share of an engine's time spent in steps with prompts in them."""
        each = self.profile.prefill_token_seconds * shape.computed + self.profile.step_seconds
        return min(0.99, each * admitted)

    def _prefill(self, shape: Shape, span: float) -> tuple[float, float, float]:
        """The prefill role: (requests/s handed on, mean wait, share of time busy)."""
        flow, profile = self.flows[Role.PREFILL], self.profile
        each = (profile.prefill_token_seconds + profile.step_seconds / profile.max_batched_tokens) * shape.computed
        if self._link is not None:
            each = max(each, self._moved_s(shape, self._link))
        most = flow.open / max(each, 1e-9)
        served = min(most, shape.rate + flow.queue / span)
        flow.queue = max(0.0, flow.queue + (shape.rate - served) * span)
        wait = flow.queue / most if most > 0 else math.inf
        done = served * span
        busy = min(0.99, served / most) if most > 0 else 0.99
        flow.running = served * each
        flow.step_s = each
        # Prompts that come during a step are in the next one: none is seen waiting by chance.
        flow.chance = 0.0
        count = flow.count
        chunks = 1.0 + sum(share * (tokens // profile.max_batched_tokens) for share, tokens, _ in shape.classes)
        computing = profile.prefill_token_seconds * shape.computed
        alone = computing + profile.step_seconds * chunks
        # M/D/c: an arrival finds all engines busy with about the chance busy^(sqrt(2(c+1)) - 1).
        finds = min(1.0, served * alone / max(1, flow.open))
        together = 1 + SHARED * math.pow(finds, 2 * (math.sqrt(2.0 * (max(1, flow.open) + 1)) - 1.0))
        # However many share a step, an engine's steps take all of its time at most.
        left = (flow.open / served - computing) / profile.step_seconds if served > 0 else chunks
        steps = min(chunks / together, max(left, shape.computed / profile.max_batched_tokens))
        spent = alone + LONGER * (chunks / steps - 1) * computing
        self._count_prompts(count, shape, done, spent, (spent + min(wait, 1e6)) * done)
        count["completions"] += done
        count["generation"] += done
        count["steps"] += done * steps
        self._busy_s += done * each
        return served, wait, busy

    def _count_prompts(
        self, count: dict[str, float], shape: Shape, done: float, each: float, ttft: float, *, computed: bool = True
    ) -> None:
        count["prompt"] += shape.prompt * done
        count["computed"] += shape.computed * done if computed else 0.0
        count["first_tokens"] += done
        count["prefill_busy"] += each * done
        count["ttft_busy"] += ttft

    def _generate(self, flow: Flow, shape: Shape, span: float, rate: float, computed: float) -> tuple[float, float]:
        """The role that makes the tokens: (requests/s admitted, mean wait for a place)."""
        profile, open_ = self.profile, flow.open
        if open_ == 0:
            flow.queue += rate * span + flow.running
            flow.running = flow.step_s = 0.0
            return 0.0, math.inf
        per = profile.sequence_seconds + profile.resident_token_seconds * shape.resident
        places = open_ * min(profile.max_running, max(1.0, KV_FULL * profile.kv_capacity_tokens / shape.resident))
        decode = profile.step_seconds + per * flow.running / open_
        # Decoding requests take their tokens out of the step's budget first.
        chunk = max(1.0, profile.max_batched_tokens - flow.running / open_)
        full = decode + profile.prefill_token_seconds * chunk
        # Were each request that ends replaced at once, n / (O*s) would come: s = decode + p*P * n/O, per replica.
        replaced = decode + profile.prefill_token_seconds * computed * flow.running / (open_ * shape.output)
        left = flow.running / (shape.output * min(full, replaced))
        admitted = min(rate + flow.queue / span, max(0.0, places - flow.running) / span + left)
        if computed > 0:
            admitted = min(admitted, open_ * chunk / (full * computed))
        share = profile.prefill_token_seconds * computed * admitted / open_
        step = min(full, decode / (1 - share)) if share < 1 else full
        before = flow.running
        stay = shape.output * step
        target = admitted * stay
        flow.running = min(places, target + (before - target) * math.exp(-span / stay))
        finished = max(0.0, before + admitted * span - flow.running)
        flow.queue = max(0.0, flow.queue + (rate - admitted) * span)
        most = max(admitted, 1e-9)
        wait = flow.queue / most
        flow.step_s, flow.decode_s = step, decode
        filled = min(MOST_BUSY, full * computed * admitted / (open_ * chunk))
        flow.chance = open_ * math.pow(filled, 1 + math.sqrt(open_)) / (2 * (1 - filled))
        own = decode + profile.prefill_token_seconds * computed
        shared = min(MOST_BUSY, share)
        spent = min(own * (1 + 0.5 * shared / (1 - shared)), full * (1 + computed / chunk))
        self._count(flow, shape, span, (before + flow.running) / 2, admitted * span, finished, (spent, min(wait, 1e6)))
        return admitted, wait

    def _count(
        self,
        flow: Flow,
        shape: Shape,
        span: float,
        running: float,
        admitted: float,
        finished: float,
        times: tuple[float, float],
    ) -> None:
        """Add a span's doings; `times`: seconds that a prompt spends in steps, and in the queue before."""
        count, step = flow.count, flow.step_s
        tokens = running * span / step
        prompts = self._link is None
        spent, wait = times if prompts else (step, times[1])
        self._count_prompts(count, shape, admitted, spent, (spent + 0.5 * step + wait) * admitted, computed=prompts)
        count["completions"] += finished
        count["generation"] += tokens
        count["itl_tokens"] += tokens
        count["itl_busy"] += running * span
        busy = min(1.0, running / max(1, flow.open))
        count["steps"] += busy * flow.open * span / step
        if self._link is not None:
            count["transfer_bytes"] += admitted * shape.prompt * self._link.bytes_per_token
        self._busy_s += busy * flow.open * span
        self.finished += finished
        self.tokens += finished * shape.output

    def _judge(self, shape: Shape, span: float, wait: float, busy: float, step: float) -> None:
        """Note what this span's arrivals meet; judged.py says how many of them meet their targets."""
        each = self.profile.prefill_token_seconds * shape.computed + self.profile.step_seconds
        flow = next(iter(self.flows.values()))
        engines = max(1, flow.open)
        # No queue of chance grows beyond what a random walk reaches within a step of the load; the fluid has the rest.
        queue = min(1 / (engines * (1 - busy)), math.sqrt(self.load.step_s / (each * engines)))
        if self._link is None:
            delayed, tail = busy, each * (1 + queue)
        else:
            delayed, tail = math.pow(busy, math.sqrt(2.0 * (engines + 1)) - 1.0), each * (0.5 + queue)
        index = min(int(self._flowed / self.load.step_s + 1e-9), len(self.load.rate) - 1)
        self.met.append((self._flowed, index, shape.rate * span, wait, delayed, tail, step))
