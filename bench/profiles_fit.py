"""Derive the shipped hardware profiles from the measured tables, and print them beside the committed ones.

    python bench/profiles_fit.py             factors, fitted against committed, residuals on every measured table
    python bench/profiles_fit.py --write     write the model files anew (autoscaler/shipped/profiles)

Where only kernel sums exist, they are multiplied by factors found where both a kernel sum and a measured server exist;
where nothing exists, by published specifications. The fits themselves are in profile_tables.py.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import astuple, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import profile_tables as tables
import yaml
from profile_tables import MODELS, Step, capacity, kernels

from autoscaler.profiles import load_profiles

if TYPE_CHECKING:
    from autoscaler.profiles import Profile

SHIPPED = tables.ROOT / "autoscaler" / "shipped" / "profiles"
COEFFICIENTS = (
    "per_prefill_token_s",
    "prefill_request_s",
    "step_base_s",
    "per_running_s",
    "per_resident_token_s",
)
L4_SUSTAINED = 1.2
"""An L4 holds 72 W, so its compute falls further behind an L40S than the data sheets' 362 to 121 TFLOPS."""


@dataclass(frozen=True)
class Factors:
    """Measured server over kernel sum: ratios, and for B the seconds to add (front end, tokenising, scheduling)."""

    prompt: float
    request_s: float
    base: float
    running: float
    resident: float

    def served(self, sums: Step) -> Step:
        """What a server makes of kernel sums."""
        return Step(
            sums.prompt * self.prompt,
            sums.request + self.request_s,
            sums.base * self.base,
            sums.running * self.running,
            sums.resident * self.resident,
        )


@cache
def factors() -> Factors:
    """Medians over all pairs; c only from the two tables that separate it from A, B likewise."""
    pairs = [
        (tables.guidellm(), kernels("h100_sxm", "bfloat16", "Llama-3.1-8B", 1)),
        (tables.dynamo(), kernels("h200_sxm", "fp8", "Llama-3.1-8B", 1)),
    ]
    prompt = [m.prompt / k.prompt for m, k in pairs]
    prompt.append(tables.GUIDE_QWEN3_32B_H100_TP2 / kernels("h100_sxm", "bfloat16", "Qwen2.5-32B", 2).prompt)
    prompt.append(tables.splitwise("h100-80gb", 4).prompt / kernels("h100_sxm", "bfloat16", "Llama-3.1-70B", 4).prompt)
    base, resident = [m.base / k.base for m, k in pairs], [m.resident / k.resident for m, k in pairs]
    for model, gpu, tp in tables.OFFLINE:
        k = kernels(gpu, "bfloat16", MODELS[model].kernels, tp)
        a, _, d = tables.offline(model, gpu, tp)
        base.append(a / k.base)
        resident.append(d / k.resident)
    return Factors(
        statistics.median(prompt),
        statistics.mean(m.request - k.request for m, k in pairs),
        statistics.median(base),
        statistics.geometric_mean(m.running / k.running for m, k in pairs),
        statistics.median(resident),
    )


@dataclass(frozen=True)
class Derived:
    """One entry as the data give it."""

    model: str
    accelerator: str
    tp: int
    dtype: str
    step: Step
    evidence: str
    source: str
    sd: float
    kv_capacity: int | None = None

    @property
    def name(self) -> str:
        """As Profile.name."""
        tail = "" if self.dtype == "bfloat16" else f"/{self.dtype}"
        return f"{self.model}/{self.accelerator}/tp{self.tp}{tail}"


def from_kernels(model: str, gpu: str, tp: int, dtype: str = "bfloat16") -> Derived:
    """Kernel sums times the factors."""
    called = MODELS[model].kernels
    source = f"aic_kernel_derived ({called}, {gpu}, {dtype}, tp{tp}) times measured-server factors (README)"
    step = factors().served(kernels(gpu, dtype, called, tp))
    return Derived(model, tables.GPU[gpu], tp, dtype, step, "kernel-derived", source, 0.35)


def between(model: str, gpu: str, tp: int, known: tuple[int, int]) -> Derived:
    """Kernel sums at a tensor parallelism not tabled: p + q/tp through the two that are."""
    called = MODELS[model].kernels
    near, far = (np.array(astuple(kernels(gpu, "bfloat16", called, k))) for k in known)
    slope = (near - far) / (1 / known[0] - 1 / known[1])
    step = factors().served(Step(*(float(v) for v in np.maximum(near + slope * (1 / tp - 1 / known[0]), near / 2))))
    source = (
        f"aic_kernel_derived ({called}, {gpu}), tp{known[0]} and tp{known[1]} carried to tp{tp} as p + q/tp, factored"
    )
    return Derived(model, tables.GPU[gpu], tp, "bfloat16", step, "inferred", source, 0.4)


