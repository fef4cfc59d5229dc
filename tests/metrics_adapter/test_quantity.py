"""Quantities: what the wire format takes, and that rounding never loses capacity."""

import math
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapter.quantity import quantity

CANONICAL = re.compile(r"(0|[1-9][0-9]*)[mkMGTPE]?")
POWER = {"m": 0, "k": 2, "M": 3, "G": 4, "T": 5, "P": 6, "E": 7}


def milli(text: str) -> int:
    power = POWER.get(text[-1])
    return int(text) * 1000 if power is None else int(text[:-1]) * 1000**power


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (6, "6"),
        (6.0, "6"),
        (1000, "1k"),
        (2500, "2500"),
        (2000.0, "2k"),
        (12_000_000, "12M"),
        (1e18, "1E"),
        (1.5, "1500m"),
        (0.04, "40m"),
        (0.3, "300m"),
        (0.1 + 0.2, "300m"),  # 0.30000000000000004: noise, not a 301st thousandth
        (6.000000000000001, "6"),
        (0.0001, "1m"),  # further digits are rounded up
        (1.0011, "1002m"),
        (1.9999, "2"),
        (2**51 + 0.5, "2251799813685248500m"),
        (2**63 - 1, "9223372036854775807"),
    ],
)
def test_known_spellings(value: float, text: str) -> None:
    assert quantity(value) == text


@pytest.mark.parametrize("value", [-1, -1e-12, math.nan, math.inf, -math.inf, 2**63, 1e300])
def test_what_an_hpa_would_misread_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="metric value"):
        quantity(value)


@given(st.floats(0, 1e12))
def test_rounding_is_up_by_less_than_a_thousandth(value: float) -> None:
    text = quantity(value)
    assert CANONICAL.fullmatch(text)
    assert not (text.endswith("m") and milli(text) % 1000 == 0)
    difference = Fraction(milli(text), 1000) - Fraction(repr(value))  # the shortest decimal that means this float
    tolerance = Fraction(1, 10**9)
    assert -tolerance <= difference < Fraction(1, 1000) + tolerance


@given(st.integers(0, 2**63 - 1))
def test_whole_numbers_lose_nothing_and_carry_the_largest_suffix(value: int) -> None:
    text = quantity(value)
    assert milli(text) == value * 1000
    assert value == 0 or not text.rstrip("kMGTPE").endswith("000") or text.endswith("E")
