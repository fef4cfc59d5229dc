"""Each guard alone, and the dead band of the HPA as a table."""

from __future__ import annotations

import pytest

from autoscaler.guards import GuardRules, Standing, clear_dead_band, guarded

RULES = GuardRules(stabilise_down_s=300.0, most_up=4.0, most_up_replicas=8, most_down=0.5)


def standing(base: int = 10, **changes: object) -> Standing:
    """Ten replicas, 0 to 100 allowed, watched for long, nothing special."""
    plain: dict[str, object] = {"minimum": 0, "maximum": 100, "watched_s": 1000.0} | changes
    return Standing(base, **plain)  # type: ignore[arg-type]  # a test's shorthand for keyword arguments


def names(said: tuple[tuple[str, str], ...]) -> list[str]:
    return [name for name, _ in said]


def test_no_reason_to_hold_leaves_the_plan_alone() -> None:
    assert guarded(7, standing(), RULES) == (7, ())
    assert guarded(13, standing(), RULES) == (13, ())
    assert guarded(10, standing(), RULES) == (10, ())


def test_blind_holds_in_both_directions() -> None:
    for plan in (None, 1, 99):
        wish, said = guarded(plan, standing(blind="no series match"), RULES)
        assert (wish, said) == (10, (("blind", "held at 10: no scale-down while blind"),))


def test_no_plan_is_as_good_as_blind() -> None:
    assert guarded(None, standing(), RULES)[0] == 10


def test_a_blind_neighbour_stops_shrinking_but_not_growing() -> None:
    one = standing(pool_blind="llm/chat/prefill")
    wish, said = guarded(7, one, RULES)
    assert (wish, names(said)) == (10, ["pool-blind"])
    assert "llm/chat/prefill is blind" in said[0][1]
    assert guarded(12, one, RULES) == (12, ())


def test_replicas_not_heard_stop_shrinking_but_not_growing() -> None:
    one = standing(partial="only 3 of 4 replicas report")
    assert guarded(7, one, RULES) == (10, (("partial", "held at 10: only 3 of 4 replicas report"),))
    assert guarded(12, one, RULES) == (12, ())


@pytest.mark.parametrize(
    ("arriving", "recent", "wish", "guard"),
    [
        # 3 are needed by those that are heard, 4 may each be as busy as they can be
        (4, None, 7, "arriving"),
        (4, 5, 7, "arriving"),
        (4, 9, 9, "stabilise"),
        (9, None, 10, "arriving"),
        (0, None, 5, "rate"),
    ],
)
def test_new_replicas_are_held_for_and_no_others(arriving: int, recent: int | None, wish: int, guard: str) -> None:
    found, said = guarded(3, standing(arriving=arriving, recent_plans=recent), RULES)
    assert (found, names(said)) == (wish, [guard])


@pytest.mark.parametrize(("heard", "wish"), [(1.0, 6), (0.75, 8), (0.5, 10), (0.01, 10)])
def test_a_neighbour_heard_in_part_has_told_part_of_what_is_coming(heard: float, wish: int) -> None:
    """6 are needed by what three quarters of the neighbour tell: 6 / 0.75 = 8."""
    assert guarded(6, standing(pool_heard=heard), RULES)[0] == wish


@pytest.mark.parametrize(
    ("awaited", "last", "soon", "wish"),
    [
        (False, 7, 9, 9),
        (False, 7, None, 10),
        (True, 7, 9, 7),
        (True, 7, None, 7),
        (True, 12, 9, 10),
        (True, None, 9, 10),
    ],
)
def test_gpus_that_training_waits_for_are_not_kept_for_a_load_that_may_come(
    awaited: bool,
    last: int | None,
    soon: int | None,
    wish: int,
) -> None:
    """12 were planned within 300 s, 7 within 60 s, 6 now; the load may need 9 once more."""
    one = standing(recent_plans=12, last_plans=last, soon=soon, awaited=awaited)
    assert guarded(6, one, RULES)[0] == wish


@pytest.mark.parametrize(("watched", "wish"), [(0.0, 10), (299.0, 10), (300.0, 7)])
def test_young_until_the_stabilisation_window_was_watched(watched: float, wish: int) -> None:
    assert guarded(7, standing(watched_s=watched), RULES)[0] == wish


