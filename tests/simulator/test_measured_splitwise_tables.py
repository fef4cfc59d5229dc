"""The Splitwise tables from profiles fitted on them: the median row within 10 %, or known not to be, with its figure.

Decoding is linear in the table, so TPOT holds everywhere. The prompt phase is not: it is flat up to 512 tokens (a
floor above a decode step, up to twice) and grows faster than in proportion beyond 2,048, while a step of the simulator
costs a + b * tokens with the decode steps' a.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "hw_profiles" / "splitwise_sim"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the Splitwise tables are not at {DATA}")

TTFT, TPOT = 1, 2
MISSES = {
    "bloom-176b/h100-80gb/tp8": "11.2%",
    "llama2-70b/a100-80gb/tp2": "10.1%",
    "llama2-70b/h100-80gb/tp2": "14.5%",
    "llama2-70b/h100-80gb/tp4": "17.8%",
    "llama2-70b/h100-80gb-pcap/tp4": "10.2%",
}
MEETS = (
    "bloom-176b/a100-80gb/tp8",
    "bloom-176b/h100-80gb-pcap/tp8",
    "llama2-70b/a100-80gb/tp4",
    "llama2-70b/a100-80gb/tp8",
    "llama2-70b/h100-80gb/tp8",
    "llama2-70b/h100-80gb-pcap/tp2",
    "llama2-70b/h100-80gb-pcap/tp8",
)


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "bench"))
        return importlib.import_module("validation_splitwise")


def test_every_profile_of_the_table_is_held_to_it(bench: ModuleType) -> None:
    assert set(bench.table()) == {*MISSES, *MEETS}


@pytest.mark.parametrize("name", [*MEETS, *MISSES])
def test_time_per_output_token_is_reproduced(bench: ModuleType, name: str) -> None:
    line = bench.line(name, TPOT)
    assert line.within, line.text()


@pytest.mark.parametrize(
    "name",
    [
        *MEETS,
        *(
            pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=f"median row misses by {said}, target 10 %"))
            for name, said in MISSES.items()
        ),
    ],
)
def test_time_to_first_token_is_reproduced(bench: ModuleType, name: str) -> None:
    line = bench.line(name, TTFT)
    assert line.within, line.text()
