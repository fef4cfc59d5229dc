"""TokenPools beside the configuration: which are taken, what their statuses say, and a process that follows them."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from cluster_rig import connected, eventually
from engine_double import Load, serving_engine
from hypothesis import given, settings
from hypothesis import strategies as st
from running_process import configuration, running

from autoscaler.cluster.custom_resources import TOKEN_POOLS, Declarations, Statuses, TokenPools
from autoscaler.configuration import checked
from autoscaler.crd_pools import Declared, Refusal, admitted, declared_of
from autoscaler.crd_status import patch_of, status_of, urgent
from autoscaler.model import Decision, Role, RoleDecision, RoleKey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kube_server import ApiServer

    from autoscaler.cluster.api import Api
    from autoscaler.settings import Settings

Json = dict[str, Any]
NOW = 1_800_000_000.0


def base(*pools: Json, **more: Any) -> Settings:
    return checked(
        {"pools": list(pools), "cluster": {"enabled": True, "token_pools": {"enabled": True}}, **more}, "test"
    )


def custom(name: str, namespace: str = "serving", **spec: Any) -> Json:
    spec.setdefault("roles", {"colocated": {"maxReplicas": 8}})
    spec.setdefault("match", {"app": name})
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "tidegate.dev/v1alpha1", "kind": "TokenPool", "metadata": meta, "spec": spec}


def declared(name: str, created: int = 0, status: Json | None = None, **spec: Any) -> Declared:
    found = custom(name, **spec)
    found["metadata"] |= {"uid": name, "generation": 1, "creationTimestamp": f"2026-01-01T00:00:{created:02}Z"}
    return declared_of({**found, "status": status or {}})


def key(name: str, role: Role = Role.COLOCATED) -> RoleKey:
    return RoleKey("serving", name, role)


def test_an_object_is_a_pool_like_one_of_the_file() -> None:
    configured = {
        "name": "chat",
        "namespace": "serving",
        "match": {"app": "chat"},
        "slo": {"ttft_s": 1.5},
        "roles": {"prefill": {"max_replicas": 4}, "decode": {"min_replicas": 2, "max_replicas": 6}},
    }
    wire = {
        "slo": {"ttftSeconds": 1.5},
        "roles": {"prefill": {"maxReplicas": 4}, "decode": {"minReplicas": 2, "maxReplicas": 6}},
    }
    found = admitted(base(), [declared("chat", **wire)])
    assert found.parts.rules.roles == admitted(base(configured), []).parts.rules.roles
    assert (found.accepted, dict(found.refused)) == ((("serving", "chat"),), {})


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {"roles": {"colocated": {"minReplicas": 9, "maxReplicas": 8}}},
            "spec.roles.colocated.minReplicas: 9 is above maxReplicas 8",
        ),
        ({"profile": "llama-9/h100"}, "is not of the form model/accelerator/tpN"),
        ({"slo": {"ttftSeconds": -1}}, "spec.slo.ttftSeconds: -1 is not right: must be above 0"),
        ({"surprise": 1}, "spec.surprise: unknown key"),
        ({"roles": "all"}, "spec.roles: 'all' is not right: must be a mapping"),
        ({"match": {"namespace": "other"}}, "spec.match: 'namespace' is the namespace's label"),
        ({"roles": {}}, "spec.roles: an empty mapping is not right: at least one is needed"),
    ],
)
def test_what_cannot_be_used_says_why_in_the_objects_own_words(spec: Json, said: str) -> None:
    found = admitted(base(), [declared("bad", **spec), declared("good")])
    assert found.accepted == (("serving", "good"),)
    refusal = found.refused["serving", "bad"]
    assert refusal.reason == "Invalid"
    assert said in refusal.message


def test_of_two_that_clash_the_older_stays_and_the_file_goes_first() -> None:
    file = {"name": "a", "namespace": "serving", "match": {"app": "x"}, "roles": {"colocated": {"max_replicas": 2}}}
    young, old = declared("young", 9, match={"app": "y"}), declared("old", 1, match={"app": "y"})
    found = admitted(base(file), [young, old, declared("a", 2), declared("third", 3, match={"app": "x"})])
    assert found.accepted == (("serving", "old"),)
    assert {name: why.reason for (_, name), why in found.refused.items()} == dict.fromkeys(
        ("young", "a", "third"), "Conflict"
    )
    assert "selects the same series as serving/old" in found.refused["serving", "young"].message
    assert found.refused["serving", "young"].message.startswith("spec.roles.colocated: ")
    assert "name of serving/a already" in found.refused["serving", "a"].message


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12), st.randoms())
def test_what_is_accepted_depends_on_age_alone(pools: list[tuple[int, bool]], chance: random.Random) -> None:
    """Pools that share a label clash; bad ones fall out. The greedy rule by age, one by one, is the judge."""
    made = [
        declared(f"p{index}", index, match={"app": str(label)}, priority=1 if good else -1)
        for index, (label, good) in enumerate(pools)
    ]
    taken: set[int] = set()
    wanted = []
    for index, (label, good) in enumerate(pools):
        if good and label not in taken:
            taken.add(label)
            wanted.append(("serving", f"p{index}"))
    chance.shuffle(made)
    found = admitted(base(), made)
    assert list(found.accepted) == wanted
    assert set(found.refused) == {one.key for one in made} - set(wanted)


def roles(desired: int | None = 3, **more: Any) -> list[RoleDecision]:
    return [RoleDecision(key("chat"), desired, ready=2, starting=1, **more)]


def conditions(status: Json) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}


def test_a_status_says_what_was_made_of_it() -> None:
    one = declared("chat")
    made = status_of(one, None, roles(), NOW)
    assert (made["desiredReplicas"], made["readyReplicas"], made["startingReplicas"]) == (3, 2, 1)
    assert made["roles"] == [{"role": "colocated", "desired": 3, "ready": 2, "starting": 1}]
    assert made["observedGeneration"] == 1
    assert conditions(made) == {
        "Accepted": ("True", "Accepted"),
        "Ready": ("True", "Decided"),
        "ScalingLimited": ("False", "Sufficient"),
    }
    assert {c["lastTransitionTime"] for c in made["conditions"]} == {"2027-01-15T08:00:00Z"}  # 1,800,000,000 s
    assert conditions(status_of(one, None, roles(blind="no samples"), NOW))["Ready"] == ("False", "Blind")
    assert conditions(status_of(one, None, roles(shortage=2.0), NOW))["ScalingLimited"] == ("True", "Shortage")
    assert conditions(status_of(one, None, None, NOW))["Ready"] == ("Unknown", "Waiting")
    assert conditions(status_of(one, None, None, NOW, disabled=True))["Ready"] == ("False", "Disabled")
    refused = status_of(one, Refusal("Conflict", "why"), roles(), NOW)
    assert conditions(refused) == {"Accepted": ("False", "Conflict"), "Ready": ("False", "NotAccepted")}
    assert "desiredReplicas" not in refused


def test_a_condition_dates_from_its_turn_and_a_field_that_went_is_taken_away() -> None:
    first = status_of(declared("chat"), None, roles(), NOW)
    later = declared("chat", status=first)
    again = status_of(later, None, roles(), NOW + 60)
    assert patch_of(again, first) is None
    short = status_of(later, None, roles(shortage=1.0), NOW + 60)
    turned = {c["type"]: c["lastTransitionTime"] for c in short["conditions"]}
    assert turned["ScalingLimited"] == "2027-01-15T08:01:00Z"
    assert turned["Accepted"] == "2027-01-15T08:00:00Z"
    refused = status_of(later, Refusal("Invalid", "why"), None, NOW + 60)
    patch = patch_of(refused, first)
    assert patch is not None
    assert (patch["desiredReplicas"], patch["roles"]) == (None, None)
    assert urgent(refused, first)
    assert not urgent(status_of(later, None, roles(4), NOW + 60), first)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def plain(api: ApiServer) -> Iterator[Api]:
    made = connected(api)
    yield made
    made.close()


@pytest.fixture
def pools(plain: Api) -> Iterator[TokenPools]:
    made = TokenPools(plain, (), clock=time.time, chance=random.random)
    made.start()
    yield made
    made.stop()


def stored(api: ApiServer, name: str) -> Json:
    return dict(api.store.one("tidegate.dev/v1alpha1", "TokenPool", "serving", name))


def test_statuses_are_written_when_due_and_by_the_leader_alone(api: ApiServer, plain: Api, pools: TokenPools) -> None:
    for name in ("chat", "clash"):
        api.store.put(custom(name, match={"app": "same"}))
    eventually(lambda: len(pools.declared()) == 2, "never seen")
    clock, leading = Clock(), [False]
    statuses = Statuses(plain, pools, lambda: leading[0], clock, 10.0)
    found = Declarations(base(), pools, statuses, lambda: None)
    parts = found.taken_over(admitted(base(), []).parts)
    assert [str(rule.key) for rule in parts.rules.roles] == ["serving/chat/colocated"]

    def patches() -> int:
        return sum(one.verb == "patch" and one.subresource == "status" for one in api.log)

    statuses.step()
    assert patches() == 0  # another leads
    leading[0] = True
    statuses.step()
    assert patches() == 2
    assert conditions(stored(api, "clash")["status"])["Accepted"] == ("False", "Conflict")
    assert "selects the same series" in stored(api, "clash")["status"]["conditions"][0]["message"]
    eventually(lambda: all(one.status for one in pools.declared().values()), "the statuses never came back")
    statuses.decided(Decision(NOW, tuple(roles(3))))
    statuses.step()
    assert patches() == 3  # Ready has turned: at once
    eventually(lambda: pools.declared()["serving", "chat"].status.get("desiredReplicas") == 3, "never came back")
    for wish in range(4, 9):  # a count alone: after 10 s, and the newest one
        statuses.decided(Decision(NOW, tuple(roles(wish))))
        clock.now += 1.5
        statuses.step()
    assert patches() == 3
    clock.now += 3.0
    statuses.step()
    assert (patches(), stored(api, "chat")["status"]["desiredReplicas"]) == (4, 8)


def test_a_status_lost_is_written_again_and_garbage_in_one_costs_no_other(
    api: ApiServer, plain: Api, pools: TokenPools
) -> None:
    api.store.put(custom("chat"))
    api.store.put(custom("odd", roles={"colocated": {"maxReplicas": 2}}, priority=1))
    eventually(lambda: len(pools.declared()) == 2, "never seen")
    clock = Clock()
    statuses = Statuses(plain, pools, lambda: True, clock, 10.0)
    Declarations(base(), pools, statuses, lambda: None).taken_over(admitted(base(), []).parts)
    statuses.step()
    eventually(lambda: all(one.status for one in pools.declared().values()), "never came back")
    plain.patch(TOKEN_POOLS, "serving", "chat", {"status": None}, subresource="status")
    eventually(lambda: not pools.declared()["serving", "chat"].status, "the loss was never seen")
    clock.now += 11.0
    statuses.step()
    assert conditions(stored(api, "chat")["status"])["Accepted"] == ("True", "Accepted")


def test_a_right_that_is_missing_stops_the_writing_for_a_minute(api: ApiServer, plain: Api, pools: TokenPools) -> None:
    api.store.put(custom("chat"))
    eventually(lambda: len(pools.declared()) == 1, "never seen")
    clock = Clock()
    statuses = Statuses(plain, pools, lambda: True, clock, 10.0)
    Declarations(base(), pools, statuses, lambda: None).taken_over(admitted(base(), []).parts)
    api.allows = lambda asked: asked.subresource != "status"
    for _ in range(5):
        clock.now += 10.0
        statuses.step()
    tried = [one for one in api.log if one.subresource == "status"]
    assert len(tried) == 1
    api.allows = None
    clock.now += 60.0
    statuses.step()
    assert stored(api, "chat")["status"]["observedGeneration"] == 1


def test_what_can_no_longer_be_read_has_not_gone(api: ApiServer, plain: Api) -> None:
    clock = Clock()
    pools = TokenPools(plain, ("serving",), clock=clock, chance=random.random, settle_s=2.0)
    api.store.put(custom("chat"))
    api.store.put(custom("elsewhere", namespace="default"))
    pools.start()
    try:
        eventually(lambda: pools.synced, "never synced")
        assert set(pools.declared()) == {("serving", "chat")}
        assert not pools.differs(frozenset())  # not for long enough
        clock.now += 2.0
        assert pools.differs(frozenset())
        (reflector,) = pools._reflectors
        reflector.cache.refuse("forbidden")
        assert not pools.differs(frozenset())
    finally:
        pools.stop()


@pytest.mark.e2e
def test_a_process_follows_what_is_declared_while_it_runs(api: ApiServer, tmp_path: Path) -> None:
    with serving_engine(Load()) as load:
        file = configuration(api, tmp_path, load.url)
        with running(file) as process:
            eventually(lambda: process.addresses, "never listened", 60.0)
            api.store.put(custom("chat", match={}))
            bad = api.store.put(custom("bad", match={}, profile="nonsense"))

            def said(name: str, kind: str) -> tuple[str, str] | None:
                return conditions(stored(api, name).get("status") or {"conditions": []}).get(kind)

            eventually(lambda: said("chat", "Ready") == ("True", "Decided"), f"never decided:\n{process.log}", 60.0)
            assert said("bad", "Accepted") == ("False", "Invalid")
            code, item = process.wish("chat")
            assert code == 200
            assert item is not None
            assert int(item["value"]) == stored(api, "chat")["status"]["desiredReplicas"] >= 1
            # A minimum raised in the object is followed by what is served, without a restart.
            changed = stored(api, "chat")
            roles = {"colocated": {"minReplicas": 5, "maxReplicas": 8}}
            api.store.put({**changed, "spec": {**changed["spec"], "roles": roles}})
            eventually(lambda: (process.wish("chat")[1] or {}).get("value") == "5", "the edit was not followed", 60.0)
            eventually(lambda: stored(api, "chat")["status"].get("observedGeneration") == 2, "generation not observed")
            # The bad one, mended, is accepted beside it where its series are its own.
            mended = {**bad["spec"], "profile": "unknown", "match": {"app": "other"}}
            api.store.put({**stored(api, "bad"), "spec": mended})
            eventually(lambda: said("bad", "Accepted") == ("True", "Accepted"), "the mended one was not accepted", 60.0)
            leases = stored_lease(api)
            assert leases["leaseTransitions"] == 1  # leadership outlives a change of the pools
            plain = connected(api)
            plain.delete(TOKEN_POOLS, "serving", "chat")
            plain.close()
            eventually(lambda: process.wish("chat")[1] is None, "a deleted pool is still served", 60.0)
            assert process.status("/readyz").status_code == 200


def stored_lease(api: ApiServer) -> Json:
    return dict(api.store.one("coordination.k8s.io/v1", "Lease", "default", "tidegate")["spec"])
