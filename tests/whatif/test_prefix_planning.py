"""KV kept on scale-in, and the warm-up list: small traces whose hits can be counted by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.errors import BadSettings
from autoscaler.journal import Journal
from autoscaler.model import Decision, Observation, Role, RoleKey, RoleObservation
from autoscaler.simulator.requests import BLOCK_TOKENS, Workload
from autoscaler.whatif.prefixes import Cache, ScaleIn, hottest, refuse_journal, scale_in

MOONCAKE = Path(__file__).resolve().parents[3] / "shared" / "data" / "mooncake"


def workload(chains: list[list[int]], gap: float = 1.0) -> Workload:
    prompts = np.array([len(chain) * BLOCK_TOKENS for chain in chains])
    return Workload(
        "t",
        np.arange(len(chains)) * gap,
        prompts,
        np.full(len(chains), 10),
        blocks=tuple(np.array(chain, dtype=np.int64) for chain in chains),
    )


def asked(**other: float) -> ScaleIn:
    usual = {
        "replicas": 4,
        "released": 1,
        "at_s": 50.0,
        "cache_tokens": 100 * BLOCK_TOKENS,
        "kv_bytes_per_token": 1000.0,
    }
    return ScaleIn(**{**usual, "horizon_s": 50.0, **other})  # type: ignore[arg-type]  # whole numbers among them


def test_a_request_hits_from_its_beginning_to_the_first_block_that_is_not_there() -> None:
    cache = Cache(room=3)
    assert cache.serve([1, 2, 3]) == 0
    assert cache.serve([1, 2, 9]) == 2  # 9 takes the room of 3, the least recently used
    assert cache.serve([1, 2, 3]) == 2
    assert cache.serve([7, 2, 3]) == 0  # 2 and 3 are there, but not behind 7


def test_the_warm_up_list_is_what_is_shared_most() -> None:
    # Ten requests share blocks 1-2, three of them 3 too; block 50 is nobody else's.
    chains = [[1, 2, 3]] * 3 + [[1, 2, 10 + n] for n in range(7)] + [[50]]
    listed = hottest(workload(chains), most_tokens=100 * BLOCK_TOKENS)
    assert [(one.blocks, one.requests) for one in listed] == [((1, 2), 10), ((1, 2, 3), 3)]
    assert listed[0].saved == 2 * BLOCK_TOKENS * 9
    # Room for two blocks: the longer prefix does not fit beside.
    assert [one.blocks for one in hottest(workload(chains), most_tokens=2 * BLOCK_TOKENS)] == [(1, 2)]


def test_what_each_choice_keeps_counted_by_hand() -> None:
    # Eight prefixes of two blocks, asked for in turn: each of four replicas has two of them, and once all are cached
    # every request hits both its blocks.
    chains = [[10 * n, 10 * n + 1] for n in range(8)] * 13
    delete, drain, warm, offload, keep = scale_in(workload(chains[:100]), asked(warm_share=1.0, request_s=4.0))
    assert keep.hit_share == 1.0
    # The released replica's two prefixes are computed once more, two blocks each, then the others hold them:
    # 50 requests of two blocks come within the horizon.
    assert delete.recomputed_tokens == 2 * 2 * BLOCK_TOKENS
    assert delete.hit_share == pytest.approx(1 - 2 / 50)
    assert drain.recomputed_tokens == delete.recomputed_tokens
    # Of the four requests of the last four seconds one was on it.
    assert (drain.in_flight_tokens, delete.in_flight_tokens) == (0, 2 * BLOCK_TOKENS)
    assert warm.recomputed_tokens == offload.recomputed_tokens == 0
    # Two prefixes of two blocks of 512 tokens of 1,000 bytes; 100 Gbit/s are 12.5 GB/s.
    assert offload.stored_bytes == warm.moved_bytes == 2 * 2 * BLOCK_TOKENS * 1000
    assert offload.moved_s == pytest.approx(offload.moved_bytes / 12.5e9)


@given(
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=5, unique=True), min_size=30, max_size=60),
    st.integers(2, 5),
)
def test_nothing_keeps_more_than_keeping_and_drain_never_less_than_delete(
    chains: list[list[int]], replicas: int
) -> None:
    found = {one.choice: one for one in scale_in(workload(chains), asked(replicas=replicas, at_s=15.0))}
    assert found["keep"].recomputed_tokens == 0
    assert found["offload"].hit_share >= found["drain"].hit_share == found["delete"].hit_share
    assert all(0 <= one.hit_share <= 1 for one in found.values())


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"released": 4}, "at least one must go and one stay"),
        ({"cache_tokens": 10}, "must hold a block"),
        ({"warm_share": 2.0}, "0..1"),
        ({"link_gbps": 0.0}, "link_gbps is 0"),
        ({"at_s": 1e6}, "no request comes"),
    ],
)
def test_questions_that_cannot_be_answered_are_refused(other: dict[str, float], said: str) -> None:
    with pytest.raises(BadSettings, match=said):
        scale_in(workload([[1], [2]] * 40), asked(**other))


def test_a_trace_without_blocks_is_refused() -> None:
    bare = Workload("t", np.zeros(1), np.ones(1, dtype=np.int64), np.ones(1, dtype=np.int64))
    with pytest.raises(BadSettings, match="has no prefix blocks"):
        hottest(bare, most_tokens=1000)


def test_a_journal_is_refused_with_the_reason(tmp_path: Path) -> None:
    written = Journal(tmp_path / "journal.jsonl", 1_000_000)
    written.write(Observation(1.0, (RoleObservation(RoleKey("a", "b", Role.COLOCATED)),)), Decision(1.0, ()))
    with pytest.raises(BadSettings, match="is a journal: it has rates of tokens and hits, and no prefix blocks"):
        refuse_journal(tmp_path / "journal.jsonl")
    (tmp_path / "trace.jsonl").write_text('{"timestamp": 1, "hash_ids": [1]}\n')
    refuse_journal(tmp_path / "trace.jsonl")


@pytest.mark.skipif(not MOONCAKE.is_dir(), reason="../shared/data/mooncake is not here")
def test_a_published_trace_from_the_command_line(tmp_path: Path) -> None:
    trace = next(
        file for file in sorted(MOONCAKE.iterdir()) if file.name.startswith("synthetic") and "jsonl" in file.name
    )
    command = [
        Path(sys.executable).with_name("tidegate"), "kv", "--trace", trace, "--json",
        "--warm-up", tmp_path / "list.jsonl",
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    choices = {one["choice"]: one for one in json.loads(ended.stdout)["choices"]}
    assert choices["drain"]["hit_share"] < choices["offload"]["hit_share"] <= choices["keep"]["hit_share"] + 0.02
    assert choices["offload"]["stored_bytes"] > 0
    first = json.loads((tmp_path / "list.jsonl").read_text().splitlines()[0])
    assert first["requests"] >= 2
    assert first["tokens"] == BLOCK_TOKENS * len(first["hash_ids"])
