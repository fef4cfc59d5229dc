"""The emulated pool without sockets: lives of replicas, routing, and the score."""

import pytest

from autoscaler.demo.config import PoolConfig
from autoscaler.demo.deployment import Deployment, ReplicaState
from autoscaler.demo.pool import EmulatedPool
from autoscaler.demo.scenario import default_scenario
from autoscaler.demo.slo import Score
from autoscaler.demo.state import PoolHistory, pool_state

START = 1_700_000_000.0
ENGINE = {
    "step_seconds": 0.01,
    "prefill_token_seconds": 1e-4,
    "sequence_seconds": 1e-3,
    "resident_token_seconds": 0.0,
    "kv_capacity_tokens": 8192,
    "max_running": 32,
    "max_batched_tokens": 1024,
}


def pool_config(
    rate: float = 5.0,
    roles: tuple[str, ...] = ("prefill", "decode"),
    prompt: int = 200,
    output: int = 20,
    **role: object,
) -> PoolConfig:
    return PoolConfig.model_validate(
        {
            "name": "p",
            "model_name": "m",
            "roles": [
                {"role": name, "engine": ENGINE, "startup_seconds": 3, "drain_seconds": 5} | role for name in roles
            ],
            "slo": {"ttft_seconds": 1.0, "tpot_seconds": 0.05},
            "workload": {
                "knots": [[0, rate], [10, rate], [10, 0]],
                "prompt": {"median": prompt, "largest": prompt},
                "output": {"median": output, "largest": output},
            },
        }
    )


def play(pool: EmulatedPool, seconds: float, tick: float = 0.05) -> EmulatedPool:
    for step in range(1, round(seconds / tick) + 1):
        pool.advance(START + step * tick)
    return pool


def test_a_request_goes_through_prefill_the_link_and_decode() -> None:
    pool = play(EmulatedPool(pool_config(), 1, START), 15)
    assert pool.arrived == pool.finished > 20
    assert pool.in_flight == 0
    engines = {role.value: d.replicas[f"p-{role}-1"].engine for role, d in pool.deployments.items()}
    assert engines["prefill"].counters.prompt_computed_tokens == 200 * pool.arrived
    assert engines["prefill"].idle
    assert engines["decode"].counters.prompt_received_tokens == 200 * pool.arrived
    # The link: 2 ms + 200 tokens * 131,072 B / 3.125 GB/s = 10.4 ms.
    transfer = engines["decode"].counters.transfer_time
    assert transfer.total / transfer.count == pytest.approx(0.0104, rel=0.01)
    # Alone a request's prefill step takes 10 + 20 + 1 = 31 ms, its first decode step 11 ms.
    assert min(pool.score.ttfts) == pytest.approx(0.031 + 0.0104 + 0.011, abs=0.001)
    assert pool.score.attainment == 1.0
    tokens = pool.count_tokens()
    assert (tokens.offered_prompt, tokens.served_prompt) == (200 * pool.arrived, 200 * pool.arrived)
    assert tokens.served_output == tokens.offered_output == 20 * pool.arrived


def test_a_colocated_pool_does_both() -> None:
    pool = play(EmulatedPool(pool_config(roles=("colocated",)), 1, START), 15)
    assert pool.arrived == pool.finished > 20


def test_with_no_replica_requests_are_held_and_then_served() -> None:
    pool = EmulatedPool(pool_config(replicas=0, min_replicas=0), 1, START)
    play(pool, 5)
    assert pool.finished == 0
    assert sum(map(len, pool.held.values())) == pool.arrived > 10
    # All that have waited longer than the TTFT target of 1 s are missed already.
    assert pool.score.attainment == 0.0
    for deployment in pool.deployments.values():
        deployment.scale(2, START + 5)
    for step in range(1, 301):
        pool.advance(START + 5 + step * 0.05)
    assert pool.in_flight == 0
    assert pool.arrived == pool.finished


def test_starting_takes_its_time_and_counts_gpus() -> None:
    deployment = Deployment("p-decode", pool_config(gpus_per_replica=2).roles[1])
    deployment.open(START)
    deployment.scale(3, START + 1)
    for at in (1, 2, 3.9):
        deployment.advance(START + at)
        assert len(deployment.in_state(ReplicaState.READY)) == 1
        assert (deployment.wanted, deployment.existing) == (3, 3)
    deployment.advance(START + 4)
    assert len(deployment.in_state(ReplicaState.READY)) == 3
    # From second 1 on the two starting ones hold their GPUs too; time up to the first look after it counts whole.
    assert deployment.gpu_seconds == pytest.approx(2 * 3 * 4)


