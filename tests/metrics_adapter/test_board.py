"""The board: ages against their limits, refusals in words, and snapshots that never mix."""

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapter.board import (
    ROLE_LABEL,
    WORKLOAD_LABEL,
    Answer,
    Board,
    Freshness,
    Limits,
    Metric,
    Published,
    Reading,
    Refusal,
    RefusalKind,
    Wish,
)
from metrics_adapter.selectors import parse

T0 = 1_767_225_600.0  # 2026-01-01T00:00:00Z
LIMITS = Limits(soft=30, hard=60)


class Clock:
    def __init__(self, now: float = T0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def wish(
    workload: str = "llama-70b",
    role: str = "decode",
    desired: float = 6,
    *,
    namespace: str = "serving",
    blind: str | None = None,
    disabled: str | None = None,
) -> Wish:
    return Wish(
        namespace=namespace,
        labels={WORKLOAD_LABEL: workload, ROLE_LABEL: role},
        values={Metric.DESIRED: desired},
        sampled_at=T0 - 2,
        blind=blind,
        disabled=disabled,
    )


def board(*wishes: Wish, clock: Clock | None = None) -> Board:
    made = Board(LIMITS, clock or Clock())
    made.publish(Published(T0, wishes))
    return made


def refused(answer: Answer | Refusal) -> Refusal:
    assert isinstance(answer, Refusal), answer
    return answer


def answered(answer: Answer | Refusal) -> Answer:
    assert isinstance(answer, Answer), answer
    return answer


def test_before_the_first_tick_there_is_no_decision() -> None:
    empty = Board(LIMITS, Clock())
    assert empty.latest() is None
    assert refused(empty.answer("serving", Metric.DESIRED)).kind is RefusalKind.UNDECIDED


@pytest.mark.parametrize(
    ("age", "freshness"),
    [
        (0, Freshness.FRESH),
        (30, Freshness.FRESH),
        (30.001, Freshness.AGEING),
        (60, Freshness.AGEING),
        (-5, Freshness.FRESH),
    ],
)
def test_up_to_the_hard_limit_a_decision_is_served(age: float, freshness: Freshness) -> None:
    answer = answered(board(wish(), clock=Clock(T0 + age)).answer("serving", Metric.DESIRED))
    assert answer.freshness is freshness
    assert answer.readings == (Reading({WORKLOAD_LABEL: "llama-70b", ROLE_LABEL: "decode"}, 6),)


def test_past_the_hard_limit_the_refusal_tells_age_limit_and_since_when() -> None:
    refusal = refused(board(wish(), clock=Clock(T0 + 93)).answer("serving", Metric.DESIRED))
    assert refusal.kind is RefusalKind.STALE
    assert refusal.message == (
        "the last decision for llama-70b decode is 93 s old, limit 60 s: "
        "the loop has not finished a tick since 2026-01-01T00:00:00Z"
    )


def test_an_age_just_past_the_limit_does_not_read_like_the_limit() -> None:
    refusal = refused(board(wish(), clock=Clock(T0 + 60.04)).answer("serving", Metric.DESIRED))
    assert "60.1 s old, limit 60 s" in refusal.message


def test_a_clock_set_back_does_not_keep_a_dead_loop_fresh() -> None:
    refusal = refused(board(wish(), clock=Clock(T0 - 3600)).answer("serving", Metric.DESIRED))
    assert refusal.kind is RefusalKind.STALE
    assert "3600 s in the future" in refusal.message


def test_the_next_publication_is_served_again() -> None:
    clock = Clock(T0 + 61)
    made = board(wish(), clock=clock)
    refused(made.answer("serving", Metric.DESIRED))
    made.publish(Published(T0 + 61, (wish(desired=7),)))
    assert answered(made.answer("serving", Metric.DESIRED)).readings[0].value == 7


def test_one_blind_wish_refuses_the_whole_sum() -> None:
    made = board(wish(role="prefill"), wish(role="decode", blind="no series of model_name=chat for 45 s"))
    whole = parse(f"{WORKLOAD_LABEL}=llama-70b")
    refusal = refused(made.answer("serving", Metric.DESIRED, whole))
    assert refusal.kind is RefusalKind.BLIND
    assert refusal.message == "llama-70b decode is blind: no series of model_name=chat for 45 s; its size is held"
    seen = answered(made.answer("serving", Metric.DESIRED, parse(f"{ROLE_LABEL}=prefill")))
    assert [reading.value for reading in seen.readings] == [6]


def test_a_blind_wish_without_any_value_is_refused_and_not_unknown() -> None:
    never_seen = Wish("serving", {WORKLOAD_LABEL: "chat"}, {}, blind="never seen")
    assert refused(board(never_seen).answer("serving", Metric.DESIRED)).kind is RefusalKind.BLIND


def test_a_value_that_nobody_reported_is_neither_zero_nor_left_out_of_a_sum() -> None:
    counted = Wish("serving", {WORKLOAD_LABEL: "a"}, {Metric.CURRENT: 3})
    uncounted = Wish("serving", {WORKLOAD_LABEL: "b"}, {Metric.DESIRED: 3})
    refusal = refused(board(counted, uncounted).answer("serving", Metric.CURRENT))
    assert refusal.kind is RefusalKind.ABSENT
    assert "tidegate_current_replicas of b" in refusal.message


def test_a_disabled_workload_is_named_as_such_however_old_the_board() -> None:
    made = board(wish(disabled="paused by annotation", blind="unseen"), clock=Clock(T0 + 900))
    refusal = refused(made.answer("serving", Metric.DESIRED))
    assert refusal.kind is RefusalKind.DISABLED
    assert "disabled: paused by annotation" in refusal.message


@pytest.mark.parametrize(
    ("namespace", "metric", "selector"),
    [
        ("other", Metric.DESIRED, ""),
        ("serving", "no_such_metric", ""),
        ("serving", Metric.DESIRED, f"{WORKLOAD_LABEL}=mistral"),
    ],
)
def test_what_is_not_on_the_board_is_unknown(namespace: str, metric: str, selector: str) -> None:
    refusal = refused(board(wish()).answer(namespace, metric, parse(selector)))
    assert refusal.kind is RefusalKind.UNKNOWN
    wording = f"the server could not find the metric {metric} for namespaces {namespace}"
    assert refusal.message == (f"{wording} with selector {selector}" if selector else wording)


@given(
    st.lists(st.tuples(*[st.sampled_from(["", "x", "y"])] * 3), unique=True, max_size=9),
    st.lists(st.sampled_from(["a=x", "a=y", "b==x", "b=", "!c", "a!=x", "a in (x,y)", "n=x"]), max_size=3),
)
def test_the_label_index_finds_what_a_walk_over_all_wishes_finds(
    rows: list[tuple[str, str, str]], requirements: list[str]
) -> None:
    """Labels a and b and the namespace take three values each; absent where empty for c's sake."""
    wishes = tuple(
        Wish(namespace or "ns", {"a": a, "b": b, **({"c": a} if a else {})}, {"extra": 1.0} if b else {})
        for a, b, namespace in rows
    )
    snapshot, selector = Published(T0, wishes), parse(",".join(requirements))
    for metric in (Metric.DESIRED, "extra"):
        walked = [
            wish
            for wish in wishes
            if wish.namespace == "ns"
            and selector.matches(wish.labels)
            and (metric != "extra" or "extra" in wish.values)
        ]
        assert snapshot.matching("ns", metric, selector) == walked


def test_a_wish_is_seen_in_its_namespace_only() -> None:
    made = board(wish(desired=2, namespace="a"), wish(desired=5, namespace="b"))
    assert [r.value for r in answered(made.answer("b", Metric.DESIRED)).readings] == [5]


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_wish_refuses_numbers_no_one_can_follow(value: float) -> None:
    with pytest.raises(ValueError, match="llama-70b decode: tidegate_desired_replicas is"):
        wish(desired=value)


def test_two_wishes_for_the_same_labels_would_be_added_up_and_are_refused() -> None:
    with pytest.raises(ValueError, match="two wishes for llama-70b decode"):
        Published(T0, (wish(), wish(desired=2)))


def test_a_wish_does_not_change_with_the_dictionaries_it_was_made_from() -> None:
    labels, values = {WORKLOAD_LABEL: "chat"}, {"tidegate_desired_replicas": 3.0}
    made = Wish("serving", labels, values)
    labels.clear()
    values["tidegate_desired_replicas"] = 99.0
    assert made.name == "chat"
    assert made.values[Metric.DESIRED] == 3


@pytest.mark.parametrize(("soft", "hard"), [(0, 60), (61, 60), (30, math.inf), (math.nan, 60)])
def test_limits_that_mean_nothing_are_refused(soft: float, hard: float) -> None:
    with pytest.raises(ValueError, match="soft"):
        Limits(soft, hard)


@pytest.mark.parametrize("at", [math.nan, math.inf, -1, 1e18])
def test_a_decision_needs_a_time(at: float) -> None:
    with pytest.raises(ValueError, match="decision time"):
        Published(at, ())


@given(st.floats(-1e6, 1e6))
def test_nothing_older_than_the_hard_limit_is_ever_served(age: float) -> None:
    answer = board(wish(), clock=Clock(T0 + age)).answer("serving", Metric.DESIRED)
    assert isinstance(answer, Answer) == (-60 <= (T0 + age) - T0 <= 60)


def test_readers_see_one_snapshot_while_it_is_swapped() -> None:
    """Snapshot k gives all of 20 wishes the value k; an answer with two different values would be a mixture."""
    made = Board(LIMITS, Clock())
    made.publish(Published(T0, tuple(wish(f"w{i}", desired=0) for i in range(20))))
    stop = threading.Event()
    mixed: list[Answer] = []
    seen: set[float] = set()

    def read() -> None:
        while not stop.is_set():
            answer = made.answer("serving", Metric.DESIRED)
            assert isinstance(answer, Answer)
            values = {reading.value for reading in answer.readings}
            seen.update(values)
            if len(values) != 1 or len(answer.readings) != 20:
                mixed.append(answer)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for k in range(400):
        made.publish(Published(T0, tuple(wish(f"w{i}", desired=k) for i in range(20))))
    stop.set()
    for reader in readers:
        reader.join()
    assert not mixed
    assert len(seen) > 1
