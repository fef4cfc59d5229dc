"""The leader's decision for its followers: bounded, fenced by the API server itself, never older than what was said."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest
from cluster_rig import CHAT, eventually

from autoscaler.cluster import shared as module
from autoscaler.cluster.room import Sharing
from autoscaler.cluster.shared import CONFIG_MAPS, NAME, TOKEN, Shared, packed, read, unpacked
from autoscaler.leadership import Election
from autoscaler.model import Decision, Role, RoleDecision, RoleKey
from autoscaler.settings_cluster import ElectionSettings

if TYPE_CHECKING:
    from autoscaler.cluster.api import Api


def decision(at: float, desired: int) -> Decision:
    return Decision(at, (RoleDecision(CHAT, desired),))


def sharing(plain: Api, told: list[int | None]) -> Shared:
    def arrived(one: Decision) -> None:
        told.append(one.roles[0].desired)

    return Shared(plain, plain, "default", arrived, clock=time.time, chance=random.random)


def there(plain: Api) -> tuple[int | None, int]:
    found = read(plain.get(CONFIG_MAPS, "default", NAME))
    assert found is not None
    return found[0].roles[0].desired, found[1]


def test_a_former_leaders_write_that_comes_late_is_refused_by_the_api_server(plain: Api) -> None:
    former, later = sharing(plain, []), sharing(plain, [])
    former.write(decision(100.0, 3), 1)
    late = former._body(decision(101.0, 4), 1)  # on its way, and held up there
    later.write(decision(102.0, 8), 2)
    assert there(plain) == (8, 2)
    assert late["metadata"]["resourceVersion"] != plain.get(CONFIG_MAPS, "default", NAME)["metadata"]["resourceVersion"]
    former.write(decision(101.0, 4), 1)  # the conflict is looked at: a later leader has decided
    assert there(plain) == (8, 2)
    later.write(decision(103.0, 9), 2)
    assert there(plain) == (9, 2)


def test_a_lease_made_anew_does_not_lock_its_leader_out(plain: Api) -> None:
    before, anew = sharing(plain, []), sharing(plain, [])
    before.write(decision(100.0, 3), 7)
    anew.write(decision(200.0, 5), 1)  # its token is lower, as the Lease was deleted; its decision is newer
    assert there(plain) == (5, 1)


def test_a_follower_believes_a_newer_leader_whose_clock_is_behind_and_no_older_decision(plain: Api) -> None:
    told: list[int | None] = []
    follower = sharing(plain, told)
    follower.start()
    try:
        former, later = sharing(plain, []), sharing(plain, [])
        former.write(decision(100.0, 3), 1)
        eventually(lambda: told == [3], "never told")
        found = plain.get(CONFIG_MAPS, "default", NAME)
        later._version = str(found["metadata"]["resourceVersion"])
        later.write(decision(95.0, 8), 2)  # five seconds behind
        eventually(lambda: told == [3, 8], "the newer leader was not believed")
        body = {"metadata": {"annotations": {TOKEN: "2"}}, "data": {"decision": packed(decision(94.0, 1))}}
        plain.patch(CONFIG_MAPS, "default", NAME, body)
        plain.patch(CONFIG_MAPS, "default", NAME, {"data": {"decision": packed(decision(96.0, 9))}})
        eventually(lambda: told[-1] == 9, "the next decision never came")
        assert told == [3, 8, 9]
    finally:
        follower.stop()


def test_a_shared_decision_is_bounded_first_by_what_is_only_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)  # noqa: S311 - numbers that do not compress, no secret
    roles = tuple(
        RoleDecision(
            RoleKey(f"n{i % 50}", f"p{i}", Role.COLOCATED), i % 40, load=chance.random(), forecast=chance.random()
        )
        for i in range(2000)
    )
    whole = packed(Decision(5.0, roles))
    assert len(whole) < 150_000  # 2,000 roles; an object may have 1 MiB
    monkeypatch.setattr(module, "MOST_BYTES", len(whole) - 1)
    thin = unpacked(packed(Decision(5.0, roles)))
    assert thin is not None
    assert [role.desired for role in thin.roles] == [role.desired for role in roles]
    assert {role.load for role in thin.roles} == {None}
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"2000 roles need .* above the 1000 of one ConfigMap"):
        packed(Decision(5.0, roles))


def test_a_replica_that_hears_no_leader_says_so_before_its_answers_grow_old(plain: Api) -> None:
    election = Election(plain, ElectionSettings(), "default", "me")
    one = Sharing(sharing(plain, []), election, 300.0)
    assert one.unheard(1000.0, 40.0) is None  # nothing to serve yet: another check says that
    one.shared.latest = decision(1000.0, 3)
    assert one.unheard(1040.0, 40.0) is None
    assert one.unheard(1041.0, 40.0) == "the leader's last decision heard here is 41 s old"
    election.step()
    assert one.unheard(1041.0, 40.0) is None  # it leads itself