def test_the_youngest_starting_replicas_go_first_then_the_youngest_ready() -> None:
    deployment = Deployment("p-decode", pool_config(replicas=2).roles[1])
    deployment.open(START)
    deployment.scale(4, START)
    deployment.scale(3, START + 1)
    assert list(deployment.replicas) == ["p-decode-1", "p-decode-2", "p-decode-3"]
    deployment.scale(1, START + 1)
    assert [r.pod for r in deployment.in_state(ReplicaState.DRAINING)] == ["p-decode-2"]
    assert [r.pod for r in deployment.drained(START + 2)] == ["p-decode-2"]
    assert list(deployment.replicas) == ["p-decode-1"]


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_what_a_draining_replica_cannot_finish_starts_again_elsewhere(role: str) -> None:
    # 900 output tokens take 10 s and more, draining ends after 0.2 s: many are cut short, none is lost.
    pool = EmulatedPool(pool_config(output=900, replicas=2, drain_seconds=0.2, rate=3.0, prompt=2000), 3, START)
    play(pool, 6)
    (deployment,) = [d for d in pool.deployments.values() if d.config.role == role]
    before = pool.in_flight
    deployment.scale(1, START + 6)
    for step in range(1, 2001):
        pool.advance(START + 6 + step * 0.1)
    assert before > 10
    assert len(deployment.replicas) == 1
    assert (pool.in_flight, pool.finished) == (0, pool.arrived)
    assert pool.score.met + pool.score.missed == pool.arrived
    prefill = next(iter(pool.deployments.values())).replicas
    assert all(replica.engine.idle and replica.owed_tokens == 0 for replica in prefill.values())


def test_load_is_spread_over_ready_replicas() -> None:
    pool = play(EmulatedPool(pool_config(rate=20, replicas=4), 1, START), 14)
    for deployment in pool.deployments.values():
        served = [replica.engine.counters.finished for replica in deployment.replicas.values()]
        assert min(served) > 0.15 * sum(served)


def test_the_score_counts_each_request_once() -> None:
    score = Score(ttft_target=1.0, tpot_target=0.1)
    for number in range(5):
        score.arrived(number, 0.0)
    score.first_token(0, 0.5)
    score.finished(0, 1.0, outputs=11)  # 0.05 s a token: met
    score.first_token(1, 0.9)
    score.finished(1, 2.9, outputs=11)  # 0.2 s a token: missed
    score.overdue(1.0)
    assert (score.met, score.missed) == (1, 1)
    score.overdue(1.1)  # 2, 3, 4 still wait
    assert (score.met, score.missed) == (1, 4)
    score.first_token(2, 1.5)
    score.first_token(2, 9.0)
    score.finished(2, 1.5, outputs=1)
    assert (score.met, score.missed, score.attainment) == (1, 4, 0.2)
    assert list(score.ttfts) == [0.5, 0.9, 1.5]


def test_the_default_day_needs_few_replicas_when_calm_and_many_in_its_burst() -> None:
    def attained(prefill: int, decode: int) -> Score:
        (config,) = default_scenario(60, seed=1)
        sizes = {"prefill": prefill, "decode": decode}
        roles = [role.model_copy(update={"replicas": sizes[role.role]}) for role in config.roles]
        return play(EmulatedPool(config.model_copy(update={"roles": roles}), 1, START), 60).score

    assert attained(6, 8).attainment > 0.95
    small = attained(2, 2)
    assert small.attainment < 0.5
    calm = EmulatedPool(default_scenario(200)[0], 1, START)
    assert play(calm, 40).score.attainment > 0.97


def test_a_scenario_of_no_length_is_refused() -> None:
    for seconds in (0, 9.9, float("nan")):
        with pytest.raises(ValueError, match="at least 10"):
            default_scenario(seconds)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"roles": [{"role": "prefill", "engine": ENGINE}]}, "needs prefill and decode, or colocated alone"),
        ({"replcas": 3}, "Extra inputs are not permitted"),
        ({"name": "Not A Name"}, "should match pattern"),
    ],
)
def test_wrong_configuration_is_refused(change: dict[str, object], reason: str) -> None:
    good = pool_config().model_dump(mode="json")
    with pytest.raises(ValueError, match=reason):
        PoolConfig.model_validate(good | change)


def test_a_request_no_engine_could_hold_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="the longest request has 9020 tokens"):
        pool_config(prompt=9000)


def test_the_most_ever_wanted_is_told_when_the_samples_of_that_time_are_gone() -> None:
    """The history holds 900 samples; 5 replicas were wanted in the first one only."""
    pool, history = EmulatedPool(pool_config(), 1, START), PoolHistory()
    for number, wanted in enumerate([5] + [2] * 1000):
        for deployment in pool.deployments.values():
            deployment.scale(wanted, START + number)
        history.sample(pool, START + number)
    told = pool_state(pool, history, None, {}, {})
    assert {sample["roles"]["decode"]["wanted"] for sample in told["history"]} == {2}
    assert {name: role["peak"] for name, role in told["roles"].items()} == {"prefill": 5, "decode": 5}
