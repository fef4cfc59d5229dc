"""Hardware profiles: arithmetic, physics, the door for users' files, and agreement with the measured tables."""

from __future__ import annotations

import importlib
import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.errors import BadSettings
from autoscaler.profiles import (
    ACTIVATION_BYTES,
    MEMORY_SHARE,
    UNKNOWN,
    LeadTime,
    Profile,
    load_profiles,
)

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "hw_profiles"
BOOK = load_profiles()
SHIPPED = [profile for profile in BOOK.profiles.values() if profile.name != UNKNOWN]
EVERY = pytest.mark.parametrize("profile", SHIPPED, ids=lambda p: p.name)
COEFFICIENTS = (
    "step_base_s",
    "per_prefill_token_s",
    "prefill_request_s",
    "per_running_s",
    "per_resident_token_s",
)

LAUGHS = "a: &a0 [x, x]\n" + "".join(f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))


def entry(**changes: Any) -> dict[str, Any]:
    """A valid entry: 40 layers x 8 heads x 128 values, KV 2*40*8*128*2 = 163,840 bytes a token."""
    stated = {
        "accelerator": "b200",
        "tensor_parallel": 1,
        "gpus": 1,
        "step_base_s": 0.008,
        "per_prefill_token_s": 2e-5,
        "prefill_request_s": 0.01,
        "per_running_s": 2e-5,
        "per_resident_token_s": 3e-8,
        "kv_bytes_per_token": 163_840,
        "kv_capacity_tokens": 800_000,
        "max_running": 512,
        "max_batched_tokens": 8192,
        "weights_gb": 24.5,
        "evidence": "measured",
        "source": "our own sweep",
        "relative_uncertainty": 0.1,
    }
    return {key: value for key, value in {**stated, **changes}.items() if value is not None}


