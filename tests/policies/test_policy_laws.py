"""Laws that every policy keeps, ours and the rivals', through the registry."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rival_scenes import engines, key, scene, told

from autoscaler.errors import BadSettings
from autoscaler.journal import plain_decision
from autoscaler.model import Observation, Role, RoleObservation
from autoscaler.policies.registry import OWN, POLICIES, grid, knobs_of, make

BLIND_ALIKE = {"static-peak", "static-mean", "cronhpa"}
"""Fixed counts and timetables look at nothing."""
LOOKS = 5
SOME = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])

rates = st.one_of(st.none(), st.just(0.0), st.floats(0.001, 1e7))
counts = st.one_of(st.none(), st.just(0.0), st.floats(0.0, 1e5))


@st.composite
def reports(draw: st.DrawFn, role: Role) -> RoleObservation:
    replicas = draw(st.integers(0, 60))
    ready = draw(st.integers(0, replicas))
    heard = draw(st.integers(0, ready))
    many = {
        name: draw(rates)
        for name in ("prompt_rate", "generation_rate", "first_token_rate", "completion_rate", "step_rate", "itl_busy")
    }
    usage = draw(st.one_of(st.none(), st.floats(0.0, 1.0)))
    prompt = many["prompt_rate"]
    single = ()
    if heard and draw(st.booleans()):
        queue = draw(st.floats(0, 500))
        single = engines(*[(usage or 0.0, queue)] * heard, tokens=draw(st.floats(0, 1e6)))
    return told(
        role,
        replicas=draw(st.sampled_from([replicas, None])),
        ready=ready,
        reporting=heard,
        rate_engines=draw(st.integers(0, heard)),
        running=draw(counts),
        waiting=draw(counts),
        queued_at_gateway=draw(counts),
        kv_usage=usage,
        kv_capacity=draw(st.sampled_from([None, 432_000.0])),
        computed_rate=None if prompt is None else prompt * draw(st.floats(0.0, 1.0)),
        itl_tokens=many["generation_rate"],
        engines=single,
        **many,
    )


def runs(name: str, looks: list[tuple[RoleObservation, ...]], roles: tuple[Role, ...]) -> list[dict[str, Any]]:
    policy, where = make(name), scene(*roles, minimum=1, maximum=20)
    memory, made = policy.start(where), []
    for index, look in enumerate(looks):
        decision, memory = policy.decide(Observation(1000.0 + 15.0 * index, look), memory, where)
        assert tuple(role.key for role in decision.roles) == tuple(rule.key for rule in where.roles)
        made.append(plain_decision(decision))
    return made


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("roles", [(Role.COLOCATED,), (Role.PREFILL, Role.DECODE)], ids=["colocated", "disaggregated"])
@given(data=st.data())
@SOME
def test_bounds_hold_and_the_same_input_gives_the_same_decision(
    name: str, roles: tuple[Role, ...], data: st.DataObject
) -> None:
    looks = [tuple(data.draw(reports(role)) for role in roles) for _ in range(data.draw(st.integers(1, LOOKS)))]
    made = runs(name, looks, roles)
    for decision in made:
        for role in decision["roles"]:
            assert 1 <= role.get("desired", 1) <= 20
            assert isinstance(role.get("desired", 1), int)
    text = json.dumps(made, allow_nan=False)
    assert text == json.dumps(runs(name, looks, roles), allow_nan=False)


def busy(role: Role, replicas: int = 4) -> RoleObservation:
    return told(
        role,
        replicas=replicas,
        running=40.0,
        waiting=20.0,
        kv_usage=0.5,
        kv_capacity=432_000.0,
        prompt_rate=10_000.0,
        computed_rate=10_000.0,
        generation_rate=2000.0,
        first_token_rate=10.0,
        completion_rate=10.0,
        itl_busy=100.0,
        itl_tokens=2000.0,
    )


SILENT = {
    "nobody reports": lambda role: told(role, replicas=4, reporting=0, rate_engines=0),
    "stale": lambda role: told(role, replicas=4, reporting=0, rate_engines=0, stale=4),
    "nothing at all": lambda role: RoleObservation(key(role)),
}


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in BLIND_ALIKE])
@pytest.mark.parametrize("silence", [*SILENT, "the source fails", "the role is missing"])
def test_no_data_keeps(name: str, silence: str) -> None:
    policy, where = make(name), scene()
    _, memory = policy.decide(Observation(1000.0, (busy(Role.COLOCATED),)), policy.start(where), where)
    failing = Observation(1015.0, (RoleObservation(key()),), failure="no answer")
    seen = {"the source fails": failing, "the role is missing": Observation(1015.0, ())}.get(silence)
    if seen is None:
        seen = Observation(1015.0, (SILENT[silence](Role.COLOCATED),))
    made = policy.decide(seen, memory, where)[0].roles[0]
    if name == "aibrix-apa-shipped" and silence in {"nobody reports", "stale"}:
        assert made.desired == 2  # silent pods are zeros: half of 4
        return
    if name == OWN:
        assert made.desired is not None
        assert made.desired >= 4  # it remembers what it asked for
    else:
        assert made.desired is None
    assert made.blind


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in {*BLIND_ALIKE, OWN}])
def test_a_silent_role_outside_its_bounds_goes_to_the_nearest(name: str) -> None:
    policy, where = make(name), scene(minimum=6)
    mute = Observation(1000.0, (told(replicas=4, ready=0, reporting=0, rate_engines=0),))
    assert policy.decide(mute, policy.start(where), where)[0].roles[0].desired == 6


@pytest.mark.parametrize("name", POLICIES)
def test_memory_is_a_value(name: str) -> None:
    policy, where = make(name), scene(Role.PREFILL, Role.DECODE)
    first = Observation(1000.0, (busy(Role.PREFILL), busy(Role.DECODE)))
    _, memory = policy.decide(first, policy.start(where), where)
    later = Observation(1015.0, (busy(Role.PREFILL), busy(Role.DECODE)))
    assert policy.decide(later, memory, where)[0] == policy.decide(later, memory, where)[0]


@pytest.mark.parametrize("name", POLICIES)
def test_the_registry_makes_every_policy_with_every_setting_of_its_grid(name: str) -> None:
    assert make(name).name == name
    assert isinstance(make(name), POLICIES[name])
    assert 1 <= len(grid(name)) <= 8
    made = [make(name, one) for one in grid(name)]
    assert len({repr(policy) for policy in made}) == len(made)


@pytest.mark.parametrize("name", POLICIES)
def test_every_knob_can_be_given_as_the_text_of_its_default(name: str) -> None:
    texts = {knob: "none" if value is None else str(value) for knob, value in knobs_of(name).items()}
    assert make(name, texts) == make(name)


def test_knobs_are_typed() -> None:
    policy: Any = make("aibrix-apa", {"cooldown": "shipped", "guard_pending": "off", "prefill_concurrency": "7"})
    assert (policy.cooldown, policy.guard_pending, policy.prefill_concurrency) == ("shipped", False, 7.0)
    followed = make("keda-queue", {"follow.stabilise_down_s": "60", "follow.most_up_pods": "none"}).follow
    assert followed == replace(make("keda-queue").follow, stabilise_down_s=60.0, most_up_pods=None)


@pytest.mark.parametrize(
    ("name", "knobs", "words"),
    [
        ("keda", {}, ["no policy 'keda'", "keda-queue", "token-dynamics"]),
        ("keda-queue", {"targt": "1"}, ["no knob 'targt'", "did you mean target", "follow.stabilise_down_s"]),
        ("keda-queue", {"name": "x"}, ["no knob 'name'"]),
        ("keda-queue", {"follow": "x"}, ["no knob 'follow'"]),
        ("keda-queue", {"follow.nothing": "1"}, ["no knob 'follow.nothing'"]),
        ("keda-queue", {"target": "many"}, ["target is 'many'", "a finite number"]),
        ("keda-queue", {"target": "inf"}, ["a finite number"]),
        ("keda-queue", {"target": "0"}, ["target 0.0: must be a finite number above 0"]),
        ("keda-queue", {"gateway": "perhaps"}, ["true or false"]),
        ("keda-queue", {"follow.sync_s": "0"}, ["follow.sync_s 0.0: must be above 0"]),
        ("keda-queue", {"follow.most_up_pods": "1.5"}, ["a whole number or none"]),
        ("static-peak", {"decode": "-1"}, ["decode -1: must be a finite number, not negative"]),
        ("aibrix-apa", {"cooldown": "long"}, ["one of shipped, kubernetes"]),
        ("dynamo", {"interval_s": "-5"}, ["interval_s -5.0"]),
        ("token-dynamics", {"quantile": "1"}, ["quantile 1.0"]),
        ("wva-v2", {"up": "0.5"}, ["down 0.7 is above up 0.5"]),
        ("cronhpa", {"decode": "soon"}, ["'soon' is not of the form HH:MM=count"]),
        ("knative-kpa", {"max_up": "1"}, ["must be above 1"]),
    ],
)
def test_bad_knobs_say_what_there_is(name: str, knobs: dict[str, str], words: list[str]) -> None:
    with pytest.raises(BadSettings) as raised:
        make(name, knobs)
    for word in words:
        assert word in str(raised.value)


def test_an_unknown_name_has_no_grid() -> None:
    with pytest.raises(BadSettings, match="no policy"):
        grid("nothing")
