"""Several pools on one supply in a study: what they share, what each gets, and what the study may not say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from autoscaler import whatif
from autoscaler.errors import BadSettings
from autoscaler.whatif.sweep import text

if TYPE_CHECKING:
    from pathlib import Path

BURST = {"spec": "gen:spike,rate=6,at=600,height=4,width=900,duration=2400"}
CALM = {"spec": "gen:poisson,rate=6,duration=2400"}


def study(base: dict[str, Any], **more: Any) -> dict[str, Any]:
    chat = {"name": "prod/chat", "history": BURST}
    code = {"name": "prod/code", "history": CALM, "slo": {"attainment": 0.5}}
    return {"pools": [chat, code], "base": {"maximum": 12, **base}, **more}


def played(plain: dict[str, Any], kept: whatif.Kept | None = None) -> list[dict[str, Any]]:
    asked, scenarios = whatif.study_of(plain)
    backend = whatif.run_in_processes(1)
    return whatif.swept(scenarios, whatif.loads_of(asked), seeds=asked.seeds, backend=backend, kept=kept)


def test_each_pool_has_its_result_and_the_scenario_their_sum() -> None:
    outcomes = played(study({"supply": {"gpus": 24}}))
    assert [one["pool"] for one in outcomes] == ["prod/chat", "prod/code"]
    total = whatif.summary(outcomes).iloc[0]
    assert total["gpu_hours"] == pytest.approx(sum(one["gpu_hours"] for one in outcomes))
    assert total["requests"] == pytest.approx(sum(one["requests"] for one in outcomes))
    by_pool = whatif.pool_summary(outcomes)
    assert list(by_pool.index.get_level_values("pool")) == ["prod/chat", "prod/code"]
    assert "| prod/code |" in whatif.recommend(outcomes).text


def test_a_small_supply_is_shared_and_never_exceeded() -> None:
    plenty = played(study({"supply": {"gpus": 24}}))
    scarce = played(study({"supply": {"gpus": 4}}))
    # One GPU a replica: at no time do both pools together hold more than the supply.
    for gpus, outcomes in ((24, plenty), (4, scarce)):
        moments = sorted({change[0] for one in outcomes for change in one["history"]["colocated"]})
        for at in moments:
            held = sum([c[2] for c in one["history"]["colocated"] if c[0] <= at][-1] for one in outcomes)
            ready = sum([c[3] for c in one["history"]["colocated"] if c[0] <= at][-1] for one in outcomes)
            assert ready <= gpus
            assert ready <= held
    assert scarce[0]["slo_attainment"] < plenty[0]["slo_attainment"]


def test_training_on_the_shared_supply_is_lost_once() -> None:
    outcomes = played(study({"supply": {"gpus": 2, "gangs": [{"gpus": 4, "count": 2}]}}))
    lost = [one["lost_training_gpu_hours"] for one in outcomes]
    assert lost[0] > 0
    assert lost[1] == 0
    assert whatif.summary(outcomes)["lost_training_gpu_hours"].iloc[0] == pytest.approx(lost[0])


def test_a_pool_is_judged_by_its_own_target() -> None:
    outcomes = played(study({"supply": {"gpus": 24}, "slo": {"attainment": 0.9999}}))
    assert [one["slo_wanted"] for one in outcomes] == [0.9999, 0.5]
    table = whatif.summary(outcomes)
    short = sum(one["slo_attainment"] < one["slo_wanted"] for one in outcomes)
    assert table["pools_short"].iloc[0] == short
    assert (whatif.recommend(outcomes).scenario is None) == (short > 0)


def test_pools_grow_together_and_each_by_its_own_factor() -> None:
    plain = study({"supply": {"gpus": 24}}, grid={"growth": [1.0, 2.0]})
    plain["pools"][1]["growth"] = 1.5
    outcomes = played(plain)
    requests = [one["requests"] for one in outcomes]
    assert len(outcomes) == 4
    assert requests[2] / requests[0] == pytest.approx(2, rel=0.05)
    # 6 requests/s for 2,400 s, half as many again: 21,600, give or take what a Poisson process draws.
    assert requests[1] == pytest.approx(21_600, rel=0.05)


def test_what_was_kept_is_not_played_again_and_is_the_same(tmp_path: Path) -> None:
    plain = study({"supply": {"gpus": 24}})
    first = played(plain, whatif.Kept(tmp_path))
    assert len(list(tmp_path.rglob("*.json"))) == 1
    assert [text(one) for one in played(plain, whatif.Kept(tmp_path))] == [text(one) for one in first]


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ({"history": CALM, "pools": [{"name": "a", "history": CALM}]}, "one of them"),
        ({}, "history: give the load, or pools"),
        ({"pools": [{"name": "a", "history": CALM}, {"name": "a", "history": CALM}]}, "two are called 'a'"),
        ({"pools": [{"name": "a"}]}, "pools.0.history: missing"),
        ({"pools": [{"name": "a", "history": {"spec": "x", "pool": 1}}]}, "pools.0.history.pool: unknown key"),
        ({"pools": [{"name": "a", "history": CALM, "maximum": 0}]}, "pools.0.maximum: 0 is not right"),
        ({"history": CALM, "base": {"pools": [{"name": "a"}]}}, "named once, beside base"),
    ],
)
def test_pools_that_cannot_be_are_refused_with_their_place(plain: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSettings) as refused:
        whatif.study_of(plain)
    assert said in str(refused.value)


def test_a_policy_that_reckons_pools_by_themselves_is_refused() -> None:
    with pytest.raises(BadSettings, match="reckons each pool by itself"):
        played(study({"policy": {"name": "static-peak"}}))
