"""The measured tables behind the shipped hardware profiles, and one fit for each (see profiles_fit.py).

Every fit is a non-negative least squares on relative errors. Seconds and tokens throughout.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from autoscaler.profiles import ACTIVATION_BYTES, MEMORY_SHARE, ProfileBook, load_profiles

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "hw_profiles"
KERNELS = "aic_kernel_derived/prefill_decode_derived.csv"
GPU = {"a100_sxm": "a100-80gb", "h100_sxm": "h100-80gb", "h200_sxm": "h200-141gb", "l40s": "l40s"}
GUIDE_QWEN3_32B_H100_TP2 = 1 / 15_928
"""Prefill seconds per token, chunk / median TTFT, published in the llm-d token-aware autoscaling guide."""


@dataclass(frozen=True)
class Step:
    """A, B of prefill; a, c, d of decode (seconds)."""

    prompt: float
    request: float
    base: float
    running: float
    resident: float


@dataclass(frozen=True)
class Model:
    """What the formulas need of a model; `embedding_gb` stays 16 bit under fp8."""

    layers: int
    kv_heads: int
    head_dim: int
    billion: float
    embedding_gb: float
    aliases: tuple[str, ...]
    kernels: str

    def kv_bytes(self) -> int:
        """Per token, 16 bit."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2

    def weights_gb(self, dtype: str) -> float:
        """GB of weights."""
        if dtype == "fp8":
            return self.billion - self.embedding_gb / 2 + self.embedding_gb
        return 2 * self.billion


MODELS = {
    "llama-3.1-8b": Model(32, 8, 128, 8.03, 2.1, ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct",
        "meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B-Instruct",
        "unsloth/Meta-Llama-3.1-8B", "nvidia/Llama-3.1-8B-Instruct-FP8", "llama-3-8b"), "Llama-3.1-8B"),
    "llama-3.1-70b": Model(80, 8, 128, 70.55, 4.2, ("meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-70B-Instruct",
        "meta-llama/Meta-Llama-3-70B", "meta-llama/Meta-Llama-3-70B-Instruct", "meta-llama/Llama-3.3-70B-Instruct",
        "llama-3-70b", "llama-3.3-70b"), "Llama-3.1-70B"),
    "llama-2-7b": Model(32, 32, 128, 6.74, 0.52, ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf"),
        "Llama-2-7B"),
    "llama-2-70b": Model(80, 8, 128, 68.98, 1.05, ("meta-llama/Llama-2-70b-hf", "meta-llama/Llama-2-70b-chat-hf"),
        "Llama-3.1-70B"),
    "qwen3-32b": Model(64, 8, 128, 32.76, 3.11, ("Qwen/Qwen3-32B", "Qwen/Qwen3-32B-FP8"), "Qwen2.5-32B"),
    "qwen2.5-7b": Model(28, 4, 128, 7.62, 2.18, ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B", "Qwen/Qwen2-7B"),
        "Qwen2.5-7B"),
    "qwen2.5-14b": Model(48, 8, 128, 14.77, 3.11, ("Qwen/Qwen2.5-14B-Instruct", "Qwen/Qwen2.5-14B"), "Qwen2.5-14B"),
    "qwen2.5-32b": Model(64, 8, 128, 32.76, 3.11, ("Qwen/Qwen2.5-32B-Instruct", "Qwen/Qwen2.5-32B"), "Qwen2.5-32B"),
    "qwen2.5-72b": Model(80, 8, 128, 72.71, 4.98, ("Qwen/Qwen2.5-72B-Instruct", "Qwen/Qwen2.5-72B", "Qwen/Qwen2-72B"),
        "Qwen2.5-72B"),
}  # fmt: skip


@cache
def rows(table: str) -> tuple[dict[str, str], ...]:
    """A table of the data directory."""
    with (DATA / table).open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def number(row: dict[str, str], key: str) -> float:
    """A cell as a number."""
    return float(row[key])


def fit(design: list[list[float]], seconds: list[float]) -> list[float]:
    """Non-negative coefficients that minimise the sum of squared relative errors."""
    x, y = np.array(design), np.array(seconds)
    scale = np.abs(x).max(axis=0)
    found, _ = nnls(x / scale / y[:, None], np.ones_like(y))
    return [float(v) for v in found / scale]


