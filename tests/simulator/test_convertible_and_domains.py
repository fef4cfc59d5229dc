"""Convertible decoders and KV links across network domains: hand-solved, conserved, and worth what they should be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.errors import BadSettings
from autoscaler.model import Role, Take, Tier
from autoscaler.policies.registry import make
from autoscaler.simulator.engine_types import EngineProfile
from autoscaler.simulator.fleet import Fleet
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.scenes import stage
from autoscaler.simulator.score import latencies
from autoscaler.simulator.setup import Layout, Setup, SupplySetup
from autoscaler.simulator.simulate import request_world, run_policy, simulate
from autoscaler.simulator.wiring import Gateway, Link

PROFILE = EngineProfile(0.01, 1e-4, 1e-4, 0.0, 40_960, 16, 4096)


def burst(count: int, prompt: int, output: int) -> Workload:
    """All at once."""
    return Workload("burst", np.zeros(count), np.full(count, prompt), np.full(count, output))


def played(load: Workload, link: Link, domains: tuple[int, int] = (0, 0)) -> Fleet:
    """One prefill and one decode replica."""
    fleet = Fleet(load, Gateway(), link)
    fleet.advance(0.0)
    # The decode replica first: the gateway holds the requests until there is a prefill replica.
    fleet.add(Role.DECODE, PROFILE, domain=domains[1])
    fleet.add(Role.PREFILL, PROFILE, domain=domains[0])
    fleet.advance(math.inf)
    return fleet


def test_a_chunk_beside_a_batch_is_what_the_target_leaves() -> None:
    """(0.1 - 0.01 - 20 * 1e-4) / 1e-4 = 880 tokens beside 20 sequences; a block of 16 where nothing is left."""
    assert PROFILE.spare_tokens(0.1, 20, 5000) == 880
    assert PROFILE.spare_tokens(0.011, 20, 5000) == 16


def test_kv_across_domains_takes_longer_by_the_share_that_is_left() -> None:
    """1,000 tokens of 1,000 bytes at 10 MB/s: 0.1 s; at half of that across domains 0.2 s."""
    load, link = burst(1, 1000, 1), Link(1e7, 1e3, across=0.5)
    near, far = (played(load, link, domains).ledger.finish[0] for domains in ((0, 0), (0, 1)))
    assert far - near == pytest.approx(0.1)


def test_prompts_beyond_what_prefill_can_do_are_taken_over() -> None:
    """40 prompts of 4,000 tokens are 16 s of prefill for one; a decoder in steps of 0.1 s does 890 tokens in each."""
    load = burst(40, 4000, 4)
    waits = []
    for convertible in (0, 1):
        fleet = played(load, Link(1e9, 1e3, convertible=convertible))
        ttft, tpot = latencies(load, fleet.ledger.frozen())
        assert np.isfinite(ttft).all()
        assert np.nanmax(tpot) <= 0.1 + 1e-3
        waits.append(float(np.max(ttft)))
    assert waits[0] == pytest.approx(40 * 0.4 + 0.6, rel=0.1)
    # Both together: 160,000 tokens / (10,000 + 8,900 tokens/s) = 8.5 s.
    assert waits[1] == pytest.approx(8.5, rel=0.05)


def test_requests_to_decode_do_not_queue_behind_prompts_taken_over() -> None:
    """The first prompt is ready after 0.4 s; its KV moves in 4 ms, and it decodes beside the decoder's own prompts."""
    load = burst(40, 4000, 4)
    fleet = played(load, Link(1e9, 1e3, convertible=1))
    first, engine = fleet.ledger.frozen().first, fleet.ledger.frozen().engine
    assert (engine == 0).all()
    # Steps of 0.1 s: it joins the next one and has its token a step after.
    assert first[0] <= 0.4 + 0.01 + 3 * 0.1
    assert np.percentile(first, 50) < 5.0


def test_how_many_convert_is_switched_while_the_fleet_runs() -> None:
    """Off until 5 s: nothing is taken over from the first burst; on for the second; off again for the third."""
    bursts = np.repeat([0.0, 30.0, 60.0], 20)
    load = Workload("bursts", bursts, np.full(60, 4000), np.full(60, 4))
    fleet = Fleet(load, Gateway(), Link(1e9, 1e3))
    fleet.add(Role.DECODE, PROFILE)
    fleet.add(Role.PREFILL, PROFILE)
    computed = []
    for until, count in ((29.0, 0), (59.0, 1), (math.inf, 0)):
        fleet.convert(count)
        before = fleet.get(0).engine.computed
        fleet.advance(until)
        computed.append(fleet.get(0).engine.computed - before)
    assert computed[0] == computed[2] == 0
    assert computed[1] >= 20 * 4000 / 3


