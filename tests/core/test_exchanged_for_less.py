"""Of gangs found to be taken the needless are left alone, and others exchanged for what loses less in all."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from autoscaler.exchange import improved


class Gang(NamedTuple):
    name: int
    gpus: int
    priority: int
    lost: int


def chosen(taken: list[Gang], others: list[Gang], wanted: int) -> list[Gang]:
    """Exchanged while `wanted` GPUs are kept."""
    got = sum(one.gpus for one in taken)

    def swap(one: Gang, other: Gang | None) -> bool:
        nonlocal got
        left = got - one.gpus + (other.gpus if other else 0)
        got = left if left >= wanted else got
        return left >= wanted

    return improved(taken, others, rank=lambda one: one.priority, cost=lambda one: one.lost, swap=swap)


def test_the_dearest_gives_way_to_the_cheapest_that_is_enough() -> None:
    """Eight GPUs wanted: 16 for 90 give way to 8 for 40, not to 4 for 10."""
    large, right, small = Gang(0, 16, 0, 90), Gang(1, 8, 0, 40), Gang(2, 4, 0, 10)
    assert chosen([large], [right, small], 8) == [right]
    assert chosen([large], [right, small], 4) == [small]
    assert chosen([large], [right, small], 9) == [large]


def test_one_exchange_makes_room_for_the_next() -> None:
    """Eighteen wanted of 8 + 8 + 4: an 8 (90) gives way to the 16 (80), then the other (55) to the 2 (10).

    Of these 22 the 4 (20) is needless.
    """
    eight, other, four = Gang(0, 8, 0, 90), Gang(1, 8, 0, 55), Gang(2, 4, 0, 20)
    large, small = Gang(3, 16, 0, 80), Gang(4, 2, 0, 10)
    assert sorted(chosen([eight, other, four], [large, small], 18)) == [large, small]


def test_what_is_needless_is_left_alone_first_and_after_an_exchange() -> None:
    """Of 8 (50) and 4 (20) for four GPUs the 8 is left. For seven both are needed until 8 (60) serves in 4's place."""
    eight, four = Gang(0, 8, 0, 50), Gang(1, 4, 0, 20)
    assert chosen([eight, four], [], 4) == [four]
    slim, wide = Gang(2, 4, 0, 70), Gang(3, 8, 0, 60)
    assert chosen([slim, four], [wide], 7) == [wide]


def test_a_higher_priority_is_never_taken_for_a_lower_one() -> None:
    low, high = Gang(0, 8, 0, 90), Gang(1, 8, 1, 1)
    assert chosen([low], [high], 8) == [low]
    assert chosen([high], [low._replace(lost=0)], 8) == [low._replace(lost=0)]


drawn = st.lists(st.tuples(st.sampled_from([2, 4, 8, 16]), st.integers(0, 2), st.integers(1, 100)), max_size=7)


@given(drawn, st.integers(1, 30))
def test_enough_stay_taken_and_less_is_lost_at_no_higher_priority(
    made: list[tuple[int, int, int]], wanted: int
) -> None:
    gangs = [Gang(number, *one) for number, one in enumerate(made)]
    taken: list[Gang] = []
    for one in sorted(gangs, key=lambda one: (one.priority, one.lost / one.gpus)):
        if sum(each.gpus for each in taken) < wanted:
            taken.append(one)
    if sum(each.gpus for each in taken) < wanted:
        return
    after = chosen(taken, [one for one in gangs if one not in taken], wanted)
    assert len(set(after)) == len(after) <= len(taken)
    assert all(sum(one.gpus for one in after) - one.gpus < wanted for one in after)
    assert sum(one.gpus for one in after) >= wanted
    lost = sum(one.lost for one in after)
    assert lost <= sum(one.lost for one in taken)
    before, then = (sorted((one.priority for one in some), reverse=True) for some in (taken, after))
    assert all(low <= high for low, high in zip(then, before, strict=False))
    spare = sum(one.gpus for one in after) - wanted
    for one in after:
        for other in set(gangs) - set(after):
            may = other.priority <= one.priority and one.gpus - other.gpus <= spare
            assert not (may and other.lost < one.lost)