def on_l4(model: str, tp: int) -> Derived:
    """An L40S's kernel sums, slowed by the published bandwidth (a, d) and compute (A, c) of an L4. Nothing measured."""
    cards = tables.shipped().accelerators
    memory = cards["l40s"].bandwidth_gb_per_s / cards["l4"].bandwidth_gb_per_s
    compute = cards["l40s"].bf16_tflops / cards["l4"].bf16_tflops * L4_SUSTAINED
    k = kernels("l40s", "bfloat16", MODELS[model].kernels, tp)
    slow = Step(k.prompt * compute, k.request * memory, k.base * memory, k.running * compute, k.resident * memory)
    source = (
        f"aic_kernel_derived l40s tp{tp} scaled by bandwidth {memory:.2f} (a, d) and compute {compute:.2f} (A, c), "
        "times factors; nothing measured"
    )
    return Derived(model, "l4", tp, "bfloat16", factors().served(slow), "inferred", source, 0.5)


def from_offline(model: str, gpu: str, tp: int) -> Derived:
    """Measured a, A + c and d of whole batches; A from kernel sums times the factor, c the rest of A + c."""
    forty = gpu == "a100_40"
    served = factors().served(kernels("a100_sxm" if forty else gpu, "bfloat16", MODELS[model].kernels, tp))
    base, both, resident = tables.offline(model, gpu, tp)
    step = replace(served, base=base, running=max(both - served.prompt, both / 10), resident=resident)
    source = "llm_inference_bench (vLLM of 2024): a, d and A + c measured, A by kernel sums times factor, c the rest"
    return Derived(model, "a100-40gb" if forty else tables.GPU[gpu], tp, "bfloat16", step, "measured", source, 0.25)


def from_neighbours(gpu: str, dtype: str) -> Derived:
    """Llama-3.1-8B between its two measured servers, each carried here by the ratio of kernel sums (geometric mean)."""
    here = np.array(astuple(kernels(gpu, dtype, "Llama-3.1-8B", 1)))
    carried = np.ones_like(here)
    for measured, there in ((tables.guidellm(), ("h100_sxm", "bfloat16")), (tables.dynamo(), ("h200_sxm", "fp8"))):
        carried *= np.array(astuple(measured)) * here / np.array(astuple(kernels(*there, "Llama-3.1-8B", 1)))
    step = replace(
        Step(*(float(v) for v in np.sqrt(carried))),
        request=kernels(gpu, dtype, "Llama-3.1-8B", 1).request + factors().request_s,
    )
    source = "measured h100-80gb bfloat16 and h200-141gb fp8, carried here by ratios of kernel sums, geometric mean"
    return Derived("llama-3.1-8b", tables.GPU[gpu], 1, dtype, step, "kernel-derived", source, 0.25)


def from_splitwise(gpu: str, tp: int) -> Derived:
    """Llama-2-70B as measured in 2023: so much slower than engines of today that the uncertainty has to say so."""
    source = "splitwise_sim median_table (vLLM of 2023; engines of 2024 decode 1.5 times faster on the same GPUs)"
    return Derived("llama-2-70b", gpu, tp, "bfloat16", tables.splitwise(gpu, tp), "measured", source, 0.6)


