"""Which training is taken: enough and no more than needed, the lowest priority and the least lost work first."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import kube_objects as make
import pytest
from cluster_rig import role, sight_rules
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.cluster.objects import node_of, pod_of
from autoscaler.cluster.sight_types import Cached, Snapshot
from autoscaler.cluster.snapshot import taken
from autoscaler.cluster.training import job_of
from autoscaler.cluster.victims import chosen
from autoscaler.model import Role, RoleKey

if TYPE_CHECKING:
    from autoscaler.cluster.sight_types import SightRules

GPU = ("nvidia.com/gpu",)
NOW = 1767229200.0  # 2026-01-01T01:00:00Z
RULES = sight_rules(role(), min_runtime_s=0.0)
Placed = list[tuple[int, int, int]]
"""(gang, node, GPUs) of each pod."""


def cluster(
    placed: Placed,
    saved: dict[int, float] | None = None,
    nodes: int = 3,
    size: int = 8,
    ranks: dict[int, int] | None = None,
    rules: SightRules = RULES,
) -> Snapshot:
    """Jobs `gang-N` with pods as placed; `saved` holds the seconds since a gang's last checkpoint (3,600 if not)."""
    there = [node_of(make.node(f"n{n}", size, labels={"rack": f"r{n}"}), GPU) for n in range(nodes)]
    pods, jobs = [], {}
    for number, (gang, place, gpus) in enumerate(placed):
        job = make.job(f"gang-{gang}", 1, gpus, labels={"tidegate.dev/preemptible": "true"})
        at = NOW - (saved or {}).get(gang, 3600.0)
        job["metadata"] |= {"uid": f"job-{gang}", "annotations": {"tidegate.dev/last-checkpoint": str(at)}}
        jobs[gang] = job_of(job, GPU, ())
        found = make.pod(f"p{number}", gpus, f"n{place}", owner=job, priority=(ranks or {}).get(gang, -5))
        found["metadata"]["uid"] = f"pod-{number}"
        pods.append(pod_of(found, GPU))
    cached = Cached(
        {pod.meta.where: pod for pod in pods},
        {node.meta.where: node for node in there},
        training=tuple(jobs.values()),
    )
    return taken(cached, rules, NOW, {}, 0.0)


def names(seen: Snapshot, wanted: int, size: int) -> list[str]:
    able = [gang for gang in seen.gangs if gang.refused is None]
    return sorted(gang.group.key.rpartition("/")[2] for gang in chosen(able, wanted, size, seen, RULES))


def test_the_least_lost_work_goes_first() -> None:
    # 8 GPUs each; gang 1 saved its work 60 s ago, so 480 GPU-seconds are lost instead of 28,800
    seen = cluster([(0, 0, 8), (1, 1, 8), (2, 2, 8)], saved={1: 60.0})
    assert names(seen, 8, 8) == ["gang-1"]
    assert names(seen, 1, 1) == ["gang-1"]


def test_the_lowest_priority_goes_first_however_much_it_loses() -> None:
    # gang 0 loses an hour, gang 1 of a higher priority a minute, and is taken only where gang 0 is not enough
    seen = cluster([(0, 0, 8), (1, 1, 8), (2, 2, 8)], saved={1: 60.0, 2: 60.0}, ranks={0: -9, 1: -5, 2: -7})
    assert names(seen, 8, 8) == ["gang-0"]
    assert names(seen, 16, 8) == ["gang-0", "gang-2"]
    assert names(seen, 24, 8) == ["gang-0", "gang-1", "gang-2"]


def test_what_a_larger_one_of_a_low_priority_makes_needless_is_the_higher_one() -> None:
    # gang 0 (lowest) frees 2 GPUs, gang 2 the 6 beside them; gang 1 alone would do but is above both
    seen = cluster([(0, 0, 2), (1, 1, 8), (2, 0, 6)], ranks={0: -9, 1: -5, 2: -7})
    assert names(seen, 8, 8) == ["gang-0", "gang-2"]


def test_what_the_larger_one_makes_needless_is_left() -> None:
    # the cheap gang of 2 is not enough for a replica of 8 on one node; with the gang of 6 beside it, it is
    seen = cluster([(0, 0, 2), (1, 0, 6), (2, 1, 8)], saved={0: 1.0, 1: 100.0})
    assert names(seen, 8, 8) == ["gang-0", "gang-1"]
    # for 4 GPUs in replicas of 4 the gang of 6 alone is enough, though the gang of 2 is cheaper
    assert names(seen, 4, 4) == ["gang-1"]


