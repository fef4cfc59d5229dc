"""The published step of llm-d (20 requests/s, 600 s, Qwen3-32B on H100): what comes within 25 %, and what does not.

The runs were scaled by KEDA on KV usage and queue depth; the policies played here are the nearest there are. Read the
agreement accordingly. With requests held at the gateway the last of the three shapes is the published one. The whole
published order does not come out: under KEDA, `cut`, the first two are tied (351 s and 349 s).
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

BENCH = Path(__file__).parents[2] / "bench"
AT_ONCE, HELD, KEDA = ("wva-v2-shipped", False), ("wva-v2-shipped", True), ("keda-queue", True)
PLAYS = (AT_ONCE, HELD, KEDA)
MISSES = {
    (AT_ONCE, "4000/1000", "drained"): "2,258 s against 526 s",
    (AT_ONCE, "1000/4000", "drained"): "5,443 s against 327 to 450 s",
    (AT_ONCE, "1000/4000", "cut"): "3.4 s against 327 to 450 s",
    (AT_ONCE, "1000/1000", "drained"): "852 s against 254 s",
    (AT_ONCE, "1000/1000", "cut"): "394 s against 254 s",
    (HELD, "4000/1000", "cut"): "305 s against 526 s",
    (HELD, "1000/4000", "drained"): "1,807 s against 327 to 450 s",
    (HELD, "1000/1000", "drained"): "124 s against 254 s",
    (HELD, "1000/1000", "cut"): "124 s against 254 s",
    (KEDA, "4000/1000", "drained"): "847 s against 526 s",
    (KEDA, "4000/1000", "cut"): "351 s against 526 s",
    (KEDA, "1000/4000", "drained"): "1,892 s against 327 to 450 s",
    (KEDA, "1000/1000", "drained"): "148 s against 254 s",
    (KEDA, "1000/1000", "cut"): "148 s against 254 s",
}

ORDERS = {
    (AT_ONCE, "drained"): "1000/4000 (5,443 s) before 4000/1000 (2,258 s) and 1000/1000 (852 s)",
    (AT_ONCE, "cut"): "1000/4000 last: 3.4 s, since few of its requests end by 600 s",
    (HELD, "drained"): "1000/4000 (1,807 s) before 4000/1000 (598 s)",
    (HELD, "cut"): "1000/4000 (315 s) just before 4000/1000 (305 s)",
    (KEDA, "drained"): "1000/4000 (1,892 s) before 4000/1000 (847 s)",
}


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        return importlib.import_module("validation_step")


@pytest.mark.parametrize("play", PLAYS)
def test_all_but_the_known_misses_are_within_a_quarter(bench: ModuleType, play: tuple[str, bool]) -> None:
    known = {f"{shape} P99 TTFT, s, {how}" for one, shape, how in MISSES if one == play}
    lines = bench.play_lines(play)
    assert len(lines) == 7
    assert [line.text() for line in lines if not line.within and line.quantity not in known] == []


@pytest.mark.parametrize(
    ("play", "shape", "how"),
    [pytest.param(*key, marks=pytest.mark.xfail(strict=True, reason=said)) for key, said in MISSES.items()],
)
def test_a_figure_known_to_miss(bench: ModuleType, play: tuple[str, bool], shape: str, how: str) -> None:
    lines = {line.quantity: line for line in bench.play_lines(play)}
    line = lines[f"{shape} P99 TTFT, s, {how}"]
    assert line.within, line.text()


@pytest.mark.parametrize("play", [HELD, KEDA])
@pytest.mark.parametrize("how", ["drained", "cut"])
def test_the_symmetric_shape_waits_least_when_the_gateway_holds(
    bench: ModuleType, play: tuple[str, bool], how: str
) -> None:
    assert bench.ordering(play, how)[-1] == list(bench.PUBLISHED)[-1] == "1000/1000"


@pytest.mark.parametrize(
    ("play", "how"),
    [pytest.param(*key, marks=pytest.mark.xfail(strict=True, reason=said)) for key, said in ORDERS.items()],
)
def test_the_shapes_come_in_the_published_order(bench: ModuleType, play: tuple[str, bool], how: str) -> None:
    assert bench.ordering(play, how) == list(bench.PUBLISHED)