def page(*entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    shape = {"layers": 40, "kv_heads": 8, "head_dim": 128, "parameters_billion": 12.2}
    return {"model": "nemo-12b", "architecture": shape, "profiles": list(entries) or [entry()], **changes}


def written(directory: Path, document: Any, name: str = "nemo-12b.yaml") -> Path:
    text = document if isinstance(document, str) else yaml.safe_dump(document)
    (directory / name).write_text(text, encoding="utf-8")
    return directory


def problems(directory: Path) -> tuple[str, ...]:
    with pytest.raises(BadSettings) as caught:
        load_profiles(directory)
    return caught.value.problems


@pytest.mark.parametrize("accelerator", ["l4", "a100-80gb", "h100-80gb", "h200-141gb"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "llama-3.1-70b", "qwen3-32b"])
def test_the_usual_models_have_a_profile_on_the_usual_cards(model: str, accelerator: str) -> None:
    assert [p for p in SHIPPED if (p.model, p.accelerator, p.dtype) == (model, accelerator, "bfloat16")]


def test_kv_bytes_of_the_8b_and_70b_models() -> None:
    assert 2 * 32 * 8 * 128 * 2 == 131_072
    assert BOOK.find("llama-3.1-8b", "h100-80gb", 1).kv_bytes_per_token == 131_072
    assert 2 * 80 * 8 * 128 * 2 == 327_680
    assert BOOK.find("llama-3.1-70b", "h100-80gb", 4).kv_bytes_per_token == 327_680


@EVERY
def test_kv_capacity_is_what_memory_leaves_beside_the_weights(profile: Profile) -> None:
    # Llama-3.1-8B on an H100: (0.9 * 85.52 GB - 16.06 GB - 1.8 GB) / 131,072 B = 451 thousand tokens.
    memory = BOOK.accelerators[profile.accelerator].memory_bytes
    left = profile.gpus * (MEMORY_SHARE * memory - ACTIVATION_BYTES) - profile.weights_gb * 1e9
    assert profile.kv_capacity_tokens == pytest.approx(left / profile.kv_bytes_per_token, rel=0.015)


@EVERY
def test_nothing_is_faster_than_its_hardware(profile: Profile) -> None:
    card = BOOK.accelerators[profile.accelerator]
    bandwidth = card.bandwidth_gb_per_s * 1e9 * profile.tensor_parallel
    # Every decode iteration reads all weights once and the batch's KV once.
    assert profile.itl_s(1, 1) >= profile.weights_gb * 1e9 / bandwidth
    assert profile.per_resident_token_s >= profile.kv_bytes_per_token / bandwidth
    # A prompt token costs 2 operations per parameter; no server reaches the data sheet, none sinks to a 20th of it.
    tflops = card.fp8_tflops if profile.dtype == "fp8" else card.bf16_tflops
    assert tflops is not None
    billion = profile.weights_gb if profile.dtype == "fp8" else profile.weights_gb / 2
    # FP8 weights keep 16-bit embeddings, so their GB overstate the parameters a little: 0.85.
    fastest = 2 * billion * 1e9 / (tflops * 1e12 * profile.tensor_parallel)
    assert 0.85 * fastest <= profile.per_prefill_token_s <= 20 * fastest
    assert profile.prefill_s(1000) >= profile.weights_gb * 1e9 / bandwidth
    assert 0.1 <= profile.relative_uncertainty <= 1


def test_more_gpus_never_make_a_replica_slower_or_smaller() -> None:
    pairs = [
        (few, many)
        for few, many in itertools.permutations(SHIPPED, 2)
        if (few.model, few.accelerator, few.dtype) == (many.model, many.accelerator, many.dtype)
        and few.tensor_parallel < many.tensor_parallel
        # Engines of 2023 and 2024 do not compare: llama-2-70b decodes faster on 4 H100 of 2024 than on 8 of 2023.
        and few.source.split("(")[0] == many.source.split("(")[0]
    ]
    assert len(pairs) >= 10
    for few, many in pairs:
        assert many.per_prefill_token_s < few.per_prefill_token_s, (few.name, many.name)
        assert many.kv_capacity_tokens > few.kv_capacity_tokens
        # Splitwise measured 43.3 ms on 4 and 44.1 ms on 8 A100: nothing may be gained, but little lost.
        assert many.step_base_s < 1.05 * few.step_base_s, (few.name, many.name)


@given(
    profile=st.sampled_from(list(BOOK.profiles.values())),
    running=st.integers(1, 1000),
    resident=st.integers(1, 1_000_000),
    more=st.integers(1, 10_000),
)
def test_more_work_takes_longer(profile: Profile, running: int, resident: int, more: int) -> None:
    assert profile.itl_s(running + more, resident) > profile.itl_s(running, resident)
    assert profile.itl_s(running, resident + more) > profile.itl_s(running, resident)
    assert profile.prefill_s(resident + more) > profile.prefill_s(resident)
    assert profile.itl_s(running, resident) > profile.step.base > 0


def test_found_by_what_the_cluster_and_the_engine_call_them() -> None:
    found = BOOK.find("meta-llama/Llama-3.1-8B-Instruct", "NVIDIA-H100-80GB-HBM3", 1)
    assert found is BOOK.profiles["llama-3.1-8b/h100-80gb/tp1"]
    # 6.65 ms + 32 * 20.7 us + 32 * 1,000 * 58.4 ns = 6.65 + 0.66 + 1.87 = 9.18 ms
    assert found.itl_s(32, 32_000) == pytest.approx(9.18e-3, rel=0.01)
    assert BOOK.find("llama-3.1-8b", "H200", 1, "fp8").name == "llama-3.1-8b/h200-141gb/tp1/fp8"


@pytest.mark.parametrize(
    ("wanted", "near"),
    [
        (("llama-3.1-70b", "h100-80gb", 2), "llama-3.1-70b/h100-80gb/tp"),
        (("lama-3.1-8b", "h100-80gb", 1), "llama-3.1-8b/h100-80gb/tp1"),
        (("llama-3.1-8b", "h100-80gb", 1, "int4"), "llama-3.1-8b/h100-80gb/tp1"),
    ],
)
def test_a_profile_that_is_missing_names_the_nearest(wanted: tuple[Any, ...], near: str) -> None:
    with pytest.raises(BadSettings, match="no profile") as caught:
        BOOK.find(*wanted)
    nearest = str(caught.value).split("nearest: ")[1].split(", ")[0]
    assert nearest.startswith(near)


def test_the_unknown_profile_says_how_little_it_knows() -> None:
    unknown = BOOK.profiles[UNKNOWN]
    assert unknown.name == UNKNOWN
    assert unknown.relative_uncertainty > max(p.relative_uncertainty for p in SHIPPED)


def test_own_files_replace_what_they_state_and_add_the_rest(tmp_path: Path) -> None:
    written(tmp_path, page(aliases=["acme/Nemo-12B"]))
    mine = yaml.safe_load((ROOT / "autoscaler/shipped/profiles/llama-3.1-8b.yaml").read_text(encoding="utf-8"))
    mine["profiles"] = [{**p, "step_base_s": 0.0075} for p in mine["profiles"] if p["accelerator"] == "l4"]
    written(tmp_path, mine, "anything.yml")
    written(
        tmp_path,
        "tiers: {start: {p50_s: 60, p90_s: 90, evidence: measured, source: ours}}",
        "lead-times.yaml",
    )
    written(tmp_path, "a note, not a profile", "README.md")
    book = load_profiles(tmp_path)
    assert book.find("ACME/nemo-12b", "b200", 1).source == "our own sweep"
    assert book.find("llama-3.1-8b", "l4", 1).step_base_s == 0.0075
    assert book.find("llama-3.1-8b", "h100-80gb", 1) == BOOK.find("llama-3.1-8b", "h100-80gb", 1)
    assert (book.tiers["start"].p90_s, book.tiers["wake"]) == (90, BOOK.tiers["wake"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step_base_s": "fast"}, "profiles[0].step_base_s: 'fast': Input should be a valid number"),
        ({"step_base_s": 6700}, "profiles[0].step_base_s: 6700: Input should be less than or equal to 10"),
        ({"step_base_s": 0}, "profiles[0].step_base_s: 0: Input should be greater than 0"),
        ({"step_base_s": float("nan")}, "profiles[0].step_base_s: nan:"),
        ({"step_base_s": True}, "profiles[0].step_base_s: True: true/false is not a number; expected seconds"),
        ({"per_prefil_token_s": 1}, "profiles[0].per_prefil_token_s: 1: no such key; known are accelerator,"),
        ({"max_running": None}, "profiles[0].max_running: is missing; expected requests"),
        ({"dtype": "bf16"}, "profiles[0].dtype: 'bf16': Input should be 'bfloat16'"),
        ({"accelerator": "B 200"}, "profiles[0].accelerator: 'B 200': String should match"),
        ({"tensor_parallel": 2}, "gpus 1 must be at least tensor_parallel 2"),
        ({"kv_bytes_per_token": 131_072}, "must be 2 * layers * kv_heads * head_dim * bytes: 163840"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    (problem,) = problems(written(tmp_path, page(entry(**changes))))
    assert problem.startswith(f"{tmp_path / 'nemo-12b.yaml'}: ")
    assert said in problem


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.yaml", "model: [", "not YAML"),
        ("x.yaml", "model: a\nmodel: b\n", "'model' is stated twice"),
        ("x.yaml", "", "None where a mapping with model, aliases, architecture, profiles belongs"),
        ("x.yaml", "[1, 2]", "[1, 2] where a mapping"),
        ("x.yaml", "!!python/object/apply:os.system ['true']", "not YAML"),
        ("x.yaml", "model: x\n" + "[" * 5000, "not YAML"),
        ("x.yaml", "1: 2\nmodel: x", "[1]: 1: Keys should be strings"),
        ("x.yaml", LAUGHS, "known are model, aliases, architecture, profiles"),
        ("x.yaml", yaml.safe_dump(page(profiles=[])), "profiles: [] is empty; expected a list"),
        ("x.yaml", yaml.safe_dump(page(entry(), entry())), "stated twice: b200 tp1 bfloat16"),
        ("x.yaml", yaml.safe_dump(page(model=UNKNOWN)), "is the built-in fallback"),
        ("accelerators.yaml", "accelerators: {b200: {memory_bytes: 192}}", "accelerators.b200.source: is missing"),
        (
            "lead-times.yaml",
            "tiers: {start: {p50_s: 9, p90_s: 3, evidence: measured, source: s}}",
            "p90_s 3.0 must be at least p50_s 9.0",
        ),
    ],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    found = problems(written(tmp_path, text, name))
    assert any(said in problem for problem in found), found
    assert all(problem.startswith(str(tmp_path / name)) for problem in found)


def test_every_problem_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    written(tmp_path, page(entry(step_base_s=-1, weights_gb="many")), "one.yaml")
    (tmp_path / "two.yaml").write_bytes(b"model: \xff\xfe")
    (tmp_path / "three.yaml").mkdir()
    found = problems(tmp_path)
    assert [problem.split(": ")[0] for problem in found] == [
        *[str(tmp_path / "one.yaml")] * 2,
        str(tmp_path / "three.yaml"),
        str(tmp_path / "two.yaml"),
    ]


def test_a_directory_that_is_not_there_is_refused_and_an_empty_one_is_fine(tmp_path: Path) -> None:
    assert "is not a directory" in problems(tmp_path / "nowhere")[0]
    assert load_profiles(tmp_path).profiles == BOOK.profiles


def test_the_shipped_files_are_found_from_anywhere(tmp_path: Path) -> None:
    code = "from autoscaler.profiles import load_profiles; print(len(load_profiles().profiles))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(found.stdout) == len(BOOK.profiles)


def test_config_shows_the_same_files_the_package_carries() -> None:
    assert (ROOT / "config" / "profiles").resolve() == (ROOT / "autoscaler" / "shipped" / "profiles").resolve()


def test_lead_times_follow_the_log_normal_of_median_and_90th_percentile() -> None:
    start = BOOK.tiers["start"]
    assert start.mu == pytest.approx(math.log(115))
    assert start.sigma == pytest.approx(math.log(200 / 115) / 1.28155, rel=1e-4)  # 0.5534 / 1.28155 = 0.4318
    assert start.quantile(0.5) == pytest.approx(115)
    assert start.quantile(0.9) == pytest.approx(200)
    assert LeadTime(7, 7).quantile(0.99) == pytest.approx(7)


def test_the_preempt_tier_is_eviction_and_then_start() -> None:
    both = BOOK.steps["training-eviction"].then(BOOK.tiers["start"])
    assert BOOK.tiers["preempt"].p50_s == pytest.approx(both.p50_s, rel=0.01)
    assert BOOK.tiers["preempt"].p90_s == pytest.approx(both.p90_s, rel=0.01)


def test_one_after_the_other_has_the_mean_of_both() -> None:
    # Two of median 10 and p90 20: sigma = ln 2 / 1.2816 = 0.5409, mean 10 * exp(0.1463) = 11.575 each.
    both = LeadTime(10, 20).then(LeadTime(10, 20))
    assert math.exp(both.mu + both.sigma**2 / 2) == pytest.approx(2 * 11.575, rel=1e-4)
    # Variance adds too: relative variance exp(0.2926) - 1 = 0.3398 halves to 0.1699, sigma = sqrt(ln 1.1699) = 0.3961.
    assert both.sigma == pytest.approx(0.3961, rel=1e-3)


@given(st.floats(0.1, 1e4), st.floats(1, 20), st.floats(0.1, 1e4), st.floats(1, 20))
def test_one_after_the_other_is_later_than_either(a: float, wide: float, b: float, far: float) -> None:
    first, second = LeadTime(a, a * wide), LeadTime(b, b * far)
    both = first.then(second)
    assert both.p50_s >= max(first.p50_s, second.p50_s)
    assert both.p90_s >= max(first.p90_s, second.p90_s, both.p50_s)


def test_lead_times_are_in_the_order_of_the_ladder() -> None:
    ladder = ["convert", "wake", "start", "preempt", "provision"]
    assert [BOOK.tiers[tier].p50_s for tier in ladder] == sorted(BOOK.tiers[tier].p50_s for tier in ladder)
    assert BOOK.weight_sources["rdma-400"].shared_by == "gpu"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    if not DATA.is_dir():
        pytest.skip(f"the measured tables are not there: {DATA}")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "bench"))
        return importlib.import_module("profiles_fit")


def test_committed_figures_are_what_the_tables_give(bench: ModuleType) -> None:
    derived = {found.name: found for found in bench.derive()}
    assert set(derived) == {profile.name for profile in SHIPPED}
    for name, found in derived.items():
        committed = BOOK.profiles[name]
        stated = bench.entry(found)
        for coefficient in COEFFICIENTS:
            assert getattr(committed, coefficient) == pytest.approx(stated[coefficient], rel=0.02), (
                f"{name} {coefficient}: run bench/profiles_fit.py --write"
            )
        assert committed.relative_uncertainty == stated["relative_uncertainty"]


def test_committed_profiles_meet_every_measured_table_as_well_as_they_claim(bench: ModuleType) -> None:
    found = bench.residuals()
    assert len(found) >= 18
    deviations = [row.miss / BOOK.profiles[row.profile].relative_uncertainty for row in found]
    # One standard deviation covers 68 % of cases and two 95 %; tables of older engines are among these.
    assert sum(deviation <= 1 for deviation in deviations) >= 0.68 * len(found)
    assert max(deviations) <= 2


def test_kv_capacity_by_formula_is_what_recorded_servers_had(bench: ModuleType) -> None:
    recorded = bench.tables.recorded_capacity()
    assert len(recorded) == 7
    for name, _, formula, said in recorded:
        assert formula == pytest.approx(said, rel=0.02), name