@cache
def kernels(gpu: str, dtype: str, model: str, tp: int) -> Step:
    """Kernel sums of one configuration; prompts up to 8,192 tokens, beyond which attention grows with the square."""
    mine = [
        r for r in rows(KERNELS) if (r["gpu"], r["gemm_dtype"], r["model"], r["tp"]) == (gpu, dtype, model, str(tp))
    ]
    pre = [r for r in mine if r["phase"] == "prefill" and number(r, "length") <= 8192]
    dec = [r for r in mine if r["phase"] == "decode"]
    request, prompt = fit([[1, number(r, "length")] for r in pre], [number(r, "latency_ms") / 1e3 for r in pre])
    design = [[1, number(r, "batch"), number(r, "batch") * number(r, "length")] for r in dec]
    return Step(prompt, request, *fit(design, [number(r, "latency_ms") / 1e3 for r in dec]))


@cache
def guidellm() -> Step:
    """Llama-3.1-8B: A and B from the idle sweeps, a, c, d from the loaded ones (medians; mixed iterations reckoned)."""
    tokens, ttft = guidellm_ttft()
    request, prompt = fit([[1, t] for t in tokens], ttft)
    base, _, running, resident = fit(*guidellm_itl())
    return Step(prompt, request, base, running, resident)


def guidellm_ttft() -> tuple[list[float], list[float]]:
    """Prompt tokens and median TTFT in s of the idle sweeps."""
    idle = [r for r in rows("inferno_wva/guidellm_sweeps_exp1.csv") if r["name"] == "synchronous"]
    return [number(r, "in_tokens") for r in idle], [number(r, "ttft_p50_ms") / 1e3 for r in idle]


def guidellm_itl(*, saturated: bool = False) -> tuple[list[list[float]], list[float]]:
    """Rows (1, prompt tokens per iteration, running, resident) and ITL in s, of the sweeps that kept up, or not."""
    design, itl = [], []
    for r in rows("inferno_wva/guidellm_sweeps_exp1.csv"):
        n, seconds = number(r, "concurrency"), number(r, "itl_p50_ms") / 1e3
        if (r["name"] == "throughput" or n > 256) is not saturated:
            continue
        chunk = number(r, "req_s") * number(r, "in_tokens") * seconds
        design.append([1, chunk, n, n * (number(r, "in_tokens") + number(r, "out_tokens") / 2)])
        itl.append(seconds)
    return design, itl


@cache
def dynamo() -> Step:
    """Llama-3.1-8B FP8 on H200: batches up to 300 (beyond, the sweep was capped), prompts up to 8,236 tokens."""
    tokens, ttft = dynamo_ttft()
    request, prompt = fit([[1, t] for t in tokens], ttft)
    return Step(prompt, request, *fit(*dynamo_itl()))


def dynamo_ttft() -> tuple[list[float], list[float]]:
    """Prompt tokens and TTFT in s."""
    pre = [r for r in rows("dynamo_preswept/prefill.csv") if number(r, "isl") < 8300]
    return [number(r, "isl") for r in pre], [number(r, "ttft_ms") / 1e3 for r in pre]


def dynamo_itl() -> tuple[list[list[float]], list[float]]:
    """Rows (1, running, resident) and ITL in s."""
    dec = [r for r in rows("dynamo_preswept/decode.csv") if number(r, "implied_batch") < 300]
    design = [[1, number(r, "implied_batch"), number(r, "implied_batch") * number(r, "context_length")] for r in dec]
    return design, [number(r, "itl_ms") / 1e3 for r in dec]


def splitwise_rows(gpu: str, tp: int) -> list[dict[str, str]]:
    """Llama-2-70B (vLLM of 2023); batches of 32 and more on two GPUs did not fit and are left out."""
    return [
        r
        for r in rows("splitwise_sim/median_table.csv")
        if (r["model"], r["hardware"], r["tensor_parallel"]) == ("llama2-70b", gpu, str(tp))
        and (tp > 2 or number(r, "batch_size") < 32)
    ]


@cache
def splitwise(gpu: str, tp: int) -> Step:
    """Llama-2-70B by GPU type and tensor parallelism."""
    tokens, ttft = splitwise_ttft(gpu, tp)
    request, prompt = fit([[1, t] for t in tokens], ttft)
    return Step(prompt, request, *fit(*splitwise_itl(gpu, tp)))


def splitwise_ttft(gpu: str, tp: int) -> tuple[list[float], list[float]]:
    """Prompt tokens of the batch and its prefill time in s."""
    mine = splitwise_rows(gpu, tp)
    tokens = [number(r, "prompt_size") * number(r, "batch_size") for r in mine]
    return tokens, [number(r, "prompt_time_ms") / 1e3 for r in mine]


