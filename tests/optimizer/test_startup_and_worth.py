"""Start-up waves, the worth of state and of demand, by hand."""

import pytest

from optimizer import Demand, Pool, Role, ServiceClass, Variant
from optimizer.startup import Spread, StartUp, waves
from optimizer.state_value import release_price
from optimizer.worth import Segment, at_quantile, wanted

# 8 + 12 + 16 + 5 s without the fetch; 16 GB from the store at 2.5 GB/s take 6.4 s, from a peer at 10 GB/s 1.6 s.
BASE_S = 41.0


def test_a_chain_feeds_all_in_the_time_of_one() -> None:
    found = waves(StartUp(16.0, copies=2, fan_out=4))
    assert found == ((8, pytest.approx(BASE_S + 1.6)), (None, pytest.approx(BASE_S + 6.4)))


def test_a_star_shares_its_link() -> None:
    # Four at once take four times as long: 6.4 s, no better than the store, which feeds any number.
    star = StartUp(16.0, copies=2, fan_out=4, spread=Spread.STAR)
    assert waves(star) == ((None, pytest.approx(BASE_S + 6.4)),)
    two = StartUp(16.0, copies=2, fan_out=2, spread=Spread.STAR)
    assert waves(two)[0] == (4, pytest.approx(BASE_S + 3.2))


def test_caches_and_compiled_artefacts_shorten_the_start() -> None:
    warm = StartUp(16.0, compiled=True, cache_gb_s=20.0, copies=2)
    assert waves(warm) == ((None, pytest.approx(8 + 12 + 4 + 5 + 0.8)),)
    cold = StartUp(16.0, image_s=270.0)
    assert waves(cold)[0].start_s == pytest.approx(BASE_S + 270 + 6.4)


@pytest.mark.parametrize(
    ("start", "telling"),
    [
        (StartUp(-1.0), "weights_gb -1.0"),
        (StartUp(1.0, peer_gb_s=0.0), "peer_gb_s 0.0"),
        (StartUp(1.0, fan_out=0), "fan_out 0"),
        (StartUp(1.0, store_gb_s=None), "weights are nowhere"),
    ],
)
def test_a_start_that_cannot_be_is_refused(start: StartUp, telling: str) -> None:
    with pytest.raises(ValueError, match=telling):
        waves(start)


def test_the_worth_of_state_is_what_computing_it_again_costs() -> None:
    # 100,000 resident tokens of which 20 % come back, and hits of 500 tokens/s for 120 s: 80,000 tokens at 8,000
    # tokens/s are 10 s of a replica at 3.6 per hour: 0.01.
    price = release_price(
        resident_tokens=100_000,
        reuse=0.2,
        prefix_hit_tokens_s=500,
        warm_up_s=120,
        prefill_tokens_s=8_000,
        price_per_hour=3.6,
    )
    assert price == pytest.approx(0.01)
    with pytest.raises(ValueError, match="prefill_tokens_s 0"):
        release_price(
            resident_tokens=1, reuse=1, prefix_hit_tokens_s=0, warm_up_s=0, prefill_tokens_s=0, price_per_hour=1
        )


def test_quantiles_are_read_between_the_given_ones() -> None:
    levels = [(0.5, 10.0), (0.9, 18.0)]
    assert [at_quantile(levels, q) for q in (0.1, 0.5, 0.7, 0.9, 0.99)] == pytest.approx([10.0, 10.0, 14.0, 18.0, 18.0])


def test_capacity_goes_to_the_dearest_class_and_a_period_wants_its_peak() -> None:
    classes = (ServiceClass("free", 0.75, 1.0), ServiceClass("gold", 0.25, 9.0))
    pool = Pool(
        "p", (Demand(0, 8.0), Demand(50, 20.0), Demand(100, 4.0)), (Role("", (Variant("", "A", 1, 1.0),)),), classes
    )
    first, second = wanted(pool, (0.0, 100.0), 200.0)
    assert first.segments == (Segment(5.0, 9.0), Segment(15.0, 1.0))
    assert second.amount == 4.0
