"""Four equations solved by writing them out agree with numpy, and with a sum done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.normal_equations import Factors, without

LEAST = 0.01


@st.composite
def matrices(draw: st.DrawFn) -> list[float]:
    """LEAST on the diagonal plus outer products, as learning makes them."""
    rows = draw(st.lists(st.lists(st.floats(0, 10), min_size=4, max_size=4), max_size=6))
    weight = draw(st.floats(0.001, 10))
    matrix = LEAST * np.eye(4) + weight * sum((np.outer(row, row) for row in rows), np.zeros((4, 4)))
    return [float(number) for number in matrix.ravel()]


def test_a_diagonal_divides() -> None:
    # 2a = 2, 4b = 2, 5c = 10, 8d = 2
    matrix = [2.0, 0, 0, 0, 0, 4.0, 0, 0, 0, 0, 5.0, 0, 0, 0, 0, 8.0]
    assert Factors(matrix, LEAST).solve([2.0, 2.0, 10.0, 2.0]) == (1.0, 0.5, 2.0, 0.25)


def test_two_coupled_unknowns_by_hand() -> None:
    # 2a + b = 4 and a + 2b = 5: a = 1, b = 2; c and d stand alone
    matrix = [2.0, 1.0, 0, 0, 1.0, 2.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0]
    assert Factors(matrix, LEAST).solve([4.0, 5.0, 7.0, 0.0]) == pytest.approx((1.0, 2.0, 7.0, 0.0))


@given(matrices(), st.lists(st.floats(-10, 10), min_size=4, max_size=4))
def test_the_solution_solves(matrix: list[float], right: list[float]) -> None:
    square = np.array(matrix).reshape(4, 4)
    solution = np.array(Factors(matrix, LEAST).solve(right))
    # the error left over is rounding, relative to what was added up
    assert np.abs(square @ solution - right).max() <= 1e-9 * (1.0 + np.abs(square).max() * np.abs(solution).max())


@given(matrices())
def test_the_inverse_is_numpys(matrix: list[float]) -> None:
    square = np.array(matrix).reshape(4, 4)
    inverse = np.array(Factors(matrix, LEAST).inverse()).reshape(4, 4)
    # two ways to invert differ by rounding times the condition number
    allowed = 1e-14 * float(np.linalg.cond(square)) * np.abs(inverse).max() + 1e-12
    assert np.abs(inverse - np.linalg.inv(square)).max() <= allowed


def test_a_pivot_lost_to_rounding_is_held_at_what_it_cannot_be_below() -> None:
    # 1e20 + LEAST is 1e20, so the second pivot would be 0 and its quotient infinite
    matrix = [1e20, 1e20, 0, 0, 1e20, 1e20, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0]
    assert Factors(matrix, LEAST).solve([1e20, 1e20, 1.0, 1.0]) == (1.0, 0.0, 1.0, 1.0)


def test_unknowns_held_at_zero_leave_the_others_to_themselves() -> None:
    # without b, 2a + b = 4 is 2a = 4
    matrix = [2.0, 1.0, 0, 0, 1.0, 2.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0]
    alone = without(matrix, [True, False, True, True], LEAST)
    assert Factors(alone, LEAST).solve([4.0, 0.0, 7.0, 0.0]) == (2.0, 0.0, 7.0, 0.0)
