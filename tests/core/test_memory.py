"""What is remembered: loads, shapes and levels; and the form it is saved in."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scripted import T0, at, decode, key, prefill, role_rules, rules, silent, times

from autoscaler.memory import Gauges, Memory, RoleMemory, Shape, load_now, saw
from autoscaler.model import Role
from autoscaler.saved import from_saved, to_saved
from autoscaler.tick import tick
from autoscaler.velocity import Mix

if TYPE_CHECKING:
    from autoscaler.model import RoleObservation

PAIR = rules(role_rules(Role.PREFILL), role_rules(Role.DECODE))
PREFILL, DECODE = key(Role.PREFILL), key(Role.DECODE)


def watched(*told: RoleObservation, memory: Memory | None = None, start: float = 0.0) -> Memory:
    memory = memory or Memory()
    for index, role in enumerate(told):
        memory = saw(memory, at(start + 15.0 * index, role), PAIR)
    return memory


def test_load_is_what_was_served_and_what_the_queue_grew_by() -> None:
    """The queue grows by 30 prompts of 1,000 tokens in 15 s: 5,000 + 2 x 1,000 tokens/s arrive."""
    memory = watched(prefill(5000.0, waiting=0.0), prefill(5000.0, waiting=30.0))
    assert load_now(memory.of(PREFILL).prompt_load) == pytest.approx(7000.0)


def test_a_draining_queue_is_no_new_load() -> None:
    memory = watched(prefill(5000.0, waiting=30.0), prefill(5000.0, waiting=0.0))
    assert load_now(memory.of(PREFILL).prompt_load) == pytest.approx(3000.0)


def test_a_queue_at_the_gateway_counts_as_one_in_the_engines() -> None:
    memory = watched(prefill(5000.0), prefill(5000.0, queued_at_gateway=30.0))
    assert load_now(memory.of(PREFILL).prompt_load) == pytest.approx(7000.0)
    assert memory.of(PREFILL).gauges[-1].waiting == 30.0


def test_load_is_never_negative() -> None:
    memory = watched(prefill(100.0, waiting=3000.0), prefill(100.0, waiting=0.0))
    assert load_now(memory.of(PREFILL).prompt_load) == 0.0


def test_requests_in_service_count_for_decode() -> None:
    """45 more in service in 15 s, of 200 output tokens: 1,000 + 3 x 200 tokens/s."""
    memory = watched(decode(1000.0, running=10.0), decode(1000.0, running=40.0, waiting=15.0))
    assert load_now(memory.of(DECODE).output_load) == pytest.approx(1600.0)


def test_silence_leaves_a_gap_and_no_zero() -> None:
    before = watched(decode(1000.0))
    after = saw(before, at(15.0, silent(Role.DECODE, stale=2)), PAIR)
    assert after.of(DECODE) == before.of(DECODE)
    assert load_now(after.of(DECODE).output_load) == 1000.0


def test_the_shape_is_learned_field_by_field_and_never_creeps_up_from_zero() -> None:
    """Prompts are known with the first tokens, outputs only when the first requests end."""
    early = decode(1000.0, completion_rate=0.0)
    memory = watched(early)
    early_shape = memory.of(DECODE).shape
    assert (early_shape.prompt, early_shape.output) == (None, None)
    assert early_shape.resident == pytest.approx(500.0)
    memory = watched(decode(1000.0), memory=memory, start=15.0)
    assert memory.of(DECODE).shape.output == pytest.approx(200.0)


def test_what_is_not_known_of_the_shape_is_filled_in() -> None:
    assert Shape(None, 200.0, None).filled(Mix(1000.0, 1.0, 700.0)) == Mix(1000.0, 200.0, 700.0)


def test_the_shape_follows_slowly_once_known() -> None:
    """Judged 15 s ago, time constant 600 s: 1 - e^(-1/40) = 2.47 % of the way from 1,000 to 2,000."""
    _, memory = tick(at(0.0, prefill(5000.0), decode(1000.0)), Memory(), PAIR)
    longer = prefill(10_000.0, first_token_rate=5.0)
    _, memory = tick(at(15.0, longer, decode(1000.0)), memory, PAIR)
    assert memory.of(PREFILL).shape.prompt == pytest.approx(1024.7, abs=0.1)


def test_resident_tokens_are_per_running_request() -> None:
    """5 % of 100,000 tokens on each of 2 engines, 20 requests running: 500 a request."""
    memory = watched(decode(1000.0, running=20.0, kv_usage=0.05))
    assert memory.of(DECODE).resident == pytest.approx(500.0)
    assert memory.of(DECODE).levels.kv_tokens == pytest.approx(10_000.0)


def test_levels_are_those_of_the_window() -> None:
    known = RoleMemory(
        gauges=(Gauges(0.0, 4.0, 0.0, 100.0), Gauges(15.0, 2.0, 1.0, None), Gauges(30.0, 9.0, 5.0, 300.0))
    )
    assert (known.levels.kv_tokens, known.levels.in_flight, known.levels.waiting) == (200.0, 3.0, 0.0)
    assert RoleMemory().levels.kv_tokens is None


def test_gauges_older_than_the_window_are_forgotten() -> None:
    memory = watched(*[decode(1000.0)] * 9)
    assert [gauge.at - T0 for gauge in memory.of(DECODE).gauges] == [60.0, 75.0, 90.0, 105.0, 120.0]


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -1.0, 1e16, 1e300])
@pytest.mark.parametrize("name", ["generation_rate", "running", "kv_usage", "kv_capacity", "itl_busy", "step_rate"])
def test_what_no_engine_can_mean_counts_as_not_reported(name: str, garbage: float) -> None:
    wrong: dict[str, Any] = {name: garbage}
    absent: dict[str, Any] = {name: None}
    told, silent_on_it = replace(decode(1000.0), **wrong), replace(decode(1000.0), **absent)
    assert watched(told) == watched(silent_on_it)


def test_a_rate_of_nearly_nothing_is_nothing() -> None:
    assert watched(replace(decode(1000.0), itl_busy=1e-300)) == watched(replace(decode(1000.0), itl_busy=0.0))


@pytest.fixture
def lived() -> Memory:
    """Twenty minutes of a pool with a ramp, and a gap in its history."""
    memory = Memory()
    for when in times(1200):
        roles = (prefill(2000.0 + 3.7 * when), decode(500.0 + 0.9 * when))
        if not 400 <= when < 700:
            _, memory = tick(at(when, *roles), memory, PAIR)
    return memory


def test_saved_and_restored_it_decides_the_same(lived: Memory) -> None:
    restored = from_saved(json.loads(json.dumps(to_saved(lived), allow_nan=False)))
    assert to_saved(restored) == to_saved(lived)
    seen = at(1200.0, prefill(9000.0), decode(700.0))
    again, known = tick(seen, restored, PAIR), tick(seen, lived, PAIR)
    assert again[0] == known[0]


def test_an_empty_memory_survives_saving() -> None:
    assert from_saved(json.loads(json.dumps(to_saved(Memory())))) == Memory()


NAN_VALUES = b64encode(np.array([1.0, float("nan")]).tobytes()).decode()
SERIES = {"bin_s": 60.0, "keep": 10, "runs": [[0, 2]], "values": b64encode(bytes(16)).decode(), "newest": [61.0, 0.0]}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("desired", "5"),
        ("desired", 2.5),
        ("desired", -1),
        ("desired", True),
        ("decided_at", "yesterday"),
        ("raised_at", float("inf")),
        ("judged_since", [0]),
        ("engines_per_replica", None),
        ("kv_capacity", "many"),
        ("plans", [[0.0, "4"]]),
        ("plans", [[0.0]]),
        ("plans", 3),
        ("gauges", [{"at": 0.0}]),
        ("gauges", [{"at": 0.0, "running": "x", "waiting": 0.0, "kv_tokens": None}]),
        ("shape", {"prompt": float("nan"), "output": None, "resident": None}),
        ("shape", {"length": 4.0}),
        ("shape", None),
        ("learned", {}),
        ("prompt_load", {}),
        ("prompt_load", SERIES | {"values": "not base64!"}),
        ("prompt_load", SERIES | {"values": NAN_VALUES}),
        ("prompt_load", SERIES | {"runs": [[0, 3]]}),
        ("prompt_load", SERIES | {"bin_s": 0.0}),
        ("prompt_load", SERIES | {"newest": [0.0]}),
        ("surprise", 1.0),
    ],
)
def test_a_damaged_memory_is_refused_whole(lived: Memory, field: str, value: Any) -> None:
    """A wish of "5" read back as it stands would stop every tick from then on, after every restart."""
    plain = json.loads(json.dumps(to_saved(lived)))
    plain["roles"][str(DECODE)][field] = value
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        from_saved(plain)


@pytest.mark.parametrize("name", ["precision", "moment", "scale"])
def test_learned_numbers_are_counted(lived: Memory, name: str) -> None:
    plain = json.loads(json.dumps(to_saved(lived)))
    plain["roles"][str(DECODE)]["learned"][name].pop()
    with pytest.raises(ValueError, match=r"numbers where .* belong"):
        from_saved(plain)


@pytest.mark.parametrize("plain", [None, [], {}, 3, {"version": 2}, {"version": 1, "at": None, "roles": {"x": {}}}])
def test_something_else_is_no_memory(plain: Any) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        from_saved(plain)