@cache
def derive() -> tuple[Derived, ...]:
    """Every shipped entry, derived from the data."""
    source = (
        "inferno_wva guidellm_sweeps_exp1 (vLLM; A, B from idle, a, c, d from loaded sweeps). GPU not named there: ITL "
        "6.7 ms at batch 1 is below an A100's floor of 7.9 ms, KV read at 2.2 TB/s is 67 % of an H100, 47 % of an H200"
    )
    found = [Derived("llama-3.1-8b", "h100-80gb", 1, "bfloat16", tables.guidellm(), "measured", source, 0.2)]
    source = "dynamo_preswept (vLLM 0.10.1.1), prompts to 8,236 tokens, batches to 300; KV capacity as the server said"
    found.append(Derived("llama-3.1-8b", "h200-141gb", 1, "fp8", tables.dynamo(), "measured", source, 0.15, 945_029))
    guide = replace(from_kernels("qwen3-32b", "h100_sxm", 2).step, prompt=tables.GUIDE_QWEN3_32B_H100_TP2)
    source = (
        "V_P 15,928 tokens/s measured (llm-d token-aware autoscaling guide); the rest aic_kernel_derived times factors"
    )
    found.append(Derived("qwen3-32b", "h100-80gb", 2, "bfloat16", guide, "kernel-derived", source, 0.3))
    found += [from_offline(m, gpu, tp) for m, gpu, tp in tables.OFFLINE if m != "llama-3.1-8b"]
    found.append(from_offline("llama-3.1-8b", "a100_40", 1))
    found += [from_neighbours("h200_sxm", "bfloat16"), from_neighbours("h100_sxm", "fp8")]
    found += [from_splitwise(gpu, tp) for gpu, tp in (("a100-80gb", 4), ("a100-80gb", 8), ("h100-80gb", 8))]
    wanted = (
        ("llama-3.1-8b", 1, "bfloat16"), ("llama-3.1-8b", 1, "fp8"), ("llama-3.1-70b", 4, "bfloat16"),
        ("llama-3.1-70b", 8, "bfloat16"), ("llama-3.1-70b", 4, "fp8"), ("llama-2-7b", 1, "bfloat16"),
        ("qwen3-32b", 2, "bfloat16"), ("qwen3-32b", 4, "bfloat16"), ("qwen3-32b", 2, "fp8"),
        ("qwen2.5-7b", 1, "bfloat16"), ("qwen2.5-14b", 1, "bfloat16"), ("qwen2.5-14b", 2, "bfloat16"),
        ("qwen2.5-32b", 2, "bfloat16"), ("qwen2.5-32b", 4, "bfloat16"), ("qwen2.5-72b", 4, "bfloat16"),
        ("qwen2.5-72b", 8, "bfloat16"),
    )  # fmt: skip
    for gpu in tables.GPU:
        for model, tp, dtype in wanted:
            fits = capacity(MODELS[model], tables.GPU[gpu], tp, dtype) >= 16_384
            if fits and not (dtype == "fp8" and gpu == "a100_sxm"):
                found.append(from_kernels(model, gpu, tp, dtype))
    found += [between("llama-3.1-70b", "h200_sxm", 2, (4, 8)), between("qwen3-32b", "h200_sxm", 1, (2, 4))]
    found += [on_l4(*pair) for pair in (("llama-3.1-8b", 1), ("llama-3.1-70b", 8), ("qwen3-32b", 4), ("qwen2.5-7b", 1))]
    best_first = {one.name: one for one in reversed(found)}
    return tuple(sorted(best_first.values(), key=lambda one: one.name))