def test_a_small_gang_that_loses_less_in_all_goes_instead_of_a_large_one() -> None:
    # per GPU the gang of 8 loses least (100 s, 800 in all), and the gang of 4 is enough for 4 GPUs (150 s, 600 in all)
    seen = cluster([(0, 0, 8), (1, 1, 4), (2, 2, 8)], saved={0: 100.0, 1: 150.0})
    assert names(seen, 4, 4) == ["gang-1"]
    assert names(seen, 8, 4) == ["gang-0"]
    # of a higher priority it is left alone
    seen = cluster([(0, 0, 8), (1, 1, 4)], saved={0: 100.0, 1: 150.0}, ranks={1: -4})
    assert names(seen, 4, 4) == ["gang-0"]


def test_scattered_small_gangs_make_no_room_for_a_large_replica() -> None:
    # one GPU of each gang on every node: no node ever has 8 free unless all gangs go
    seen = cluster([(0, 0, 4), (0, 1, 4), (1, 0, 4), (1, 1, 4), (2, 2, 8)], saved={0: 10.0, 1: 10.0})
    assert names(seen, 8, 8) == ["gang-2"] or names(seen, 8, 8) == ["gang-0", "gang-1"]
    assert names(seen, 16, 8) == ["gang-0", "gang-1"]


@pytest.mark.parametrize(
    ("saved", "roles", "found"),
    [
        # 110 s of work and near against nothing and 0.2 x 600 = 120 s for being in another rack than our partners
        (110.0, (Role.PREFILL, Role.DECODE), "gang-1"),
        (130.0, (Role.PREFILL, Role.DECODE), "gang-0"),
        # who serves alone has no partners
        (110.0, (Role.COLOCATED,), "gang-0"),
    ],
)
def test_training_beside_our_partners_is_worth_a_fifth_of_ten_minutes(
    saved: float, roles: tuple[Role, ...], found: str
) -> None:
    rules = sight_rules(*(role(RoleKey("serving", "pair", one)) for one in roles), min_runtime_s=0.0)
    seen = cluster([(0, 0, 8), (1, 1, 8)], saved={0: 0.0, 1: saved}, rules=rules)
    there = tuple(replace(one, serving=4 if one.domain == ("r1",) else 0) for one in seen.supply.domains)
    seen = replace(seen, supply=replace(seen.supply, domains=there))
    assert names(seen, 8, 8) == [found]


def test_what_runs_where_no_pod_may_go_is_left_alone() -> None:
    seen = cluster([(0, 0, 8), (1, 1, 8)], saved={0: 1.0})
    away = type(seen.nodes["n0"])(
        seen.nodes["n0"].meta, 8, ready=False, ready_at=None, cordoned=True, taints=(), images=()
    )
    nodes = {**seen.nodes, "n0": away}
    seen = Snapshot(NOW, seen.pools, seen.gangs, (), seen.training, seen.supply, seen.stocks, nodes, ())
    assert names(seen, 8, 8) == ["gang-1"]


def room(seen: Snapshot, taken_: list[str], size: int) -> int:
    """GPUs in whole replicas once these gangs have left, reckoned anew from the pods that stay."""
    used: dict[str, int] = {}
    for gang in seen.gangs:
        if gang.group.key.rpartition("/")[2] not in taken_:
            for pod in gang.group.pods:
                used[pod.node] = used.get(pod.node, 0) + pod.gpus
    return sum((8 - used.get(name, 0)) // size * size for name in seen.nodes)


@st.composite
def placements(draw: st.DrawFn) -> Placed:
    left = [8, 8, 8]
    placed = []
    for _ in range(draw(st.integers(1, 8))):
        place, gpus = draw(st.integers(0, 2)), draw(st.sampled_from([1, 2, 4]))
        if left[place] >= gpus:
            left[place] -= gpus
            placed.append((draw(st.integers(0, 4)), place, gpus))
    return placed or [(0, 0, 1)]


@given(placed=placements(), wanted=st.integers(1, 24), size=st.sampled_from([1, 2, 4, 8]))
def test_enough_is_taken_when_there_is_enough_and_none_in_vain(placed: Placed, wanted: int, size: int) -> None:
    seen = cluster(placed)
    everyone = [gang.group.key.rpartition("/")[2] for gang in seen.gangs]
    picked = names(seen, wanted, size)
    gained = room(seen, picked, size) - room(seen, [], size)
    possible = room(seen, everyone, size) - room(seen, [], size)
    assert gained >= min(wanted, possible)
    for one in picked:
        rest = [name for name in picked if name != one]
        assert room(seen, rest, size) - room(seen, [], size) < min(wanted, gained)
