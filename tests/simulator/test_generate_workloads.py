"""Generated workloads have the rates, shapes, bursts and lengths their text asks for."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.errors import BadSettings
from autoscaler.simulator.binning import to_demand
from autoscaler.simulator.generate import GeneratorSpec, StreamSpec, generate
from autoscaler.simulator.lengths import MIXES
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.shapes import Diurnal, Spike


def per_bin(what: Workload, bin_s: float) -> np.ndarray:
    return to_demand(what, bin_s).requests


def test_the_text_of_the_manual_gives_what_it_says() -> None:
    what = generate("gen:diurnal,rate=20,peak=3,period=3600,duration=7200,lengths=azure-conv", 1)
    assert what.duration == 7200
    # Two whole periods at a mean of 20: 144,000, give or take 4 * sqrt(144,000) = 1,518.
    assert abs(len(what) - 144_000) < 1518
    bins = per_bin(what, 240) / 240
    # The peak of 60 req/s stands at half of each period, in the middle of the 8th of its 15 bins. 120 s before and
    # after, at an angle of 0.21, the wave is exp(-k * 0.022) = 0.96 of it; a bin varies by 4 * sqrt(60 / 240) = 2.
    assert bins.argmax() in {7, 22}
    assert 56 < bins.max() < 62
    assert bins.min() < 5


@pytest.mark.parametrize("peak", [1.0, 1.5, 2.0, 3.16, 10.0, 20.0])
def test_a_day_has_its_mean_and_its_peak(peak: float) -> None:
    times = np.linspace(0, 86400, 100_001)[:-1]
    factor = Diurnal(peak=peak).at(times, np.empty(0))
    assert factor.mean() == pytest.approx(1, rel=1e-6)
    assert factor.max() == pytest.approx(peak, rel=1e-4)
    if peak > 1:
        assert factor[50_000] == factor.max()  # noon, as time 0 is the deepest night


def test_a_small_wave_is_a_sinusoid() -> None:
    times = np.linspace(0, 86400, 97)
    sinusoid = 1 - 0.05 * np.cos(2 * math.pi * times / 86400)
    assert Diurnal(peak=1.05).at(times, np.empty(0)) == pytest.approx(sinusoid, abs=0.002)


def test_weekends_are_quieter_and_the_week_keeps_its_mean() -> None:
    days = per_bin(generate("diurnal,weekend=0.4,period=1000,duration=14000,rate=20", 3), 1000)
    # 5 days at w and 2 at 0.4 w with a mean of 20,000: w = 20,000 * 7 / 5.8 = 24,138.
    assert days.reshape(2, 7)[:, :5] == pytest.approx(np.full((2, 5), 24138), rel=0.03)
    assert days.reshape(2, 7)[:, 5:] == pytest.approx(np.full((2, 2), 24138 * 0.4), rel=0.05)


def test_steps_ramps_and_spikes_stand_where_they_should() -> None:
    step = per_bin(generate("step,rate=100,at=300/600,to=3/0.5,duration=900", 1), 300) / 300
    assert step == pytest.approx([100, 300, 50], rel=0.04)
    ramp = per_bin(generate("ramp,rate=100,at=100,over=200,to=5,duration=400", 1), 100) / 100
    assert ramp == pytest.approx([100, 200, 400, 500], rel=0.06)  # means of 1..1, 1..3, 3..5, 5..5
    spike = per_bin(generate("spike,rate=50,at=60,width=60,every=180,duration=360", 1), 60) / 60
    assert spike == pytest.approx([50, 500, 50, 50, 500, 50], rel=0.1)


def test_shapes_multiply() -> None:
    both = (
        per_bin(generate("step+spike,rate=50,step.at=120,to=2,spike.at=60,width=120,height=4,duration=240", 1), 60) / 60
    )
    assert both == pytest.approx([50, 200, 400, 100], rel=0.08)


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 3.2, 8.0])
def test_gaps_have_the_variation_asked_for(cv: float) -> None:
    what = generate(f"poisson,cv={cv},rate=50,duration=4000", 2)
    gaps = np.diff(what.arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.06, abs=0.01)
    # The count of a renewal process: standard deviation cv * sqrt(n), here 4 of them, and one of the edges.
    assert abs(len(what) - 200_000) < 4 * cv * math.sqrt(200_000) + 2


def test_bursts_do_not_inflate_the_count() -> None:
    # 400 short workloads of 20 expected requests with a CV of 5: the mean of their counts is 20 on average, with a
    # standard deviation below 5 * sqrt(20) / sqrt(400) = 1.1. Starting at an arrival would give about 30.
    spec = GeneratorSpec("bursts", (StreamSpec(rate=2.0, duration=10.0, cv=5.0),))
    assert np.mean([len(generate(spec, seed)) for seed in range(400)]) == pytest.approx(20, abs=3.3)


def test_on_and_off_have_their_shares_and_their_mean() -> None:
    seconds = per_bin(generate("onoff,rate=20,on=10,off=30,duration=40000", 4), 1)
    # On a quarter of the time at 4 * 20 = 80 req/s; when off nothing comes (a second may be partly on).
    assert (seconds > 0).mean() == pytest.approx(0.25, abs=0.04)
    assert seconds.mean() == pytest.approx(20, rel=0.1)
    assert np.median(seconds[seconds > 0]) == pytest.approx(80, rel=0.1)
    calm = per_bin(generate("onoff,rate=20,on=10,off=30,low=0.5,duration=40000", 4), 1)
    # Mean 1 = (10 h + 30 * 0.5) / 40: h = 2.5, so that on is 50 and off is 10 req/s.
    assert np.median(calm) == pytest.approx(10, rel=0.2)
    assert calm.mean() == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize(
    ("name", "prompt", "output"),
    [
        ("azure-conv", 1154.7, 211.1),
        ("azure-code", 2047.8, 27.9),
        ("m-large", 914.278, 155.093),
        ("deepseek-r1", 1268.25, 1527.419),
        ("sharegpt", 215.196, 198.343),
        ("4000/1000", 4000, 1000),
        ("1000/4000", 1000, 4000),
    ],
)
def test_lengths_have_the_published_means(name: str, prompt: float, output: float) -> None:
    what = generate(f"poisson,rate=100,duration=3000,lengths={name}", 1)
    assert what.prompt.mean() == pytest.approx(prompt, rel=0.02)
    assert what.output.mean() == pytest.approx(output, rel=0.02)


def test_cached_prefixes_are_whole_blocks_of_the_share() -> None:
    what = generate("poisson,rate=100,duration=100,lengths=4000/10,cached=0.25/0.81", 1)
    assert what.cached is not None
    assert set(what.cached.tolist()) == {0, 3232}  # 0.81 of 4000 = 3240, in blocks of 16
    assert (what.cached > 0).mean() == pytest.approx(0.25, abs=0.02)


def test_streams_are_summed_as_classes() -> None:
    what = generate(
        "gen:poisson,rate=30,lengths=4000/10,duration=100 & spike,rate=10,at=50,width=10,duration=100,lengths=10/20", 1
    )
    assert what.kind is not None
    assert set(what.prompt[what.kind == 0].tolist()) == {4000}
    assert set(what.prompt[what.kind == 1].tolist()) == {10}
    # 30 * 100 = 3,000 and 10 * (90 + 10 * 10) = 1,900, give or take 4 roots.
    assert abs((what.kind == 0).sum() - 3000) < 219
    assert abs((what.kind == 1).sum() - 1900) < 175


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["poisson", "gamma", "diurnal", "onoff", "ramp", "step", "spike", "diurnal+onoff+spike"]),
    st.integers(0, 2**40),
)
def test_same_seed_same_bytes(shape: str, seed: int) -> None:
    text = f"{shape},rate=0.5,duration=1000"
    what = generate(text, seed)
    assert what.fingerprint() == generate(text, seed).fingerprint()
    assert what.fingerprint() != generate(text, seed + 1).fingerprint()
    assert text.split(",", maxsplit=1)[0] in what.name
    assert str(seed) in what.notes[0]


def test_semicolons_do_where_commas_separate_traces() -> None:
    commas, semicolons = (generate(f"gen:gamma{sign}rate=3{sign}cv=2", 1) for sign in ",;")
    assert commas.fingerprint() == semicolons.fingerprint()


def test_values_and_text_are_two_ways_to_say_the_same() -> None:
    spec = GeneratorSpec("x", (StreamSpec(5.0, 900.0, (Spike(300.0, 4.0, 30.0),), 2.0, MIXES["sharegpt"]),))
    text = "gamma+spike,rate=5,duration=900,cv=2,at=300,height=4,width=30,lengths=sharegpt"
    assert generate(spec, 9).fingerprint() == generate(text, 9).fingerprint()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a shape"),
        ("gen:", "is not a shape"),
        ("diurnl,rate=1", "did you mean diurnal"),
        ("poisson,rat=1", "did you mean rate"),
        ("poisson,rate", "is not key=value"),
        ("poisson,rate=", "is not key=value"),
        ("poisson,rate=1,rate=2", "given twice"),
        ("poisson,rate=fast", "rate=fast is not a number"),
        ("poisson,rate=nan", "not a finite number"),
        ("poisson,rate=0", "rate is 0; it must be a number > 0"),
        ("poisson,duration=-5", "duration is -5"),
        ("poisson,cv=-1", "cv is -1"),
        ("poisson,peak=3", "'peak' is not a key here"),
        ("poisson,lengths=long", "azure-conv, azure-code"),
        ("poisson,lengths=0/5", "1..10,000,000"),
        ("poisson,cached=0.5", "PROBABILITY/SHARE"),
        ("poisson,cached=2/0.5", "cached_probability is 2"),
        ("poisson,rate=1e9", "requests expected; at most 20,000,000"),
        ("diurnal,peak=0.5", "peak is 0.5"),
        ("diurnal+diurnal", "stands twice"),
        ("step+spike,at=3", "step.at or spike.at"),
        ("step,at=5/3,to=1/2", "in order"),
        ("step,at=5,to=1/2", "1 times, to 2 factors"),
        ("spike,duration=300", "at is 600; the workload ends at 300"),
        ("spike,every=10,width=20", "every is 10"),
        ("onoff,low=2", "low is 2"),
        ("poisson,rate=1 & spike,at=-1", "at is -1"),
    ],
)
def test_texts_that_cannot_be_are_said(text: str, said: str) -> None:
    with pytest.raises(BadSettings) as caught:
        generate(text, 1)
    assert said in str(caught.value)


def test_a_negative_seed_is_said() -> None:
    with pytest.raises(BadSettings, match="seed is -1"):
        generate("poisson", -1)


@given(st.text(alphabet="poisngametp+,;&=/.0123456789- ", max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_text_causes_anything_but_a_named_error(text: str) -> None:
    try:
        what = generate("gen:poisson,rate=1,duration=60," + text, 1)
    except BadSettings as error:
        assert str(error)  # noqa: PT017 - a text may also happen to be sound
    else:
        assert what.duration > 0