def splitwise_itl(gpu: str, tp: int) -> tuple[list[list[float]], list[float]]:
    """Rows (1, running, resident) and ITL in s."""
    design, itl = [], []
    for r in splitwise_rows(gpu, tp):
        batch = number(r, "batch_size")
        design.append([1, batch, batch * (number(r, "prompt_size") + number(r, "token_size") / 2)])
        itl.append(number(r, "token_time_ms") / 1e3)
    return design, itl


def offline_rows(hardware: str, tp: int, model: str, capacity: float) -> tuple[list[list[float]], list[float]]:
    """Batches of vLLM in llm_inference_bench that fit in KV: rows (L, batch L, 1.5 batch L^2) and latency in s."""
    design, latency = [], []
    for r in rows("llm_inference_bench/All_results.csv"):
        key = (r["Hardware"], r["Framework"], r["Num of Hardware"], r["Model"])
        length, batch = number(r, "Input Output Length"), number(r, "Batch Size")
        if key == (f"Nvidia {hardware} GPU", "vLLM", str(tp), model) and 2 * length * batch <= capacity:
            design.append([length, batch * length, 1.5 * batch * length**2])
            latency.append(number(r, "Latency"))
    return design, latency


OFFLINE = {
    ("llama-3.1-8b", "h100_sxm", 1): ("H100", "meta-llama/Meta-Llama-3-8B"),
    ("llama-2-7b", "h100_sxm", 1): ("H100", "meta-llama/Llama-2-7b-hf"),
    ("qwen2.5-7b", "h100_sxm", 1): ("H100", "Qwen/Qwen2-7B"),
    ("llama-3.1-70b", "h100_sxm", 4): ("H100", "meta-llama/Meta-Llama-3-70B"),
    ("llama-2-70b", "h100_sxm", 4): ("H100", "meta-llama/Llama-2-70b-hf"),
    ("qwen2.5-72b", "h100_sxm", 4): ("H100", "Qwen/Qwen2-72B"),
}
A100_40 = ("A100", "meta-llama/Meta-Llama-3-8B")
"""A 40 GB card: its latency leaps where 158k, not 454k, KV tokens are exceeded."""


@cache
def offline(model: str, gpu: str, tp: int) -> tuple[float, float, float]:
    """Of a whole batch, latency = L (a + (A + c) batch + 1.5 d batch L): a, A + c and d."""
    hardware, called = A100_40 if gpu == "a100_40" else OFFLINE[model, gpu, tp]
    accelerator = "a100-40gb" if gpu == "a100_40" else GPU[gpu]
    room = capacity(MODELS[model], accelerator, tp, "bfloat16")
    base, both, resident = fit(*offline_rows(hardware, tp, called, room))
    return base, both, resident


@cache
def shipped() -> ProfileBook:
    """The committed profiles and accelerators, as they were at the start."""
    return load_profiles()


def capacity(model: Model, accelerator: str, gpus: int, dtype: str) -> float:
    """KV tokens: (0.9 * memory * GPUs - weights - 1.8 GB * GPUs) / KV bytes per token."""
    memory = shipped().accelerators[accelerator].memory_bytes
    left = gpus * (MEMORY_SHARE * memory - ACTIVATION_BYTES) - model.weights_gb(dtype) * 1e9
    return left / model.kv_bytes()


RECORDED = {
    "meta-llama/Llama-2-7b-hf": Model(32, 32, 128, 6.74, 0.52, (), ""),
    "meta-llama/Llama-3.1-70B-Instruct": MODELS["llama-3.1-70b"],
    "Qwen/Qwen2.5-7B-Instruct": MODELS["qwen2.5-7b"],
    "mistralai/Mistral-Nemo-Instruct-2407": Model(40, 8, 128, 12.25, 2.68, (), ""),
    "01-ai/Yi-34B": Model(60, 8, 128, 34.39, 1.8, (), ""),
}


def recorded_capacity() -> list[tuple[str, int, float, float]]:
    """Model, GPUs (H100), capacity by formula, and what the server had (KV blocks of 16 tokens in blis)."""
    found = {
        ("nvidia/Llama-3.1-8B-FP8 (H200)", 1): (capacity(MODELS["llama-3.1-8b"], "h200-141gb", 1, "fp8"), 945_029.0)
    }
    runs = json.loads((DATA / "blis" / "roofline_goldendataset.json").read_text(encoding="utf-8"))["experiments"]
    for run in runs:
        if run["model"] in RECORDED:
            formula = capacity(RECORDED[run["model"]], "h100-80gb", run["tp"], "bfloat16")
            found[run["model"], run["tp"]] = (formula, 16.0 * run["total_kv_blocks"])
    return [(*key, *value) for key, value in found.items()]
