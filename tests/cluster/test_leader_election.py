"""Who leads, and that never two do: with two clocks played by hand, and over the real API with threads."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from cluster_rig import CHAT, connected, eventually
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.cluster.api import Api, ApiError, NotLeader, Resource
from autoscaler.cluster.room import Sharing
from autoscaler.cluster.shared import Shared, floored, packed, unpacked
from autoscaler.leadership import LEASES, Election
from autoscaler.model import Decision, RoleDecision
from autoscaler.settings_cluster import ElectionSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_server import ApiServer

    from autoscaler.cluster.api import Json

TIMES = ElectionSettings(duration_s=15.0, renew_deadline_s=10.0, retry_s=2.0)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def plain(api: ApiServer) -> Iterator[Api]:
    made = connected(api)
    yield made
    made.close()


def runner(plain: Api, name: str, clock: Clock, times: ElectionSettings = TIMES) -> Election:
    return Election(plain, times, "default", name, clock=lambda: 1.75e9 + clock.now, monotonic=clock)


def lease(api: ApiServer) -> Json:
    return dict(api.store.one("coordination.k8s.io/v1", "Lease", "default", "tidegate")["spec"])


def test_the_first_takes_the_lease_and_keeps_it_by_renewing(api: ApiServer, plain: Api) -> None:
    clock = Clock()
    first, second = runner(plain, "a", clock), runner(plain, "b", clock)
    first.step()
    second.step()
    assert (first.token(), second.token()) == (1, None)
    for _ in range(20):
        clock.now += 2.0
        first.step()
        second.step()
    assert (first.token(), second.token(), second.holder) == (1, None, "a")
    spec = lease(api)
    assert (spec["holderIdentity"], spec["leaseTransitions"], spec["leaseDurationSeconds"]) == ("a", 1, 15)
    assert spec["renewTime"].endswith("Z")
    assert len(spec["renewTime"].partition(".")[2]) == 7  # six digits and the Z


def test_a_holder_that_falls_silent_stops_before_the_next_begins(plain: Api) -> None:
    clock = Clock()
    first, second = runner(plain, "a", clock), runner(plain, "b", clock)
    first.step()
    second.step()  # sees the renewal at 1000
    clock.now = 1009.9
    assert first.token() == 1
    clock.now = 1010.0
    assert first.token() is None
    with pytest.raises(NotLeader, match="leads, not a"):
        first.fence()
    clock.now = 1014.9
    second.step()
    assert second.token() is None
    clock.now = 1015.0
    second.step()
    assert second.token() == 2
    first.step()  # back again: it sees who leads now
    assert (first.token(), first.holder) == (None, "b")


def test_a_lease_let_go_is_taken_at_once(plain: Api) -> None:
    clock = Clock()
    first, second = runner(plain, "a", clock), runner(plain, "b", clock)
    first.step()
    second.step()
    first.stop()
    second.step()
    assert (first.token(), second.token()) == (None, 2)


def test_two_that_try_at_once_do_not_both_lead(api: ApiServer, plain: Api) -> None:
    clock = Clock()
    first, second = runner(plain, "a", clock), runner(plain, "b", clock)
    real, raced = plain.replace, []

    def replace(resource: Resource, namespace: str, name: str, body: Json) -> Json:
        if not raced:  # between the second's look and its write, the first writes
            raced.append(True)
            first.step()
        return real(resource, namespace, name, body)

    api.store.put(
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "tidegate", "namespace": "default"},
            "spec": {"holderIdentity": "", "leaseTransitions": 7},
        }
    )
    plain.replace = replace  # type: ignore[method-assign]
    second.step()
    assert (first.token(), second.token()) == (8, None)


def test_the_wrong_clock_on_another_machine_does_not_matter(api: ApiServer, plain: Api) -> None:
    clock = Clock()
    first = runner(plain, "a", clock)
    first.step()
    found = plain.get(LEASES, "default", "tidegate")
    found["spec"] |= {"holderIdentity": "b", "renewTime": "1999-01-01T00:00:00.000000Z"}  # its clock is 27 years behind
    plain.replace(LEASES, "default", "tidegate", found)
    first.step()
    assert first.token() is None
    assert lease(api)["holderIdentity"] == "b"


@settings(max_examples=25, deadline=None)
@given(plan=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 8.0), st.booleans()), min_size=5, max_size=40))
def test_never_two_lead_whoever_is_cut_off(plan: list[tuple[str, float, bool]]) -> None:
    from kube_server import ApiServer  # noqa: PLC0415 - one server an example, so that each begins without a Lease

    with ApiServer() as server:
        plain = connected(server)
        clock = Clock()
        runners = {name: runner(plain, name, clock) for name in "abc"}
        tokens: list[int] = []
        for name, passed, reachable in plan:
            clock.now += passed
            if reachable:
                runners[name].step()
            leading = [one.token() for one in runners.values() if one.token() is not None]
            assert len(leading) <= 1
            tokens += [token for token in leading if token is not None]
        assert tokens == sorted(tokens)  # the fencing token never falls
        plain.close()


def test_the_fence_stops_a_write_of_a_former_leader(api: ApiServer, plain: Api) -> None:
    clock = Clock()
    first = runner(plain, "a", clock)
    fenced = connected(api, fence=first.fence)
    body = {"metadata": {"name": "x"}, "data": {}}
    config_maps = Resource("", "v1", "configmaps", "ConfigMap")
    with pytest.raises(NotLeader):
        fenced.create(config_maps, "default", body)
    first.step()
    assert fenced.create(config_maps, "default", body)["metadata"]["name"] == "x"
    clock.now += 10.0
    with pytest.raises(NotLeader):
        fenced.delete(config_maps, "default", "x")
    fenced.close()


def test_a_missing_right_leaves_nobody_leading(api: ApiServer, plain: Api) -> None:
    api.faults.forbid("leases")
    first = runner(plain, "a", Clock())
    first.step()
    assert first.token() is None


def decision(at: float, desired: int) -> Decision:
    return Decision(at, (RoleDecision(CHAT, desired, reasons=("because",)),))


def test_a_decision_travels_whole_and_garbage_is_none() -> None:
    (role,) = (unpacked(packed(decision(5.0, 7))) or decision(0.0, 0)).roles
    assert (role.key, role.desired) == (CHAT, 7)
    assert [unpacked(text) for text in ("", "x", "eyJ9", "H4sIAAAAAAAA")] == [None] * 4


def test_a_new_leader_takes_nothing_back_before_it_has_watched() -> None:
    before = decision(100.0, 8)
    assert [floored(decision(at, 3), before, 400.0).roles[0].desired for at in (101.0, 399.0, 400.0)] == [8, 8, 3]
    assert floored(decision(101.0, 9), before, 400.0).roles[0].desired == 9
    (held,) = floored(decision(101.0, 3), before, 400.0).roles
    assert held.guards == (("failover", "held at the former leader's 8 for another 299 s"),)


def test_followers_serve_what_the_leader_decided_and_take_over_without_a_dip(api: ApiServer) -> None:
    quick = ElectionSettings(duration_s=1.0, renew_deadline_s=0.6, retry_s=0.2)
    served: dict[str, list[int | None]] = {"a": [], "b": []}
    sharing: dict[str, Sharing] = {}
    with ExitStack() as stack:
        for name, told_to in served.items():
            plain = connected(api)
            stack.callback(plain.close)
            election = Election(plain, quick, "default", name)
            fenced = connected(api, fence=election.fence)
            stack.callback(fenced.close)

            def arrived(told: Decision, said: list[int | None] = told_to) -> None:
                said.append(told.roles[0].desired)

            shared = Shared(fenced, plain, "default", arrived, clock=time.time, chance=random.random)
            shared.start()
            stack.callback(shared.stop)
            sharing[name] = Sharing(shared, election, 300.0)
        leader, follower = sharing["a"], sharing["b"]
        leader.election.start()
        eventually(lambda: leader.election.token() is not None, "nobody was elected")
        follower.election.start()
        ours = leader.own(decision(time.time(), 8))
        assert ours is not None
        leader.shared.write(ours, leader.election.token() or 0)
        eventually(lambda: served["b"] == [8], "the follower was not told")
        assert follower.own(decision(time.time(), 3)) is None  # what it reckons itself is not served
        leader.election.stop()
        eventually(lambda: follower.election.token() is not None, "nobody took over")
        taken = follower.own(decision(time.time(), 3))
        assert taken is not None
        assert taken.roles[0].desired == 8
        with pytest.raises(ApiError):
            leader.election.fence()
        follower.election.stop()