def test_a_first_look_never_shrinks_even_without_stabilisation() -> None:
    eager = GuardRules(stabilise_down_s=0.0)
    assert guarded(7, standing(watched_s=0.0), eager)[0] == 10
    assert guarded(7, standing(watched_s=1.0), eager)[0] == 7


@pytest.mark.parametrize(
    ("last", "soon", "held", "why"),
    [
        (8, None, 9, "as many were wanted within 300 s"),  # too little history: the long window
        (7, 5, 7, None),  # neither holds above the plan of 7
        (8, 5, 8, "as many were wanted within 60 s"),
        (7, 8, 8, "the load may need as many again within 300 s"),
        (7, 30, 9, "as many were wanted within 300 s"),  # never longer than the long window
    ],
)
def test_what_the_load_does_not_need_again_is_let_go_sooner(
    last: int, soon: int | None, held: int, why: str | None
) -> None:
    wish, said = guarded(7, standing(recent_plans=9, last_plans=last, soon=soon), RULES)
    assert wish == held
    assert said == ((("stabilise", f"held at {held}: {why}"),) if why else ())


def test_stabilised_at_the_highest_recent_plan() -> None:
    wish, said = guarded(7, standing(recent_plans=9), RULES)
    assert (wish, said) == (9, (("stabilise", "held at 9: as many were wanted within 300 s"),))
    assert guarded(7, standing(recent_plans=30), RULES)[0] == 10  # never above what was asked for
    assert guarded(7, standing(recent_plans=7), RULES) == (7, ())


@pytest.mark.parametrize(
    ("base", "plan", "wish"),
    [
        (10, 50, 50),  # 10 + 4 x 10
        (10, 51, 50),
        (1, 9, 9),  # 1 + max(4, 8)
        (1, 10, 9),
        (0, 30, 8),
        (10, 5, 5),  # 10 - 5
        (10, 4, 5),
        (1, 0, 0),  # at least one may go
        (3, 0, 2),  # floor(3 x 0.5) = 1
    ],
)
def test_rate_limits(base: int, plan: int, wish: int) -> None:
    found, said = guarded(plan, standing(base), RULES)
    assert found == wish
    assert names(said) == ([] if plan == wish else ["rate"])


@pytest.mark.parametrize(
    ("base", "wish", "cleared"),
    [
        (20, 21, 23),  # 21/20 is swallowed, and so is 22/20; the first that moves an HPA is 23
        (20, 22, 23),
        (20, 23, 23),
        (20, 19, 20),
        (20, 18, 20),  # 18/20 is swallowed, so it stays; going below the plan would not be cautious
        (20, 17, 17),
        (10, 9, 10),
        (10, 11, 12),
        (10, 8, 8),
        (9, 10, 10),  # 11 % is outside
        (1, 2, 2),
        (20, 20, 20),
        (0, 3, 3),
        (3, 0, 0),
    ],
)
def test_dead_band_of_the_hpa_at_ten_percent(base: int, wish: int, cleared: int) -> None:
    assert clear_dead_band(base, wish, 0.1) == cleared
    assert clear_dead_band(base, wish, 0.0) == wish


def test_dead_band_says_so() -> None:
    banded = GuardRules(hpa_tolerance=0.1)
    wish, said = guarded(21, standing(20), banded)
    assert (wish, said) == (23, (("dead-band", "23 instead of 21: inside the HPA's 10% dead band"),))


def test_bounds_come_last() -> None:
    assert guarded(5, standing(10, minimum=6), RULES) == (6, (("bounds", "6 instead of 5: at least 6 configured"),))
    assert guarded(15, standing(10, maximum=12), RULES) == (
        12,
        (("bounds", "12 instead of 15: at most 12 configured"),),
    )
    # dead band pushes 21 to 23, the maximum takes it back
    wish, said = guarded(21, standing(20, maximum=22), GuardRules(hpa_tolerance=0.1))
    assert (wish, names(said)) == (22, ["dead-band", "bounds"])


def test_a_maximum_below_what_runs_holds_even_while_blind() -> None:
    wish, said = guarded(None, standing(10, maximum=6, blind="gone"), RULES)
    assert (wish, names(said)) == (6, ["blind", "bounds"])


def test_scale_to_zero_is_possible_when_allowed() -> None:
    assert guarded(0, standing(1), RULES) == (0, ())
    assert guarded(0, standing(1, minimum=1), RULES)[0] == 1
