"""Whether a load can be followed: shapes whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forecasting.diagnosis import Verdict, diagnose
from forecasting.series import Series


def series(values: list[float], bin_s: float = 600.0) -> Series:
    return Series.of([(i * bin_s, value) for i, value in enumerate(values)], bin_s, len(values) + 1)


def sine(bins: int = 1008, day: int = 144) -> list[float]:
    return [100.0 + 80.0 * math.sin(2 * math.pi * i / day) for i in range(bins)]


def test_a_slow_daily_wave_is_followed() -> None:
    """All variance is at the day; static costs 180, following about 100 plus little."""
    found = diagnose(series(sine()), [600.0])
    assert found.daily_share == pytest.approx(1.0, abs=0.01)
    assert found.weekly_share is None
    lead = found.leads[0]
    assert lead.verdict is Verdict.FOLLOW
    assert lead.followed_share == pytest.approx(1.0, abs=0.01)
    assert lead.saving == pytest.approx(1 - 104 / 180, abs=0.03)


def test_noise_from_bin_to_bin_cannot_be_followed() -> None:
    """Independent bins, uniform on 50..150: the bound is above what a static deployment would need."""
    values = np.random.default_rng(1).uniform(50, 150, 1000).tolist()
    found = diagnose(series(values), [600.0])
    lead = found.leads[0]
    assert lead.verdict is Verdict.STATIC
    assert lead.saving is not None
    assert lead.saving < 0.1
    # uniform on 50..150 has a deviation of 100 / sqrt(12) = 28.9
    assert found.burstiness == pytest.approx(0.289, rel=0.05)
    assert lead.pooled is not None
    assert lead.pooled > 1


def test_growth_over_the_lead_is_what_it_is() -> None:
    """5 % more with every bin: over three bins 1.05 ** 3 at every quantile."""
    found = diagnose(series([1.05**i for i in range(100)]), [1800.0])
    assert [factor for _, factor in found.leads[0].growth] == pytest.approx([1.05**3] * 4)
    assert found.leads[0].head_room == pytest.approx(1.05**3 - 1)
    assert found.leads[0].pairs == 97


def test_bursts_on_a_daily_wave_want_a_buffer() -> None:
    random = np.random.default_rng(2)
    values = [v * (2.5 if random.random() < 0.15 else 1.0) for v in sine()]
    lead = diagnose(series(values), [600.0]).leads[0]
    assert lead.head_room is not None
    assert lead.head_room > 0.5
    assert lead.buffer is not None
    assert lead.buffer > 0
    assert lead.verdict in {Verdict.BUFFER, Verdict.STATIC}


def test_too_little_history_says_so() -> None:
    found = diagnose(series([1.0, 2.0, 3.0]), [600.0])
    assert found.leads[0].verdict is Verdict.UNKNOWN
    assert found.leads[0].head_room is None


def test_a_retired_service_has_no_growth() -> None:
    found = diagnose(series([0.0] * 100), [600.0])
    assert found.zero_share == 1.0
    assert found.peak_to_mean is None
    assert found.leads[0].verdict is Verdict.UNKNOWN


def test_bad_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="holds no values"):
        diagnose(Series.empty(), [60.0])
    with pytest.raises(ValueError, match="lead time"):
        diagnose(series([1.0, 2.0]), [0.0])
