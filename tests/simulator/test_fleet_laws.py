"""Laws of the fleet: every request is accounted for, nothing is served before it came, replicas may come and go."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.model import Role
from autoscaler.simulator.engine_types import EngineProfile
from autoscaler.simulator.fleet import Fleet
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.setup import Routing
from autoscaler.simulator.wiring import Gateway, Link

# 31 usable blocks of 16: requests of up to 496 tokens fit, and a handful of them preempt one another.
SMALL = EngineProfile(0.01, 1e-4, 1e-4, 1e-6, 512, 8, 128)
REQUESTS = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 560), st.integers(1, 60)), min_size=1, max_size=40)
CHANGES = st.lists(
    st.tuples(st.integers(0, 5000), st.sampled_from(["add", "close", "remove"]), st.booleans()), max_size=8
)


def workload(requests: list[tuple[int, int, int]], *, blocks: bool) -> Workload:
    ordered = sorted(requests)
    hashes = tuple(np.arange(prompt // 64, dtype=np.int64) for _, prompt, _ in ordered) if blocks else None
    return Workload(
        "drawn",
        np.array([at / 1000 for at, _, _ in ordered]),
        np.array([prompt for _, prompt, _ in ordered], dtype=np.int32),
        np.array([output for _, _, output in ordered], dtype=np.int32),
        blocks=hashes,
    )


def played(fleet: Fleet, roles: tuple[Role, ...], changes: list[tuple[int, str, bool]]) -> None:
    """Begin with one replica a role; add, drain and kill some on the way; play to the end."""
    for role in roles:
        fleet.add(role, SMALL)
    for at, what, first in sorted(changes):
        fleet.advance(at / 1000)
        role = roles[0] if first else roles[-1]
        numbers = [replica.engine.number for replica in fleet.replicas() if replica.role is role]
        if what == "add":
            fleet.add(role, SMALL)
        elif what == "close" and len(numbers) > 1:
            fleet.close(numbers[0])
        elif what == "remove" and numbers:
            fleet.remove(numbers[0])
    fleet.advance(10_000.0)


@settings(max_examples=150, deadline=None)
@given(
    requests=REQUESTS,
    changes=CHANGES,
    routing=st.sampled_from(list(Routing)),
    limit=st.sampled_from([None, 1, 3]),
    blocks=st.booleans(),
    disaggregated=st.booleans(),
)
def test_every_request_is_finished_refused_shed_waiting_or_lost_with_its_engine(
    requests: list[tuple[int, int, int]],
    changes: list[tuple[int, str, bool]],
    routing: Routing,
    limit: int | None,
    blocks: bool,
    disaggregated: bool,
) -> None:
    load = workload(requests, blocks=blocks)
    link = Link(1e6, 100.0) if disaggregated else None
    roles = (Role.PREFILL, Role.DECODE) if disaggregated else (Role.COLOCATED,)
    fleet = Fleet(load, Gateway(routing, limit, most=20), link)
    played(fleet, roles, changes)
    outcomes = fleet.ledger.frozen()
    finished = int(np.isfinite(outcomes.finish).sum())
    accounted = finished + fleet.refused + fleet.shed + fleet.inside()
    killed = any(what == "remove" for _, what, _ in changes)
    assert fleet.left == 0
    assert accounted <= len(load)
    if not killed:
        assert accounted == len(load)
    done = np.isfinite(outcomes.finish)
    assert (outcomes.first[done] > load.arrival_s[done]).all()
    assert (outcomes.finish[done] >= outcomes.first[done]).all()
    for replica in fleet.replicas():
        engine = replica.engine
        kept = sum(engine.profile.blocks(job.stored) for job in replica.kept.values())
        if engine.load == 0 and not replica.fetching:
            assert engine.kv.used == kept
            assert engine.backlog == 0


@settings(max_examples=50, deadline=None)
@given(requests=REQUESTS, cuts=st.lists(st.integers(0, 8000), max_size=6))
def test_how_time_is_cut_into_calls_makes_no_difference(requests: list[tuple[int, int, int]], cuts: list[int]) -> None:
    load = workload(requests, blocks=False)

    def outcome(stops: list[int]) -> tuple[bytes, bytes]:
        fleet = Fleet(load, Gateway())
        fleet.add(Role.COLOCATED, SMALL)
        fleet.add(Role.COLOCATED, SMALL)
        for stop in sorted(stops):
            fleet.advance(stop / 1000)
        fleet.advance(math.inf)
        return fleet.ledger.first.tobytes(), fleet.ledger.finish.tobytes()

    assert outcome(cuts) == outcome([])


def test_tokens_counted_by_engines_are_the_tokens_of_the_requests() -> None:
    # Three requests of 10, 20 and 30 output tokens: 60 generated; 100 + 200 + 300 prompt tokens computed.
    load = Workload("three", np.zeros(3), np.array([100, 200, 300], np.int32), np.array([10, 20, 30], np.int32))
    fleet = Fleet(load, Gateway())
    fleet.add(Role.COLOCATED, EngineProfile(0.01, 1e-4, 1e-4, 1e-6, 4096, 8, 128))
    fleet.advance(math.inf)
    engine = fleet.get(0).engine
    assert (engine.generation, engine.computed, engine.completions) == (60, 600, 3)
    assert engine.itl_tokens == 60 - 3