def rounded(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")


def entry(found: Derived) -> dict[str, Any]:
    """As a YAML entry. Batch limits are vLLM's server defaults: larger on cards of 70 GB and more other than A100."""
    model = MODELS[found.model]
    hopper = found.accelerator.startswith("h")
    room = found.kv_capacity or int(capacity(model, found.accelerator, found.tp, found.dtype)) // 16 * 16
    return {
        "accelerator": found.accelerator,
        "tensor_parallel": found.tp,
        "dtype": found.dtype,
        "gpus": found.tp,
        **{name: rounded(v) for name, v in zip(COEFFICIENTS, astuple(found.step), strict=True)},
        "kv_bytes_per_token": model.kv_bytes(),
        "kv_capacity_tokens": room,
        "max_running": 1024 if hopper else 256,
        "max_batched_tokens": 8192 if hopper else 2048,
        "weights_gb": round(model.weights_gb(found.dtype), 2),
        "evidence": found.evidence,
        "source": found.source,
        "relative_uncertainty": found.sd,
    }


def write() -> None:
    """Write the model files anew."""
    for name, model in MODELS.items():
        mine = sorted((d for d in derive() if d.model == name), key=lambda d: d.name)
        shape = {"layers": model.layers, "kv_heads": model.kv_heads, "head_dim": model.head_dim}
        page = {
            "model": name,
            "aliases": list(model.aliases),
            "architecture": {**shape, "parameters_billion": model.billion},
            "profiles": [entry(d) for d in mine],
        }
        head = "# Written by bench/profiles_fit.py --write; what the fields mean is in README.md.\n"
        text = yaml.safe_dump(page, sort_keys=False, width=120, allow_unicode=True)
        (SHIPPED / f"{name}.yaml").write_text(head + text, encoding="utf-8")


@dataclass(frozen=True)
class Residual:
    """Committed profile against a measured table: share by which it misses, signed median and absolute median."""

    profile: str
    table: str
    quantity: str
    points: int
    bias: float
    miss: float


def residual(profile: Profile, table: str, quantity: str, predicted: list[float], measured: list[float]) -> Residual:
    """Relative errors summed up."""
    errors = [p / m - 1 for p, m in zip(predicted, measured, strict=True)]
    bias, miss = statistics.median(errors), statistics.median(abs(e) for e in errors)
    return Residual(profile.name, table, quantity, len(errors), bias, miss)


def decode_residual(profile: Profile, table: str, rows: tuple[list[list[float]], list[float]]) -> Residual:
    """Of a table of (1, running, resident) and ITL."""
    return residual(profile, table, "ITL", [profile.itl_s(n, r) for _, n, r in rows[0]], rows[1])


def offline_residual(profile: Profile, hardware: str, called: str) -> Residual:
    """Of whole batches: latency = L (a + (A + c) batch + 1.5 d batch L)."""
    rows = tables.offline_rows(hardware, profile.tensor_parallel, called, profile.kv_capacity_tokens)
    both = profile.per_prefill_token_s + profile.per_running_s
    predicted = [
        profile.step_base_s * length + both * tokens + profile.per_resident_token_s * square
        for length, tokens, square in rows[0]
    ]
    return residual(profile, f"llm_inference_bench {called}", "latency", predicted, rows[1])


def residuals() -> list[Residual]:
    """The committed profiles against every measured table they can be held to, fitted on it or not."""
    book = load_profiles().profiles
    h100, h200 = book["llama-3.1-8b/h100-80gb/tp1"], book["llama-3.1-8b/h200-141gb/tp1/fp8"]
    found = []
    for saturated in (False, True):
        rows = tables.guidellm_itl(saturated=saturated)
        predicted = [h100.per_prefill_token_s * chunk + h100.itl_s(n, r) for _, chunk, n, r in rows[0]]
        name = "guidellm, saturated (not fitted)" if saturated else "guidellm"
        found.append(residual(h100, name, "ITL", predicted, rows[1]))
    for profile, name, (tokens, seconds) in (
        (h100, "guidellm, idle", tables.guidellm_ttft()),
        (h200, "dynamo_preswept", tables.dynamo_ttft()),
    ):
        found.append(residual(profile, name, "TTFT", [profile.prefill_s(t) for t in tokens], seconds))
    found.append(decode_residual(h200, "dynamo_preswept", tables.dynamo_itl()))
    for gpu in ("a100-80gb", "h100-80gb"):
        for tp in (4, 8):
            profile = book[f"llama-2-70b/{gpu}/tp{tp}"]
            tokens, seconds = tables.splitwise_ttft(gpu, tp)
            found.append(residual(profile, "splitwise", "TTFT", [profile.prefill_s(t) for t in tokens], seconds))
            found.append(decode_residual(profile, "splitwise", tables.splitwise_itl(gpu, tp)))
    for (model, gpu, tp), (hardware, called) in tables.OFFLINE.items():
        found.append(offline_residual(book[f"{model}/{tables.GPU[gpu]}/tp{tp}"], hardware, called))
    found.append(offline_residual(book["llama-3.1-8b/a100-40gb/tp1"], *tables.A100_40))
    return found


def show() -> None:
    """Print factors, fitted against committed, KV capacity against recorded servers, residuals."""
    print("measured server / kernel sum:", ", ".join(f"{k} {v:.3g}" for k, v in vars(factors()).items()))
    book = load_profiles().profiles
    heads = " ".join(f"{head:>15}" for head in ("V_P tok/s", "B ms", "a ms", "c us", "d ns"))
    print(f"\n{'profile: fitted (committed/fitted)':34} {heads}")
    for found in derive():
        mine = book[found.name]
        cells = []
        for name, value, unit in zip(COEFFICIENTS, astuple(found.step), (0, 1e3, 1e3, 1e6, 1e9), strict=True):
            shown = f"{value * unit:.4g}" if unit else f"{1 / value:,.0f}"
            cells.append(f"{shown} ({getattr(mine, name) / value:.2f})".rjust(15))
        print(f"{found.name:34}", *cells, f"{found.evidence} +-{mine.relative_uncertainty:.0%}")
    print("\nKV capacity, formula against recorded vLLM servers")
    for name, tp, formula, said in tables.recorded_capacity():
        print(f"{name:32} tp{tp} {formula:12,.0f} {said:12,.0f} {formula / said - 1:+.1%}")
    print(f"\n{'committed profile':34} {'table':46} {'':8} {'points':>6} {'bias':>7} {'median miss':>11}")
    for r in residuals():
        print(f"{r.profile:34} {r.table:46} {r.quantity:8} {r.points:6} {r.bias:+7.1%} {r.miss:11.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the model files anew")
    if not tables.DATA.is_dir():
        parser.error(f"{tables.DATA} is not there: the measured tables come beside the repository")
    if parser.parse_args().write:
        write()
    show()
