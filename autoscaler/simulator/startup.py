"""How long a replica takes from having its GPUs to serving: a sum of log-normal steps, or a single log-normal.

    T = schedule + [image] + runtime + weights + compile + capture + register

Steps are those of `lead-times.yaml` (medians from measurements named there). Weights take bytes / bandwidth, the source
being shared: by the loads of one node, or, from peers, by all that read while it lasts over all that serve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

from autoscaler.errors import BadSettings
from autoscaler.model import Step
from autoscaler.profiles import LeadTime

if TYPE_CHECKING:
    import numpy as np

    from autoscaler.profiles import Profile, ProfileBook
    from autoscaler.simulator.setup import SupplySetup

PEERS = "rdma-unknown"
"""Weight source that stands for serving replicas: 5 GB/s per GPU, what ModelExpress reached on one of eight links."""


@dataclass(frozen=True, slots=True)
class Readers:
    """Who loads weights at the moment of asking, on the same node and in all; who serves and can be read."""

    on_node: int
    everywhere: int
    serving: int


@dataclass(frozen=True, slots=True)
class Startup:
    """Start-up times of one profile's replicas.

    Attributes:
        whole: instead of the sum, if given.
        fixed: the steps every start has. image: where a node lacks it.
        weight_bytes, source_bytes_per_s: per replica; `shared_by_node`: by the loads of a node.
        peer_bytes_per_s: of one serving replica; 0 when peers are not read.
        wake, eviction, node: of a sleeping replica, of a training gang, of a bought node.
        scale: factor on whole start-ups, for questions such as "what does a 30 % faster start buy".
    """

    whole: LeadTime | None
    fixed: tuple[LeadTime, ...]
    image: LeadTime
    weight_bytes: float
    source_bytes_per_s: float
    shared_by_node: bool
    peer_bytes_per_s: float
    wake: LeadTime
    eviction: LeadTime
    node: LeadTime
    scale: float = 1.0

    @classmethod
    def of(cls, setup: SupplySetup, profile: Profile, book: ProfileBook) -> Startup:
        """From the shipped tables. Raises BadSettings for a source of weights that is not among them."""
        source = book.weight_sources.get(setup.weights)
        if source is None:
            known = ", ".join(sorted(book.weight_sources))
            raise BadSettings((f"supply.weights is {setup.weights!r}; expected one of {known}",))
        names = [
            "schedule",
            "runtime",
            "compile-hit" if setup.compile_cached else "compile-miss",
            "capture",
            "register",
        ]
        per_gpu = profile.gpus if source.shared_by == "gpu" else 1
        peers = book.weight_sources[PEERS].gb_per_s * 1e9 * profile.gpus if setup.peers else 0.0
        return cls(
            whole=None if setup.start_s is None else LeadTime(*setup.start_s),
            fixed=tuple(book.steps[name] for name in names),
            image=book.steps["image-pull"],
            weight_bytes=profile.weights_gb * 1e9,
            source_bytes_per_s=source.gb_per_s * 1e9 * per_gpu,
            shared_by_node=source.shared_by == "node",
            peer_bytes_per_s=peers,
            wake=book.tiers["wake"],
            eviction=book.steps["training-eviction"] if setup.eviction_s is None else LeadTime(*setup.eviction_s),
            node=book.steps["node"],
            scale=setup.start_scale,
        )

    def weights_s(self, readers: Readers, slow: float) -> float:
        """Seconds to load the weights, `slow` times as long as usual."""
        rate = self.source_bytes_per_s / (max(1, readers.on_node) if self.shared_by_node else 1)
        if self.peer_bytes_per_s and readers.serving:
            rate = max(rate, self.peer_bytes_per_s * min(1.0, readers.serving / max(1, readers.everywhere)))
        return slow * self.weight_bytes / rate

    def steps(
        self, random: np.random.Generator, readers: Readers, *, image: bool, slow: float = 1.0
    ) -> dict[Step, float]:
        """One start-up, seconds by step; `image`: the node has the image already."""
        if self.whole is not None:
            found = {Step.ENGINE: drawn(self.whole, random)}
        else:
            schedule, runtime, compiling, capture, register = (drawn(step, random) for step in self.fixed)
            found = {
                Step.SCHEDULE: schedule,
                Step.WEIGHTS: self.weights_s(readers, slow),
                Step.ENGINE: runtime + compiling + capture,
                Step.REGISTRATION: register,
            }
        if not image:
            found[Step.IMAGE] = drawn(self.image, random)
        return {step: self.scale * seconds for step, seconds in found.items()}

    def lead(self, *, image: bool = True) -> LeadTime:
        """What to expect of a start on a prepared node when nobody else loads: what policies are told."""
        if self.whole is not None:
            return self._scaled(self.whole if image else self.whole.then(self.image))
        weights = LeadTime(self.weights_s(Readers(1, 1, 0), 1.0), self.weights_s(Readers(1, 1, 0), 1.0) * 1.5)
        steps = (*self.fixed, weights) if image else (*self.fixed, weights, self.image)
        return self._scaled(reduce(LeadTime.then, steps))

    def _scaled(self, lead: LeadTime) -> LeadTime:
        return replace(lead, p50_s=lead.p50_s * self.scale, p90_s=lead.p90_s * self.scale)


def drawn(lead: LeadTime, random: np.random.Generator) -> float:
    """One duration of a log-normal step, s."""
    return math.exp(lead.mu + lead.sigma * float(random.standard_normal()))
