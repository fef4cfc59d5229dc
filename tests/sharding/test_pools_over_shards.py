"""Pools over shards: who has which, that few move, and that no GPU, gang or budget is had twice."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import kube_objects as make
import pytest
import requests
import yaml
from acting_rig import training_cluster
from cluster_rig import H100, connected, eventually, role, seeing, sight_rules
from engine_double import Load, serving_engine
from hypothesis import given, settings
from hypothesis import strategies as st
from kube_server import ApiServer
from running_process import configuration, running

from autoscaler import build
from autoscaler.configuration import checked
from autoscaler.errors import BadSettings
from autoscaler.leadership import Election, Rivals
from autoscaler.model import Decision, Role, RoleDecision, RoleKey
from autoscaler.settings_cluster import ElectionSettings
from autoscaler.sharding import Shard, Union, own_parts, own_snapshot, shard, shard_of, share

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from autoscaler.cluster.api import Api, Resource

Json = dict[str, Any]
NAMES = [f"pool/serving/p{index}" for index in range(2000)]


def counted(of: int) -> Counter[int]:
    return Counter(shard_of(name, of) for name in NAMES)


@pytest.mark.parametrize("of", [2, 3, 8])
def test_every_shard_has_about_as_many(of: int) -> None:
    # Binomial: 2,000 / of, and five standard deviations are not exceeded by a fixed set of names once and for all.
    mean = 2000 / of
    deviation = (2000 * (1 / of) * (1 - 1 / of)) ** 0.5
    assert all(abs(counted(of)[index] - mean) < 5 * deviation for index in range(of))


@settings(deadline=None)
@given(st.lists(st.text(max_size=30), max_size=60, unique=True), st.integers(1, 12))
def test_one_shard_more_takes_pools_and_moves_none_between_the_others(names: list[str], of: int) -> None:
    for name in names:
        before, after = shard_of(name, of), shard_of(name, of + 1)
        assert after in {before, of}


def test_about_the_least_possible_moves() -> None:
    moved = sum(shard_of(name, 4) != shard_of(name, 5) for name in NAMES)
    assert 0.15 < moved / 2000 < 0.25  # 1/5 is what the fifth shard must get


def test_where_a_name_belongs_is_the_same_in_every_version_and_process() -> None:
    assert [shard_of(f"pool/serving/{name}", 4) for name in ("chat", "code", "draft", "embed")] == [2, 0, 0, 3]
    assert Shard(2, 4).named("tidegate") == "tidegate-2-of-4"
    assert Shard().named("tidegate") == "tidegate"


TIMES = ElectionSettings(duration_s=15.0, renew_deadline_s=10.0, retry_s=2.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def runner(plain: Api, which: Shard, clock: Clock, *, needed: bool = True) -> Election:
    def excludes(name: str) -> bool:
        return which.excludes(name, "tidegate")

    rivals = Rivals(plain, "default", excludes, needed=needed, monotonic=clock)
    name = which.named("tidegate")
    return Election(plain, TIMES, "default", f"{name} process", monotonic=clock, lease=name, rivals=rivals)


def test_two_numbers_of_shards_are_never_at_work_at_once(plain: Api) -> None:
    clock = Clock()
    old = [runner(plain, Shard(index, 2), clock) for index in range(2)]
    new = [runner(plain, Shard(index, 3), clock) for index in range(3)]
    single = runner(plain, Shard(), clock)
    for one in (*old, *new, single):
        one.step()
    assert [one.token() for one in (*old, *new, single)] == [1, 1, None, None, None, None]
    old[0].stop()
    for one in new:
        one.step()
    assert [one.token() for one in new] == [None] * 3  # the other of the two is still there
    for _ in range(6):  # it was killed: its Lease, seen unchanged for 15 s, holds nobody back any more
        assert [one.token() for one in new] == [None] * 3
        clock.now += 2.5
        for one in new:
            one.step()
    assert [one.token() for one in new] == [1, 1, 1]
    old[0].step()  # and the two cannot come back beside the three
    assert old[0].token() is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0.0, 9.0), st.booleans()), min_size=4, max_size=30))
def test_whoever_comes_and_goes_the_leaders_are_all_of_one_number(plan: list[tuple[int, float, bool]]) -> None:
    with ApiServer() as api:
        plain = connected(api)
        clock = Clock()
        all_of_them = [Shard(), Shard(0, 2), Shard(1, 2), Shard(0, 3), Shard(1, 3), Shard(2, 3)]
        runners = [(which, runner(plain, which, clock)) for which in all_of_them]
        for number, passed, stops in plan:
            clock.now += passed
            one = runners[number][1]
            if stops and one.token() is not None:
                one._release()
            else:
                one.step()
            assert len({which.of for which, each in runners if each.token() is not None}) <= 1
        plain.close()


def test_a_lease_taken_at_the_same_moment_is_let_go_again(plain: Api) -> None:
    clock = Clock()
    first, second = runner(plain, Shard(0, 2), clock), runner(plain, Shard(0, 3), clock)
    real, raced = plain.create, []

    def create(resource: Resource, namespace: str, body: Json, **more: Any) -> Json:
        if not raced:  # between the second's look and its write, the first takes its own
            raced.append(True)
            first.step()
        return real(resource, namespace, body, **more)

    plain.create = create  # type: ignore[method-assign]  # played for one call
    second.step()
    assert (first.token(), second.token()) == (1, None)


def test_where_leases_may_not_be_listed_one_process_leads_and_a_shard_does_not(api: ApiServer, plain: Api) -> None:
    api.allows = lambda asked: asked.verb != "list"
    alone, sharded = runner(plain, Shard(), Clock(), needed=False), runner(plain, Shard(0, 2), Clock())
    sharded.step()
    assert sharded.token() is None
    alone.step()
    assert alone.token() == 1


@settings(deadline=None)
@given(st.integers(0, 10**7), st.integers(1, 64), st.integers(1, 16))
def test_parts_add_up_to_the_whole_and_differ_by_one_at_most(total: int, of: int, unit: int) -> None:
    parts = [share(total, index, of) for index in range(of)]
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1
    whole = [Shard(index, of).part(total, unit) or 0 for index in range(of)]
    assert sum(whole) == total // unit * unit or of == 1
    assert all(part % unit == 0 for part in whole)


def settings_of(of: int = 3, ordinal: int = 0, pools: int = 30, **supply: Any) -> Json:
    return {
        "pools": [
            {
                "name": f"p{index}",
                "namespace": "serving",
                "profile": "llama-3.1-8b/h100-80gb/tp1",
                "match": {"app": f"p{index}"},
                "roles": {"prefill": {"max_replicas": 9}, "decode": {"max_replicas": 9}},
            }
            for index in range(pools)
        ],
        "supply": [{"accelerator": "h100-80gb", "gpus": 100, "preemptible_gpus": 22, "preempt_gang": 4, **supply}],
        "plan": {"budget_per_hour": 300.0, "max_gpus_preempted": 16},
        "cluster": {"enabled": True, "shards": {"of": of, "ordinal": ordinal}},
    }


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 200), st.integers(0, 90))
def test_no_pool_and_no_gpu_belongs_to_two_shards_or_to_none(of: int, gpus: int, preemptible: int) -> None:
    whole = build.parts(checked(settings_of(1, pools=6), "test"), BOOK)
    whole = replace(whole, stocks=(replace(whole.stocks[0], free=gpus, preemptible=preemptible),))
    parts = [own_parts(whole, Shard(index, of)) for index in range(of)]
    roles = [rule.key for part in parts for rule in part.rules.roles]
    assert sorted(roles) == sorted(rule.key for rule in whole.rules.roles)
    for part in parts:  # the roles of a pool stay together: one blind role freezes the other
        pools = {rule.key.pool for rule in part.rules.roles}
        assert len(part.rules.roles) == 2 * len(pools)
        assert set(part.groups) == {rule.key for rule in part.rules.roles}
    assert sum(part.stocks[0].free or 0 for part in parts) == gpus
    assert sum(part.stocks[0].preemptible or 0 for part in parts) <= preemptible
    assert sum(part.rules.max_gpus_preempted or 0 for part in parts) == 16
    assert sum(part.rules.budget_per_hour or 0 for part in parts) == pytest.approx(300.0)
    assert sum(part.settings.cluster.budget.gpus_preempted_per_hour for part in parts) == 64


BOOK = build.profile_book(checked(settings_of(), "test"))


def test_ordinals_go_round_the_shards() -> None:
    found = [shard(checked(settings_of(3, ordinal), "test")).index for ordinal in range(6)]
    assert found == [0, 1, 2, 0, 1, 2]  # each has two replicas, of which one leads


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"supply": []}, "list them, with gpus"),
        ({"supply": [{"accelerator": "h100-80gb"}]}, "say how many are split"),
        ({"cluster": {"shards": {"of": 2}}}, "cluster.enabled"),
        ({"supply": [{"accelerator": "h100-80gb", "gpus": 1, "provisionable_gpus": 8}]}, "must say whose it is"),
        ({"cluster": {"enabled": True, "shards": {"of": 0}}}, "must be at least 1"),
    ],
)
def test_what_shards_cannot_share_is_refused(change: Json, why: str) -> None:
    with pytest.raises(BadSettings, match=why):
        checked({**settings_of(), **change}, "test")


def test_gangs_and_seen_gpus_are_split_and_other_pools_pods_are_no_training(api: ApiServer) -> None:
    training_cluster(api)  # 3 nodes of 4 GPUs, each full of one gang that may be taken
    api.store.put(make.node("free", 5))
    keys = [RoleKey("default", name, Role.COLOCATED) for name in ("chat", "code", "draft")]
    rules = sight_rules(*(role(key, 1, key.pool) for key in keys), min_runtime_s=0.0)
    with seeing(api, rules) as sight:
        eventually(lambda: len(sight.snapshot().supply.gangs) == 3, "never saw the gangs")
        seen = sight.snapshot()
        for of in (1, 2, 3, 5):
            mine = [own_snapshot(seen, Shard(index, of)) for index in range(of)]
            gangs = [gang.group.key for one in mine for gang in one.gangs]
            assert sorted(gangs) == sorted(gang.group.key for gang in seen.gangs)
            named = [gang.key for one in mine for gang in one.supply.gangs]
            assert sorted(named) == sorted(gang.key for gang in seen.supply.gangs)
            assert sorted(key for one in mine for key in one.pools) == sorted(keys)
            free = [one.stock(H100) for one in mine]
            assert sum(stock.free or 0 for stock in free if stock) == 5
            assert sum(stock.preemptible or 0 for stock in free if stock) == 12


def decided(at: float, **wishes: int) -> Decision:
    roles = [RoleDecision(RoleKey("serving", name, Role.COLOCATED), wish) for name, wish in wishes.items()]
    return Decision(at, tuple(roles))


def test_every_replica_serves_the_union_and_drops_a_shard_that_is_not_heard() -> None:
    said: list[Decision] = []
    now = [100.0]
    union = Union(Shard(0, 3), said.append, 120.0, lambda: now[0])
    union.own(decided(100.0, a=1))
    union.heard(1, decided(90.0, b=2))
    union.heard(2, decided(95.0, c=3))
    assert {one.key.pool: one.desired for one in said[-1].roles} == {"a": 1, "b": 2, "c": 3}
    assert said[-1].at == 90.0  # no younger than its oldest part
    union.heard(1, decided(89.0, b=9))  # held up on its way
    assert said[-1].roles[1].desired == 2
    now[0] = 211.0
    union.own(decided(211.0, a=4))
    assert {one.key.pool: one.desired for one in said[-1].roles} == {"a": 4, "c": 3}
    union.heard(1, decided(211.0, b=5))
    assert {one.key.pool: one.desired for one in said[-1].roles} == {"a": 4, "b": 5, "c": 3}


@settings(deadline=None)
@given(st.randoms(), st.integers(2, 5))
def test_the_union_never_goes_back_whatever_order_decisions_arrive_in(chance: random.Random, of: int) -> None:
    said: list[Decision] = []
    union = Union(Shard(0, of), said.append, 1e9, lambda: 1000.0)
    arrivals = [(index, float(at)) for index in range(of) for at in range(6)]
    chance.shuffle(arrivals)
    for index, at in arrivals:
        union.heard(index, decided(at, **{f"p{index}": int(at)}))
    for name in (f"p{index}" for index in range(of)):
        seen = [role.desired or 0 for one in said for role in one.roles if role.key.pool == name]
        assert seen == sorted(seen)
    assert {role.desired for role in said[-1].roles} == {5}


@pytest.mark.e2e
def test_two_shards_decide_for_their_own_and_answer_for_all(api: ApiServer, tmp_path: Path) -> None:
    api.store.put(make.node("n1", 8))
    names = [f"p{index}" for index in range(6)]
    owners = {name: 0 if Shard(0, 2).has("serving", name) else 1 for name in names}
    assert set(owners.values()) == {0, 1}
    pools = [
        {"name": name, "namespace": "serving", "match": {"app": name}, "roles": {"colocated": {"max_replicas": 4}}}
        for name in names
    ]
    with serving_engine(Load()) as load:
        targets = [{"url": load.url, "labels": {"namespace": "serving", "app": name}} for name in names]
        files = [
            configuration(
                api,
                tmp_path / str(ordinal),
                load.url,
                cluster={"token_pools": {}, "shards": {"of": 2, "ordinal": ordinal}},
                source={"scrape": {"targets": targets, "interval_s": 0.5}},
            )
            for ordinal in (0, 1)
        ]
        for file in files:
            said = yaml.safe_load(file.read_text())
            said |= {"pools": pools, "supply": [{"accelerator": "any", "gpus": 8}]}
            file.write_text(yaml.safe_dump(said))
        with running(files[0]) as first, running(files[1]) as second:
            for process in (first, second):

                def all_served(process: Any = process) -> bool:
                    try:
                        return bool(process.addresses) and all(process.wish(name)[1] for name in names)
                    except requests.RequestException:
                        return False

                eventually(all_served, f"not every pool is served:\n{process.log}", 90.0)
            for ordinal, process in enumerate((first, second)):
                text = (process.folder / "journal.jsonl").read_text().splitlines()[-1]
                decided_for = {role["key"]["pool"] for role in json.loads(text)["decision"]["roles"]}
                assert decided_for == {name for name, owner in owners.items() if owner == ordinal}
            leases = {lease["metadata"]["name"] for lease in api.store.all("coordination.k8s.io/v1", "Lease")}
            assert leases == {"tidegate-0-of-2", "tidegate-1-of-2"}