def test_kv_stays_in_its_domain_while_the_load_there_is_not_much_higher() -> None:
    """Two domains with one replica of each role, and few requests: all KV stays; without decoders there all crosses."""
    load = Workload("calm", np.arange(40) * 0.5, np.full(40, 1000), np.full(40, 20))
    shares = []
    for domains in (((0, 1), (0, 1)), ((0, 0), (1, 1))):
        fleet = Fleet(load, Gateway(), Link(1e9, 1e3, across=0.8))
        for role, places in zip((Role.PREFILL, Role.DECODE), domains, strict=True):
            for place in places:
                fleet.add(role, PROFILE, domain=place)
        fleet.advance(math.inf)
        assert fleet.moved_bytes == 40 * 1000 * 1e3
        shares.append(fleet.across_bytes / fleet.moved_bytes)
    assert shares == [0.0, 1.0]


def test_a_policy_converts_by_taking_the_tier() -> None:
    """TokenScale takes one convertible decoder in each decision of a pool with two roles."""
    load = Workload("steady", np.arange(600) * 0.2, np.full(600, 1000), np.full(600, 60), horizon_s=120.0)
    taken: list[tuple[Take, ...]] = []
    setup = Setup(layout=Layout.DISAGGREGATED)
    policy = make("tokenscale", {})
    fleet, world = request_world(load, policy, setup, stage(setup), 0)
    run_policy(world, policy, stage(setup).scene, lambda _, made: taken.append(made.roles[1].takes))
    assert taken[-1] == (Take(Tier.CONVERT, 1, 0.0),)
    assert fleet.convertible == 1
    unable, world = request_world(load, make("hpa-kv", {}), setup, stage(setup), 0)
    run_policy(world, make("hpa-kv", {}), stage(setup).scene)
    assert unable.convertible == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 900), st.integers(1, 60)), min_size=1, max_size=30),
    st.integers(0, 2),
    st.booleans(),
)
def test_every_request_ends_once_and_all_kv_comes_back(
    drawn: list[tuple[int, int, int]], convertible: int, told_early: bool
) -> None:
    drawn = sorted(drawn)
    arrival = np.array([at / 1000 + 1e-5 * number for number, (at, _, _) in enumerate(drawn)])
    prompt, output = (np.array([one[column] for one in drawn]) for column in (1, 2))
    load = Workload("drawn", arrival, prompt, output)
    fleet = Fleet(load, Gateway(), Link(1e6, 1e2, told_early, 0.8, convertible, 0.05))
    fleet.advance(0.0)
    small = EngineProfile(0.01, 1e-4, 1e-4, 1e-6, 2048, 8, 256)
    for role in (Role.PREFILL, Role.DECODE, Role.DECODE):
        fleet.add(role, small)
    fleet.advance(math.inf)
    outcomes = fleet.ledger.frozen()
    assert np.isfinite(outcomes.finish).all()
    assert (outcomes.first >= load.arrival_s).all()
    assert (outcomes.finish >= outcomes.first).all()
    for replica in fleet.replicas():
        assert replica.empty
        assert replica.engine.kv.used == replica.engine.backlog == 0
    made = {role: [one.engine for one in fleet.replicas() if one.role is role] for role in (Role.PREFILL, Role.DECODE)}
    assert sum(engine.generation for engine in made[Role.DECODE]) == output.sum()
    # Each prompt is computed exactly once, by whichever replica; recomputing after a preemption counts no prompt.
    assert sum(engine.computed for engines in made.values() for engine in engines) == prompt.sum()
    if not convertible:
        assert sum(engine.computed for engine in made[Role.DECODE]) == 0


def test_a_convertible_decoder_relieves_a_pool_that_lacks_a_prefill_replica() -> None:
    """26 requests/s of 1,000 tokens for two prefill replicas that do about 11,000 tokens/s each."""
    random = np.random.default_rng(4)
    arrival = np.sort(random.uniform(0.0, 120.0, 1440))
    load = Workload("steady", arrival, np.full(1440, 1000), np.full(1440, 60), horizon_s=120.0)
    met = []
    for convertible in (0, 1):
        setup = Setup(layout=Layout.DISAGGREGATED, minimum=2, maximum=2, initial=2, convertible=convertible)
        heavy = Workload("heavy", arrival / 2.2, load.prompt, load.output, horizon_s=120.0 / 2.2)
        met.append(simulate(heavy, make("hpa-kv", {}), setup).slo_attainment)
    assert met[1] > met[0]


@pytest.mark.parametrize(
    ("wrong", "says"), [({"link_across": 0.0}, "link_across is 0"), ({"convertible": -1}, "convertible is -1")]
)
def test_figures_that_cannot_be_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(BadSettings, match=says):
        Setup(**wrong)  # type: ignore[arg-type]  # that is what is tried


def test_a_pool_that_fits_one_domain_stays_in_it() -> None:
    """Sixteen nodes in four domains, and a pool of a few GPUs: no pair and no KV byte has to cross."""
    load = Workload("steady", np.arange(0.0, 240.0, 0.1), np.full(2400, 3000), np.full(2400, 150), horizon_s=240.0)
    setup = Setup(layout=Layout.DISAGGREGATED, supply=SupplySetup(gpus=128, start_s=(20.0, 30.0)))
    result = simulate(load, make("token-dynamics", {}), setup)
    assert result.peak_replicas > 4
    assert (result.cross_domain_share, result.kv_across_share) == (0.0, 0.0)
